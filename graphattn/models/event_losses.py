"""What a network of event sequences is trained by: its next types, ranked, and the time until the next event."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def log_normal_loss(mean: Tensor, std: Tensor, gap: Tensor) -> Tensor:
    r"""Return the mean negative log-density of times until the next event, of which 1 + gap is log-normal.

    .. math::
        -\log p(\Delta) = \tfrac12 \left(\frac{\log(1 + \Delta) - \mu}{\sigma}\right)^2 + \log \sigma +
        \log(1 + \Delta) + \tfrac12 \log 2 \pi

    Its median is :math:`e^\mu - 1`. A gap of 0, events at the same time, has a density like any other.

    Args:
        mean: Means :math:`\mu` of :math:`\log(1 + \Delta)`.
        std: Its standard deviations :math:`\sigma`.
        gap: Times :math:`\Delta` of at least 0, in float64.

    Shapes:
        - **input:** :math:`(N,)` each
        - **output:** a number

    Returns:
        The mean, in the dtype of ``mean``; 0 where there are no gaps.

    Raises:
        ValueError: If a gap is negative or not finite (on the CPU).

    Example:
        >>> import torch
        >>> gap = torch.tensor([0.0], dtype=torch.float64)
        >>> round(log_normal_loss(torch.zeros(1), torch.ones(1), gap).item(), 4)  # log(2 pi) / 2
        0.9189
    """
    if gap.device.type == "cpu" and not bool((gap.isfinite() & (gap >= 0)).all()):
        raise ValueError("gap has a negative or infinite time, or NaN; sort the events of each sequence by time")
    log_gap = gap.double().log1p().to(mean.dtype)
    density = 0.5 * ((log_gap - mean) / std).square() + std.log() + log_gap + 0.5 * math.log(2 * math.pi)
    return density.sum() / max(density.numel(), 1)


def ranking_loss(positive: Tensor, negative: Tensor) -> Tensor:
    r"""Return the mean binary cross entropy of scores of what came next and of what did not.

    .. math:: \frac{1}{N} \sum_i \log(1 + e^{-s_i^+}) + \log(1 + e^{s_i^-})

    Args:
        positive: Scores of what came next.
        negative: Scores of something else.

    Shapes:
        - **input:** :math:`(N,)` each
        - **output:** a number

    Returns:
        The mean, 0 where there are no scores.

    Example:
        >>> import torch
        >>> ranking_loss(torch.tensor([40.0]), torch.tensor([-40.0])).item() < 1e-15  # told apart
        True
    """
    return (F.softplus(-positive) + F.softplus(negative)).sum() / max(positive.numel(), 1)


def median_gap(mean: Tensor) -> Tensor:
    r"""Return the medians of times of which 1 + gap is log-normal, the guesses of least expected absolute error.

    Args:
        mean: Means :math:`\mu` of :math:`\log(1 + \Delta)`.

    Returns:
        The numbers :math:`\max(e^\mu - 1, 0)`, in float64.

    Example:
        >>> import torch
        >>> median_gap(torch.tensor([-1.0, 0.0])).tolist()
        [0.0, 0.0]
    """
    return mean.double().expm1().clamp(min=0)
