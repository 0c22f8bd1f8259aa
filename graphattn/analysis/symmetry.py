"""How symmetric the query-key weights of a layer are, or any square affinity, and whether rows or columns dominate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse

from graphattn._optional import require
from graphattn.affinity import Affinity, SparseAffinity
from graphattn.analysis._arrays import check_finite, read_array, sparse_heads

_SCALES = ("signed", "unit")
_COMPAT = "attention-geometry"
_EPS = np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class QueryKeySymmetry:
    """Hold symmetry and directionality of the query-key weights of some layers.

    Args:
        symmetry: Symmetry of each layer, or of each head.
        directionality: Directionality of each layer, or of each head.
        defined: Whether there is anything to measure: False where the matrix is 0, and so are both scores.

    Shapes:
        - **all:** :math:`(L)`, or :math:`(L, H)` if measured for each head
    """

    symmetry: np.ndarray
    directionality: np.ndarray
    defined: np.ndarray

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per layer, or per layer and head.

        Example:
            >>> W = np.eye(2)
            >>> query_key_symmetry([(W, W)]).as_frame()["symmetry"].to_dict()
            {0: 1.0}
        """
        pandas = require("pandas", "analysis")
        index = pandas.RangeIndex(len(self.symmetry), name="layer")
        if self.symmetry.ndim == 2:
            numbers = [range(size) for size in self.symmetry.shape]
            index = pandas.MultiIndex.from_product(numbers, names=["layer", "head"])
        return pandas.DataFrame({name: values.ravel() for name, values in vars(self).items()}, index=index)


def symmetry(matrix: Any, *, scale: str | None = None, compat: str | None = None) -> Any:
    r"""Measure how much of a square matrix is symmetric: the reciprocity of a weighted graph.

    .. math:: s = \frac{\operatorname{tr}(\mathbf{M}\mathbf{M})}{\lVert\mathbf{M}\rVert_F^2}
        = \frac{\lVert\mathbf{M}_s\rVert_F^2 - \lVert\mathbf{M}_n\rVert_F^2}{\lVert\mathbf{M}\rVert_F^2}

    with the symmetric part :math:`\mathbf{M}_s` and the skew part :math:`\mathbf{M}_n`. It is 1 for a symmetric matrix,
    -1 for a skew one and near :math:`1/D` for a random one. It does not change under scaling, transposition, or a
    change of orthonormal basis.

    Args:
        matrix: Square matrices: an array, a tensor, a SciPy sparse matrix, or an affinity, whose heads are measured
            one by one.
        scale: ``"signed"`` for :math:`s`, the default, or ``"unit"`` for :math:`(s + 1) / 2`, the share of the squared
            norm that the symmetric part has.
        compat: ``"attention-geometry"`` for what the released code of the paper computes, the unit scale.

    Shapes:
        - **input:** :math:`(*, D, D)`
        - **output:** :math:`(*)`; a number for one matrix

    Returns:
        The symmetry, float64; 0 for a matrix of zeros. An affinity with edges takes time :math:`O(E)`.

    Raises:
        ValueError: If the matrix is not square, has an entry that is not finite, or an option is unknown.

    Example:
        >>> float(symmetry(np.array([[0.0, 1.0], [1.0, 3.0]]))), float(symmetry(np.array([[0.0, 1.0], [-1.0, 0.0]])))
        (1.0, -1.0)

    Reference:
        Saponati et al., "The underlying structures of self-attention: symmetry, directionality, and emergent dynamics
        in Transformer training", ICML 2025.
    """
    scale = _check_scale(scale, compat)
    trace, square, _, _ = _measured(matrix)
    return _symmetry(trace, square, square > 0, scale)[()]


def directionality(matrix: Any, *, gamma: float = 2.0, compat: str | None = None) -> Any:
    r"""Measure whether outstanding rows or outstanding columns of a square matrix dominate.

    .. math:: d = \frac{R - C}{R + C}, \quad R = \sum_{i} \max(0, \lVert\mathbf{M}_{i,:}\rVert - \tau_r), \quad
        C = \sum_{j} \max(0, \lVert\mathbf{M}_{:,j}\rVert - \tau_c)

    where each threshold is the mean of these norms plus :math:`\gamma` times their standard deviation. A negative one
    says that columns dominate: a few sources, or keys, are drawn on by everyone.

    Args:
        matrix: Square matrices, as for :func:`symmetry`.
        gamma: Standard deviations :math:`\gamma` above the mean from which a norm is outstanding.
        compat: ``"attention-geometry"`` for what the released code of the paper computes, the negative.

    Shapes:
        - **input:** :math:`(*, D, D)`
        - **output:** :math:`(*)`; a number for one matrix

    Returns:
        A score in [-1, 1], float64; 0 if nothing stands out. What is within rounding of a threshold does not.

    Raises:
        ValueError: If the matrix is not square, has an entry that is not finite, ``gamma`` is negative, or ``compat``
            is unknown.

    Example:
        >>> M = np.ones((16, 16))
        >>> M[:, 3] = 50
        >>> float(directionality(M)), float(directionality(M.T))
        (-1.0, 1.0)

    Reference:
        Saponati et al., 2025, see :func:`symmetry`.
    """
    _check_compat(compat)
    _check_gamma(gamma)
    _, _, rows, columns = _measured(matrix)
    score = _directionality(rows, columns, gamma)
    return (score if compat is None else 0.0 - score)[()]


