"""Layers of attention over past events, each on the part of a sample that the layers above it need."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from graphattn.models.network import reset
from graphattn.nn import TemporalAttentionConv
from graphattn.nn.encodings.time.catalog import make_time_encoding

# What the width of an encoding is a multiple of, where not every width will do.
_PAIRS = ("bochner", "bochner_normal", "bochner_inverse_cdf", "bochner_family", "bochner_random")
_MULTIPLES = {"mercer": 11, **dict.fromkeys(_PAIRS, 2)}


class TemporalStack(nn.Module):
    """Stack :class:`~graphattn.nn.TemporalAttentionConv`; all layers share one encoding of time.

    Features of events get columns of zeros until the width of a layer is a multiple of its heads.

    Args:
        in_channels: Width of the rows.
        hidden_channels: Width between layers.
        out_channels: Width of the output.
        num_layers: Number of layers.
        edge_dim: Width of the features of events; 0 if there are none.
        heads: Heads of each layer.
        time_encoding: Name of the encoding.
        time_channels: Its width; ``hidden_channels`` by default, rounded up to one that it can have.
        mode: ``"product"`` or ``"map"``, as in the layer.
        dropout: Probability of dropping a weight or an entry in training.

    Raises:
        ValueError: If an option is unknown or out of range.

    Example:
        >>> stack = TemporalStack(4, 8, 3, 2)
        >>> [(conv.in_channels, conv.out_channels) for conv in stack.convs]
        [(4, 8), (8, 3)]
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 1,
        *,
        edge_dim: int = 0,
        heads: int = 2,
        time_encoding: str = "tgat",
        time_channels: int | None = None,
        mode: str = "product",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "hidden_channels": hidden_channels, "out_channels": out_channels}
        for name, value, least in (
            *((name, value, 1) for name, value in sizes.items()),
            ("num_layers", num_layers, 1),
            ("heads", heads, 1),
            ("edge_dim", edge_dim, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}")
        self.edge_dim = edge_dim
        if time_channels is None:
            time_channels = -(-hidden_channels // (step := _MULTIPLES.get(time_encoding, 1))) * step
        self.time_encoding = make_time_encoding(time_encoding, time_channels)
        inputs = [in_channels, *[hidden_channels] * (num_layers - 1)]
        outputs = [*[hidden_channels] * (num_layers - 1), out_channels]
        self.paddings = [-(width + edge_dim + self.time_encoding.channels) % heads for width in inputs]
        options: dict[str, Any] = {"heads": heads, "mode": mode, "dropout": dropout}
        self.convs = nn.ModuleList(
            TemporalAttentionConv(width, out, self.time_encoding, edge_dim=edge_dim + padding or None, **options)
            for width, out, padding in zip(inputs, outputs, self.paddings, strict=True)
        )

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.time_encoding, *self.convs)

    def forward(self, h: Tensor, past: Data) -> Tensor:
        """Embed the pairs that a sample was asked for.

        Args:
            h: A vector for each row of the sample.
            past: A sample of :class:`~graphattn.training.TemporalSampler`, with a hop for each layer.

        Returns:
            A row for each distinct pair that was asked for.

        Raises:
            ValueError: If the sample has another number of hops, or its events other features than the network.
        """
        nodes, edges = past.num_sampled_nodes, past.num_sampled_edges
        if len(edges) != len(self.convs):
            raise ValueError(
                f"past has {len(edges)} hops, but the network {len(self.convs)} layers; give the sampler a number of "
                "neighbours for each layer"
            )
        msg = self._messages(past, h)
        for layer, (conv, padding) in enumerate(zip(self.convs, self.paddings, strict=True)):
            # The rows of the last hop are only there to be seen: each layer has one hop fewer to compute.
            hops = len(self.convs) - layer
            sources, targets, events = sum(nodes[: hops + 1]), sum(nodes[:hops]), sum(edges[:hops])
            attr = None if msg is None else F.pad(msg[:events], (0, padding))
            edge_index, edge_time = past.edge_index[:, :events], past.edge_time[:events]
            h = conv((h[:sources], h[:targets]), edge_index, edge_time, attr)
        return h

    def _messages(self, past: Data, h: Tensor) -> Tensor | None:
        msg = past.get("msg")
        found = 0 if msg is None else msg.size(1)
        if found != self.edge_dim:
            raise ValueError(
                f"msg of the events has {found} columns, but edge_dim is {self.edge_dim}; make the network for "
                f"edge_dim={found}"
            )
        return msg.to(h.dtype) if msg is not None and found else None
