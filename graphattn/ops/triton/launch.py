"""Rows given out to programs, one a row and head, long rows to several whose sums are added in their order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn._optional import require
from graphattn.ops.triton.operators import UNIT, wide_dtype

SEGMENT = 1024

# Of a tile: its channels, the next of these, then its neighbours and the registers of a thread. Fewer registers leave
# room for more programs, 16 of them for 112 registers, which hides more of the latency of loads: on an H100, these
# were the fastest with which no kernel spills.
TILES = {8: (16, 80), 16: (8, 80), 32: (8, 88), 64: (4, 112), 128: (4, 168), 256: (2, 168), 512: (1, 168)}
BLOCK_CHANNELS = tuple(TILES)
# Products and combine take so many channels at a time, of so many neighbours.
_CHUNK, _PRODUCTS = 64, 16
_MOST_REGISTERS, _OF_EDGES = 168, 112  # by default, and for edges' features, which have two more operands
NUM_WARPS = 1
MAX_PROGRAMS = 2**31  # of one launch, and indices of 32 bits


def tile(kernel: str, channels: int) -> dict[str, int]:
    """Choose the block sizes of a kernel for heads of some width."""
    if kernel == "combine":
        return {"BLOCK_C": _CHUNK}
    if kernel == "products":
        return {"BLOCK_C": _CHUNK, "BLOCK_E": _PRODUCTS}
    width = next(block for block in BLOCK_CHANNELS if block >= channels)
    return {"BLOCK_C": width, "BLOCK_E": TILES[width][0]}


def registers(kernel: str, channels: int) -> int:
    """Return how many registers a thread of a kernel may take; left to itself, ptxas spills some to fit more warps."""
    if kernel in ("products", "combine"):
        return _MOST_REGISTERS
    most = TILES[tile(kernel, channels)["BLOCK_C"]][1]
    return max(most, _OF_EDGES) if kernel == "backward_edges" else most


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


def run_slots(kernel: str, slots: int, heads: int, channels: int, dtype: torch.dtype, **arguments: Any) -> None:
    """Run a kernel whose programs take a tile of slots and a head each, whatever rows they belong to."""
    options = _options(kernel, channels, dtype)
    programs = -(-slots // options["BLOCK_E"]) * heads
    getattr(_kernels(), kernel)[(programs,)](heads=heads, **arguments, **options)


def _kernels() -> Any:
    require("triton", "triton")
    from graphattn.ops.triton import kernels

    return kernels


def _options(kernel: str, channels: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return what every launch chooses by dtype and width alone."""
    limit = {} if torch.version.hip else {"maxnreg": registers(kernel, channels)}
    return {**tile(kernel, channels), "ACC": _accumulator(dtype), "num_warps": NUM_WARPS, **limit}


def _accumulator(dtype: torch.dtype) -> Any:
    """Type of a kernel's sums."""
    language = require("triton", "triton").language
    return language.float64 if dtype == torch.float64 else language.float32
