"""Conditional independence of tokens, read from attention: correlations of its rows, and tests of partial ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import erfc, log_ndtr
from torch import Tensor

_SINGULAR = 1e-12  # eigenvalues below this fraction of the largest are what rounding leaves of zero
_LN10 = math.log(10)
_MAX_TESTS = 1_000_000  # of one object, which keeps their results: some 400 MB and about a minute

Key = tuple[int, int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class PartialCorrelation:
    """Hold one test of conditional independence.

    Args:
        x: One node.
        y: The other node, whose number is larger.
        given: Nodes that are held fixed, in increasing order.
        correlation: Partial correlation of ``x`` and ``y``.
        p_value: Probability of one at least as large if they were independent.
        confidence: ``-log10(p_value)``, computed without underflow; infinite for a correlation of 1 or -1.
        singular: Whether the correlations had no inverse, so that the pseudo-inverse was taken.

    Example:
        >>> PartialCorrelationTest(np.eye(2), n_samples=100).test(0, 1).p_value
        1.0
    """

    x: int
    y: int
    given: tuple[int, ...]
    correlation: float
    p_value: float
    confidence: float
    singular: bool


class PartialCorrelationTest:
    r"""Test whether two nodes are independent given others, by Fisher's transformation of their partial correlation.

    .. math:: p = 2\,\Phi\Bigl(-\sqrt{n - |Z| - 3}\;\bigl|\operatorname{artanh} \rho_{xy \cdot Z}\bigr|\Bigr)

    The partial correlation has :math:`n - |Z| - 2` degrees of freedom. Nodes are independent if :math:`p > \alpha`. Of
    each pair every set is tested once; results are kept, so that asking again costs nothing.

    Args:
        correlation: Correlations of the nodes.
        n_samples: Number :math:`n` of samples behind them.
        alpha: Level of significance.
        nodes: Numbers that name the nodes; counted from 0 by default.
        max_cond: Largest number of nodes that are held fixed. It is lowered to ``n_samples - 4``, from where on there
            is no degree of freedom left.

    Shapes:
        - **input:** ``correlation`` :math:`(m, m)`

    Raises:
        ValueError: If the correlations are no symmetric matrix with a diagonal of 1, there are fewer than 4 samples,
            ``alpha`` is not in (0, 1), nodes repeat or do not fit the correlations, or ``max_cond`` is negative.

    Example:
        >>> chain = np.array([[1.0, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 1.0]])
        >>> test = PartialCorrelationTest(chain, n_samples=1000)
        >>> test.independent(0, 2), test.independent(0, 2, given=[1])
        (False, True)

    Reference:
        Fisher, "The distribution of the partial correlation coefficient", Metron 1924.
    """

    def __init__(
        self,
        correlation: Any,
        n_samples: int,
        alpha: float = 0.01,
        nodes: Sequence[int] | None = None,
        max_cond: int = 4,
    ) -> None:
        self.correlation = _check_correlation(correlation)
        if not isinstance(alpha, int | float) or not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha!r}; expected a number between 0 and 1")
        self.alpha = float(alpha)
        self.n_samples = _check_whole("n_samples", n_samples, 4, ", below which there is no test")
        self.max_cond = min(_check_whole("max_cond", max_cond, 0), self.n_samples - 4)
        self.nodes = tuple(range(len(self.correlation))) if nodes is None else tuple(int(node) for node in nodes)
        if len(self.nodes) != len(self.correlation) or len(set(self.nodes)) != len(self.nodes):
            raise ValueError(
                f"nodes is {list(self.nodes)}; expected {len(self.correlation)} different numbers, one for each row of "
                "the correlations"
            )
        self._position = {node: position for position, node in enumerate(self.nodes)}
        self._results: dict[Key, PartialCorrelation] = {}
        self._of_pair: dict[tuple[int, int], list[PartialCorrelation]] = {}

    @property
    def n_tests(self) -> int:
        """Number of different tests made so far."""
        return len(self._results)

    def degrees_of_freedom(self, size: int) -> int:
        """Return the degrees of freedom of a partial correlation.

        Args:
            size: Number of nodes that are held fixed.

        Example:
            >>> PartialCorrelationTest(np.eye(4), n_samples=100).degrees_of_freedom(2)
            96
        """
        return self.n_samples - size - 2

    def __call__(self, x: int, y: int, given: Sequence[int] = ()) -> float:
        """Return the p-value of a test."""
        return self.test(x, y, given).p_value

    def independent(self, x: int, y: int, given: Sequence[int] = ()) -> bool:
        """Tell whether two nodes are independent given others.

        Args:
            x: One node.
            y: The other node.
            given: Nodes that are held fixed.

        Example:
            >>> PartialCorrelationTest(np.eye(2), n_samples=100).independent(0, 1)
            True
        """
        return self.test(x, y, given).p_value > self.alpha

    def test(self, x: int, y: int, given: Sequence[int] = ()) -> PartialCorrelation:
        """Test two nodes given others.

        Args:
            x: One node.
            y: The other node.
            given: Nodes that are held fixed, at most ``max_cond``.

        Returns:
            The result, that of an earlier call if there was one.

        Raises:
            ValueError: If a node is unknown or named twice, or too many are held fixed.
            RuntimeError: If this is more than the millionth test.

        Example:
            >>> test = PartialCorrelationTest(np.array([[1.0, 0.6], [0.6, 1.0]]), n_samples=28)
            >>> round(test.test(0, 1).confidence, 4)
            3.2767
        """
        first, second = (x, y) if x < y else (y, x)
        key = first, second, tuple(sorted(given))
        if key not in self._results:
            if len(self._results) >= _MAX_TESTS:
                raise RuntimeError(
                    f"more than {_MAX_TESTS} tests of {len(self.nodes)} nodes were asked for; choose fewer nodes, or a "
                    "smaller max_cond or alpha"
                )
            self._results[key] = result = self._compute(*key)
            self._of_pair.setdefault((first, second), []).append(result)
        return self._results[key]

    def results(self, x: int, y: int) -> list[PartialCorrelation]:
        """Return the tests that a pair has had so far, in the order in which they were made.

        Args:
            x: One node.
            y: The other node.

        Example:
            >>> test = PartialCorrelationTest(np.eye(3), n_samples=100)
            >>> _ = test(2, 0), test(2, 0, given=[1])
            >>> [result.given for result in test.results(0, 2)]
            [(), (1,)]
        """
        return list(self._of_pair.get((min(x, y), max(x, y)), ()))

    def __iter__(self) -> Iterator[PartialCorrelation]:
        """Go through all tests made so far."""
        return iter(tuple(self._results.values()))

    def _compute(self, x: int, y: int, given: tuple[int, ...]) -> PartialCorrelation:
        named = (x, y, *given)
        unknown = [node for node in named if node not in self._position]
        if unknown or len(set(named)) != len(named):
            what = f"{unknown} are none of the nodes" if unknown else "a node is named twice"
            raise ValueError(f"x is {x}, y is {y} and given is {list(given)}, but {what}; expected different nodes")
        if len(given) > self.max_cond:
            raise ValueError(
                f"given holds {len(given)} nodes but at most {self.max_cond} can be held fixed; raise max_cond, which "
                f"{self.n_samples} samples allow up to {self.n_samples - 4}"
            )
        positions = [self._position[node] for node in named]
        rho, singular = partial_correlation(self.correlation[np.ix_(positions, positions)])
        if abs(rho) >= 1:
            return PartialCorrelation(x, y, given, math.copysign(1.0, rho), 0.0, math.inf, singular)
        statistic = math.sqrt(self.n_samples - len(given) - 3) * math.atanh(abs(rho))
        p_value = float(erfc(statistic / math.sqrt(2)))
        confidence = max(0.0, -(math.log(2) + float(log_ndtr(-statistic))) / _LN10)
        return PartialCorrelation(x, y, given, rho, p_value, confidence, singular)

    def __repr__(self) -> str:
        return (
            f"PartialCorrelationTest({len(self.nodes)} nodes, n_samples={self.n_samples}, alpha={self.alpha:g}, "
            f"max_cond={self.max_cond}, {self.n_tests} tests made)"
        )


def partial_correlation(correlation: np.ndarray) -> tuple[float, bool]:
    r"""Return the correlation of the first two variables given all others.

    .. math:: \rho_{xy \cdot z} = \frac{r_{xy} - r_{xz} r_{yz}}{\sqrt{(1 - r_{xz}^2)(1 - r_{yz}^2)}}, \qquad
        \rho_{xy \cdot Z} = \frac{-P_{xy}}{\sqrt{P_{xx} P_{yy}}}, \quad \mathbf{P} = \mathbf{R}^{-1}

    Args:
        correlation: Correlations :math:`\mathbf{R}` of x, y and what is held fixed.

    Shapes:
        - **input:** ``correlation`` :math:`(2 + |Z|, 2 + |Z|)`

    Returns:
        The partial correlation, and whether the pseudo-inverse was taken because there is no inverse.

    Example:
        >>> partial_correlation(np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.8], [0.0, 0.8, 1.0]]))
        (0.8333333333333335, False)
    """
    if len(correlation) == 2:
        return float(correlation[0, 1]), False
    if len(correlation) == 3:
        xy, xz, yz = correlation[0, 1], correlation[0, 2], correlation[1, 2]
        left = (1 - xz * xz) * (1 - yz * yz)
        if left > _SINGULAR:
            return float((xy - xz * yz) / math.sqrt(left)), False
    eigenvalues, vectors = np.linalg.eigh(correlation)
    kept = eigenvalues > _SINGULAR * eigenvalues[-1]
    root = vectors[:2, kept] / np.sqrt(eigenvalues[kept])  # first rows of a root of the inverse
    scale = (root[0] @ root[0]) * (root[1] @ root[1])
    return (float(-root[0] @ root[1] / math.sqrt(scale)) if scale > 0 else 0.0), not kept.all()


def attention_correlation(
    attention: Any, nodes: Sequence[int] | None = None, on_zero: str = "raise"
) -> tuple[np.ndarray, tuple[int, ...]]:
    r"""Read correlations of tokens from the attention of one head.

    .. math:: \mathbf{C} = \mathbf{A}\mathbf{A}^\top, \qquad R_{ij} = C_{ij} / \sqrt{C_{ii} C_{jj}}

    These are the correlations of the tokens' outputs if their values were white noise. A row may be scaled by any
    positive number, as softmax does, without a change. Tokens that are no nodes are marginalised by leaving them out.

    Args:
        attention: Attention of one head, an array, a tensor or a SciPy sparse matrix; rows are targets.
        nodes: Tokens to correlate; all by default.
        on_zero: What to do with rows without any weight, which correlate with nothing: ``"raise"`` or ``"drop"``.

    Shapes:
        - **input:** ``attention`` :math:`(N, N)`
        - **output:** :math:`(m, m)`

    Returns:
        The correlations in float64, and the nodes that they are of.

    Raises:
        ValueError: If the attention is no finite square matrix, nodes are none of its tokens, or a row is zero.

    Example:
        >>> R, nodes = attention_correlation([[1.0, 0.0, 0.0], [0.6, 0.4, 0.0], [0.0, 0.0, 1.0]])
        >>> R.round(3).tolist(), nodes
        ([[1.0, 0.832, 0.0], [0.832, 1.0, 0.0], [0.0, 0.0, 1.0]], (0, 1, 2))

    Reference:
        Rohekar, Gurwicz and Nisimov, "Causal Interpretation of Self-Attention in Pre-Trained Transformers", NeurIPS
        2023.
    """
    if on_zero not in ("raise", "drop"):
        raise ValueError(f"on_zero is {on_zero!r}; expected 'raise' or 'drop'")
    matrix = _read_matrix(attention)
    chosen = tuple(range(matrix.shape[0])) if nodes is None else check_nodes(nodes, matrix.shape[0])
    rows = matrix[list(chosen)]
    rows = rows.toarray() if sparse.issparse(rows) else rows
    if not np.isfinite(rows).all():
        raise ValueError("attention has weights that are NaN or infinite; pass the attention after its softmax")
    peak = np.abs(rows).max(axis=1, initial=0.0)
    if (peak == 0).any():
        empty = [node for node, height in zip(chosen, peak, strict=True) if height == 0]
        if on_zero == "raise":
            raise ValueError(
                f"tokens {empty} attend to nothing, so that they correlate with nothing; leave them out of nodes, or "
                "pass on_zero='drop'"
            )
        chosen = tuple(node for node in chosen if node not in empty)
        rows, peak = rows[peak > 0], peak[peak > 0]
    rows = rows / peak[:, None]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    correlation = np.clip(rows @ rows.T, -1, 1)
    correlation = (correlation + correlation.T) / 2
    np.fill_diagonal(correlation, 1)
    return correlation, chosen


def surrogate_data(correlation: Any, n_samples: int, random_state: int = 0) -> np.ndarray:
    r"""Make samples whose correlations are exactly the given ones, for learners and tests that want data.

    .. math:: \mathbf{X} = \sqrt{n}\, \mathbf{U} \mathbf{L}^\top, \quad \mathbf{R} = \mathbf{L}\mathbf{L}^\top, \quad
        \mathbf{U}^\top\mathbf{U} = \mathbf{I}, \quad \mathbf{U}^\top\mathbf{1} = \mathbf{0}

    Args:
        correlation: Correlations :math:`\mathbf{R}`.
        n_samples: Number :math:`n` of samples, more than variables.
        random_state: Seed of the random orthonormal columns.

    Shapes:
        - **input:** ``correlation`` :math:`(m, m)`
        - **output:** :math:`(n, m)`

    Raises:
        ValueError: If the correlations are none, or there are not more samples than variables.

    Example:
        >>> X = surrogate_data([[1.0, 0.3], [0.3, 1.0]], n_samples=50)
        >>> np.corrcoef(X.T).round(12).tolist()
        [[1.0, 0.3], [0.3, 1.0]]
    """
    matrix = _check_correlation(correlation)
    if n_samples <= len(matrix):
        raise ValueError(
            f"n_samples is {n_samples}; expected more than {len(matrix)}, the variables, as fewer samples cannot have "
            "these correlations"
        )
    noise = np.random.default_rng(random_state).standard_normal((n_samples, len(matrix)))
    columns = np.linalg.qr(noise - noise.mean(axis=0))[0]
    eigenvalues, vectors = np.linalg.eigh(matrix)
    if eigenvalues[0] < -_SINGULAR * eigenvalues[-1]:
        raise ValueError(
            f"correlation has the eigenvalue {eigenvalues[0]:.3g}; expected none below 0, as correlations have"
        )
    # A root by eigenvectors is one by Cholesky up to a rotation, and exists for singular correlations too.
    return math.sqrt(n_samples) * columns @ (vectors * np.sqrt(eigenvalues.clip(min=0))).T


def check_nodes(nodes: Sequence[int], size: int) -> tuple[int, ...]:
    """Read numbers of tokens, each at most once."""
    chosen = tuple(int(node) for node in nodes)
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0 or max(chosen) >= size:
        raise ValueError(f"nodes is {list(chosen)}; expected different numbers of tokens, of 0 to {size - 1}")
    return chosen


def _check_whole(name: str, value: Any, least: int, why: str = "") -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}{why}")
    return int(value)


def _check_correlation(values: Any) -> np.ndarray:
    matrix = np.array(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"correlation has shape {matrix.shape}; expected a square matrix")
    slack = 1e-8  # data in single precision
    wrong = not np.isfinite(matrix).all() or np.abs(matrix).max() > 1 + slack
    if wrong or np.abs(matrix - matrix.T).max() > slack or np.abs(matrix.diagonal() - 1).max() > slack:
        raise ValueError(
            "correlation is no matrix of correlations; expected finite numbers of -1 to 1, symmetric, with a diagonal "
            "of 1"
        )
    return matrix


def _read_matrix(attention: Any) -> Any:
    """Read attention as a square matrix in float64, a sparse one if it was sparse."""
    if isinstance(attention, Tensor):
        attention = attention.detach().cpu().double().numpy()
    if sparse.issparse(attention):
        matrix = sparse.csr_array(attention, dtype=np.float64)
    else:
        matrix = np.asarray(attention, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        raise ValueError(f"attention has shape {matrix.shape}; expected a square matrix, that of one head")
    return matrix
