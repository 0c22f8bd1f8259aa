"""Fused attention for CUDA in Triton: no E x H x C is ever stored, and of the softmax only rows' maxima and sums.

Node features keep their place, ``[N, H, C]``; edge values are in slot order (see :mod:`graphattn.ops.layout`), slot
first: ``[E, H]``. The kernels are in :mod:`graphattn.ops.triton_kernels`; here they become operators with gradients.
A row of more than ``SEGMENT`` neighbours is split over several programs whose sums a further kernel adds in order, so
that results have the same bits every time. Not yet measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from graphattn._optional import is_available, require
from graphattn.ops.layout import Layout, csc_layout, slot_rows

MAX_CHANNELS = 256
SEGMENT = 1024
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Channels of a tile are the next of these; its neighbours follow from the values that a program holds of each operand,
# in half and in single precision, as many as no kernel spills.
BLOCK_CHANNELS = (32, 64, 128, 256)
TILES = {"forward": (1024, 512), "backward_rows": (512, 512), "backward_columns": (512, 512), "products": (1024, 1024)}
_CHUNK = 64  # channels that products and combine take at a time
# One warp a program; 12 of them share an SM's 65,536 registers. Left to itself, ptxas spills some kernels to fit 16.
NUM_WARPS, MAX_REGISTERS = 1, 168
LAUNCH = {"num_warps": NUM_WARPS} | ({} if torch.version.hip else {"maxnreg": MAX_REGISTERS})
_PROGRAMS = 2**31  # of one launch, and indices of 32 bits
_UNIT = 8  # channels: 16 bytes of half precision
_BLOCK_BYTES = 64 << 20  # of each array of edges by channels that the gradients of edge features pass through

Csc = tuple[Tensor | None, Tensor | None, Tensor | None]


def refusal(device: torch.device, inputs: Sequence[Tensor], channels: int) -> str | None:
    """Say why the kernels cannot serve a call, or return ``None``."""
    if channels > MAX_CHANNELS:
        return f"serves at most {MAX_CHANNELS} channels per head, but the inputs have {channels}"
    if _interpreted():
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
    return max(programs, layout.num_edges) < _PROGRAMS


# Compiled code takes what these two return as it is while it is traced.


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def installed() -> bool:
    """Tell whether Triton can be imported."""
    return is_available("triton")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _interpreted() -> bool:
    """Tell whether Triton runs its kernels in Python, where tensors of any device and dtype are served."""
    return is_available("triton") and bool(require("triton", "triton").knobs.runtime.interpret)


# Launching ###########################################################################################################


def tile(kernel: str, channels: int, itemsize: int) -> dict[str, int]:
    """Choose the block sizes of a kernel for heads of some width."""
    if kernel in ("products", "combine"):
        width = _CHUNK
    else:
        width = next(block for block in BLOCK_CHANNELS if block >= channels)
    if kernel == "combine":
        return {"BLOCK_C": width}
    return {"BLOCK_C": width, "BLOCK_E": TILES[kernel][itemsize > 2] // width}


def _ready(x: Tensor) -> Tensor:
    """Make rows follow one another and start at a multiple of 16 bytes, as the kernels' loads assume."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _no_seed(like: Tensor) -> Tensor:
    """Stand in for the seed; what a kernel does not read must still have its type, or another kernel is compiled."""
    return like.new_empty(1, dtype=torch.int64)


def _boost(dropout: float) -> float:
    """Factor of the weights that dropout keeps."""
    return 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0


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