def query_key_symmetry(
    layers: Iterable[tuple[Any, Any]],
    *,
    heads: int = 1,
    per_head: bool = False,
    scale: str | None = None,
    gamma: float = 2.0,
    compat: str | None = None,
) -> QueryKeySymmetry:
    r"""Measure symmetry and directionality of :math:`\mathbf{M} = \mathbf{W}_q \mathbf{W}_k^\top`, layer by layer.

    The score of two nodes is :math:`\mathbf{x}_i^\top \mathbf{M} \mathbf{x}_j`; biases do not enter. Encoders trained
    in both directions are known to be symmetric, autoregressive decoders to be dominated by columns. The matrix is
    never formed: with :math:`\mathbf{P} = \mathbf{W}_q^\top \mathbf{W}_q`, :math:`\mathbf{Q} = \mathbf{W}_k^\top
    \mathbf{W}_k` and :math:`\mathbf{Z} = \mathbf{W}_k^\top \mathbf{W}_q`,

    .. math:: s = \operatorname{tr}(\mathbf{Z}\mathbf{Z}) / \operatorname{tr}(\mathbf{P}\mathbf{Q})

    Args:
        layers: For each layer the weights of queries and of keys in mathematical orientation, from features to
            channels: the transposed ``weight`` of a ``Linear``.
        heads: Number of heads, which lie side by side in the channels. Keys that serve a group of heads (fewer
            channels) are repeated for each.
        per_head: Whether to measure each head; otherwise all together, :math:`\mathbf{M} = \sum_h \mathbf{M}_h`.
        scale: As in :func:`symmetry`.
        gamma: As in :func:`directionality`.
        compat: ``"attention-geometry"`` for both scores as the released code of the paper computes them.

    Shapes:
        - **input:** queries :math:`(D, H C)`, keys :math:`(D, H C)` or :math:`(D, G C)`

    Returns:
        The scores, in time :math:`O(D (H C)^2)` a layer, or :math:`O(D H C^2)` if ``per_head``.

    Raises:
        ValueError: If there is no layer, shapes do not fit each other or the heads, weights are not finite, or an
            option is unknown.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> W_q, W_k = rng.normal(size=(2, 64, 16))
        >>> found = query_key_symmetry([(W_q, W_k), (W_k, W_k)], heads=4)
        >>> found.symmetry.round(2).tolist()
        [0.02, 1.0]

    Reference:
        Saponati et al., 2025, see :func:`symmetry`.
    """
    scale = _check_scale(scale, compat)
    _check_gamma(gamma)
    found = []
    for number, (queries, keys) in enumerate(layers):
        W_q, W_k = _split(queries, keys, heads, per_head, number)
        trace, square, rows, columns, defined = _from_factors(W_q, W_k)
        direction = np.where(defined, _directionality(rows, columns, gamma), 0.0)
        score = _symmetry(trace, square, defined, scale)
        found.append((score, direction if compat is None else 0.0 - direction, defined))
    if not found:
        raise ValueError("layers is empty; pass a pair of query and key weights for each layer")
    scores, directions, defined = (np.array(values) for values in zip(*found, strict=True))
    if not per_head:
        scores, directions, defined = scores[:, 0], directions[:, 0], defined[:, 0]
    return QueryKeySymmetry(scores, directions, defined)


