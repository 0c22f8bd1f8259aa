"""Dropout as in PyTorch, whose CPU kernel takes most of its time to draw who stays."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def drop(x: Tensor, p: float, training: bool = True) -> Tensor:
    r"""Zero random entries and scale the others up: :func:`torch.nn.functional.dropout`, faster on the CPU.

    .. math:: y_i = \frac{m_i}{1 - p} x_i, \quad m_i \sim \operatorname{Bernoulli}(1 - p)

    Args:
        x: A tensor of any shape and floating-point dtype.
        p: Probability of an entry to become 0.
        training: Whether to do anything.

    Returns:
        A tensor like ``x``. The random numbers are others than PyTorch's for the same seed.

    Raises:
        ValueError: If ``p`` is no probability.

    Example:
        >>> sorted(set(drop(torch.ones(100), 0.5).tolist())), drop(torch.ones(1), 0.5, training=False)
        ([0.0, 2.0], tensor([1.]))

    Reference:
        Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.
    """
    here = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if not (here and training and 0.0 < p < 1.0):
        return F.dropout(x, p, training)
    # torch draws uniform numbers four times as fast as Bernoulli ones.
    return x * torch.rand(x.shape, dtype=torch.float32).ge_(p).to(x.dtype).div_(1.0 - p)
