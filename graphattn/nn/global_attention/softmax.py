"""Softmax attention between all nodes of a graph, with an optional affinity added to the scores."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.affinity import Affinity, DenseAffinity
from graphattn.nn.dropout import drop
from graphattn.nn.global_attention.base import GlobalAttention
from graphattn.nn.global_attention.padding import Padding, readable
from graphattn.ops.inputs import widen, without_autocast

Bias: TypeAlias = Affinity | tuple[Tensor, Tensor]


class SoftmaxAttention(GlobalAttention):
    r"""Attend by the softmax of scaled dot products.

    .. math::
        \mathbf{A}_{ij} = \operatorname{softmax}_j(\tau\,\mathbf{q}_i^\top \mathbf{k}_j + b_{ij}), \qquad
        \mathbf{o}_i = \textstyle\sum_j \mathbf{A}_{ij} \mathbf{v}_j

    With :math:`\tau = 1/\sqrt{d}` by default. The projections are those of :class:`GlobalAttention`, the weights those
    of ``torch.nn.MultiheadAttention``. Time is quadratic in the nodes of the largest graph; memory is linear as long
    as torch has a fused kernel for the call, which a bias or returned weights exclude.

    Args:
        channels: Width of the nodes :math:`C`.
        heads: Number of heads :math:`H`.
        head_channels: Width of a head :math:`d`; by default ``channels / heads``.
        scale: Factor :math:`\tau` of the scores.
        dropout: Probability of dropping an attention weight in training; the others are not normalized anew.
        bias: Whether the projections have biases.
        causal: Whether a node attends only to itself and the nodes of its graph before it.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> attend = SoftmaxAttention(8, heads=2)
        >>> x, batch = torch.rand(5, 8), torch.tensor([0, 1, 0, 1, 1])
        >>> torch.allclose(attend(x, batch)[[0, 2]], attend(x[[0, 2]]), atol=1e-6)
        True

    Reference:
        Vaswani et al., "Attention Is All You Need", 2017.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        head_channels: int | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        causal: bool = False,
    ) -> None:
        super().__init__(channels, heads, head_channels=head_channels, dropout=dropout, bias=bias, causal=causal)
        self.scale = self.head_channels**-0.5 if scale is None else scale
        self.reset_parameters()

    def forward(
        self,
        x: Tensor,
        batch: Tensor | None = None,
        *,
        affinity: Bias | None = None,
        return_attention_weights: bool = False,
        **graphs: Any,
    ) -> Any:
        """Attend within each graph.

        Args:
            x: Nodes of all graphs.
            batch: Graph of each node, in any order; by default all belong to one.
            affinity: Values to add to the scores of some pairs of a target and a source of the same graph, numbered as
                the rows of ``x`` and of ``context``: an :class:`~graphattn.Affinity`, or edges ``[2, E]``, source row
                first, and their values ``[E]`` or ``[E, H]``. Values of the same pair add up; ``-inf`` excludes a pair.
            return_attention_weights: Whether to return the weights too.
            **graphs: Further arguments of :meth:`GlobalAttention.forward`.

        Returns:
            What the nodes gather; with ``return_attention_weights`` also the weights ``[B, H, n, m]`` before dropout,
            nodes in their order within their graph, 0 where there is no node.

        Raises:
            ValueError: If shapes, devices or graphs do not fit, or the affinity joins different graphs.
            TypeError: If a dtype does not fit.
        """
        targets, sources = self.places(x, batch, **graphs)
        q, k, v = self.project(x, graphs.get("context"), targets, sources)
        scores_bias = None if affinity is None else self._bias(affinity, targets, sources, q, k)
        # Padding stands behind the nodes of a graph, where a causal node does not look.
        key_mask = None if self.causal else sources.mask
        if not return_attention_weights:
            return self.combine(self.attend(q, k, v, targets.mask, key_mask, scores_bias), targets)
        (q, k, v), dtype = widen(q, k, v)
        with without_autocast(q.device):
            scores = self.scale * (q @ k.transpose(-2, -1))
            if scores_bias is not None:
                scores = scores + scores_bias
            weights = masked_softmax(scores, self._mask(q, k, key_mask))
            out = (drop(weights, self.dropout, self.training) @ v).to(dtype)
        if targets.mask is not None:
            weights = weights.masked_fill(~targets.mask[:, None, :, None], 0.0)
        return self.combine(out, targets), weights.to(x.dtype)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        query_mask: Tensor | None,
        key_mask: Tensor | None,
        scores_bias: Tensor | None = None,
    ) -> Tensor:
        """Gather values by the softmax of scaled dot products; ``scores_bias`` ``[B, 1 or H, N, M]`` adds to them."""
        dropout = self.dropout if self.training else 0.0
        if self.causal and key_mask is None and scores_bias is None:
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=self.scale)
        mask = self._mask(q, k, key_mask)
        if scores_bias is not None:
            scores_bias = scores_bias.to(q.dtype)
            mask = scores_bias if mask is None else scores_bias.masked_fill(~mask, -torch.inf)
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale)

    def _mask(self, q: Tensor, k: Tensor, key_mask: Tensor | None) -> Tensor | None:
        """Which pairs may attend, ``[B or 1, 1, N or 1, M]``; ``None`` means all."""
        mask = None if key_mask is None else key_mask[:, None, None, :]
        if not self.causal:
            return mask
        before = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool, device=q.device).tril()[None, None]
        return before if mask is None else before & mask

    def _bias(self, affinity: Bias, targets: Padding, sources: Padding, q: Tensor, k: Tensor) -> Tensor:
        """Spread the values of an affinity over the padded pairs, ``[B, 1 or H, N, M]``."""
        num_targets = q.size(2) if targets.slot is None else targets.slot.size(0)
        num_sources = k.size(2) if sources.slot is None else sources.slot.size(0)
        if not isinstance(affinity, Affinity):
            affinity = Affinity.from_edge_index(*affinity, (num_sources, num_targets))
        if affinity.shape != (num_targets, num_sources):
            found = " x ".join(map(str, affinity.shape))
            raise ValueError(f"affinity is {found}; expected {num_targets} targets x {num_sources} sources")
        if affinity.has_heads and affinity.num_heads != self.heads:
            raise ValueError(f"affinity has {affinity.num_heads} heads; expected {self.heads}, or no head axis")
        if affinity.device != q.device:
            raise ValueError(f"affinity is on {affinity.device}, but x is on {q.device}; move one of them")
        if isinstance(affinity, DenseAffinity) and targets.slot is None:
            return affinity.matrix.unsqueeze(0) if affinity.has_heads else affinity.matrix[None, None]
        edges = affinity.to_sparse()
        (source_graph, j), (graph, i) = (
            places.graph_and_place(node.long())
            for places, node in zip((sources, targets), edges.edge_index, strict=True)
        )
        within = graph == source_graph
        if readable(within) and not bool(within.all()):
            first = edges.edge_index[:, ~within][:, 0].tolist()
            raise ValueError(f"affinity joins source {first[0]} to target {first[1]}, which are of different graphs")
        (values,), _ = widen(edges.weights())
        values = (values if edges.has_heads else values.unsqueeze(1)).masked_fill(~within.unsqueeze(1), 0.0)
        bias = values.new_zeros(q.size(0), q.size(2), k.size(2), values.size(1))
        return bias.index_put((graph, i, j), values, accumulate=True).permute(0, 3, 1, 2)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Apply the softmax over the last dimension to what a mask and scores of ``-inf`` leave; a row of nothing is 0.

    Example:
        >>> masked_softmax(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    kept = scores != -torch.inf
    if mask is not None:
        kept = kept & mask
    # The lowest finite number, not -inf: the gradient of a row of nothing else would be NaN.
    return scores.masked_fill(~kept, torch.finfo(scores.dtype).min).softmax(dim=-1).masked_fill(~kept, 0.0)
