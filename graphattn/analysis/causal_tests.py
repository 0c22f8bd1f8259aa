"""Tests of conditional independence from correlations alone, by Fisher's transformation of partial ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from scipy.special import erfc, log_ndtr

from graphattn.analysis.causal_correlation import check_correlation, partial_correlation

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
        self.correlation = check_correlation(correlation)
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


def _check_whole(name: str, value: Any, least: int, why: str = "") -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}{why}")
    return int(value)
