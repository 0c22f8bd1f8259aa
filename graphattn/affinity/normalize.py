"""From scores to weights: one definition per normalization, for edge lists and for dense matrices alike.

A normalization sees its entries only through a :class:`~graphattn.affinity.support.Support`, which sums over rows,
columns or graphs and spreads the sums back to the entries. Everywhere a score of ``-inf`` means "no edge": its
weight and its gradient are 0. Rows without edges give 0. Everything is computed in at least float32 and cast back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphattn.affinity.support import DenseSupport, EdgeSupport, Support, broadcasts, divide

__all__ = [
    "NORMALIZATIONS",
    "DenseSupport",
    "EdgeSupport",
    "Support",
    "none",
    "normalize_scores",
    "relu_frobenius",
    "row",
    "sigmoid",
    "sinkhorn",
    "softmax",
    "symmetric",
]

_INF = float("inf")


def softmax(scores: Tensor, support: Support, prior: Tensor | None = None) -> Tensor:
    r"""Softmax over each row; a prior :math:`w` multiplies the exponentials, so that 0 removes an edge.

    .. math:: a_{ij} = w_{ij} e^{s_{ij}} / \textstyle\sum_l w_{il} e^{s_{il}}

    Example:
        >>> softmax(torch.zeros(1, 2), DenseSupport(torch.ones(1, 2, dtype=torch.bool))).tolist()
        [[0.5, 0.5]]
    """
    return support.softmax(_logits(scores, support, prior))


def row(scores: Tensor, support: Support, prior: Tensor | None = None) -> Tensor:
    r"""Divide each row of the positive part by its sum.

    .. math:: a_{ij} = r_{ij} / \textstyle\sum_l r_{il}, \quad r_{ij} = w_{ij} \max(s_{ij}, 0)

    Example:
        >>> row(torch.tensor([[1.0, 3.0], [-1.0, 0.0]]), DenseSupport(torch.ones(2, 2, dtype=torch.bool))).tolist()
        [[0.25, 0.75], [0.0, 0.0]]
    """
    return divide(_weigh(torch.relu, scores, support, prior), support.row_sum)


def symmetric(scores: Tensor, support: Support, prior: Tensor | None = None) -> Tensor:
    r"""Scale rows and columns of the positive part by the square roots of the degrees; degree 0 gives 0.

    .. math:: \mathbf{A} = \mathbf{D}^{-1/2} \mathbf{R} \mathbf{D}^{-1/2}, \quad d_i = \textstyle\sum_l r_{il}

    A rectangular :math:`\mathbf{R}` takes row sums on the left and column sums on the right.

    Example:
        >>> path = torch.tensor([[0.0, 1.0], [1.0, 0.0]]) * 4
        >>> symmetric(path, DenseSupport(path != 0)).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    affinity = _weigh(torch.relu, scores, support, prior)
    for degree in support.degrees(affinity):
        empty = degree == 0
        affinity = affinity * degree.masked_fill(empty, 1.0).rsqrt().masked_fill(empty, 0.0)
    return affinity


def sigmoid(scores: Tensor, support: Support, prior: Tensor | None = None) -> Tensor:
    r"""Squash every score by itself: rows need not sum to 1, and no edge competes with another.

    .. math:: a_{ij} = w_{ij} / (1 + e^{-s_{ij}})

    Example:
        >>> sigmoid(torch.zeros(1, 2), DenseSupport(torch.tensor([[True, False]]))).tolist()
        [[0.5, 0.0]]
    """
    return _weigh(torch.sigmoid, scores, support, prior)


def sinkhorn(scores: Tensor, support: Support, prior: Tensor | None = None, *, rounds: int = 20) -> Tensor:
    r"""Scale columns and rows of the exponentials in turn, ending on rows: doubly stochastic where possible.

    .. math:: \mathbf{A} = \operatorname{diag}(\mathbf{u})\, (w_{ij} e^{s_{ij}})\, \operatorname{diag}(\mathbf{v})

    Scalings are taken in the log domain, so that no score over- or underflows.

    Args:
        scores: Scores.
        support: Where they stand.
        prior: Factor of the exponentials.
        rounds: Number of times columns, then rows, are scaled.

    Example:
        >>> full = DenseSupport(torch.ones(2, 2, dtype=torch.bool))
        >>> sinkhorn(torch.full((2, 2), 50.0), full).tolist()
        [[0.5, 0.5], [0.5, 0.5]]

    Reference:
        Sinkhorn and Knopp, "Concerning nonnegative matrices and doubly stochastic matrices", 1967.
    """
    log = _logits(scores, support, prior)
    for _ in range(rounds):
        log = _log_divide(log, support.col_max, support.col_sum)
        log = _log_divide(log, support.row_max, support.row_sum)
    return log.exp()


def relu_frobenius(scores: Tensor, support: Support, prior: Tensor | None = None) -> Tensor:
    r"""Divide the positive part by its Frobenius norm, per graph and head: the spectral radius is at most 1.

    .. math:: \mathbf{A} = \mathbf{R} / (\lVert\mathbf{R}\rVert_F + 10^{-6}), \quad r_{ij} = w_{ij} \max(s_{ij}, 0)

    Example:
        >>> full = DenseSupport(torch.ones(1, 2, dtype=torch.bool))
        >>> [round(a, 5) for a in relu_frobenius(torch.tensor([[3.0, 4.0]]), full)[0].tolist()]
        [0.6, 0.8]

    Reference:
        Roffo et al., "Infinite Self-Attention", arXiv 2603.00175, 2026.
    """
    affinity = _weigh(torch.relu, scores, support, prior)
    square = support.total(affinity.square())
    # The square root has no gradient at 0; there every entry is 0 and any divisor serves.
    return affinity / (square.masked_fill(square == 0, 1.0).sqrt() + 1e-6)


