"""The networks of PyG that ours are compared with, behind the same contract and with nothing else changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import APPNP, GAT, GCN, GINConv, GINEConv, GPSConv, GraphSAGE, SGFormer

from graphattn.models.inputs import InputEncoder, drop_features, edge_encoder, encode_edges, optional_encoder
from graphattn.models.network import Network, reset
from graphattn.nn.feed_forward import check_options

CONVS = ("gcn", "sage", "gat", "gatv2")


class MessagePassingNet(Network):
    """Stack PyG's layers: its ``GCN``, ``GraphSAGE`` and ``GAT`` models, GATv2 included.

    Args:
        conv: ``"gcn"``, ``"sage"``, ``"gat"`` or ``"gatv2"``.
        in_channels: Columns of the node features.
        hidden_channels: Width of the layers, all heads together.
        out_channels: Width of the output.
        num_layers: Number of layers.
        heads: Heads of gat and gatv2.
        edge_dim: Columns of the edge features, for gat and gatv2; ``None`` if there are none.
        edge_vocabulary: Number of categories of each column of the edge features; ``None`` if they are numbers.
        encoder: ``None`` gives the features to the first layer, as published; otherwise as in
            :class:`~graphattn.models.AttentionNet`.
        vocabulary: Number of categories of each column of the node features, with ``"embedding"``.
        norm: A normalization of PyG, such as ``"batch_norm"`` or ``"layer_norm"``.
        jump: Jumping knowledge of PyG, ``"cat"``, ``"max"``, ``"lstm"`` or ``"last"``.
        act: Activation of PyG.
        dropout: Probability of dropping a feature or an activation in training.

    Raises:
        ValueError: If an option is unknown, or one that the layers do not have.

    Example:
        >>> net = MessagePassingNet("gat", 16, 32, 7, heads=4)
        >>> net(torch.rand(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 7])
    """

    takes_affinity = False

    def __init__(
        self,
        conv: str,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 2,
        *,
        heads: int = 1,
        edge_dim: int | None = None,
        edge_vocabulary: Sequence[int] | None = None,
        encoder: str | None = None,
        vocabulary: Sequence[int] | None = None,
        norm: str | None = None,
        jump: str | None = None,
        act: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(locals())
        if conv not in CONVS:
            raise ValueError(f"conv is {conv!r}; expected one of {', '.join(map(repr, CONVS))}")
        attends = conv in ("gat", "gatv2")
        if not attends and (heads, edge_dim) != (1, None):
            raise ValueError(f"heads is {heads} and edge_dim is {edge_dim}, but {conv!r} has neither; leave them out")
        self.encoder = optional_encoder(encoder, in_channels, hidden_channels, vocabulary)
        self.edge_encoder, edge_width = edge_encoder(edge_dim, edge_vocabulary, hidden_channels)
        model = {"gcn": GCN, "sage": GraphSAGE, "gat": GAT, "gatv2": GAT}[conv]
        options = {"v2": conv == "gatv2", "heads": heads, "edge_dim": edge_width} if attends else {}
        width = in_channels if self.encoder is None else hidden_channels
        self.net = model(
            width, hidden_channels, num_layers, out_channels, dropout=dropout, act=act, norm=norm, jk=jump, **options
        )
        # Means of sparse rows are not defined in PyG.
        self.dense = conv == "sage"
        self.dropout = dropout

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.encoder, self.edge_encoder, self.net)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None, batch: Tensor | None = None
    ) -> Tensor:
        """Return the output of every node; the arguments are those of :class:`~graphattn.models.AttentionNet`."""
        if edge_attr is not None and not self.net.supports_edge_attr:
            raise ValueError("edge_attr is given, but these layers do not read edge features; leave them out")
        edge_attr = encode_edges(self.edge_encoder, edge_attr)
        h = _encode(self.encoder, x, self.dropout if self.training else 0.0, self.dense)
        return self.net(h, edge_index, edge_attr=edge_attr, batch=batch)


class APPNPNet(Network):
    """Predict each node by a perceptron, then propagate the predictions by PyG's ``APPNP``.

    Args:
        in_channels: Columns of the node features.
        hidden_channels: Width of the perceptron.
        out_channels: Width of the output.
        hops: Steps of the propagation.
        decay: How much of it every step keeps; 1 minus the ``alpha`` of PyG.
        encoder: ``"linear"``, or ``"embedding"`` for node features that are categories.
        vocabulary: Number of categories of each column of the node features, with ``"embedding"``.
        dropout: Probability of dropping a feature or an activation in training.

    Example:
        >>> APPNPNet(16, 32, 7)(torch.rand(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 7])
    """

    takes_affinity = False

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        hops: int = 10,
        decay: float = 0.9,
        encoder: str = "linear",
        vocabulary: Sequence[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(locals())
        check_options("relu", dropout=dropout)
        self.encoder = InputEncoder(encoder, in_channels, hidden_channels, vocabulary, dropout)
        self.lin = nn.Linear(hidden_channels, out_channels)
        self.propagate = APPNP(hops, 1 - decay)
        self.dropout = dropout

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.encoder, self.lin)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None, batch: Tensor | None = None
    ) -> Tensor:
        """Return the output of every node; the arguments are those of :class:`~graphattn.models.AttentionNet`."""
        if edge_attr is not None:
            raise ValueError("edge_attr is given, but APPNP does not read edge features; leave them out")
        h = F.dropout(F.relu(self.encoder(x)), self.dropout, self.training)
        return self.propagate(self.lin(h), edge_index)


class GPSNet(Network):
    """Stack PyG's ``GPSConv`` of GIN layers and full attention.

    Args:
        in_channels: Columns of the node features.
        hidden_channels: Width of the layers, all heads together.
        out_channels: Width of the output.
        num_layers: Number of layers.
        heads: Heads of the attention.
        encoding_dim: Columns of the positional encodings ``pe``; ``None`` if there are none.
        edge_dim: Columns of the edge features, which the GIN layers then read; ``None`` if there are none.
        edge_vocabulary: Number of categories of each column of the edge features; ``None`` if they are numbers.
        encoder: ``"linear"``, or ``"embedding"`` for node features that are categories.
        vocabulary: Number of categories of each column of the node features, with ``"embedding"``.
        norm: A normalization of PyG.
        dropout: Probability of dropping an activation in training.

    Example:
        >>> net = GPSNet(16, 32, 7, heads=4, encoding_dim=2)
        >>> net(torch.rand(3, 16), torch.tensor([[0, 1], [1, 2]]), pe=torch.rand(3, 2)).shape
        torch.Size([3, 7])
    """

    takes_affinity = False

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 2,
        *,
        heads: int = 1,
        encoding_dim: int | None = None,
        edge_dim: int | None = None,
        edge_vocabulary: Sequence[int] | None = None,
        encoder: str = "linear",
        vocabulary: Sequence[int] | None = None,
        norm: str = "batch_norm",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(locals())
        check_options("relu", dropout=dropout)
        self.encoder = InputEncoder(encoder, in_channels, hidden_channels, vocabulary, dropout)
        self.edge_encoder, edge_width = edge_encoder(edge_dim, edge_vocabulary, hidden_channels)
        self.lin_pe = None if encoding_dim is None else nn.Linear(hidden_channels + encoding_dim, hidden_channels)

        def local() -> nn.Module:
            perceptron = nn.Sequential(
                nn.Linear(hidden_channels, hidden_channels), nn.ReLU(), nn.Linear(hidden_channels, hidden_channels)
            )
            return GINConv(perceptron) if edge_width is None else GINEConv(perceptron, edge_dim=edge_width)

        self.layers = nn.ModuleList(
            GPSConv(hidden_channels, local(), heads, dropout, norm=norm) for _ in range(num_layers)
        )
        self.lin = nn.Linear(hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.encoder, self.edge_encoder, self.lin_pe, *self.layers, self.lin)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        pe: Tensor | None = None,
    ) -> Tensor:
        """Return the output of every node; the arguments are those of :class:`~graphattn.models.GraphTransformer`."""
        edge_attr = encode_edges(self.edge_encoder, edge_attr)
        if (pe is None) != (self.lin_pe is None):
            raise ValueError(f"pe is {'missing' if pe is None else 'given'}; it goes with encoding_dim, pass both")
        h = self.encoder(x)
        if self.lin_pe is not None and pe is not None:
            h = self.lin_pe(torch.cat([h, pe.to(h.dtype)], dim=1))
        options: dict[str, Any] = {} if edge_attr is None else {"edge_attr": edge_attr}
        for layer in self.layers:
            h = layer(h, edge_index, batch, **options)
        return self.lin(h)


class SGFormerNet(Network):
    """PyG's ``SGFormer``, with logits instead of their log-softmax.

    In a batch of graphs of unequal size its attention also counts the padding, as PyG has it.

    Args:
        in_channels: Columns of the node features.
        hidden_channels: Width of the layers.
        out_channels: Width of the output.
        num_layers: Layers of the graph convolutions; the attention has one.
        heads: Heads of the attention.
        encoder: ``None`` gives the features to the network, as published; otherwise as in
            :class:`~graphattn.models.AttentionNet`.
        vocabulary: Number of categories of each column of the node features, with ``"embedding"``.
        dropout: Probability of dropping an activation in training.

    Example:
        >>> SGFormerNet(16, 32, 7)(torch.rand(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 7])
    """

    takes_affinity = False

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 2,
        *,
        heads: int = 1,
        encoder: str | None = None,
        vocabulary: Sequence[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(locals())
        check_options("relu", dropout=dropout)
        self.encoder = optional_encoder(encoder, in_channels, hidden_channels, vocabulary)
        width = in_channels if self.encoder is None else hidden_channels
        self.net = SGFormer(
            width,
            hidden_channels,
            out_channels,
            trans_num_layers=1,
            trans_num_heads=heads,
            trans_dropout=dropout,
            gnn_num_layers=num_layers,
            gnn_dropout=dropout,
        )

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.encoder, self.net)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None, batch: Tensor | None = None
    ) -> Tensor:
        """Return the output of every node; the arguments are those of :class:`~graphattn.models.AttentionNet`."""
        if edge_attr is not None:
            raise ValueError("edge_attr is given, but SGFormer does not read edge features; leave them out")
        h = _encode(self.encoder, x, 0.0, dense=True)
        batch = torch.zeros(h.size(0), dtype=torch.long, device=h.device) if batch is None else batch
        net = self.net
        mixed = net.graph_weight * net.graph_conv(h, edge_index) + (1 - net.graph_weight) * net.trans_conv(h, batch)
        return net.fc(mixed)


def _encode(encoder: InputEncoder | None, x: Tensor, dropout: float, dense: bool) -> Tensor:
    if encoder is not None:
        return F.dropout(F.relu(encoder(x)), dropout)
    x = drop_features(x, dropout)
    return x.to_dense() if dense and x.layout != torch.strided else x
