"""The networks that those over events are compared with: PyG's example of TGN, and a graph without times."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import TransformerConv

from graphattn.models.event_network import EventNetwork
from graphattn.models.network import Network, reset
from graphattn.models.temporal_net import Memory, MemoryNetwork


class TGN(MemoryNetwork):
    r"""Build the network of PyG's example ``tgn.py``: a memory, and one ``TransformerConv`` over the last events.

    Edge features are :math:`[\Phi(t_j^{-} - t_e) ; \mathbf{e}]`, where :math:`t_j^{-}` is the last update of the
    neighbour and :math:`\Phi` PyG's encoder of time.

    Args:
        num_nodes: Number of nodes.
        channels: Width of the memory, of the time encoding and of the output.
        edge_dim: Columns of the features of events; 0 without.
        heads: Heads of the attention.
        dropout: Probability of dropping an attention weight in training.

    Shapes:
        - **input:** a sample of nodes with ``edge_index``, and ``edge_t`` and ``msg`` of the events
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If the width is no multiple of the heads.

    Example:
        >>> past = Data(n_id=torch.tensor([0, 2]), edge_index=torch.tensor([[1], [0]]), edge_t=torch.tensor([10]))
        >>> TGN(3, 8)(past).shape
        torch.Size([2, 8])

    Reference:
        Rossi et al., "Temporal Graph Networks for Deep Learning on Dynamic Graphs", 2020.
    """

    past = "last"

    def __init__(
        self, num_nodes: int, channels: int, *, edge_dim: int = 0, heads: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__(locals())
        if channels % heads:
            raise ValueError(f"channels is {channels} and heads is {heads}; expected a multiple of heads")
        self.num_layers = 1
        self.memory = Memory(num_nodes, edge_dim, channels)
        self.conv = TransformerConv(
            channels, channels // heads, heads, dropout=dropout, edge_dim=channels + max(edge_dim, 1)
        )

    def reset_parameters(self) -> None:
        """Draw all parameters anew and forget all events."""
        reset(self.memory, self.conv)

    def forward(self, past: Data) -> Tensor:
        """Return the embeddings of the nodes of a sample.

        Args:
            past: The sample.
        """
        z, last_update = self.memory.of(past.n_id)
        msg = past.get("msg")
        if msg is None or not msg.size(1):
            msg = z.new_zeros(past.edge_index.size(1), 1)
        elapsed = last_update[past.edge_index[0]] - past.edge_t
        encoded = self.memory.time_enc(elapsed.to(z.dtype))
        out: Tensor = self.conv(z, past.edge_index, torch.cat([encoded, msg.to(z.dtype)], dim=1))
        return out


class StaticNet(EventNetwork):
    """Learn a vector for each node, and pass them through a network on the graph of all training events.

    It knows who has met whom, and nothing of when.

    Args:
        backbone: Network of ``graphattn.models`` over a graph.
        num_nodes: Number of nodes.
        channels: Width of the vectors.

    Shapes:
        - **input:** a sample of nodes with ``edge_index``
        - **output:** that of the backbone

    Example:
        >>> from graphattn.models import MessagePassingNet
        >>> net = StaticNet(MessagePassingNet("gat", 4, 8, 5), num_nodes=3, channels=4)
        >>> net(Data(n_id=torch.arange(3), edge_index=torch.tensor([[0, 1], [1, 0]]))).shape
        torch.Size([3, 5])
    """

    past = "graph"

    def __init__(self, backbone: Network, num_nodes: int, channels: int) -> None:
        super().__init__(locals())
        self.backbone = backbone
        self.num_layers = int(backbone.config["num_layers"])
        self.embedding = nn.Embedding(num_nodes, channels)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.backbone, self.embedding)

    def forward(self, past: Data) -> Tensor:
        """Return the embeddings of the nodes of a sample.

        Args:
            past: The sample.
        """
        out: Tensor = self.backbone(self.embedding(past.n_id), past.edge_index)
        return out
