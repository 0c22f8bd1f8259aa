"""How many features to select, read from the distribution of their scores."""

from __future__ import annotations

import math
import warnings

import numpy as np


def two_means(scores: np.ndarray) -> int:
    r"""Split the scores into a high and a low group by exact one-dimensional 2-means; return the size of the high one.

    .. math:: \max_k \frac{k (n - k)}{n^2} (\bar s_{1..k} - \bar s_{k+1..n})^2, \quad s_1 \ge \dots \ge s_n

    Args:
        scores: One score per feature, larger is better.

    Shapes:
        - **input:** :math:`(n,)`

    Returns:
        The size; all features, with a warning, where all scores are equal up to rounding.

    Example:
        >>> two_means(np.array([9.0, 1.0, 8.0, 1.5, 1.2]))
        2

    Reference:
        Otsu, "A threshold selection method from gray-level histograms", 1979.
    """
    n = scores.size
    if n < 2:
        return n
    centred = np.sort(scores)[::-1] - scores.mean()
    if centred[0] - centred[-1] <= 1e-12 * np.abs(scores).max():
        warnings.warn("all scores are equal, so that all features are selected", UserWarning, stacklevel=2)
        return n
    k = np.arange(1, n)
    return int(np.argmax(np.cumsum(centred)[:-1] ** 2 / (k * (n - k)))) + 1


def histogram(scores: np.ndarray) -> int:
    r"""Count the bins of a histogram that hold more than the mean count: the rule of the release of 2020.

    The histogram has :math:`\lfloor n / 2 \rfloor` equal bins between the lowest and the highest score, closed on the
    right. It is bins that are counted, not features; the rule is kept for comparison. Below four features it is
    :func:`two_means`.

    Args:
        scores: One score per feature, larger is better.

    Shapes:
        - **input:** :math:`(n,)`

    Returns:
        The size.

    Example:
        >>> histogram(np.array([0.0, 0.1, 0.2, 0.9, 1.0, 5.0]))
        1

    Reference:
        Roffo et al., "Infinite Feature Selection: A Graph-based Feature Filtering Approach", TPAMI 2020.
    """
    n = scores.size
    low, high = (scores.min(), scores.max()) if n else (0.0, 0.0)
    if n < 4 or low == high:
        return two_means(scores)
    bins = n // 2
    edges = low + (high - low) / bins * np.arange(1, bins)
    count = np.bincount(np.searchsorted(edges, scores), minlength=bins)
    return int((count > n / bins).sum())


def path_degree(scores: np.ndarray) -> int:
    r"""Take the largest row sum of the scaled path matrix, the rule of ILFS, for scores that are its factor.

    .. math:: \left\lceil \frac{\max z \sum_i z_i - n \min z^2}{\max z^2 - \min z^2} \right\rceil

    is the largest row sum of :math:`z z^{\top}` scaled to [0, 1]. It does not depend on the scale of :math:`z`, so that
    the scores of ILFS, which are proportional to the factor, serve as well.

    Args:
        scores: One score per feature, at least 0, larger is better.

    Shapes:
        - **input:** :math:`(n,)`

    Returns:
        The size, between 1 and n; all features where all scores are equal.

    Example:
        >>> path_degree(np.array([1.0, 0.5, 0.0]))
        2

    Reference:
        Roffo et al., "Infinite Latent Feature Selection: A Probabilistic Latent Graph-Based Ranking Approach",
        ICCV 2017.
    """
    n = scores.size
    low, high = (scores.min(), scores.max()) if n else (0.0, 0.0)
    if low == high:
        return n
    size = (high * scores.sum() - n * low**2) / (high**2 - low**2)
    return min(n, max(1, math.ceil(size)))


AUTO_RULES = {"two_means": two_means, "histogram": histogram, "ilfs": path_degree}
