"""Singular values of attention: how many directions a head really uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils.extmath import randomized_svd

from graphattn._optional import require
from graphattn.affinity import Affinity, SparseAffinity
from graphattn.analysis._arrays import read_array, sparse_heads
from graphattn.analysis.maps import AttentionMaps

_EPS = np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""Hold the singular values of each head, and how much of each the first of them make up.

    Args:
        values: Singular values of each layer, in decreasing order, :math:`(H, K)`.
        explained: Share of the sum of :math:`\sigma^p` that the first k values have, :math:`(H, K)`; 1 for a matrix of
            zeros.
        stable_rank: :math:`\lVert A \rVert_F^2 / \sigma_1^2`, :math:`(H)`.
        effective_rank: :math:`\exp(-\sum_i q_i \log q_i)` with :math:`q_i = \sigma_i^2 / \sum \sigma^2`, :math:`(H)`;
            NaN if not all values were computed.
        error: Bound of the distance from each computed value to a true one, the largest of each head, :math:`(H)`; 0
            for a full decomposition, which is exact but for rounding.
        sizes: The smaller side of each layer's matrices, the number of all singular values.
    """

    values: tuple[np.ndarray, ...]
    explained: tuple[np.ndarray, ...]
    stable_rank: tuple[np.ndarray, ...]
    effective_rank: tuple[np.ndarray, ...]
    error: tuple[np.ndarray, ...]
    sizes: tuple[int, ...]

    def rank_at(self, tau: float = 0.9) -> tuple[np.ndarray, ...]:
        """Return the least number of singular values that explain a share, for each layer and head.

        Args:
            tau: The share, above 0 and at most 1.

        Returns:
            Of each layer the numbers, :math:`(H)`: 0 for a matrix of zeros, NaN where the values that were computed do
            not explain so much.

        Raises:
            ValueError: If ``tau`` is out of range.

        Example:
            >>> spectrum(np.diag([3.0, 2.0, 1.0])).rank_at(0.9)[0].tolist()
            [2.0]
        """
        if not 0 < tau <= 1:
            raise ValueError(f"tau is {tau}; expected a share above 0 and at most 1")
        ranks = []
        for values, explained in zip(self.values, self.explained, strict=True):
            enough = explained >= tau - 4 * values.shape[1] * _EPS
            rank = np.where(enough.any(axis=1), enough.argmax(axis=1) + 1.0, np.nan)
            ranks.append(np.where(values[:, 0] == 0, 0.0, rank))
        return tuple(ranks)

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per layer and head.

        Example:
            >>> spectrum(np.eye(4)).as_frame()[["stable_rank", "rank_at_0.9"]].values.tolist()
            [[4.0, 4.0]]
        """
        pandas = require("pandas", "analysis")
        heads = [(layer, head) for layer, values in enumerate(self.values) for head in range(len(values))]
        columns = {
            "largest": np.concatenate([values[:, 0] for values in self.values]),
            "first_share": np.concatenate([explained[:, 0] for explained in self.explained]),
            "stable_rank": np.concatenate(self.stable_rank),
            "effective_rank": np.concatenate(self.effective_rank),
            "rank_at_0.9": np.concatenate(self.rank_at(0.9)),
            "error": np.concatenate(self.error),
        }
        return pandas.DataFrame(columns, index=pandas.MultiIndex.from_tuples(heads, names=["layer", "head"]))


@dataclass(frozen=True, eq=False)
class ExplainedCurves:
    """Hold how much a share of the singular values explains, over samples.

    Args:
        grid: Shares :math:`k / N` of the values, :math:`(G)`.
        mean: Mean over samples of what they explain, averaged over heads, :math:`(L, G)`.
        std: Standard deviation over samples, :math:`(L, G)`.
    """

    grid: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per layer and share of the values.

        Example:
            >>> explained_curves([spectrum(np.eye(4))], grid=[0.5]).as_frame()["mean"].tolist()
            [0.5]
        """
        pandas = require("pandas", "analysis")
        index = pandas.MultiIndex.from_product([range(len(self.mean)), self.grid], names=["layer", "share"])
        return pandas.DataFrame({"mean": self.mean.ravel(), "std": self.std.ravel()}, index=index)


