"""Rows given out to programs, one a row and head, long rows to several whose sums are added in their order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn._optional import require
from graphattn.ops.triton.operators import UNIT, wide_dtype

SEGMENT = 1024

# Channels of a tile are the next of these; its neighbours follow from the values that a program holds of each operand,
# in half and in single precision, as many as no kernel spills.
BLOCK_CHANNELS = (32, 64, 128, 256, 512)
TILES = {
    "forward": (1024, 512),
    "backward_rows": (512, 512),
    "backward_columns": (512, 512),
    "backward_edges": (512, 512),
    "backward_pairs": (512, 256),
    "products": (1024, 1024),
}
# Groups of slots, each with sums of its own: enough to fill a GPU, and no more than their sums may take.
MOST_GROUPS, GROUP_BYTES, GROUP_STEP = 2048, 64 << 20, 16
_CHUNK = 64  # channels that products and combine take at a time
# One warp a program; 12 of them share an SM's 65,536 registers. Left to itself, ptxas spills some kernels to fit 16.
NUM_WARPS, MAX_REGISTERS = 1, 168
LAUNCH = {"num_warps": NUM_WARPS} | ({} if torch.version.hip else {"maxnreg": MAX_REGISTERS})
MAX_PROGRAMS = 2**31  # of one launch, and indices of 32 bits


def tile(kernel: str, channels: int, itemsize: int) -> dict[str, int]:
    """Choose the block sizes of a kernel for heads of some width."""
    if kernel in ("products", "combine"):
        width = _CHUNK
    else:
        width = next(block for block in BLOCK_CHANNELS if block >= channels)
    if kernel == "combine":
        return {"BLOCK_C": width}
    return {"BLOCK_C": width, "BLOCK_E": TILES[kernel][itemsize > 2] // width}


def _segments(pointer: Tensor, num_edges: int) -> tuple[Tensor, Tensor, int]:
    """Split long rows: row (``num_rows`` where unused) and first slot of each segment, and their bound.

    A row of d > SEGMENT slots has fewer than 2 d / SEGMENT segments, so the bound follows from shapes alone.
    """
    bound = 2 * num_edges // SEGMENT if num_edges > SEGMENT else 0
    if bound == 0:
        return pointer, pointer, 0
    degree = pointer.diff()
    parts = torch.where(degree > SEGMENT, (degree + (SEGMENT - 1)) // SEGMENT, 0)
    ends = parts.cumsum(0)
    place = torch.arange(bound, device=pointer.device)
    row = torch.searchsorted(ends, place, right=True)
    known = row.clamp(max=degree.numel() - 1)
    start = pointer.index_select(0, known) + (place - (ends - parts).index_select(0, known)) * SEGMENT
    return row.to(pointer.dtype), start.to(pointer.dtype), bound


class Launch:
    """A pattern whose rows are given out to programs, long ones in segments."""

    def __init__(self, pointer: Tensor, index: Tensor, heads: int) -> None:
        self.pointer, self.index, self.heads = pointer, index, heads
        self.num_rows = pointer.numel() - 1
        self.segment_row, self.segment_start, self.num_segments = _segments(pointer, index.numel())
        if (self.num_rows + self.num_segments) * heads >= MAX_PROGRAMS:
            raise ValueError(
                f"backend 'triton' runs at most 2^31 programs, but {self.num_rows} rows x {heads} heads came"
            )

    def parts(self, like: Tensor, width: int) -> Tensor:
        """Make room for what segments leave behind: one row each."""
        return like.new_empty(self.num_segments, self.heads, width, dtype=wide_dtype(like))

    def run(self, kernel: str, channels: int, dtype: torch.dtype, **arguments: Any) -> None:
        """Run a kernel on all rows, with arguments of its own beside the pattern."""
        programs = (self.num_rows + self.num_segments) * self.heads
        if programs == 0:
            return
        getattr(_kernels(), kernel)[(programs,)](
            pointer=self.pointer,
            index=self.index,
            segment_row=self.segment_row,
            segment_start=self.segment_start,
            num_rows=self.num_rows,
            num_segments=self.num_segments,
            segment=SEGMENT,
            heads=self.heads,
            **arguments,
            **_options(kernel, channels, dtype),
        )

    def combine(
        self, part: Tensor, joined: Tensor, part_normalizer: Tensor | None = None, normalizer: Tensor | None = None
    ) -> None:
        """Add the segments' sums into the rows; with maxima and sums, join their softmaxes."""
        if self.num_segments == 0 or (part_normalizer is None and part.size(2) == 0):
            return
        kernels = _kernels()
        chunks = max(1, -(-part.size(2) // _CHUNK))
        kernels.combine[(self.num_segments * self.heads, chunks)](
            part,
            part if part_normalizer is None else part_normalizer,
            joined,
            part if normalizer is None else normalizer,
            self.pointer,
            self.segment_row,
            num_rows=self.num_rows,
            segment=SEGMENT,
            heads=self.heads,
            units=part.size(2) // UNIT,
            weighted=int(part_normalizer is not None),
            **_options("combine", _CHUNK, part.dtype),
        )


def group_size(num_edges: int, bytes_of_sums: int) -> int:
    """Choose how many slots, from shapes alone, a program walks that keeps sums of some bytes."""
    most = max(1, min(MOST_GROUPS, GROUP_BYTES // max(1, bytes_of_sums)))
    return max(1, -(-num_edges // (most * GROUP_STEP))) * GROUP_STEP


def run_groups(kernel: str, groups: int, channels: int, dtype: torch.dtype, **arguments: Any) -> None:
    """Run a kernel whose programs take a group of slots each, whatever rows they belong to."""
    if groups:
        getattr(_kernels(), kernel)[(groups,)](**arguments, **_options(kernel, channels, dtype))


def _kernels() -> Any:
    require("triton", "triton")
    from graphattn.ops.triton import kernels

    return kernels


def _options(kernel: str, channels: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return what every launch chooses by dtype and width alone."""
    return {**tile(kernel, channels, dtype.itemsize), "ACC": _accumulator(dtype), **LAUNCH}


def _accumulator(dtype: torch.dtype) -> Any:
    """Type of a kernel's sums."""
    language = require("triton", "triton").language
    return language.float64 if dtype == torch.float64 else language.float32