class _Launch:
    """A pattern whose rows are given out to programs, long ones in segments."""

    def __init__(self, pointer: Tensor, index: Tensor, heads: int) -> None:
        self.pointer, self.index, self.heads = pointer, index, heads
        self.num_rows = pointer.numel() - 1
        self.segment_row, self.segment_start, self.num_segments = _segments(pointer, index.numel())
        if (self.num_rows + self.num_segments) * heads >= _PROGRAMS:
            raise ValueError(
                f"backend 'triton' runs at most 2^31 programs, but {self.num_rows} rows x {heads} heads came"
            )

    def parts(self, like: Tensor, width: int) -> Tensor:
        """Make room for what segments leave behind: one row each."""
        return like.new_empty(self.num_segments, self.heads, width, dtype=_wide(like))

    def run(self, kernel: str, *arrays: Tensor, channels: int, dtype: torch.dtype, **numbers: float) -> None:
        """Run a kernel on all rows; its arguments are the arrays, then the pattern, then the numbers."""
        kernels = _kernels()
        programs = (self.num_rows + self.num_segments) * self.heads
        if programs == 0:
            return
        getattr(kernels, kernel)[(programs,)](
            *arrays,
            segment_row=self.segment_row,
            segment_start=self.segment_start,
            num_rows=self.num_rows,
            num_segments=self.num_segments,
            segment=SEGMENT,
            heads=self.heads,
            **numbers,
            **tile(kernel, channels, dtype.itemsize),
            ACC=kernels.tl.float64 if dtype == torch.float64 else kernels.tl.float32,
            **LAUNCH,
        )

    def combine(
        self, part: Tensor, out: Tensor, part_normalizer: Tensor | None = None, normalizer: Tensor | None = None
    ) -> None:
        """Add the segments' sums into the rows; with maxima and sums, join their softmaxes."""
        if self.num_segments == 0 or (part_normalizer is None and part.size(2) == 0):
            return
        kernels = _kernels()
        chunks = max(1, -(-part.size(2) // _CHUNK))
        kernels.combine[(self.num_segments * self.heads, chunks)](
            part,
            part if part_normalizer is None else part_normalizer,
            out,
            part if normalizer is None else normalizer,
            self.pointer,
            self.segment_row,
            num_rows=self.num_rows,
            segment=SEGMENT,
            heads=self.heads,
            units=part.size(2) // _UNIT,
            weighted=int(part_normalizer is not None),
            **tile("combine", _CHUNK, part.element_size()),
            ACC=kernels.tl.float64 if part.dtype == torch.float64 else kernels.tl.float32,
            **LAUNCH,
        )


def _kernels() -> Any:
    require("triton", "triton")
    from graphattn.ops import triton_kernels

    return triton_kernels


def _row_sums(edges: Tensor, rowptr: Tensor) -> Tensor:
    return torch.segment_reduce(edges, "sum", offsets=rowptr.long(), axis=0, unsafe=True)


# Operators ###########################################################################################################


@torch.library.custom_op("graphattn::triton_attention", mutates_args=())
def triton_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    scale: float,
    slope: float,
    dropout: float,
    with_weights: bool,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    slot: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attended values, maxima and sums of the rows and, if asked for, weights before dropout and what dropout did."""
    q, k, v = _ready(q), _ready(k), _ready(v)
    heads, wide = v.size(1), _wide(v)
    launch = _Launch(rowptr, col, heads)
    out = v.new_empty(q.size(0), heads, v.size(2))
    normalizer = v.new_empty(q.size(0), heads, 2, dtype=wide)
    edges = v.new_empty(col.numel() if with_weights else 0, heads, dtype=wide)
    kept = torch.empty_like(edges) if seed is not None else edges.new_empty(0, heads)
    part_out, part_normalizer = launch.parts(v, v.size(2)), launch.parts(v, 2)
    launch.run(
        "forward",
        q,
        k,
        v,
        normalizer if vector is None else _ready(vector),
        v if edge_attr is None else edge_attr.contiguous(),
        v if edge_proj is None else _ready(edge_proj),
        normalizer if bias is None else bias.contiguous(),
        _no_seed(v) if seed is None else seed,
        out,
        normalizer,
        edges,
        kept,
        part_out,
        part_normalizer,
        rowptr,
        col,
        channels=max(q.size(2), v.size(2)),
        dtype=v.dtype,
        value_heads=heads,
        key_units=q.size(2) // _UNIT,
        value_units=v.size(2) // _UNIT,
        edge_dim=0 if edge_attr is None else edge_attr.size(1),
        scale=scale,
        slope=slope,
        dropout=dropout,
        boost=_boost(dropout),
        additive=int(vector is not None),
        linear=0,
        has_bias=int(bias is not None),
        has_dropout=int(seed is not None),
        has_scores=int(with_weights),
    )
    launch.combine(part_out, out, part_normalizer, normalizer)
    if with_weights:
        rows = slot_rows(rowptr, col.numel())
        top, total = normalizer.index_select(0, rows).unbind(2)
        edges.sub_(top).exp_().div_(total)
    return out, normalizer, edges, kept


@triton_attention.register_fake
def _(q, k, v, vector, edge_attr, edge_proj, bias, seed, scale, slope, dropout, with_weights, rowptr, col, *csc):  # type: ignore[no-untyped-def]
    heads, wide = v.size(1), _wide(v)
    edges = v.new_empty(col.size(0) if with_weights else 0, heads, dtype=wide)
    kept = torch.empty_like(edges) if seed is not None else edges.new_empty(0, heads)
    return v.new_empty(q.size(0), heads, v.size(2)), v.new_empty(q.size(0), heads, 2, dtype=wide), edges, kept


@torch.library.custom_op("graphattn::triton_attention_backward", mutates_args=())
def triton_attention_backward(
    grad_out: Tensor | None,
    grad_weights: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    out: Tensor,
    normalizer: Tensor,
    weights: Tensor,
    scale: float,
    slope: float,
    dropout: float,
    bias_grad: bool,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor,
    row: Tensor,
    slot: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`triton_attention` with respect to q, k, v, the vector, the edges and the bias."""
    q, k, v = _ready(q), _ready(k), _ready(v)
    heads, wide = v.size(1), _wide(v)
    grad_out = torch.zeros_like(out) if grad_out is None else _ready(grad_out)
    delta = (grad_out.to(wide) * out).sum(dim=2)
    if grad_weights is not None:
        grad_weights = grad_weights.contiguous()
        delta += _row_sums(weights * grad_weights, rowptr)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    additive = int(vector is not None)
    dvector = q.new_empty(q.size(0), heads, q.size(2) * additive, dtype=wide)
    to_scores = bias_grad or edge_attr is not None
    dscores = q.new_empty(col.numel() if to_scores else 0, heads, dtype=wide)
    given = (
        q,
        k,
        v,
        normalizer if vector is None else _ready(vector),
        v if edge_attr is None else edge_attr.contiguous(),
        v if edge_proj is None else _ready(edge_proj),
        normalizer if bias is None else bias.contiguous(),
        _no_seed(v) if seed is None else seed,
        grad_out,
        delta if grad_weights is None else grad_weights,
        normalizer,
        delta,
    )
    options: dict[str, Any] = {
        "channels": max(q.size(2), v.size(2)),
        "dtype": v.dtype,
        "key_units": q.size(2) // _UNIT,
        "value_units": v.size(2) // _UNIT,
        "edge_dim": 0 if edge_attr is None else edge_attr.size(1),
        "scale": scale,
        "slope": slope,
        "dropout": dropout,
        "boost": _boost(dropout),
        "additive": additive,
        "has_bias": int(bias is not None),
        "has_grad": int(grad_weights is not None),
        "has_dropout": int(seed is not None),
    }
    launch = _Launch(rowptr, col, heads)
    part_q, part_vector = launch.parts(q, q.size(2)), launch.parts(q, q.size(2) * additive)
    results = dq, dvector, dscores, part_q, part_vector
    launch.run("backward_rows", *given, *results, rowptr, col, **options, has_scores=int(to_scores))
    launch.combine(part_q, dq)
    launch.combine(part_vector, dvector)
    launch = _Launch(colptr, row, heads)
    part_k, part_v = launch.parts(k, k.size(2)), launch.parts(v, v.size(2))
    launch.run("backward_columns", *given, dk, dv, part_k, part_v, colptr, row, slot, **options, linear=0)
    launch.combine(part_k, dk)
    launch.combine(part_v, dv)
    dedge, dproj = v.new_empty(0), v.new_empty(0)
    if vector is not None and edge_attr is not None and edge_proj is not None:
        dedge, dproj = _edge_gradients(dscores, q, k, vector, edge_attr, edge_proj, slope, rowptr, col)
    return dq, dk, dv, dvector.sum(dim=0), dedge, dproj, dscores if bias_grad else dscores[:0].clone()


def _edge_gradients(
    dscores: Tensor,
    q: Tensor,
    k: Tensor,
    vector: Tensor,
    edge_attr: Tensor,
    edge_proj: Tensor,
    slope: float,
    rowptr: Tensor,
    col: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of the edges' features and their projection: matrix products over blocks of slots."""
    wide = dscores.dtype
    rows, proj = slot_rows(rowptr, col.numel()), edge_proj.to(wide)
    dedge, dproj = edge_attr.new_empty(edge_attr.shape), proj.new_zeros(proj.shape)
    size = max(1, _BLOCK_BYTES // (q.size(1) * q.size(2) * wide.itemsize))
    for start in range(0, col.numel(), size):
        block = slice(start, start + size)
        features = edge_attr[block].to(wide)
        total = q.index_select(0, rows[block]).to(wide) + k.index_select(0, col[block]).to(wide)
        total += torch.einsum("ed,dhc->ehc", features, proj)
        steep = torch.where(total > 0, vector, vector * slope) * dscores[block].unsqueeze(2)
        dedge[block] = torch.einsum("ehc,dhc->ed", steep, proj).to(edge_attr.dtype)
        dproj += torch.einsum("ehc,ed->dhc", steep, features)
    return dedge, dproj.to(edge_proj.dtype)


@triton_attention_backward.register_fake
def _(grad_out, grad_weights, q, k, v, vector, edge_attr, edge_proj, bias, seed, out, normalizer, *rest):  # type: ignore[no-untyped-def]
    _, _, _, _, bias_grad, _, col, *_ = rest
    dvector = normalizer.new_empty(v.size(1), 0 if vector is None else q.size(2))
    dbias = normalizer.new_empty(col.size(0) if bias_grad else 0, v.size(1))
    dedge, dproj = (v.new_empty(0) if x is None else x.new_empty(x.shape) for x in (edge_attr, edge_proj))
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dvector, dedge, dproj, dbias


@torch.library.custom_op("graphattn::triton_sddmm", mutates_args=())
def triton_sddmm(
    a: Tensor, b: Tensor, rowptr: Tensor, col: Tensor, colptr: Tensor | None, row: Tensor | None, slot: Tensor | None
) -> Tensor:
    """Dot products ``a[row, h] . b[col, h]`` of every slot; ``b`` may have one head for all."""
    a, b = _ready(a), _ready(b)
    out = a.new_empty(col.numel(), a.size(1), dtype=_wide(a))
    _Launch(rowptr, col, a.size(1)).run(
        "products",
        a,
        b,
        out,
        rowptr,
        col,
        channels=a.size(2),
        dtype=a.dtype,
        key_heads=b.size(1),
        key_units=a.size(2) // _UNIT,
    )
    return out


@triton_sddmm.register_fake
def _(a, b, rowptr, col, colptr, row, slot):  # type: ignore[no-untyped-def]
    return a.new_empty(col.size(0), a.size(1), dtype=_wide(a))


@torch.library.custom_op("graphattn::triton_spmm", mutates_args=())
def triton_spmm(
    weights: Tensor,
    x: Tensor,
    rowptr: Tensor,
    col: Tensor,
    colptr: Tensor | None,
    row: Tensor | None,
    slot: Tensor | None,
) -> Tensor:
    """Weighted sums ``sum_col weights[slot, h] * x[col, h]`` of every row; ``x`` may have one head for all."""
    x, weights = _ready(x), weights.contiguous()
    launch = _Launch(rowptr, col, weights.size(1))
    out = x.new_empty(rowptr.numel() - 1, launch.heads, x.size(2))
    unused = x.new_empty((*out.shape[:2], 2), dtype=_wide(x))
    part, part_normalizer = launch.parts(x, x.size(2)), launch.parts(x, 2)
    arrays = (
        x,
        x,
        x,
        unused,
        x,
        x,
        weights,
        _no_seed(x),
        out,
        unused,
        unused,
        unused,
        part,
        part_normalizer,
        rowptr,
        col,
    )
    launch.run("forward", *arrays, **_linear(x), value_heads=x.size(1), has_scores=0)
    launch.combine(part, out)
    return out


@triton_spmm.register_fake
def _(weights, x, rowptr, col, colptr, row, slot):  # type: ignore[no-untyped-def]
    return x.new_empty(rowptr.size(0) - 1, weights.size(1), x.size(2))


@torch.library.custom_op("graphattn::triton_spmm_transposed", mutates_args=())
def triton_spmm_transposed(
    weights: Tensor, x: Tensor, colptr: Tensor, row: Tensor, slot: Tensor, sum_heads: bool
) -> Tensor:
    """Weighted sums over the transposed pattern, ``sum_row weights[slot, h] * x[row, h]``, one head or their sum."""
    x, weights = _ready(x), weights.contiguous()
    heads = x.size(1)
    if sum_heads:
        # Every head of a row is a row of its own, so that one head of the pattern sums them all.
        fits = max(x.size(0), row.numel()) * heads < _PROGRAMS
        colptr, row = (at if fits else at.long() for at in (colptr, row))
        head = torch.arange(heads, device=row.device, dtype=row.dtype)
        row, slot = ((at.unsqueeze(1) * heads + head).flatten() for at in (row, slot))
        colptr, heads = colptr * heads, 1
    launch = _Launch(colptr, row, heads)
    out = x.new_empty(colptr.numel() - 1, heads, x.size(2))
    part_k, part = launch.parts(x, 0), launch.parts(x, x.size(2))
    given = x, x, x, weights, x, x, weights, _no_seed(x), x, weights, weights, weights
    arrays = *given, x, out, part_k, part, colptr, row, slot
    launch.run("backward_columns", *arrays, **_linear(x), has_grad=0)
    launch.combine(part, out)
    return out


@triton_spmm_transposed.register_fake
def _(weights, x, colptr, row, slot, sum_heads):  # type: ignore[no-untyped-def]
    return x.new_empty(colptr.size(0) - 1, 1 if sum_heads else x.size(1), x.size(2))


def _linear(x: Tensor) -> dict[str, Any]:
    """Options of a kernel whose weights are given: there is no score, and the bias is the weight."""
    return {
        "channels": x.size(2),
        "dtype": x.dtype,
        "key_units": 0,
        "value_units": x.size(2) // _UNIT,
        "edge_dim": 0,
        "scale": 0.0,
        "slope": 0.0,
        "dropout": 0.0,
        "boost": 1.0,
        "additive": 0,
        "linear": 1,
        "has_bias": 1,
        "has_dropout": 0,
    }


# Autograd ############################################################################################################


def _transpose(rowptr: Tensor, col: Tensor, csc: Sequence[Tensor | None], num_cols: int) -> tuple[Tensor, ...]:
    """The transposed pattern of a call: the caller's cached one, else built now."""
    colptr, row, slot = csc
    if colptr is None or row is None or slot is None:
        return csc_layout(rowptr, col, num_cols)
    return colptr, row, slot


def _attention_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.scale, ctx.slope, ctx.dropout, _, rowptr, col, colptr, row, slot = inputs
    out, normalizer, weights, kept = output
    ctx.mark_non_differentiable(normalizer, kept)
    ctx.save_for_backward(*tensors, out, normalizer, weights, rowptr, col, colptr, row, slot)
    # An unused output then arrives as None instead of as an E x H tensor of zeros.
    ctx.set_materialize_grads(False)


def _attention_autograd(ctx, grad_out, grad_normalizer, grad_weights, grad_kept):  # type: ignore[no-untyped-def]
    q, k, v, vector, edge_attr, edge_proj, bias, seed, out, normalizer, weights, rowptr, col, *csc = ctx.saved_tensors
    dq, dk, dv, dvector, dedge, dproj, dbias = triton_attention_backward(
        grad_out,
        grad_weights,
        q,
        k,
        v,
        vector,
        edge_attr,
        edge_proj,
        bias,
        seed,
        out,
        normalizer,
        weights,
        ctx.scale,
        ctx.slope,
        ctx.dropout,
        ctx.needs_input_grad[6],
        rowptr,
        col,
        *_transpose(rowptr, col, csc, k.size(0)),
    )
    dvector = None if vector is None else dvector.to(vector.dtype)
    if edge_attr is None:
        dedge = dproj = None
    return dq, dk, dv, dvector, dedge, dproj, dbias if ctx.needs_input_grad[6] else None, *[None] * 10


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _sddmm_backward(ctx, grad):  # type: ignore[no-untyped-def]
    a, b, rowptr, col, *csc = ctx.saved_tensors
    da = db = None
    if ctx.needs_input_grad[0]:
        da = triton_spmm(grad, b, rowptr, col, *csc)
    if ctx.needs_input_grad[1]:
        transpose = _transpose(rowptr, col, csc, b.size(0))
        db = triton_spmm_transposed(grad, a, *transpose, b.size(1) == 1 < a.size(1))
    return da, db, None, None, None, None, None


def _spmm_backward(ctx, grad):  # type: ignore[no-untyped-def]
    weights, x, rowptr, col, *csc = ctx.saved_tensors
    dweights = dx = None
    if ctx.needs_input_grad[0]:
        dweights = triton_sddmm(grad, x, rowptr, col, *csc)
    if ctx.needs_input_grad[1]:
        transpose = _transpose(rowptr, col, csc, x.size(0))
        dx = triton_spmm_transposed(weights, grad, *transpose, x.size(1) == 1 < weights.size(1))
    return dweights, dx, None, None, None, None, None


def _refuse_double_backward(ctx, *grads):  # type: ignore[no-untyped-def]
    raise RuntimeError("backend 'triton' has no double backward; pass backend='reference' to differentiate twice")


triton_attention.register_autograd(_attention_autograd, setup_context=_attention_setup)
triton_sddmm.register_autograd(_sddmm_backward, setup_context=_save)
triton_spmm.register_autograd(_spmm_backward, setup_context=_save)
for _op in (triton_spmm_transposed, triton_attention_backward):
    _op.register_autograd(_refuse_double_backward)


# What ops/attention.py calls #########################################################################################


def _padded(x: Tensor) -> Tensor:
    """Fill the channels up to a whole number of units."""
    return pad(x, (0, -x.size(-1) % _UNIT)) if x.size(-1) % _UNIT else x


def _pattern(layout: Layout, dense: Tensor) -> tuple[Tensor | None, ...]:
    """The pattern of a call, with its transpose where the dense operand will need a gradient."""
    rowptr, col, _ = layout.csr()
    needs_transpose = torch.is_grad_enabled() and dense.requires_grad
    return rowptr, col, *(layout.csc() if needs_transpose else (None, None, None))


def _to_slots(values: Tensor, layout: Layout) -> Tensor:
    _, _, perm = layout.csr()
    return values if perm is None else values.index_select(0, perm)


def _to_edges(slots: Tensor, layout: Layout) -> Tensor:
    _, _, perm = layout.csr()
    return slots if perm is None else torch.zeros_like(slots).index_copy(0, perm, slots)


def sddmm(q: Tensor, k: Tensor, layout: Layout) -> Tensor:
    return _to_edges(triton_sddmm(_padded(q), _padded(k), *_pattern(layout, k)), layout)


def spmm(weights: Tensor, x: Tensor, layout: Layout) -> Tensor:
    slots = _to_slots(weights, layout).to(_wide(x))
    return triton_spmm(slots, _padded(x), *_pattern(layout, x))[..., : x.size(2)]


def edge_softmax(scores: Tensor, layout: Layout) -> Tensor:
    nothing = scores.new_empty(layout.num_cols, scores.size(1), 0)
    _, weights = aggregate(scores, nothing, layout, 0.0, None, None, True)
    assert weights is not None, "the weights were asked for"
    return weights


def aggregate(
    scores: Tensor,
    v: Tensor,
    layout: Layout,
    dropout: float,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    q, k = v.new_empty(layout.num_rows, v.size(1), 0), v.new_empty(layout.num_cols, v.size(1), 0)
    slots = _to_slots(scores, layout)
    return _attend(q, k, v, None, None, None, slots, layout, 0.0, 0.0, dropout, edge_attr, edge_proj, return_weights)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float,
    bias: Tensor | None,
    dropout: float,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    slots = None if bias is None else _to_slots(bias, layout).to(_wide(v))
    if edge_attr is not None and edge_proj is not None:
        # q . (W e) = (W^T q) . e: only the raw features are read, as the columns of the target-by-edge pattern.
        rows = _padded(torch.einsum("nhc,hcd->nhd", q.to(_wide(q)), edge_proj.to(_wide(q))))
        features = _padded(edge_attr.to(_wide(q))).unsqueeze(1)
        term = scale * triton_sddmm(rows, features, *_pattern(layout.incidence(), features))
        slots = term if slots is None else slots + term
    return _attend(q, k, v, None, None, None, slots, layout, scale, 0.0, dropout, edge_attr, edge_proj, return_weights)


def additive_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor,
    layout: Layout,
    slope: float,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    bias: Tensor | None,
    dropout: float,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    slots = None if bias is None else _to_slots(bias, layout)
    features = proj = None
    if edge_attr is not None and edge_proj is not None:
        features, proj = _to_slots(edge_attr, layout), _padded(edge_proj.permute(2, 0, 1).contiguous())
    return _attend(q, k, v, vector, features, proj, slots, layout, 0.0, slope, dropout, None, None, return_weights)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor | None,
    score_attr: Tensor | None,
    score_proj: Tensor | None,
    bias: Tensor | None,
    layout: Layout,
    scale: float,
    slope: float,
    dropout: float,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attend with edge values in slot order, then add what the edges' features contribute to the values."""
    seed = None
    if dropout > 0:
        seed = torch.randint(2**63 - 1, (1,), device=v.device)
    has_edges = edge_attr is not None and edge_proj is not None
    differentiated = next((x for x in (k, v, q) if x.requires_grad), k)
    out, _, weights, kept = triton_attention(
        _padded(q),
        _padded(k),
        _padded(v),
        None if vector is None else _padded(vector).to(_wide(v)),
        score_attr,
        score_proj,
        None if bias is None else bias.to(_wide(v)),
        seed,
        scale,
        slope,
        dropout,
        return_weights or has_edges,
        *_pattern(layout, differentiated),
    )
    out = out[..., : v.size(2)]
    if edge_attr is not None and edge_proj is not None:
        # sum P (W e) = W (sum P e), the other half of the same linearity.
        features = _padded(edge_attr.to(_wide(v))).unsqueeze(1)
        scaled = weights if seed is None else weights * kept
        sums = triton_spmm(scaled, features, *_pattern(layout.incidence(), features))[..., : edge_attr.size(1)]
        out = out + torch.einsum("nhd,hcd->nhc", sums, edge_proj.to(_wide(v)))
    return out, _to_edges(weights, layout) if return_weights else None