def spectrum(
    matrices: Any,
    *,
    p: float = 2.0,
    fuse_heads: bool = False,
    k: int | None = None,
    random_state: int | np.random.RandomState | None = 0,
) -> Spectrum:
    r"""Decompose attention, or any matrices, into singular values :math:`\sigma_1 \ge \sigma_2 \ge \dots`

    .. math:: \operatorname{EV}_k = \frac{\sum_{i \le k} \sigma_i^p}{\sum_i \sigma_i^p}

    Args:
        matrices: Attention maps; or one layer of matrices: an array, a tensor (of scores, say) or an affinity; or a
            list of such layers.
        p: Power of the values in what they explain; 2 is the share of the squared norm.
        fuse_heads: Whether the heads are averaged before.
        k: How many of the largest values to compute, by a randomized decomposition, whose values are never too large
            and come with a bound of their ``error``; all, exactly, by default. Needs ``p=2``.
        random_state: Seed of the randomized decomposition.

    Shapes:
        - **input:** each layer :math:`(N, M)` or :math:`(H, N, M)`

    Returns:
        The singular values and the ranks they tell, in time :math:`O(N^3)` a head, or :math:`O(k E)` with ``k`` for
        layers of edges, :math:`O(k N^2)` for dense ones; beyond some thousand nodes ``k`` is the only way.

    Raises:
        ValueError: If there is no layer or no entry, an entry is not finite, or an option is out of range.

    Example:
        >>> found = spectrum(AttentionMaps.from_arrays(np.full((1, 1, 4, 4), 0.25)))
        >>> found.explained[0].round(12).tolist(), found.effective_rank[0].round(12).tolist()
        ([[1.0, 1.0, 1.0, 1.0]], [1.0])

    Reference:
        Chen et al., "Primal-Attention: Self-attention through Asymmetric Kernel SVD in Primal Representation", NeurIPS
        2023, whose figure does not state p; Roy and Vetterli, "The effective rank", 2007; Halko et al., "Finding
        structure with randomness", 2011.
    """
    if not 0 < p < np.inf:
        raise ValueError(f"p is {p}; expected a positive number")
    if k is not None and (isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1):
        raise ValueError(f"k is {k!r}; expected a number of singular values, at least 1, or None for all")
    if k is not None and p != 2:
        raise ValueError(f"k is {k} but p is {p}; only the sum of squares is known without all singular values")
    found = [_decompose(heads, p, k, random_state) for heads in _layers(matrices, fuse_heads)]
    if not found:
        raise ValueError("matrices holds no layer; pass at least one")
    return Spectrum(*(tuple(values) for values in zip(*found, strict=True)))


def explained_curves(spectra: Iterable[Spectrum], grid: Sequence[float] | None = None) -> ExplainedCurves:
    r"""Average what the singular values explain over samples of different sizes, on a common grid of :math:`k / N`.

    Args:
        spectra: Spectrum of each sample, of the same layers, all values computed.
        grid: Shares of the values, between 0 and 1; in steps of one hundredth by default. Between two numbers of
            values, the line that joins them is read.

    Returns:
        Mean and standard deviation over the samples for each layer, whose heads are averaged before.

    Raises:
        ValueError: If there is no sample, samples differ in their layers, were truncated, or the grid is out of range.

    Example:
        >>> curves = explained_curves([spectrum(np.eye(3)), spectrum(np.ones((5, 5)))], grid=[0.0, 0.6, 1.0])
        >>> curves.mean.round(12).tolist(), curves.std.round(12).tolist()
        ([[0.0, 0.8, 1.0]], [[0.0, 0.2, 0.0]])
    """
    shares = np.linspace(0, 1, 101) if grid is None else np.asarray(grid, dtype=np.float64)
    if shares.ndim != 1 or not shares.size or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"grid is {grid!r}; expected a list of shares between 0 and 1")
    curves: list[np.ndarray] = []
    for sample, found in enumerate(spectra):
        rows = []
        for layer, (explained, size) in enumerate(zip(found.explained, found.sizes, strict=True)):
            if explained.shape[1] < size:
                raise ValueError(f"sample {sample} has {explained.shape[1]} of {size} values in layer {layer}; omit k")
            known = np.insert(explained.mean(axis=0), 0, 0.0)
            rows.append(np.interp(shares, np.arange(size + 1) / size, known))
        curves.append(np.array(rows))
        if curves[0].shape != curves[-1].shape:
            raise ValueError(f"sample {sample} has {len(rows)} layers but the first has {len(curves[0])}")
    if not curves:
        raise ValueError("spectra is empty; pass the spectrum of at least one sample")
    return ExplainedCurves(shares, np.mean(curves, axis=0), np.std(curves, axis=0))


