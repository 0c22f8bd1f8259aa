"""Attention by products of affinities, each of which sees other features."""

from __future__ import annotations

import functools
import operator

import torch
from torch import Tensor, nn

from graphattn.affinity.normalize import NORMALIZATIONS, DenseSupport, normalize_scores
from graphattn.nn.global_attention.padding import Padding
from graphattn.nn.interaction.base import Interaction

_ROWWISE = ("none", "softmax", "row", "sigmoid")


class HyperFeatureAttention(Interaction):
    r"""Let every node attend to its graph by products of affinities, one for each of several groups of features.

    .. math::
        \mathbf{Y} = \Big(\prod_{a=1}^{A} \mathbf{X} \mathbf{C}_a \mathbf{X}^\top\Big)
        \Big(\prod_{a=1}^{A} \mathbf{X} \mathbf{W}_a\Big), \quad
        \mathbf{C}_a = \mathbf{W}^Q_a (\mathbf{W}^K_a)^\top \text{ with a rank}

    with products entry by entry. Of order 1 it is linear self-attention, which represents any
    :math:`\mathbf{y}_i = \sum_j f(x_i, x_j)\,\mathbf{w}_{x_j}` of one-hot vectors over s values, but needs s channels
    for it. Where a value has several features and f is a product over them, order A needs the sum of their numbers of
    values instead of the product.

    There is neither bias nor scale: an output is homogeneous of degree 3 A in the nodes, as long as nothing is
    normalized. Time is :math:`O(A N^2 D)` for the nodes of the largest graph.

    Args:
        in_channels: Width of the nodes :math:`D`.
        out_channels: Width of the output :math:`C`.
        order: Number of factors :math:`A`.
        rank: Rank of the bilinear forms; full ones by default.
        normalize: How the product of the affinities is normalized: ``"none"``, as published, or one of those of
            :class:`~graphattn.nn.AttentionConv`, such as ``"softmax"``.
        causal: Whether a node attends only to itself and the nodes of its graph before it.

    Shapes:
        - **input:** ``x`` :math:`(N, D)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is out of range, or ``causal`` is asked of a normalization that mixes rows.

    Example:
        >>> attend = HyperFeatureAttention(6, 4, order=2, rank=3)
        >>> x, batch = torch.rand(5, 6), torch.tensor([0, 1, 0, 1, 1])
        >>> torch.allclose(attend(x, batch)[[0, 2]], attend(x[[0, 2]]), atol=1e-6)
        True

    Reference:
        Ustaomeroglu and Qu, "A Theoretical Study of (Hyper) Self-Attention through the Lens of Interactions:
        Representation, Training, Generalization", ICML 2025.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        order: int = 2,
        *,
        rank: int | None = None,
        normalize: str = "none",
        causal: bool = False,
    ) -> None:
        super().__init__(in_channels)
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "order": order, "rank": rank}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        if normalize not in NORMALIZATIONS:
            raise ValueError(f"normalize is {normalize!r}; expected one of {', '.join(map(repr, NORMALIZATIONS))}")
        if causal and normalize not in _ROWWISE:
            names = ", ".join(map(repr, _ROWWISE))
            raise ValueError(
                f"causal is True but normalize is {normalize!r}, which mixes rows; expected one of {names}"
            )
        self.out_channels = out_channels
        self.order = order
        self.rank = rank
        self.normalize = normalize
        self.causal = causal
        # A full form has no query projection: its keys are compared with the nodes themselves.
        self.query = None if rank is None else nn.Parameter(torch.empty(order, in_channels, rank))
        self.key = nn.Parameter(torch.empty(order, in_channels, in_channels if rank is None else rank))
        self.value = nn.Parameter(torch.empty(order, in_channels, out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for stack in self.parameters():
            for matrix in stack:
                nn.init.xavier_uniform_(matrix)

    def attend(self, x: Tensor, places: Padding) -> Tensor:
        scores = _product([self._score(x, a) for a in range(self.order)])
        values = _product([x @ value for value in self.value])
        weights = normalize_scores(self.normalize, scores, DenseSupport(self._allowed(scores, places.mask)))
        return weights @ values

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, order={self.order}, rank={self.rank}"

    def _score(self, x: Tensor, factor: int) -> Tensor:
        """Bilinear form of all pairs of each graph, [B, n, n]."""
        query = x if self.query is None else x @ self.query[factor]
        return query @ (x @ self.key[factor]).transpose(1, 2)

    def _allowed(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        """Which pairs there are, [B, n, n]."""
        allowed = torch.ones_like(scores, dtype=torch.bool)
        allowed = allowed.tril() if self.causal else allowed
        return allowed if mask is None else allowed & mask.unsqueeze(2) & mask.unsqueeze(1)


def _product(factors: list[Tensor]) -> Tensor:
    return functools.reduce(operator.mul, factors)
