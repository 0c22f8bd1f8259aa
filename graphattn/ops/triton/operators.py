"""What the operators of the triton backend share."""

from __future__ import annotations

import torch
from torch import Tensor

UNIT = 8  # channels: 16 bytes of half precision


def ready(x: Tensor) -> Tensor:
    """Make rows follow one another and start at a multiple of 16 bytes, as the kernels' loads assume."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def wide_dtype(x: Tensor) -> torch.dtype:
    """Dtype of sums: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def no_seed(like: Tensor) -> Tensor:
    """Stand in for the seed; what a kernel does not read must still have its type, or another kernel is compiled."""
    return like.new_empty(1, dtype=torch.int64)


def boost_of(dropout: float) -> float:
    """Factor of the weights that dropout keeps."""
    return 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0


def refuse_double_backward(ctx, *grads):  # type: ignore[no-untyped-def]
    raise RuntimeError("backend 'triton' has no double backward; pass backend='reference' to differentiate twice")