def _layers(matrices: Any, fuse_heads: bool) -> Iterable[list[Any]]:
    """Give the matrices of each layer, one a head: arrays, or sparse matrices."""
    if isinstance(matrices, AttentionMaps):
        layers: Any = (
            matrices.affinity(layer) if matrices.is_sparse(layer) else matrices.dense(layer)
            for layer in range(matrices.num_layers)
        )
    else:
        layers = matrices if isinstance(matrices, list | tuple) else [matrices]
    for number, layer in enumerate(layers):
        heads = _heads(layer, number)
        yield [sum(heads[1:], start=heads[0]) / len(heads)] if fuse_heads else heads


def _heads(layer: Any, number: int) -> list[Any]:
    heads: list[Any]
    name = f"layer {number}"
    if isinstance(layer, SparseAffinity):
        heads = sparse_heads(name, layer)
    else:
        array = read_array(name, layer.to_numpy() if isinstance(layer, Affinity) else layer)
        if array.ndim not in (2, 3):
            raise ValueError(f"{name} has shape {array.shape}; expected [N, M] or [H, N, M]")
        heads = list(array.reshape(-1, *array.shape[-2:])) if array.size else []
    if not heads or 0 in heads[0].shape:
        raise ValueError(f"{name} has no entries; expected at least one head, row and column")
    return heads


def _decompose(
    heads: list[Any], p: float, k: int | None, random_state: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Return values, explained shares, stable and effective rank, error, and the number of all values."""
    size = min(heads[0].shape)
    whole = k is None or k >= size
    pairs = [_exact(head) if whole else _randomized(head, int(k or 0), random_state) for head in heads]
    values, error = (np.array(column) for column in zip(*pairs, strict=True))
    largest = np.where(values[:, :1] > 0, values[:, :1], 1.0)  # divided out, so that no power over- or underflows
    summed = ((values / largest) ** p).cumsum(axis=1)
    total = summed[:, -1]
    if not whole:
        entries = [head.data if isinstance(head, csr_array) else head for head in heads]
        squares = [((part / scale) ** 2).sum() for part, scale in zip(entries, largest[:, 0], strict=True)]
        total = np.maximum(squares, total)
    empty = values[:, 0] == 0
    explained = np.where(empty[:, None], 1.0, summed / np.where(empty, 1.0, total)[:, None])
    share = (values / largest) ** 2
    stable = share.sum(axis=1) if whole else total
    effective = np.full(len(values), np.nan)
    if whole:
        q = share / np.where(empty, 1.0, stable)[:, None]
        effective = np.where(empty, 0.0, np.exp(-(q * np.log(np.where(q > 0, q, 1.0))).sum(axis=1)))
    return values, explained, np.where(empty, 0.0, stable), effective, error, size


def _exact(head: Any) -> tuple[np.ndarray, float]:
    dense = head.toarray() if isinstance(head, csr_array) else head
    return np.linalg.svd(dense, compute_uv=False), 0.0


def _randomized(head: Any, k: int, random_state: Any) -> tuple[np.ndarray, float]:
    """Return the largest values and the largest residual, within which a true value lies of each."""
    U, values, V = randomized_svd(head, k, n_iter=7, random_state=random_state)
    residual = np.linalg.norm(head @ V.T - U * values, axis=0)
    return values, float(residual.max())
