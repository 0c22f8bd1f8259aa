"""Heads: what turns the node outputs of a network into the output of a graph or of a pair of nodes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.aggr import AttentionalAggregation, MaxAggregation, MeanAggregation, SumAggregation

from graphattn.models.network import Network, reset
from graphattn.nn.dropout import drop
from graphattn.nn.feed_forward import check_options

POOLS = ("mean", "add", "max", "attention")
DECODERS = ("dot", "mlp")

_PAIRS = 2**18  # that are scored at a time, so that memory does not grow with their number


class GraphHead(Network):
    r"""Pool the nodes of each graph that a network has embedded, and map them to the output.

    .. math:: \mathbf{y}_g = \operatorname{pool}_{i \in g}(\mathbf{h}_i)\,\mathbf{W} + \mathbf{b}

    A graph without nodes is pooled to 0.

    Args:
        backbone: Network that embeds the nodes.
        channels: Width of its output.
        out_channels: Width of the output :math:`C`.
        pool: ``"mean"``, ``"add"``, ``"max"``, or ``"attention"``, a mean by learned weights.
        dropout: Probability of dropping a pooled channel in training.

    Shapes:
        - **input:** that of the backbone, ``batch`` :math:`(N,)`
        - **output:** :math:`(B, C)`

    Raises:
        ValueError: If the pool is unknown.

    Example:
        >>> from graphattn.models import AttentionNet
        >>> net = GraphHead(AttentionNet(9, 16, 16), 16, 1, pool="add")
        >>> x, edge_index = torch.rand(3, 9), torch.tensor([[0, 1], [1, 0]])
        >>> net(x, edge_index, batch=torch.tensor([0, 0, 1])).shape
        torch.Size([2, 1])

    Reference:
        Li et al., "Gated Graph Sequence Neural Networks", 2016 (attention).
    """

    def __init__(
        self, backbone: Network, channels: int, out_channels: int, *, pool: str = "mean", dropout: float = 0.0
    ) -> None:
        super().__init__(locals())
        check_options("relu", dropout=dropout)
        if pool not in POOLS:
            raise ValueError(f"pool is {pool!r}; expected one of {', '.join(map(repr, POOLS))}")
        self.backbone = backbone
        self.takes_affinity = getattr(backbone, "takes_affinity", False)
        simple = {"mean": MeanAggregation, "add": SumAggregation, "max": MaxAggregation}
        self.pool = simple[pool]() if pool in simple else AttentionalAggregation(nn.Linear(channels, 1))
        self.dropout = dropout
        self.lin = nn.Linear(channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.backbone, self.pool, self.lin)

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        num_graphs: int | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Return the output of every graph.

        Args:
            x: Node features.
            edge_index: Edges.
            edge_attr: Edge features.
            batch: Graph of each node, in any order; by default all belong to one.
            num_graphs: Number of graphs :math:`B`, where the last ones may have no nodes; derived by default.
            **inputs: Further inputs of the backbone, such as ``pe``.
        """
        h = self.backbone(x, edge_index, edge_attr, batch, **inputs)
        if batch is None:
            batch, num_graphs = torch.zeros(h.size(0), dtype=torch.long, device=h.device), num_graphs or 1
        pooled = self.pool(h, batch, dim_size=num_graphs, dim=0)
        return self.lin(drop(pooled, self.dropout, self.training))


class LinkHead(Network):
    r"""Score pairs of the nodes that a network has embedded.

    .. math::
        \text{dot:} \; s_{ij} = \langle \mathbf{h}_i, \mathbf{h}_j \rangle; \qquad
        \text{mlp:} \; s_{ij} = \operatorname{mlp}(\mathbf{h}_i \odot \mathbf{h}_j)

    Both are symmetric. ``"mlp"`` is the ``LinkPredictor`` of OGB's examples, without its final sigmoid.

    Args:
        backbone: Network that embeds the nodes.
        channels: Width of its output.
        decoder: ``"dot"`` or ``"mlp"``.
        num_layers: Linear maps of the perceptron.
        dropout: Probability of dropping an activation of the perceptron in training.

    Shapes:
        - **input:** that of the backbone, ``pairs`` :math:`(2, P)`
        - **output:** :math:`(P,)`, logits

    Raises:
        ValueError: If the decoder is unknown or the perceptron has no layer.

    Example:
        >>> from graphattn.models import AttentionNet
        >>> net = LinkHead(AttentionNet(9, 16, 16), 16, decoder="mlp")
        >>> x, edge_index = torch.rand(3, 9), torch.tensor([[0, 1], [1, 0]])
        >>> net(x, edge_index, torch.tensor([[0, 1, 0], [1, 2, 2]])).shape
        torch.Size([3])

    Reference:
        Hu et al., "Open Graph Benchmark", 2020.
    """

    def __init__(
        self, backbone: Network, channels: int, *, decoder: str = "mlp", num_layers: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__(locals())
        check_options("relu", dropout=dropout)
        if decoder not in DECODERS:
            raise ValueError(f"decoder is {decoder!r}; expected one of {', '.join(map(repr, DECODERS))}")
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}; expected at least 1")
        self.backbone = backbone
        self.takes_affinity = getattr(backbone, "takes_affinity", False)
        widths = [] if decoder == "dot" else [channels] * num_layers
        self.lins = nn.ModuleList(
            nn.Linear(width, 1 if number == len(widths) else channels) for number, width in enumerate(widths, start=1)
        )
        self.dropout = dropout

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.backbone, *self.lins)

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        pairs: Tensor,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Embed the nodes and return the score of every pair.

        Args:
            x: Node features.
            edge_index: Edges.
            pairs: Nodes of each pair.
            edge_attr: Edge features.
            batch: Graph of each node.
            **inputs: Further inputs of the backbone.
        """
        return self.decode(self.backbone(x, edge_index, edge_attr, batch, **inputs), pairs)

    def decode(self, h: Tensor, pairs: Tensor) -> Tensor:
        """Return the score of every pair of embedded nodes, where many pairs are scored over the same nodes.

        Args:
            h: What the backbone has returned.
            pairs: Nodes of each pair.

        Raises:
            ValueError: If the pairs do not have two rows.
        """
        if pairs.dim() != 2 or pairs.size(0) != 2:
            raise ValueError(f"pairs has shape {tuple(pairs.shape)}; expected [2, pairs]")
        return torch.cat([self._scores(h, block) for block in pairs.split(_PAIRS, dim=1)])

    def _scores(self, h: Tensor, pairs: Tensor) -> Tensor:
        product = h.index_select(0, pairs[0]) * h.index_select(0, pairs[1])
        if not self.lins:
            return product.sum(dim=1)
        for lin in self.lins[:-1]:
            product = drop(F.relu(lin(product)), self.dropout, self.training)
        return self.lins[-1](product).squeeze(1)
