"""How much one feature tells about the classes: Fisher score and mutual information."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.affinity.columns import check_samples, column_blocks
from graphattn.affinity.spearman import average_ranks

FISHER_KINDS = ("pairwise", "classical")
# Above this many classes the pairs outnumber the samples of most data.
_MOST_CLASSES_IN_PAIRS = 100


def fisher_score(
    x: Any,
    y: Tensor,
    *,
    kind: str = "pairwise",
    zero_denominator: float | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Compare how far the classes lie apart with how far each is spread, feature by feature.

    .. math::
        f_i = \operatorname*{mean}_{c < d} \frac{(\mu_{ic} - \mu_{id})^2}{\sigma_{ic}^2 + \sigma_{id}^2}
        \quad \text{or} \quad
        f_i = \frac{\sum_c T_c (\mu_{ic} - \mu_i)^2 / T}{\sum_{c: T_c > 1} T_c \sigma_{ic}^2 / \sum_{c: T_c > 1} T_c}

    with means :math:`\mu`, variances :math:`\sigma^2` (divisor :math:`T_c - 1`, 0 for a class of one sample) and
    sizes :math:`T_c` of the classes. The first, ``"pairwise"``, is the formula of Inf-FS where there are two
    classes; the second, ``"classical"``, also serves where there are more than 100.

    Args:
        x: Samples by features: a tensor, a NumPy array or a SciPy sparse matrix.
        y: Classes, numbered from 0.
        kind: ``"pairwise"`` or ``"classical"``.
        zero_denominator: What replaces a denominator of exactly 0. By default the ratio is 0 where the numerator is 0
            too, and otherwise the largest finite ratio of the data (1 if there is none above 0): a feature that
            separates the classes perfectly is as good as the best other.
        device: Where to compute; the CPU if not given.

    Shapes:
        - **input:** ``x`` :math:`(T, F)`, ``y`` :math:`(T,)`
        - **output:** :math:`(F,)`, float64

    Returns:
        The scores, at least 0, larger for features that tell the classes apart.

    Raises:
        ValueError: If a shape does not fit, ``kind`` is unknown or there are fewer than two classes.
        TypeError: If ``x`` is not one of the three, or ``y`` no integer tensor.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 3.0], [10.0, 1.0], [12.0, 3.0]])
        >>> fisher_score(x, torch.tensor([0, 0, 1, 1])).tolist()
        [25.0, 0.0]

    Reference:
        Roffo, Melzi, Cristani, "Infinite Feature Selection", ICCV 2015.
    """
    if kind not in FISHER_KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of " + ", ".join(map(repr, FISHER_KINDS)))
    x = check_samples(x)
    y, size = _check_classes(x, y, device)
    if size.numel() > _MOST_CLASSES_IN_PAIRS:
        kind = "classical"
    ratios = _pair_ratios if kind == "pairwise" else _classical_ratio
    finite = torch.zeros(x.shape[1], dtype=torch.float64, device=device)
    infinite = torch.zeros_like(finite)
    count, largest = 1, 0.0
    for start, stop, block in column_blocks(x, device):
        mean = size.new_zeros(size.numel(), block.size(0)).index_add_(0, y, block.t()) / size.unsqueeze(1)
        square = (block.t() - mean.index_select(0, y)).square()
        variance = torch.zeros_like(mean).index_add_(0, y, square) / (size - 1).clamp_min(1).unsqueeze(1)
        count = 0
        for numerator, denominator in ratios(mean, variance, size):
            if zero_denominator is not None:
                denominator = denominator.masked_fill(denominator == 0, zero_denominator)
            defined = denominator > 0
            ratio = torch.where(defined, numerator / denominator, 0.0)
            finite[start:stop] += ratio.sum(0)
            infinite[start:stop] += (~defined & (numerator > 0)).sum(0)
            largest = max(largest, ratio.max().item())
            count += ratio.size(0)
    return (finite + infinite * (largest or 1.0)) / count


