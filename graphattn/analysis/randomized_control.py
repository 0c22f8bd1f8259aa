"""Whether an attribution depends on what a model has learned: the same for copies with shuffled weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from graphattn._optional import require
from graphattn.analysis.faithfulness import read_vector


@dataclass(frozen=True, eq=False)
class RandomizedControl:
    """Hold an attribution beside those of the same model with its weights shuffled.

    Args:
        original: Attribution of the model.
        randomized: Attributions of its shuffled copies, one a row.
        correlation: Rank correlation of each with the original; NaN where one of them is constant.

    Example:
        >>> randomized_control(nn.Linear(3, 1), lambda net: [1.0, 2.0, 3.0])
        RandomizedControl(5 copies: mean rank correlation 1)
    """

    original: np.ndarray
    randomized: np.ndarray
    correlation: np.ndarray

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row a token and one column a copy.

        Raises:
            ImportError: If pandas is not installed; the extra ``analysis`` brings it.
        """
        pandas = require("pandas", "analysis")
        columns = {f"randomized_{number}": row for number, row in enumerate(self.randomized)}
        return pandas.DataFrame({"original": self.original} | columns)

    def __repr__(self) -> str:
        return f"RandomizedControl({len(self.randomized)} copies: mean rank correlation {self.correlation.mean():.3g})"


def randomized_control(
    model: nn.Module,
    attribute: Callable[[nn.Module], Any],
    *,
    copies: int = 5,
    generator: torch.Generator | None = None,
) -> RandomizedControl:
    """Compare an attribution with those of copies of the model whose weights are shuffled.

    The entries of each parameter change their places, so that a copy knows nothing but has weights of the same sizes.
    An attribution that stays the same tells about the input or the architecture, not about what was learned.

    Args:
        model: The model, which stays as it is.
        attribute: What makes the attribution :math:`(N,)` of a model.
        copies: Number of copies, one at a time.
        generator: Draws the places, on the CPU.

    Returns:
        The attributions and their rank correlations.

    Raises:
        ValueError: If an attribution is no finite vector or changes its length, or ``copies`` is below 1.

    Example:
        >>> net = nn.Linear(6, 1)
        >>> control = randomized_control(net, lambda net: net.weight[0], generator=torch.Generator().manual_seed(0))
        >>> control.correlation.shape, bool((control.correlation < 1).all())
        ((5,), True)

    Reference:
        Adebayo et al., "Sanity Checks for Saliency Maps", 2018, which draws weights anew.
    """
    if copies < 1:
        raise ValueError(f"copies is {copies}; expected at least 1")
    original = read_vector("attribution", attribute(model))
    rows = []
    for _ in range(copies):
        shuffled = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in shuffled.parameters():
                places = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[places].view_as(parameter))
        rows.append(read_vector("attribution", attribute(shuffled)))
        if len(rows[-1]) != len(original):
            raise ValueError(f"attribution has {len(rows[-1])} values for a copy but {len(original)} for the model")
    randomized = np.stack(rows)
    return RandomizedControl(original, randomized, np.array([rank_correlation(original, row) for row in randomized]))


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Compute Spearman's correlation of two attributions; NaN where one has the same value everywhere.

    Example:
        >>> round(rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([3.0, 4.0, 5.0])), 6)
        1.0
    """
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
