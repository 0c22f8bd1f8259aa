"""What the triton backend can serve, and what ``auto`` gives it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn._optional import is_available, require
from graphattn.ops.layout import Layout
from graphattn.ops.triton.launch import MAX_PROGRAMS, SEGMENT

MAX_CHANNELS = 256
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refusal(device: torch.device, inputs: Sequence[Tensor], channels: int) -> str | None:
    """Say why the kernels cannot serve a call, or return ``None``."""
    if channels > MAX_CHANNELS:
        limit = f"at most {MAX_CHANNELS} channels per head, and as many features of an edge"
        return f"serves {limit}, but the inputs have {channels}"
    if interpreted():
        return None
    if device.type != "cuda":
        return f"serves CUDA tensors only, but the inputs are on {device}"
    other = [x.dtype for x in inputs if x.dtype not in DTYPES]
    return f"serves float32, bfloat16 and float16, but an input is {other[0]}" if other else None


def serves(layout: Layout, inputs: Sequence[Tensor], heads: int, channels: int) -> bool:
    """Tell whether ``auto`` is to choose the kernels: where they can serve, with indices of 32 bits."""
    if not installed() or refusal(layout.edge_index.device, inputs, channels) is not None:
        return False
    programs = (max(layout.num_rows, layout.num_cols) + 2 * layout.num_edges // SEGMENT) * heads
    return max(programs, layout.num_edges) < MAX_PROGRAMS


# Compiled code takes what these two return as it is while it is traced.


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def installed() -> bool:
    """Tell whether Triton can be imported."""
    return is_available("triton")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def interpreted() -> bool:
    """Tell whether Triton runs its kernels in Python, where tensors of any device and dtype are served."""
    return is_available("triton") and bool(require("triton", "triton").knobs.runtime.interpret)