def none(scores: Tensor, support: Support, prior: Tensor | None = None) -> Tensor:
    r"""Leave the scores as they are, times the prior.

    .. math:: a_{ij} = w_{ij} s_{ij}

    Example:
        >>> none(torch.tensor([[2.0, 3.0]]), DenseSupport(torch.tensor([[True, False]]))).tolist()
        [[2.0, 0.0]]
    """
    return _weigh(lambda s: s, scores, support, prior)


NORMALIZATIONS: dict[str, Callable[..., Tensor]] = {
    "softmax": softmax,
    "row": row,
    "symmetric": symmetric,
    "sigmoid": sigmoid,
    "sinkhorn": sinkhorn,
    "relu_frobenius": relu_frobenius,
    "none": none,
}


def normalize_scores(kind: str, scores: Tensor, support: Support, prior: Tensor | None = None) -> Tensor:
    r"""Turn scores into weights by the normalization of that name.

    Args:
        kind: ``"softmax"``, ``"row"``, ``"symmetric"``, ``"sigmoid"``, ``"sinkhorn"``, ``"relu_frobenius"`` or
            ``"none"``.
        scores: Scores; ``-inf`` removes an entry. ``row``, ``symmetric`` and ``relu_frobenius`` read their positive
            part.
        support: Where the scores stand: an :class:`EdgeSupport` or a :class:`DenseSupport`.
        prior: Non-negative affinity: adds its logarithm to the scores of ``softmax`` and ``sinkhorn`` (0 removes the
            entry) and multiplies the unnormalized affinity otherwise.

    Shapes:
        - **input:** ``scores`` and ``prior`` :math:`(E, H)` or :math:`(..., N, M)`; the prior may have one head for all
        - **output:** as ``scores``

    Returns:
        The weights, in the dtype of scores and prior, computed in at least float32. Rows without entries are 0.

    Raises:
        ValueError: If ``kind`` is unknown, a shape does not fit or the prior is negative (read on the CPU only).
        TypeError: If ``scores`` or ``prior`` is not a floating-point tensor.

    Example:
        >>> from graphattn.ops import Layout
        >>> edges = Layout(torch.tensor([[0, 1], [0, 0]]), 2, 2)
        >>> normalize_scores("row", torch.tensor([[1.0], [3.0]]), EdgeSupport(edges)).flatten().tolist()
        [0.25, 0.75]
    """
    if kind not in NORMALIZATIONS:
        raise ValueError(f"kind is {kind!r}; expected one of " + ", ".join(map(repr, NORMALIZATIONS)))
    for name, x in (("scores", scores), ("prior", prior)):
        if x is not None and not x.is_floating_point():
            raise TypeError(f"{name} has dtype {x.dtype}; expected a floating-point dtype")
    support.check("scores", scores)
    dtype = scores.dtype if prior is None else torch.promote_types(scores.dtype, prior.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    if prior is not None:
        if not broadcasts(prior, scores):
            raise ValueError(f"prior has shape {tuple(prior.shape)}; expected that of scores, {tuple(scores.shape)}")
        if prior.device.type == "cpu" and not torch.compiler.is_compiling() and bool((prior < 0).any()):
            raise ValueError(f"prior contains {prior.min().item()}; expected no negative values")
        prior = support.zero_outside(prior.to(wide).expand_as(scores))
    return NORMALIZATIONS[kind](scores.to(wide), support, prior).to(dtype)


def log_prior(prior: Tensor) -> Tensor:
    """Return what a prior adds to scores: its logarithm, ``-inf`` where it is 0, with a finite gradient there."""
    # The logarithm never sees a 0, whose infinite slope no later mask could take out of the gradient.
    removed = prior == 0
    return prior.masked_fill(removed, 1.0).log().masked_fill(removed, -_INF)


def _logits(scores: Tensor, support: Support, prior: Tensor | None) -> Tensor:
    """Log of the unnormalized affinity, ``-inf`` where there is no edge."""
    if prior is not None:
        scores = scores + log_prior(prior)
    return support.zero_outside(scores, -_INF)


def _weigh(function: Callable[[Tensor], Tensor], scores: Tensor, support: Support, prior: Tensor | None) -> Tensor:
    """Unnormalized affinity ``function(scores) * prior``, 0 where there is no edge."""
    scores = support.zero_outside(scores, -_INF)
    removed = scores == -_INF
    affinity = function(scores.masked_fill(removed, 0.0))
    if prior is not None:
        affinity = affinity * prior
    return affinity.masked_fill(removed, 0.0)


def _log_divide(log: Tensor, largest: Callable[[Tensor], Tensor], reduce: Callable[[Tensor], Tensor]) -> Tensor:
    top = largest(log)
    log = log - top.masked_fill(top == -_INF, 0.0)
    total = reduce(log.exp())
    return log - total.masked_fill(total == 0, 1.0).log()
