"""A network that spreads what it knows over every hop at once, along given or learned edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.models.inputs import (
    edge_encoder,
    encode_edges,
    first_channels,
    optional_encoder,
    scale_rows,
    split_width,
)
from graphattn.models.network import Network, reset
from graphattn.nn import AttentionConv, DiffusionConv
from graphattn.nn.dropout import drop
from graphattn.nn.feed_forward import ACTIVATIONS, check_options, make_norm

AFFINITIES = ("given", "learned")


class InfDiffusionNet(Network):
    r"""Encode each node by itself, then diffuse over all hops along an affinity.

    .. math::
        \mathbf{H}_0 = \sigma(\operatorname{encode}(\mathbf{X})) \; [+ \mathbf{E}_{\text{labels}}], \quad
        \mathbf{H}_l = \sigma(\operatorname{norm}(\mathbf{Z}_l)), \quad \mathbf{Y} = \mathbf{Z}_L

        \text{given:} \; \mathbf{Z}_l = (1 - c_l)(\mathbf{I} - c_l \mathbf{A})^{-1} \mathbf{H}_{l-1} \mathbf{W}_l +
        \mathbf{b}_l; \qquad
        \text{learned:} \; \mathbf{Z}_l = (1 - c_l)(\mathbf{I} - c_l \mathbf{A}_l)^{-1} \mathbf{A}_l
        \mathbf{H}_{l-1} \mathbf{W}_l + \dots

    ``"given"`` takes the edges as they are, normalized by their degrees and with self-loops
    (:class:`~graphattn.nn.DiffusionConv`); ``"learned"`` lets every layer and head weigh them by attention over the
    nodes before it (:class:`~graphattn.nn.AttentionConv`, with its root term for dot products). The decay :math:`c`,
    how far information flows, is learned for each layer, and with ``"learned"`` for each head. One linear system is
    solved for all hops, so that depth costs neither parameters nor memory.

    Without an encoder the features are diffused first and told apart after it, :math:`\mathbf{H}_0 = \mathbf{X}` and
    :math:`\mathbf{Y} = \sigma(\operatorname{norm}(\mathbf{Z}_L)) \mathbf{W} + \mathbf{b}`.

    Two options are for graphs where few nodes have labels. ``drop_node`` silences random nodes in training, and
    :func:`~graphattn.models.consistency_loss` asks several such runs to agree, on nodes without labels as well. With
    ``label_input`` the known labels flow along the edges too, as in label propagation, but by learned maps;
    :func:`~graphattn.models.mask_labels` hides in training those that the loss is about.

    Args:
        in_channels: Columns of the node features.
        hidden_channels: Width of the encoder and between the layers.
        out_channels: Width of the output :math:`C`; the number of classes with ``label_input``.
        num_layers: Number of diffusions :math:`L`.
        affinity: ``"given"`` or ``"learned"``.
        heads: Heads with ``"learned"``; they divide ``hidden_channels``.
        score: Score with ``"learned"``.
        decay: How much less every further hop counts, at the start.
        learn_decay: Whether it is learned.
        label_input: Whether labels are an input.
        edge_dim: Columns of the edge features, with ``"learned"``; ``None`` if there are none.
        edge_vocabulary: Number of categories of each column of the edge features; ``None`` if they are numbers.
        encoder: ``"linear"``, ``"embedding"`` for node features that are categories, or ``None``, which diffuses the
            features before the first map, as GRAND was published.
        vocabulary: Number of categories of each column of the node features, with ``"embedding"``.
        norm: ``"layer"``, ``"batch"`` or ``None``, after each diffusion but that of the output.
        act: ``"relu"``, ``"elu"``, ``"gelu"`` or ``"leaky_relu"``.
        dropout: Probability of dropping a feature or an activation in training.
        drop_node: Probability of dropping a whole node before each diffusion in training.

    Shapes:
        - **input:** ``x`` :math:`(N, F)`, dense or CSR; ``edge_index`` :math:`(2, E)`; ``edge_attr`` :math:`(E, D)`;
          ``labels`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is unknown or contradicts another.

    Example:
        >>> net = InfDiffusionNet(16, 32, 7, label_input=True).eval()
        >>> x, path = torch.rand(3, 16), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> net(x, path, labels=torch.tensor([4, -1, -1])).shape
        torch.Size([3, 7])

    Reference:
        Gasteiger et al., "Predict then Propagate", 2019; Feng et al., "Graph Random Neural Networks for
        Semi-Supervised Learning on Graphs", 2020 (GRAND; dropped nodes); Shi et al., "Masked Label Prediction", 2021
        (label input); Roffo et al., "Infinite Feature Selection", 2015 (all hops).
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 1,
        *,
        affinity: str = "given",
        heads: int = 1,
        score: str = "dot",
        decay: float = 0.9,
        learn_decay: bool = True,
        label_input: bool = False,
        edge_dim: int | None = None,
        edge_vocabulary: Sequence[int] | None = None,
        encoder: str | None = "linear",
        vocabulary: Sequence[int] | None = None,
        norm: str | None = None,
        act: str = "relu",
        dropout: float = 0.0,
        drop_node: float = 0.0,
    ) -> None:
        super().__init__(locals())
        check_options(act, dropout=dropout, drop_node=drop_node)
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}; expected at least 1")
        if affinity not in AFFINITIES:
            raise ValueError(f"affinity is {affinity!r}; expected one of {', '.join(map(repr, AFFINITIES))}")
        if affinity == "given" and (heads, score, edge_dim) != (1, "dot", None):
            raise ValueError("heads, score and edge_dim belong to affinity='learned'; leave them out of 'given'")
        if encoder is None and label_input:
            raise ValueError("label_input is True but encoder is None; the features have no width to be added to")
        self.act = ACTIVATIONS[act]
        self.dropout = dropout
        self.drop_node = drop_node
        self.in_channels = in_channels
        self.encoder = optional_encoder(encoder, in_channels, hidden_channels, vocabulary, dropout)
        self.edge_encoder, edge_width = edge_encoder(edge_dim, edge_vocabulary, hidden_channels)
        self.label_embedding = nn.Embedding(out_channels, hidden_channels) if label_input else None
        options: dict[str, Any] = {"hops": math.inf, "decay": decay, "learn_decay": learn_decay}
        hidden = num_layers if self.encoder is None else num_layers - 1  # diffusions that are not the output
        widths = [in_channels if self.encoder is None else hidden_channels, *[hidden_channels] * (num_layers - 1)]
        convs: list[nn.Module]
        if affinity == "given":
            outputs = [hidden_channels] * hidden + [out_channels] * (num_layers - hidden)
            convs = [DiffusionConv(width, output, **options) for width, output in zip(widths, outputs, strict=True)]
        else:
            options |= {"score": score, "add_self_loops": True, "edge_dim": edge_width}
            size = split_width(hidden_channels, heads)
            convs = [AttentionConv(width, size, heads, **options) for width in widths[:hidden]]
            # Averaged, so that any number of heads goes with any number of outputs.
            convs += [AttentionConv(w, out_channels, heads, concat=False, **options) for w in widths[hidden:]]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(make_norm(norm, hidden_channels) for _ in range(hidden))
        self.lin = nn.Linear(hidden_channels, out_channels) if self.encoder is None else None

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.encoder, self.edge_encoder, self.label_embedding, *self.convs, *self.norms, self.lin)

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return the output of every node.

        Args:
            x: Node features.
            edge_index: Edges, in any form that the layers take; of an ``Affinity`` the weights count.
            edge_attr: Edge features, with ``affinity="learned"``.
            batch: Graph of each node; graphs that share no edge do not meet in any case.
            labels: Known class of each node, -1 where it is unknown, with ``label_input``.

        Raises:
            ValueError: If labels or edge features are given to a network without them, or labels are missing.
        """
        dropout = self.dropout if self.training else 0.0
        h = first_channels(self.encoder, x, self.in_channels, self.act, dropout)
        h = self._add_labels(h, labels)
        edge_attr = encode_edges(self.edge_encoder, edge_attr)
        for number, conv in enumerate(self.convs):
            h = self._drop_nodes(h)
            if isinstance(conv, AttentionConv):
                h = conv(h, edge_index, edge_attr, batch=batch)
            elif edge_attr is None:
                h = conv(h, edge_index)
            else:
                raise ValueError("edge_attr is given, but affinity='given' has no use for it; pass affinity='learned'")
            if number < len(self.norms):
                h = self._drop(self.act(self.norms[number](h)))
        return h if self.lin is None else self.lin(h)

    def _add_labels(self, h: Tensor, labels: Tensor | None) -> Tensor:
        if self.label_embedding is None:
            if labels is not None:
                raise ValueError("labels are given, but label_input is False; pass label_input=True to the network")
            return h
        if labels is None or labels.shape != h.shape[:1]:
            found = None if labels is None else f"of shape {tuple(labels.shape)}"
            raise ValueError(f"labels is {found}; expected a class for each of {h.size(0)} nodes, -1 where unknown")
        known = (labels >= 0).unsqueeze(1)
        return h + torch.where(known, self.label_embedding(labels.clamp_min(0)), 0.0)

    def _drop(self, h: Tensor) -> Tensor:
        return drop(h, self.dropout, self.training)

    def _drop_nodes(self, h: Tensor) -> Tensor:
        if not self.training or self.drop_node == 0.0:
            return h
        return scale_rows(h, drop(torch.ones(h.size(0), dtype=h.dtype, device=h.device), self.drop_node))
