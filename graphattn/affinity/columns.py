"""The columns of a data matrix, a block at a time: what every statistic of a feature is computed from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

_BLOCK_BYTES = 32 << 20


def check_samples(x: Any) -> Any:
    """Raise if ``x`` is no matrix of at least two samples; return it in a form whose columns are cheap to take."""
    if not (isinstance(x, Tensor | np.ndarray) or issparse(x)):
        raise TypeError(f"x is a {type(x).__name__}; expected a Tensor, a NumPy array or a SciPy sparse matrix")
    if x.ndim != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected [T, F]: samples by features")
    if x.shape[0] < 2:
        raise ValueError(f"x has {x.shape[0]} samples; expected at least 2, a standard deviation needs them")
    return x.tocsc() if issparse(x) else x


def column_block(x: Any, start: int, stop: int, device: torch.device | str | None = None) -> Tensor:
    """Copy some columns to the rows of a contiguous float64 tensor ``[stop - start, T]``."""
    part = x[:, start:stop]
    if isinstance(part, Tensor):
        return part.detach().t().to(device=device, dtype=torch.float64).contiguous()
    part = part.toarray() if issparse(part) else part
    return torch.from_numpy(np.array(part.T, dtype=np.float64, order="C")).to(device)


def column_blocks(x: Any, device: torch.device | str | None = None) -> Iterator[tuple[int, int, Tensor]]:
    """Go through all columns: first column, one past the last, and the values as :func:`column_block` gives them."""
    samples, features = x.shape
    size = max(1, _BLOCK_BYTES // (8 * samples))
    for start in range(0, features, size):
        stop = min(start + size, features)
        yield start, stop, column_block(x, start, stop, device)


def is_narrow(x: Any) -> bool:
    """Whether the values come with the rounding of float32, or worse."""
    return str(x.dtype).removeprefix("torch.") in ("float32", "float16", "bfloat16")


def min_max(values: Tensor) -> Tensor:
    """Map a vector linearly onto [0, 1]; zeros if all its values are equal."""
    if values.numel() == 0:
        return values
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
