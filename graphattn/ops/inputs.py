"""What every op does with its arguments before a backend sees them: check, widen, and find the layout."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from graphattn.ops.layout import Layout, check_edge_index


def keep_mask(num_edges: int, num_heads: int, dropout: float, device: torch.device) -> Tensor | None:
    """Draw which weights survive dropout, one bool per edge (caller's order) and head; ``None`` keeps all."""
    check_dropout(dropout)
    return torch.rand(num_edges, num_heads, device=device) >= dropout if dropout > 0 else None


def check_dropout(dropout: float) -> None:
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"dropout is {dropout}; expected a probability in [0, 1]")


def as_layout(edge_index: Any, num_rows: int | None, num_cols: int | None) -> Layout:
    """Turn what a caller may pass as edges into a :class:`Layout` of the expected size."""
    layout = edge_index if isinstance(edge_index, Layout) else getattr(edge_index, "layout", None)
    if not isinstance(layout, Layout):
        check_edge_index(edge_index)  # refuses whatever is not a tensor of edges
        assert num_rows is not None, "an op that takes plain edges knows its targets"
        assert num_cols is not None, "an op that takes plain edges knows its sources"
        return Layout(edge_index, num_rows, num_cols, reused=isinstance(edge_index, EdgeIndex))
    for name, expected, actual in (("targets", num_rows, layout.num_rows), ("sources", num_cols, layout.num_cols)):
        if expected is not None and expected != actual:
            raise ValueError(f"edge_index has {actual} {name}, but the features have {expected} rows for them")
    return layout


def promote(*tensors: Tensor | None) -> tuple[list[Any], torch.dtype]:
    """Promote inputs to one dtype; also return it."""
    dtype = reduce(torch.promote_types, [x.dtype for x in tensors if x is not None])
    return [x if x is None else x.to(dtype) for x in tensors], dtype


def widen(*tensors: Tensor | None) -> tuple[list[Any], torch.dtype]:
    """Promote inputs to one dtype of at least float32; also return the dtype that the result is to have."""
    dtype = reduce(torch.promote_types, [x.dtype for x in tensors if x is not None])
    wide = torch.promote_types(dtype, torch.float32)
    return [x if x is None else x.to(wide) for x in tensors], dtype


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Keep autocast from narrowing what :func:`widen` has widened."""
    if _has_autocast(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def check_float(name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a floating-point Tensor")
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}; expected a floating-point dtype")


def check_nodes(**tensors: Any) -> None:
    for name, x in tensors.items():
        check_float(name, x)
        if x.dim() != 3:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected [nodes, heads, channels]")
        if x.size(1) < 1 or x.size(2) < 1:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected at least one head and one channel")


def check_sizes(
    name: str, x: Tensor, *, rows: int | None = None, heads: int | None = None, channels: int | None = None
) -> None:
    for dim, what, expected in ((0, "rows", rows), (1, "heads", heads), (2, "channels", channels)):
        if expected is not None and x.size(dim) != expected:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {expected} {what}, got {x.size(dim)}")


def check_edges(name: str, x: Any, layout: Layout, heads: int | None = None) -> None:
    check_float(name, x)
    if x.dim() != 2 or x.size(0) != layout.num_edges or (heads is not None and x.size(1) != heads):
        expected = f"[{layout.num_edges}, {'heads' if heads is None else heads}]"
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {expected}: one value per edge and head")


def check_edge_features(attr: Any, proj: Any, layout: Layout, *, heads: int, channels: int) -> None:
    if (attr is None) != (proj is None):
        missing, given = ("edge_proj", "edge_attr") if proj is None else ("edge_attr", "edge_proj")
        raise ValueError(f"{missing} is None but {given} is given; pass both or neither")
    if attr is None:
        return
    check_float("edge_attr", attr)
    check_float("edge_proj", proj)
    if attr.dim() != 2 or attr.size(0) != layout.num_edges:
        raise ValueError(f"edge_attr has shape {tuple(attr.shape)}; expected [{layout.num_edges}, D], one row per edge")
    expected = (heads, channels, attr.size(1))
    if tuple(proj.shape) != expected:
        raise ValueError(
            f"edge_proj has shape {tuple(proj.shape)}; expected {expected}: heads, channels, edge features"
        )


def check_device(layout: Layout, **tensors: Tensor | None) -> None:
    device = layout.edge_index.device
    for name, x in tensors.items():
        if x is not None and x.device != device:
            raise ValueError(f"{name} is on {x.device} but edge_index is on {device}; move one of them")