def _pair_ratios(mean: Tensor, variance: Tensor, size: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Numerators and denominators of each class with all later ones."""
    pairs = range(size.numel() - 1)
    return [((mean[c] - mean[c + 1 :]).square(), variance[c] + variance[c + 1 :]) for c in pairs]


def _classical_ratio(mean: Tensor, variance: Tensor, size: Tensor) -> list[tuple[Tensor, Tensor]]:
    share = (size / size.sum()).unsqueeze(1)
    between = (share * (mean - (share * mean).sum(0)).square()).sum(0, keepdim=True)
    several = torch.where(size > 1, size, 0.0)
    within = (several / several.sum().clamp_min(1)) @ variance
    return [(between, within.unsqueeze(0))]


def mutual_information(
    x: Any, y: Tensor, *, bins: int | None = None, device: torch.device | str | None = None
) -> Tensor:
    r"""Estimate the mutual information of each feature with the classes from equally filled bins.

    .. math:: m_i = \sum_{b, c} p_i(b, c) \log \frac{p_i(b, c)}{p_i(b)\, p(c)}

    Equal values never come to lie in different bins, so that bins of repeated values may be fuller.

    Args:
        x: Samples by features: a tensor, a NumPy array or a SciPy sparse matrix.
        y: Classes, numbered from 0.
        bins: Number of bins; :math:`\lfloor \sqrt{T / 5} \rfloor` by default, at least 2 and at most 10.
        device: Where to compute; the CPU if not given.

    Shapes:
        - **input:** ``x`` :math:`(T, F)`, ``y`` :math:`(T,)`
        - **output:** :math:`(F,)`, float64

    Returns:
        The estimates in nats, at least 0.

    Raises:
        ValueError: If a shape does not fit, ``bins`` is below 2 or there are fewer than two classes.
        TypeError: If ``x`` is not one of the three, or ``y`` no integer tensor.

    Example:
        >>> x = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
        >>> mutual_information(x, torch.tensor([0, 0, 1, 1])).tolist()
        [0.6931471805599453, 0.0]
    """
    x = check_samples(x)
    y, size = _check_classes(x, y, device)
    samples = x.shape[0]
    if bins is None:
        bins = max(2, min(10, math.isqrt(samples // 5)))
    if bins < 2:
        raise ValueError(f"bins is {bins}; expected at least 2")
    one_hot = F.one_hot(y, size.numel()).double()
    information = torch.empty(x.shape[1], dtype=torch.float64, device=device)
    for start, stop, block in column_blocks(x, device):
        # Halves of ranks are exact, so that the middle of the ranks never falls into another bin by rounding.
        bin_of = ((2 * average_ranks(block) - 1) * bins / (2 * samples)).floor().long()
        joint = torch.stack([(bin_of == b).double() @ one_hot for b in range(bins)], dim=1) / samples
        independent = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
        ratio = torch.where(joint > 0, joint / independent, 1.0)
        information[start:stop] = (joint * ratio.log()).sum((1, 2)).clamp_min(0.0)
    return information


def _check_classes(x: Any, y: Tensor, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
    """The classes as int64 where the computation is, and their sizes in float64."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
        kind = f"{y.dtype} tensor" if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"y is a {kind}; expected an integer tensor of classes")
    if y.shape != (x.shape[0],):
        raise ValueError(f"y has shape {tuple(y.shape)}; expected [{x.shape[0]}]: one class per sample")
    if y.numel() and y.min() < 0:
        raise ValueError(f"y holds {int(y.min())}; expected classes numbered from 0")
    y = y.to(device=device, dtype=torch.int64)
    size = torch.bincount(y)
    if int((size > 0).sum()) < 2:
        raise ValueError("y holds a single class; expected at least two")
    if bool((size == 0).any()):
        raise ValueError(f"y holds no sample of class {int((size == 0).nonzero()[0])}; number the classes without gaps")
    return y, size.double()
