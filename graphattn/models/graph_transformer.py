"""A graph transformer: attention along the edges and attention between all nodes, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.models.inputs import InputEncoder, edge_encoder, encode_edges, split_width
from graphattn.models.network import Network, reset
from graphattn.nn import AttentionConv, GraphTransformerLayer
from graphattn.nn.feed_forward import check_options
from graphattn.nn.global_attention import make_attention

ENCODINGS = (None, "laplacian", "random_walk")


class GraphTransformer(Network):
    r"""Stack layers in which nodes attend to their neighbours and to their whole graph.

    The layers are :class:`~graphattn.nn.GraphTransformerLayer`, with an :class:`~graphattn.nn.AttentionConv` for the
    edges and any of :mod:`graphattn.nn.global_attention` for all pairs. The first nodes are
    :math:`[\operatorname{encode}(\mathbf{X}), \mathbf{P}]\,\mathbf{W} + \mathbf{b}` where there are positional
    encodings :math:`\mathbf{P}`, which tell nodes apart that the edges do not.

    Args:
        in_channels: Columns of the node features.
        hidden_channels: Width of the layers, all heads together.
        out_channels: Width of the output :math:`C`.
        num_layers: Number of layers.
        heads: Heads of both attentions; they divide ``hidden_channels``.
        attention: Attention between all nodes of a graph: ``"softmax"``, whose time is quadratic in their number, one
            in linear time, such as ``"linear"``, ``"performer"``, ``"nystrom"`` and ``"primal"``, or another name that
            :func:`~graphattn.nn.global_attention.make_attention` knows; ``None`` for none.
        attention_options: What that attention has of its own, such as ``{"num_landmarks": 32}``.
        score: Score of the attention along the edges, as are the next two arguments.
        hops: Its number of hops, or ``math.inf``.
        decay: How much less every further hop counts.
        encoding: What the positional encodings are: ``"laplacian"`` for eigenvectors (PyG's
            ``AddLaplacianEigenvectorPE``), whose signs mean nothing and are drawn anew in training for each graph;
            ``"random_walk"`` (``AddRandomWalkPE``); ``None`` for none.
        encoding_dim: Columns of the positional encodings :math:`K`.
        edge_dim: Columns of the edge features; ``None`` if there are none.
        edge_vocabulary: Number of categories of each column of the edge features; ``None`` if they are numbers.
        encoder: ``"linear"``, or ``"embedding"`` for node features that are categories.
        vocabulary: Number of categories of each column of the node features, with ``"embedding"``.
        norm: ``"layer"``, ``"batch"`` or ``None``. Batch normalization mixes the graphs of a batch in training.
        norm_first: Whether normalization stands before each part of a layer or behind it.
        act: ``"relu"``, ``"elu"``, ``"gelu"`` or ``"leaky_relu"``.
        dropout: Probability of dropping an activation in training.
        attention_dropout: Probability of dropping an attention weight in training.

    Shapes:
        - **input:** ``x`` :math:`(N, F)`, dense or CSR; ``edge_index`` :math:`(2, E)`; ``edge_attr`` :math:`(E, D)`;
          ``batch`` :math:`(N,)`; ``pe`` :math:`(N, K)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is unknown or contradicts another.

    Example:
        >>> net = GraphTransformer(9, 16, 3, heads=4, encoding="random_walk", encoding_dim=5).eval()
        >>> x, edge_index, batch = torch.rand(3, 9), torch.tensor([[0, 1], [1, 0]]), torch.tensor([0, 0, 1])
        >>> net(x, edge_index, batch=batch, pe=torch.rand(3, 5)).shape
        torch.Size([3, 3])

    Reference:
        Rampášek et al., "Recipe for a General, Powerful, Scalable Graph Transformer", 2022; Dwivedi and Bresson, "A
        Generalization of Transformer Networks to Graphs", 2021 (signs).
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 2,
        *,
        heads: int = 1,
        attention: str | None = "softmax",
        attention_options: Mapping[str, Any] | None = None,
        score: str = "dot",
        hops: float = 1,
        decay: float = 0.9,
        encoding: str | None = None,
        encoding_dim: int | None = None,
        edge_dim: int | None = None,
        edge_vocabulary: Sequence[int] | None = None,
        encoder: str = "linear",
        vocabulary: Sequence[int] | None = None,
        norm: str | None = "layer",
        norm_first: bool = False,
        act: str = "relu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__(locals())
        check_options(act, dropout=dropout, attention_dropout=attention_dropout)
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}; expected at least 1")
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding is {encoding!r}; expected one of {', '.join(map(repr, ENCODINGS))}")
        if (encoding is None) != (encoding_dim is None):
            raise ValueError(f"encoding is {encoding!r} and encoding_dim is {encoding_dim}; pass both or neither")
        self.encoding = encoding
        self.encoder = InputEncoder(encoder, in_channels, hidden_channels, vocabulary, dropout)
        self.edge_encoder, edge_width = edge_encoder(edge_dim, edge_vocabulary, hidden_channels)
        self.lin_pe = None if encoding_dim is None else nn.Linear(hidden_channels + encoding_dim, hidden_channels)
        drop: dict[str, Any] = {"dropout": attention_dropout} if attention_dropout else {}
        near: dict[str, Any] = {"score": score, "hops": hops, "decay": decay, "edge_dim": edge_width, **drop}
        far = {**drop, **(attention_options or {})}
        if attention is None and attention_options:
            raise ValueError(f"attention_options is {dict(attention_options)}, but attention is None; pass both")
        self.layers = nn.ModuleList(
            GraphTransformerLayer(
                hidden_channels,
                AttentionConv(hidden_channels, split_width(hidden_channels, heads), heads, **near),
                None if attention is None else make_attention(attention, hidden_channels, heads, **far),
                norm=norm,
                norm_first=norm_first,
                act=act,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.lin = nn.Linear(hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.encoder, self.edge_encoder, self.lin_pe, *self.layers, self.lin)

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        pe: Tensor | None = None,
        return_loss: bool = False,
    ) -> Any:
        """Return the output of every node.

        Args:
            x: Node features.
            edge_index: Edges, in any form that :class:`~graphattn.nn.AttentionConv` takes.
            edge_attr: Edge features.
            batch: Graph of each node, in any order; by default all belong to one.
            pe: Positional encodings.
            return_loss: Whether to return the mean loss of the attentions too, for ``attention="primal"``.

        Raises:
            ValueError: If positional encodings are missing, unexpected or of another shape.
        """
        edge_attr = encode_edges(self.edge_encoder, edge_attr)
        h = self._add_encodings(self.encoder(x), pe, batch)
        losses = []
        for layer in self.layers:
            h = layer(h, edge_index, edge_attr, batch, return_loss=return_loss)
            if return_loss:
                h, loss = h
                losses.append(loss)
        out = self.lin(h)
        return (out, torch.stack(losses).mean()) if return_loss else out

    def _add_encodings(self, h: Tensor, pe: Tensor | None, batch: Tensor | None) -> Tensor:
        if self.lin_pe is None:
            if pe is not None:
                raise ValueError("pe is given, but encoding is None; pass encoding= and encoding_dim= to the network")
            return h
        expected = (h.size(0), self.lin_pe.in_features - h.size(1))
        if pe is None or pe.shape != expected:
            found = None if pe is None else f"of shape {tuple(pe.shape)}"
            raise ValueError(f"pe is {found}; expected {self.encoding} encodings of shape {expected}")
        pe = pe.to(h.dtype)
        if self.encoding == "laplacian" and self.training:
            pe = pe * _draw_signs(pe, batch)
        return self.lin_pe(torch.cat([h, pe], dim=1))


def _draw_signs(pe: Tensor, batch: Tensor | None) -> Tensor:
    """Draw a sign for each column of each graph."""
    graph = pe.new_zeros(pe.size(0), dtype=torch.long)
    if batch is not None:
        # Numbers of the graphs that have nodes: below the number of rows, whatever ids the batch skips.
        graph = torch.unique(batch, return_inverse=True)[1]
    signs = torch.randint(0, 2, pe.shape, device=pe.device).to(pe.dtype) * 2 - 1
    return signs.index_select(0, graph)
