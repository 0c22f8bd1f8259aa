"""TGAT: nodes at a time, embedded from the events before it and from what the others were when these happened."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from graphattn.models.event_network import EventNetwork
from graphattn.models.network import reset
from graphattn.models.temporal_stack import TemporalStack


class TGAT(EventNetwork):
    r"""Embed nodes at a time by attention over their past events, layer above layer.

    .. math::
        \mathbf{h}_i^{(0)}(t) = \mathbf{W} \mathbf{x}_i + \mathbf{b}, \qquad
        \mathbf{h}_i^{(l)}(t) = \operatorname{conv}^{(l)}\!\left(\mathbf{h}_i^{(l-1)}(t),
        \{(\mathbf{h}_j^{(l-1)}(t_e), \mathbf{e}_{ij}, t - t_e) : t_e < t\}\right)

    where conv is :class:`~graphattn.nn.TemporalAttentionConv`, with its merge layer. Without node features all nodes
    start from one learned vector. A pair of a node and a time that comes up more than once in a batch is computed
    once in each layer. :class:`EventHead` scores pairs of nodes, or classifies, by the embeddings.

    Args:
        in_channels: Columns of the node features; 0 without.
        hidden_channels: Width of the layers.
        out_channels: Width of the output.
        num_layers: Number of layers.
        edge_dim: Columns of the features of events; 0 without.
        heads: Heads of the attention.
        time_encoding: Name of the time encoding, one of ``graphattn.nn.encodings.time.catalog.TIME_ENCODINGS``.
        time_channels: Its width; ``hidden_channels`` by default, rounded up to one that it can have.
        mode: ``"product"`` or ``"map"``: how neighbours are scored.
        dropout: Probability of dropping an attention weight or an activation in training.

    Shapes:
        - **input:** a sample of :class:`~graphattn.training.TemporalSampler`, with a hop for each layer
        - **output:** a row for each distinct pair that was asked for

    Raises:
        ValueError: If an option is unknown or out of range.

    Example:
        >>> from torch_geometric.data import TemporalData
        >>> from graphattn.training import TemporalSampler
        >>> met = torch.tensor([10, 20, 30])
        >>> events = TemporalData(src=torch.tensor([0, 1, 0]), dst=torch.tensor([1, 2, 2]), t=met)
        >>> past = TemporalSampler(events, [10, 10]).sample(torch.tensor([0, 2]), torch.tensor([35, 35]))
        >>> TGAT(0, 8, 4, num_layers=2)(past).shape
        torch.Size([2, 4])

    Reference:
        Xu et al., "Inductive Representation Learning on Temporal Graphs", 2020.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 2,
        *,
        edge_dim: int = 0,
        heads: int = 2,
        time_encoding: str = "tgat",
        time_channels: int | None = None,
        mode: str = "product",
        dropout: float = 0.1,
    ) -> None:
        super().__init__(locals())
        self.num_layers = num_layers
        self.start = NodeStart(in_channels, hidden_channels)
        self.stack = TemporalStack(
            hidden_channels,
            hidden_channels,
            out_channels,
            num_layers,
            edge_dim=edge_dim,
            heads=heads,
            time_encoding=time_encoding,
            time_channels=time_channels,
            mode=mode,
            dropout=dropout,
        )

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.start, self.stack)

    def forward(self, past: Data) -> Tensor:
        """Return the embeddings of the distinct pairs that a sample was asked for.

        Args:
            past: The sample; node features, if there are any, are its ``x``, a row for each of its rows.

        Raises:
            ValueError: If node features, features of events or hops are not as many as the network has.
        """
        out: Tensor = self.stack(self.start(past), past)
        return out


class NodeStart(nn.Module):
    """What nodes are before anything has happened: a linear map of their features, or one vector for all.

    Args:
        in_channels: Columns of the node features; 0 without.
        channels: Width of the output.

    Example:
        >>> NodeStart(0, 4)(Data(n_id=torch.tensor([5, 2]))).shape
        torch.Size([2, 4])
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        if in_channels < 0 or channels < 1:
            raise ValueError(
                f"in_channels is {in_channels} and hidden_channels is {channels}; expected at least 0 and 1"
            )
        self.in_channels = in_channels
        self.lin = nn.Linear(in_channels, channels) if in_channels else None
        self.vector = None if in_channels else nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.lin)
        if self.vector is not None:
            nn.init.normal_(self.vector)

    def forward(self, past: Data) -> Tensor:
        """Return a vector for each row of a sample."""
        x = past.get("x")
        found = 0 if x is None else x.size(1)
        if found != self.in_channels:
            raise ValueError(
                f"x of the nodes has {found} columns, but in_channels is {self.in_channels}; make the network for "
                f"in_channels={found}"
            )
        if self.lin is not None and x is not None:
            rows: Tensor = self.lin(x.to(self.lin.weight.dtype))
            return rows
        return self.vector.expand(past.n_id.numel(), -1)  # type: ignore[union-attr]
