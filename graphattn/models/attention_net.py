"""A stack of attention layers: the network for nodes that most graphs start with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch_geometric.nn.models import JumpingKnowledge

from graphattn.models.inputs import (
    edge_encoder,
    encode_edges,
    first_channels,
    optional_encoder,
    split_width,
)
from graphattn.models.network import Network, reset
from graphattn.nn import AttentionConv
from graphattn.nn.dropout import drop
from graphattn.nn.feed_forward import ACTIVATIONS, check_options, make_norm

JUMPS = (None, "cat", "max", "lstm")


class AttentionNet(Network):
    r"""Stack attention layers between an encoder of the features and a linear map to the output.

    .. math::
        \mathbf{H}_0 = \sigma(\operatorname{encode}(\mathbf{X})), \quad
        \mathbf{H}_{l} = \sigma(\operatorname{norm}(\operatorname{attend}(\mathbf{H}_{l-1}))) \; [+ \mathbf{H}_{l-1}],
        \quad \mathbf{Y} = \operatorname{jump}(\mathbf{H}_1, \dots, \mathbf{H}_L)\,\mathbf{W} + \mathbf{b}

    With one hop and without residual connections the layers are those of GAT, GATv2 or the graph transformer of
    UniMP, whatever ``score`` says; ``hops`` and ``decay`` let each layer see further.

    Args:
        in_channels: Columns of the node features.
        hidden_channels: Width of the layers, all heads together.
        out_channels: Width of the output :math:`C`.
        num_layers: Number of layers :math:`L`.
        heads: Heads of a layer; they divide ``hidden_channels``.
        score: Score of :class:`~graphattn.nn.AttentionConv`, as are the next five arguments.
        normalize: Normalization of the scores.
        hops: Number of hops of a layer, or ``math.inf``.
        decay: How much less every further hop counts.
        series: ``"mean"`` or ``"sum"``.
        learn_decay: Whether each head and layer learns its decay.
        add_self_loops: Whether every node also attends to itself.
        edge_dim: Columns of the edge features; ``None`` if there are none.
        edge_vocabulary: Number of categories of each column of the edge features; ``None`` if they are numbers.
        encoder: ``"linear"``, ``"embedding"`` for node features that are categories, or ``None``, which gives the
            features to the first attention, as GAT was published.
        vocabulary: Number of categories of each column of the node features, with ``"embedding"``.
        residual: Whether the input of a layer is added to its output.
        norm: ``"layer"``, ``"batch"`` or ``None``, after each attention.
        jump: What the last linear map sees: ``None`` the last layer, or all layers by ``"cat"``, ``"max"`` or
            ``"lstm"`` (:class:`torch_geometric.nn.models.JumpingKnowledge`).
        act: ``"relu"``, ``"elu"``, ``"gelu"`` or ``"leaky_relu"``.
        dropout: Probability of dropping a feature or an activation in training.
        attention_dropout: Probability of dropping an attention weight in training.

    Shapes:
        - **input:** ``x`` :math:`(N, F)`, dense or CSR; ``edge_index`` :math:`(2, E)`; ``edge_attr`` :math:`(E, D)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is unknown or contradicts another.

    Example:
        >>> import torch
        >>> net = AttentionNet(16, 32, 7, heads=4, score="gatv2", hops=3, norm="layer", jump="cat")
        >>> net(torch.rand(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 7])

    Reference:
        Veličković et al., "Graph Attention Networks", 2018; Xu et al., "Representation Learning on Graphs with
        Jumping Knowledge Networks", 2018.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 2,
        *,
        heads: int = 1,
        score: str = "gatv2",
        normalize: str = "softmax",
        hops: float = 1,
        decay: float = 0.9,
        series: str = "mean",
        learn_decay: bool = False,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        edge_vocabulary: Sequence[int] | None = None,
        encoder: str | None = "linear",
        vocabulary: Sequence[int] | None = None,
        residual: bool = False,
        norm: str | None = None,
        jump: str | None = None,
        act: str = "relu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__(locals())
        check_options(act, dropout=dropout, attention_dropout=attention_dropout)
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}; expected at least 1")
        if jump not in JUMPS:
            raise ValueError(f"jump is {jump!r}; expected one of {', '.join(map(repr, JUMPS))}")
        if encoder is None and residual:
            raise ValueError("residual is True but encoder is None; the features have no width to be added in")
        self.act = ACTIVATIONS[act]
        self.dropout = dropout
        self.residual = residual
        self.in_channels = in_channels
        self.encoder = optional_encoder(encoder, in_channels, hidden_channels, vocabulary, dropout)
        self.edge_encoder, edge_width = edge_encoder(edge_dim, edge_vocabulary, hidden_channels)
        self.convs = nn.ModuleList(
            AttentionConv(
                in_channels if self.encoder is None and number == 0 else hidden_channels,
                split_width(hidden_channels, heads),
                heads,
                score=score,
                normalize=normalize,
                hops=hops,
                decay=decay,
                series=series,
                learn_decay=learn_decay,
                edge_dim=edge_width,
                dropout=attention_dropout,
                add_self_loops=add_self_loops,
            )
            for number in range(num_layers)
        )
        self.norms = nn.ModuleList(make_norm(norm, hidden_channels) for _ in range(num_layers))
        self.jump = None if jump is None else JumpingKnowledge(jump, hidden_channels, num_layers)
        self.lin = nn.Linear(hidden_channels * (num_layers if jump == "cat" else 1), out_channels)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.encoder, self.edge_encoder, *self.convs, *self.norms, self.jump, self.lin)

    def forward(
        self, x: Tensor, edge_index: Any, edge_attr: Tensor | None = None, batch: Tensor | None = None
    ) -> Tensor:
        """Return the output of every node.

        Args:
            x: Node features.
            edge_index: Edges, in any form that :class:`~graphattn.nn.AttentionConv` takes.
            edge_attr: Edge features.
            batch: Graph of each node, for ``normalize="relu_frobenius"`` and ``"sigmoid"``.
        """
        edge_attr = encode_edges(self.edge_encoder, edge_attr)
        dropout = self.dropout if self.training else 0.0
        h = first_channels(self.encoder, x, self.in_channels, self.act, dropout)
        layers = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            out = self._drop(self.act(norm(conv(h, edge_index, edge_attr, batch=batch))))
            h = out + h if self.residual else out
            layers.append(h)
        return self.lin(h if self.jump is None else self.jump(layers))

    def _drop(self, h: Tensor) -> Tensor:
        return drop(h, self.dropout, self.training)
