"""How far a layer's rows travel while it learns, and how directly: optimal transport between clouds of points.

The Monge gap is that of Uscidda and Cuturi; optimality and efficiency are definitions of this library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from torch import Tensor

from graphattn._optional import require
from graphattn.affinity.coupling import check_reg, optimal_coupling

_POWERS = {"euclidean": 1.0, "sqeuclidean": 2.0}


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Hold how a cloud of points moved from checkpoint to checkpoint.

    Args:
        steps: Numbers of the ``T + 1`` checkpoints.
        p: Power of the distances.
        wasserstein: Wasserstein distance of each of the ``T`` moves.
        gap: Monge gap of each move, for the cost ``|x - y| ** p``.
        optimality: Optimality of each move.
        path_length: Sum of the distances of the moves.
        distance: Wasserstein distance from the first checkpoint to the last.
        end_gap: Monge gap from the first checkpoint to the last.
        end_optimality: Optimality from the first checkpoint to the last.
        efficiency: ``distance / path_length``, or 1 if nothing moved.

    Example:
        >>> X = np.array([[0.0, 0.0], [3.0, 4.0]])
        >>> there_and_back = trajectory([X, X + 1, X])
        >>> there_and_back.efficiency, there_and_back.optimality.tolist()
        (0.0, [1.0, 1.0])
    """

    steps: np.ndarray
    p: float
    wasserstein: np.ndarray
    gap: np.ndarray
    optimality: np.ndarray
    path_length: float
    distance: float
    end_gap: float
    end_optimality: float
    efficiency: float

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per move, named by the checkpoint it leads to.

        Example:
            >>> X = np.array([[0.0], [1.0]])
            >>> trajectory([X, X + 2, X + 3], steps=[0, 10, 20]).as_frame()["path_length"].to_dict()
            {10: 2.0, 20: 3.0}
        """
        pandas = require("pandas", "transport")
        columns = {
            "wasserstein": self.wasserstein,
            "path_length": np.cumsum(self.wasserstein),
            "gap": self.gap,
            "optimality": self.optimality,
        }
        return pandas.DataFrame(columns, index=pandas.Index(self.steps[1:], name="step"))

    def __repr__(self) -> str:
        return (
            f"Trajectory({len(self.wasserstein)} moves: distance {self.distance:.4g}, path length "
            f"{self.path_length:.4g}, efficiency {self.efficiency:.4f}, optimality {self.end_optimality:.4f})"
        )


def wasserstein(X: Any, Y: Any, p: float = 1.0, a: Any = None, b: Any = None, reg: float = 0.0) -> float:
    r"""Measure how far the points of one cloud have to travel to become another.

    .. math:: W_p(\mathbf{X}, \mathbf{Y}) = \Bigl(\min_{\mathbf{P} \in \Pi(\mathbf{a}, \mathbf{b})}
        \sum_{ij} P_{ij}\, \lVert \mathbf{x}_i - \mathbf{y}_j \rVert^p\Bigr)^{1/p}

    Args:
        X: Points of the first cloud, an array or a tensor.
        Y: Points of the second cloud.
        p: Power of the distances, at least 1.
        a: Mass of each point of ``X``, summing to 1; uniform by default.
        b: Mass of each point of ``Y``; uniform by default.
        reg: With a positive number, the coupling is that of Sinkhorn, whose entropy weighs this fraction of the mean
            cost. Its cost, without the entropy, is above the minimum by at most that weight times :math:`\log N` for
            :math:`N` points with equal mass on either side.

    Shapes:
        - **input:** ``X`` :math:`(N, C)`, ``Y`` :math:`(M, C)`, ``a`` :math:`(N)`, ``b`` :math:`(M)`

    Returns:
        The distance, computed in float64. The exact one takes time :math:`O(N^3)`, which is for at most some 4000
        points.

    Raises:
        ValueError: If the points are no finite matrices of the same width, ``p`` is below 1, weights are none, or
            ``reg`` is negative.
        ImportError: If POT is needed, as it is for other than uniform clouds of one size, and not installed; the extra
            ``transport`` brings it.
        RuntimeError: If the solver does not converge.

    Example:
        >>> X = np.array([[0.0], [1.0], [2.0]])
        >>> wasserstein(X, X[::-1] + 5)
        5.0

    Reference:
        Peyré and Cuturi, "Computational Optimal Transport", 2019.
    """
    _check_power(p)
    cost = _cost(*_pair(X, Y), p)
    return _total(optimal_coupling(cost, a, b, reg), cost) ** (1 / p)


def monge_gap(X: Any, Y: Any, cost: str = "euclidean", reg: float = 0.0) -> float:
    r"""Measure how much more the map from each row to the row of the same number costs than the best coupling.

    .. math:: \mathcal{G} = \frac1N \sum_i c(\mathbf{x}_i, \mathbf{y}_i) - \min_{\mathbf{P} \in \Pi}
        \langle \mathbf{P}, \mathbf{C} \rangle - \varepsilon H(\mathbf{P}), \quad
        H(\mathbf{P}) = -\sum_{ij} P_{ij} \log P_{ij}

    Without the entropy it is 0 if and only if no other pairing of the rows is cheaper. With it, it is positive: at
    least :math:`\varepsilon \log N`, the entropy of the pairing itself.

    Args:
        X: Points before, an array or a tensor.
        Y: The same points after, in the same order.
        cost: ``"euclidean"`` or ``"sqeuclidean"``: the distance or its square.
        reg: Weight :math:`\varepsilon` of the entropy as a fraction of the mean cost; 0 for none.

    Shapes:
        - **input:** ``X`` and ``Y`` :math:`(N, C)`

    Returns:
        The gap, at least 0, computed in float64; without entropy in time :math:`O(N^3)`.

    Raises:
        ValueError: If the points are no finite matrices of one shape, the cost is unknown, or ``reg`` is negative.
        ImportError: If POT is needed, for ``reg > 0``, and not installed; the extra ``transport`` brings it.
        RuntimeError: If Sinkhorn does not converge.

    Example:
        >>> X = np.array([[-1.0], [0.0], [1.0]])
        >>> monge_gap(X, X + 4), round(monge_gap(X, -X), 4)
        (0.0, 1.3333)

    Reference:
        Uscidda and Cuturi, "The Monge gap: a regularizer to learn all transport maps", ICML 2023.
    """
    check_reg(reg)
    matrix = _cost(*_paired(X, Y), _power(cost))
    if reg == 0:
        return _gap(*_costs(matrix))
    plan = optimal_coupling(matrix, reg=reg)
    entropy = -(plan * np.log(np.where(plan > 0, plan, 1.0))).sum()
    return _gap(float(matrix.diagonal().mean()), _total(plan, matrix) - reg * float(matrix.mean() * entropy))


def optimality(X: Any, Y: Any, cost: str = "euclidean") -> float:
    r"""Measure how close to the best coupling the map from each row to the row of the same number is.

    .. math:: O = \frac{\min_{\mathbf{P} \in \Pi} \langle \mathbf{P}, \mathbf{C} \rangle}
        {\frac1N \sum_i c(\mathbf{x}_i, \mathbf{y}_i)} = 1 - \frac{\mathcal{G}}{\frac1N \sum_i c(\mathbf{x}_i,
        \mathbf{y}_i)}

    It is 1 for a map that is optimal, as a translation is, and 0 for one that only permutes the points.

    Args:
        X: Points before, an array or a tensor.
        Y: The same points after, in the same order.
        cost: ``"euclidean"`` or ``"sqeuclidean"``: the distance or its square.

    Shapes:
        - **input:** ``X`` and ``Y`` :math:`(N, C)`

    Returns:
        A number in [0, 1]; 1 if nothing moved.

    Raises:
        ValueError: If the points are no finite matrices of one shape, or the cost is unknown.

    Example:
        >>> X = np.array([[0.0], [1.0], [4.0]])
        >>> optimality(X, X + 1), optimality(X, X[[1, 2, 0]])
        (1.0, 0.0)
    """
    return _optimality(*_costs(_cost(*_paired(X, Y), _power(cost))))


def efficiency(checkpoints: Sequence[Any], p: float = 1.0) -> float:
    r"""Measure how straight a cloud of points moved.

    .. math:: F = \frac{W_p(\mathbf{X}_0, \mathbf{X}_T)}{\sum_{t=0}^{T-1} W_p(\mathbf{X}_t, \mathbf{X}_{t+1})}

    Args:
        checkpoints: The points at each time, at least twice.
        p: Power of the distances, at least 1.

    Shapes:
        - **input:** each of ``checkpoints`` :math:`(N, C)`

    Returns:
        A number in [0, 1]; 1 if nothing moved. Checkpoints that are left out can only raise it.

    Raises:
        ValueError: As :func:`trajectory`.

    Example:
        >>> X = np.array([[0.0], [1.0]])
        >>> efficiency([X, X + 3, X + 1])
        0.2
    """
    return trajectory(checkpoints, p).efficiency


def trajectory(checkpoints: Sequence[Any], p: float = 1.0, steps: Sequence[int] | None = None) -> Trajectory:
    """Measure every move of a cloud of points, and all of them together.

    Args:
        checkpoints: The points at each time, at least twice; the same points in the same order.
        p: Power of the distances, at least 1; the cost of gap and optimality is the distance to this power.
        steps: Numbers that name the checkpoints, in increasing order; counted from 0 by default.

    Shapes:
        - **input:** each of ``checkpoints`` :math:`(N, C)`

    Returns:
        The measures, for which an exact coupling is found for each move and one from end to end.

    Raises:
        ValueError: If there are fewer than two checkpoints, they differ in shape, are not finite, ``p`` is below 1, or
            the steps do not name them in order.

    Example:
        >>> X = np.array([[0.0], [1.0]])
        >>> trajectory([X, X + 3, X + 1])
        Trajectory(2 moves: distance 1, path length 5, efficiency 0.2000, optimality 1.0000)
    """
    _check_power(p)
    points = [_points(f"checkpoints[{i}]", X) for i, X in enumerate(checkpoints)]
    if len(points) < 2:
        raise ValueError(f"checkpoints holds {len(points)}; expected at least two, between which points move")
    for i, X in enumerate(points):
        if X.shape != points[0].shape:
            raise ValueError(
                f"checkpoints[{i}] has shape {X.shape} but checkpoints[0] has {points[0].shape}; expected the same "
                "points at each time"
            )
    numbers = np.arange(len(points)) if steps is None else np.asarray(steps)
    if numbers.shape != (len(points),) or not (np.diff(numbers) > 0).all():
        raise ValueError(f"steps is {steps}; expected {len(points)} increasing numbers, one for each checkpoint")
    moves = [_costs(_cost(X, Y, p)) for X, Y in pairwise(points)]
    end = _costs(_cost(points[0], points[-1], p))
    lengths = np.array([least ** (1 / p) for _, least in moves])
    path_length, distance = float(lengths.sum()), end[1] ** (1 / p)
    return Trajectory(
        steps=numbers,
        p=float(p),
        wasserstein=lengths,
        gap=np.array([_gap(*move) for move in moves]),
        optimality=np.array([_optimality(*move) for move in moves]),
        path_length=path_length,
        distance=distance,
        end_gap=_gap(*end),
        end_optimality=_optimality(*end),
        efficiency=min(1.0, distance / path_length) if path_length > 0 else 1.0,
    )


def _costs(matrix: np.ndarray) -> tuple[float, float]:
    """Return the mean cost of the map from row to row, and the least one."""
    # Both are summed over rows in the same order, so that they are the same bits where the pairs are the same.
    return float((matrix.diagonal() * (1 / len(matrix))).sum()), _total(optimal_coupling(matrix), matrix)


def _total(plan: np.ndarray, matrix: np.ndarray) -> float:
    return float((plan * matrix).sum(1).sum())


def _gap(mean: float, least: float) -> float:
    return max(0.0, mean - least)  # rounding may leave the least cost above that of the same pairs


def _optimality(mean: float, least: float) -> float:
    return min(1.0, least / mean) if mean > 0 else 1.0


def _cost(X: np.ndarray, Y: np.ndarray, p: float) -> np.ndarray:
    """Return the distances to the power of ``p``."""
    with np.errstate(over="ignore"):
        cost: np.ndarray = cdist(X, Y, "sqeuclidean") if p == 2 else cdist(X, Y) ** p
    if not np.isfinite(cost).all():
        raise ValueError(f"distances between the points overflow to the power of {p:g}; scale the points down")
    return cost


def _power(cost: str) -> float:
    if cost not in _POWERS:
        raise ValueError(f"cost is {cost!r}; expected {' or '.join(map(repr, _POWERS))}")
    return _POWERS[cost]


def _check_power(p: float) -> None:
    if not isinstance(p, Real) or isinstance(p, bool) or not 1 <= p < math.inf:
        raise ValueError(f"p is {p!r}; expected a number of at least 1, below which there is no triangle inequality")


def _pair(X: Any, Y: Any) -> tuple[np.ndarray, np.ndarray]:
    X, Y = _points("X", X), _points("Y", Y)
    if X.shape[1] != Y.shape[1]:
        raise ValueError(f"X has {X.shape[1]} columns but Y has {Y.shape[1]}; expected points of one space")
    return X, Y


def _paired(X: Any, Y: Any) -> tuple[np.ndarray, np.ndarray]:
    X, Y = _pair(X, Y)
    if len(X) != len(Y):
        raise ValueError(f"X has {len(X)} rows but Y has {len(Y)}; expected the same points before and after")
    return X, Y


def _points(name: str, values: Any) -> np.ndarray:
    """Read points in float64."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"{name} has shape {points.shape}; expected [points, features], at least one of each")
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if bad.size:
        shown = ", ".join(map(str, bad[:10])) + (f" and {bad.size - 10} more" if bad.size > 10 else "")
        raise ValueError(f"{name} contains NaN or inf in rows {shown}; drop these points everywhere")
    return points
