"""How far the values of a feature are spread, and the affinity that joins two features by the wider of them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from graphattn.affinity.columns import check_samples, column_blocks, is_narrow, min_max


class DispersionCollapsedWarning(UserWarning):
    """Tell that all features have the same standard deviation up to rounding, so that it does not distinguish them.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", DispersionCollapsedWarning)
        ...     dispersion(torch.tensor([[0.0, 1.0], [1.0, 2.0]])).tolist()
        [0.0, 0.0]
    """


def dispersion(x: Any, *, device: torch.device | str | None = None) -> Tensor:
    r"""Scale the standard deviations of the features to [0, 1].

    .. math:: a_i = \frac{\sigma_i - \min_j \sigma_j}{\max_j \sigma_j - \min_j \sigma_j}

    Features that were standardised have equal deviations up to rounding, which the formula would blow up to the full
    range. There all :math:`a_i` are 0, and a warning says so.

    Args:
        x: Samples by features: a tensor, a NumPy array or a SciPy sparse matrix.
        device: Where to compute; the CPU if not given.

    Shapes:
        - **input:** ``x`` :math:`(T, F)`
        - **output:** :math:`(F,)`, float64

    Returns:
        The scaled deviations (divisor :math:`T - 1`), without gradient.

    Raises:
        ValueError: If ``x`` is no matrix or has fewer than two samples.
        TypeError: If ``x`` is none of the three.

    Example:
        >>> dispersion(torch.tensor([[0.0, 0.0, 0.0], [2.0, 4.0, 6.0]]))
        tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)

    Reference:
        Roffo et al., "Infinite Feature Selection: A Graph-based Feature Filtering Approach", TPAMI 2020.
    """
    x = check_samples(x)
    deviation = torch.empty(x.shape[1], dtype=torch.float64, device=device)
    for start, stop, block in column_blocks(x, device):
        deviation[start:stop] = block.std(dim=1)
    if deviation.numel() < 2:
        return torch.zeros_like(deviation)
    low, high = deviation.min(), deviation.max()
    if high - low > (1e-4 if is_narrow(x) else 1e-7) * high:
        return min_max(deviation)
    if high > 0:
        warnings.warn(
            "the features have equal standard deviations up to rounding, so that dispersion cannot tell them apart "
            "and counts as 0; do not standardise the data before this method",
            DispersionCollapsedWarning,
            stacklevel=2,
        )
    return torch.zeros_like(deviation)


class MaxProduct:
    r"""Multiply by the matrix of pairwise maxima without storing it: :math:`O(N \log N)` once, :math:`O(N)` a product.

    .. math:: (M x)_i = \sum_j \max(a_i, a_j) x_j = a_i \sum_{a_j \le a_i} x_j + \sum_{a_j > a_i} a_j x_j

    Both sums are running sums in the order of :math:`a`. Nodes of equal :math:`a` read them at the same place, so
    that their results are equal to the last bit.

    Args:
        values: The vector :math:`a`.

    Shapes:
        - **input:** ``values`` :math:`(N,)`; the product takes :math:`(N, C)`
        - **output:** :math:`(N, C)`

    Example:
        >>> product = MaxProduct(torch.tensor([2.0, 1.0]))
        >>> product(torch.tensor([[1.0], [1.0]])).tolist()
        [[4.0], [3.0]]
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.unsqueeze(1)
        self._sorted, self._order = values.sort(stable=True)
        # How many values are at most a_i.
        self._count = torch.searchsorted(self._sorted, values, right=True)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.index_select(0, self._order).to(self._values.dtype)
        zero = x.new_zeros(1, x.size(1))
        below = torch.cat([zero, x.cumsum(0)])
        above = torch.cat([(self._sorted.unsqueeze(1) * x).flip(0).cumsum(0).flip(0), zero])
        return self._values * below.index_select(0, self._count) + above.index_select(0, self._count)

    def rows(self, start: int, stop: int) -> Tensor:
        """Compute some rows of the matrix, ``[stop - start, N]``."""
        return torch.maximum(self._values[start:stop], self._values.t())