def _measured(matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return trace of the square, squared norm, norms of rows and of columns."""
    if isinstance(matrix, SparseAffinity):
        heads = [_sparse(head) for head in sparse_heads("matrix", matrix)]
        stacked = [np.array(values) for values in zip(*heads, strict=True)]
        trace, square, rows, columns = stacked if matrix.has_heads else [values[0] for values in stacked]
        return trace, square, rows, columns
    if issparse(matrix):
        entries = csr_array(matrix, dtype=np.float64)
        check_finite("matrix", entries.data)
        return _sparse(entries)
    M = read_array("matrix", matrix.to_numpy() if isinstance(matrix, Affinity) else matrix)
    if M.ndim < 2 or M.shape[-1] != M.shape[-2] or M.shape[-1] == 0:
        raise ValueError(f"matrix has shape {M.shape}; expected square matrices [..., D, D]")
    M = M / _largest(M)
    squares = M * M
    trace = (M * M.swapaxes(-1, -2)).sum((-1, -2))
    return trace, squares.sum((-1, -2)), np.sqrt(squares.sum(-1)), np.sqrt(squares.sum(-2))


def _sparse(M: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    if M.shape[0] != M.shape[1] or M.shape[0] == 0:
        raise ValueError(f"matrix has shape {M.shape}; expected a square one")
    M = M / _largest(M.data[None])[0, 0]
    squares = M.multiply(M)
    rows, columns = (np.sqrt(np.asarray(squares.sum(axis))) for axis in (1, 0))
    return np.asarray(M.multiply(M.T).sum()), np.asarray(squares.sum()), rows, columns


def _largest(values: np.ndarray) -> np.ndarray:
    """Return the largest absolute value of each matrix, so that no square over- or underflows; 1 for zeros."""
    largest = np.abs(values).max(axis=(-1, -2), keepdims=True, initial=0.0)
    return np.where(largest == 0, 1.0, largest)


def _from_factors(W_q: np.ndarray, W_k: np.ndarray) -> tuple[np.ndarray, ...]:
    """Do the same for the products of factors [*, D, C], and tell which of them are not 0."""
    P, Q = W_q.swapaxes(-1, -2) @ W_q, W_k.swapaxes(-1, -2) @ W_k
    Z = W_k.swapaxes(-1, -2) @ W_q
    square = (P * Q).sum((-1, -2))
    rows, columns = (((W @ gram) * W).sum(-1) for W, gram in ((W_q, Q), (W_k, P)))
    rounding = W_q.shape[-1] * _EPS * np.sqrt((P * P).sum((-1, -2)) * (Q * Q).sum((-1, -2)))
    trace = (Z * Z.swapaxes(-1, -2)).sum((-1, -2))
    return trace, square, np.sqrt(rows.clip(0)), np.sqrt(columns.clip(0)), square > rounding


def _symmetry(trace: np.ndarray, square: np.ndarray, defined: np.ndarray, scale: str) -> np.ndarray:
    signed = np.clip(trace / np.where(defined, square, 1.0), -1.0, 1.0)
    return np.where(defined, signed if scale == "signed" else (signed + 1) / 2, 0.0)


def _directionality(rows: np.ndarray, columns: np.ndarray, gamma: float) -> np.ndarray:
    R, C = _excess(rows, gamma), _excess(columns, gamma)
    total = R + C
    return (R - C) / np.where(total > 0, total, 1.0)


def _excess(norms: np.ndarray, gamma: float) -> np.ndarray:
    """Sum by how much norms exceed their threshold, where that is more than rounding."""
    size = norms.shape[-1]
    if size == 1:
        return np.zeros(norms.shape[:-1])
    threshold = norms.mean(-1, keepdims=True) + gamma * norms.std(-1, ddof=1, keepdims=True)
    excess = norms - threshold
    rounding = 16 * size * _EPS * norms.max(-1, keepdims=True)
    return np.where(excess > rounding, excess, 0.0).sum(-1)


def _split(queries: Any, keys: Any, heads: int, per_head: bool, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of a layer with an axis of heads in front, of length 1 for all heads together."""
    W_q, W_k = (read_array(f"layer {number}", weights) for weights in (queries, keys))
    where = f"layer {number}: queries have shape {W_q.shape}, keys {W_k.shape}"
    if W_q.ndim != 2 or W_k.ndim != 2 or len(W_q) != len(W_k) or 0 in W_q.shape + W_k.shape:
        raise ValueError(f"{where}; expected [features, channels] from the same features")
    if isinstance(heads, bool) or heads < 1 or W_q.shape[1] % heads:
        raise ValueError(f"{where}; heads is {heads}, expected a positive number that divides the channels of queries")
    channels = W_q.shape[1] // heads
    groups, rest = divmod(W_k.shape[1], channels)
    if rest or groups == 0 or heads % groups:
        raise ValueError(f"{where}; keys must have the {channels} channels of each of {heads} heads or of equal groups")
    W_q, W_k = W_q / _largest(W_q), W_k / _largest(W_k)
    W_k = np.repeat(W_k.reshape(len(W_k), groups, channels), heads // groups, axis=1)
    if not per_head:
        return W_q[None], W_k.reshape(1, len(W_k), -1)
    return W_q.reshape(len(W_q), heads, channels).swapaxes(0, 1), W_k.swapaxes(0, 1)


def _check_scale(scale: str | None, compat: str | None) -> str:
    _check_compat(compat)
    if scale is not None and scale not in _SCALES:
        raise ValueError(f"scale is {scale!r}; expected one of {', '.join(map(repr, _SCALES))}")
    if compat is not None and scale == "signed":
        raise ValueError(f"scale is 'signed' but compat is {compat!r}, which has the unit scale; pass one of the two")
    return scale or ("signed" if compat is None else "unit")


def _check_compat(compat: str | None) -> None:
    if compat not in (None, _COMPAT):
        raise ValueError(f"compat is {compat!r}; expected {_COMPAT!r} or None")


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma is {gamma}; expected a number of standard deviations, at least 0")
