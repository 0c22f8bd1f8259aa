"""Optimal couplings: the affinity between two weighted sets of points that moves one onto the other at least cost."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from graphattn._optional import require

_EXACT_ITERATIONS = 10**8
_SINKHORN_ITERATIONS = 10_000
_SINKHORN_ERROR = 1e-8


def optimal_coupling(cost: np.ndarray, a: Any = None, b: Any = None, reg: float = 0.0) -> np.ndarray:
    r"""Move the mass of some points to others at the least cost.

    .. math::
        \min_{\mathbf{P} \ge 0} \langle \mathbf{P}, \mathbf{C} \rangle - \varepsilon H(\mathbf{P})
        \quad \text{s.t.} \quad \mathbf{P}\mathbf{1} = \mathbf{a},\ \mathbf{P}^{\top}\mathbf{1} = \mathbf{b},
        \qquad \varepsilon = r\,\overline{C}

    Sets of one size with uniform weights are an assignment, solved by SciPy. Everything else is solved by POT: by its
    network simplex, or for :math:`r > 0` by Sinkhorn's iterations on logarithms.

    Args:
        cost: Cost :math:`\mathbf{C}` of moving a unit of mass from each point of one set to each of the other.
        a: Mass of each point of the first set, summing to 1; uniform by default.
        b: The same for the second set.
        reg: Strength :math:`r` of the entropy, as a fraction of the mean cost; 0 for the exact optimum.

    Shapes:
        - **input:** ``cost`` :math:`(N, M)`, ``a`` :math:`(N)`, ``b`` :math:`(M)`
        - **output:** :math:`(N, M)`

    Returns:
        The coupling in float64. Exact ones take time :math:`O(N^3)`, all memory :math:`O(N M)`.

    Raises:
        ValueError: If the cost is not a finite matrix, weights are none, or ``reg`` is negative.
        ImportError: If POT is needed and not installed; the extra ``transport`` brings it.
        RuntimeError: If the solver does not converge; nothing else is tried in its place.

    Example:
        >>> optimal_coupling(np.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
        [[0.0, 0.5], [0.5, 0.0]]

    Reference:
        Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport", 2013.
    """
    check_reg(reg)
    cost = np.asarray(cost, dtype=np.float64)
    if cost.ndim != 2 or 0 in cost.shape or not np.isfinite(cost).all():
        raise ValueError(f"cost has shape {cost.shape}; expected a matrix of finite numbers with rows and columns")
    uniform = a is None and b is None
    a, b = _masses("a", a, cost.shape[0]), _masses("b", b, cost.shape[1])
    if reg == 0:
        return _assignment(cost) if uniform and cost.shape[0] == cost.shape[1] else _exact(cost, a, b)
    plan, rows, columns = np.zeros_like(cost), a > 0, b > 0  # points without mass have no logarithm
    plan[np.ix_(rows, columns)] = _sinkhorn(cost[np.ix_(rows, columns)], a[rows], b[columns], reg)
    return plan


def check_reg(reg: float) -> None:
    """Raise unless the strength of the entropy is a number of at least 0."""
    if not isinstance(reg, Real) or isinstance(reg, bool) or not 0 <= reg < math.inf:
        raise ValueError(f"reg is {reg!r}; expected a number of at least 0, where 0 is the exact optimum")


def _masses(name: str, weights: Any, size: int) -> np.ndarray:
    if weights is None:
        return np.full(size, 1 / size)
    masses = np.asarray(weights, dtype=np.float64)
    if masses.shape != (size,):
        raise ValueError(f"{name} has shape {masses.shape}; expected one weight for each of the {size} points")
    # Weights that came from float32 sum to 1 no better than this.
    if not (masses >= 0).all() or not abs(masses.sum() - 1) < 1e-3:
        raise ValueError(f"{name} sums to {masses.sum():.4g}; expected weights of at least 0 that sum to 1")
    return masses / masses.sum()


def _assignment(cost: np.ndarray) -> np.ndarray:
    plan = np.zeros_like(cost)
    plan[linear_sum_assignment(cost)] = 1 / len(cost)
    return plan


def _exact(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    ot = require("ot", "transport")
    plan, log = ot.emd(a, b, cost, numItermax=_EXACT_ITERATIONS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"the network simplex found no optimum: {log['warning']}; pass reg > 0")
    return plan


def _sinkhorn(cost: np.ndarray, a: np.ndarray, b: np.ndarray, reg: float) -> np.ndarray:
    ot = require("ot", "transport")
    mean = cost.mean()
    if mean == 0:
        return np.outer(a, b)
    options = {"numItermax": _SINKHORN_ITERATIONS, "stopThr": _SINKHORN_ERROR, "warn": False}
    plan: np.ndarray = ot.bregman.sinkhorn_log(a, b, cost / mean, reg, **options)
    error = np.linalg.norm(plan.sum(0) - b)
    if not error < _SINKHORN_ERROR:
        raise RuntimeError(
            f"Sinkhorn did not converge: masses are off by {error:.1e} after {_SINKHORN_ITERATIONS} iterations; raise "
            f"reg, which is {reg}, or pass reg=0 for the exact optimum"
        )
    return plan
