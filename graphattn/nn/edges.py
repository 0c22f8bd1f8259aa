"""What a layer reads from its arguments before it computes: edges, their prior, their features, self-loops."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import scatter

from graphattn.affinity import Affinity, DenseAffinity, SparseAffinity
from graphattn.ops.inputs import as_layout
from graphattn.ops.layout import Layout, check_range

Size = tuple[int | None, int | None] | None
FILLS = ("mean", "add", "sum", "min", "max", "mul")


def read_edges(
    edge_index: Any, x_src: Tensor, x_dst: Tensor | None, size: Size, heads: int
) -> tuple[Layout, Tensor | None]:
    """Return the layout of whatever was passed as edges, and its weights [E, 1 or H] as a prior, if it has any."""
    for name, x in (("x[0]", x_src), ("x[1]", x_dst)):
        if x is not None and (not isinstance(x, Tensor) or x.dim() != 2):
            shape = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"type {type(x).__name__}"
            raise ValueError(f"{name} has {shape}; expected a Tensor [nodes, channels]")
    if size is not None and (not isinstance(size, (tuple, list)) or len(size) != 2):
        raise TypeError(f"size is {size!r}; expected (number of sources, number of targets)")
    num_sources, num_targets = size if size is not None else (None, None)
    num_cols = x_src.size(0)
    num_rows = num_cols if num_targets is None else num_targets
    num_rows = num_rows if x_dst is None else x_dst.size(0)
    for side, given, actual in ((0, num_sources, num_cols), (1, num_targets, num_rows)):
        if given is not None and given != actual:
            raise ValueError(f"size[{side}] is {given}, but x has {actual} rows there")

    if isinstance(edge_index, Tensor) and edge_index.layout != torch.strided:
        edge_index = Affinity.from_torch_sparse(edge_index)
    elif isinstance(edge_index, DenseAffinity):
        edge_index = edge_index.to_sparse()
    layout = as_layout(edge_index, num_rows, num_cols)
    if layout.edge_index.device != x_src.device:
        raise ValueError(f"x is on {x_src.device} but edge_index is on {layout.edge_index.device}; move one of them")
    prior = edge_index.weight if isinstance(edge_index, SparseAffinity) else None
    if prior is not None and prior.dim() == 1:
        prior = prior.unsqueeze(1)
    if prior is not None and prior.size(1) not in (1, heads):
        raise ValueError(f"edge_index has weights for {prior.size(1)} heads; expected 1 or {heads}")
    if x_src.device.type == "cpu" and not torch.compiler.is_compiling():
        check_range(layout.edge_index, num_rows, num_cols)
        if prior is not None and bool((prior < 0).any()):
            raise ValueError(f"edge_index has weight {prior.min():.4g}; a prior must not be negative")
    return layout, prior


def check_edge_attr(edge_attr: Tensor | None, edge_dim: int | None, layout: Layout) -> Tensor | None:
    """Return edge features as [E, D], or raise if the layer was not built for them."""
    if edge_attr is None:
        return None
    if not isinstance(edge_attr, Tensor):
        raise TypeError(f"edge_attr is a {type(edge_attr).__name__}; expected a floating-point Tensor")
    if edge_dim is None:
        width = edge_attr.size(-1) if edge_attr.dim() > 1 else 1
        raise ValueError(f"edge_attr has shape {tuple(edge_attr.shape)} but edge_dim is None; pass edge_dim={width}")
    edge_attr = edge_attr.unsqueeze(1) if edge_attr.dim() == 1 else edge_attr
    expected = (layout.num_edges, edge_attr.size(-1) if edge_dim < 0 else edge_dim)
    if tuple(edge_attr.shape) != expected:
        raise ValueError(f"edge_attr has shape {tuple(edge_attr.shape)}; expected {expected}: edges, edge_dim")
    if not edge_attr.is_floating_point():
        raise TypeError(f"edge_attr has dtype {edge_attr.dtype}; expected a floating-point dtype")
    device = layout.edge_index.device
    if edge_attr.device != device:
        raise ValueError(f"edge_attr is on {edge_attr.device} but edge_index is on {device}; move one of them")
    return edge_attr


def append_loops(
    layout: Layout, prior: Tensor | None, edge_attr: Tensor | None, fill_value: float | Tensor | str
) -> tuple[Layout, Tensor, Tensor | None]:
    """Append a loop per node behind the caller's edges, which keep their places.

    Every node attends to itself exactly once, as in PyG: through the caller's first loop, else through the appended
    one. A prior of 0 silences the others. The loop that counts is scored with the filled edge feature.
    """
    looped, counts = layout.with_self_loops()
    num_loops = looped.num_edges - layout.num_edges
    if prior is None:
        prior = counts.unsqueeze(1).to(torch.get_default_dtype())
    else:
        prior = F.pad(prior, (0, 0, 0, num_loops), value=1.0) * counts.unsqueeze(1)
    if edge_attr is None:
        return looped, prior, None

    source, target = layout.edge_index.long()
    is_loop = source == target
    if isinstance(fill_value, str):
        # Loops are sent to a row of their own: a node's fill comes from the edges between nodes alone.
        rows = torch.where(is_loop, layout.num_rows, target)
        fill = scatter(edge_attr, rows, 0, layout.num_rows + 1, reduce=fill_value)[:num_loops]
    else:
        value = torch.as_tensor(fill_value, dtype=edge_attr.dtype, device=edge_attr.device)
        fill = value.expand(num_loops, edge_attr.size(1))
    if num_loops:
        own = fill.index_select(0, target.clamp(max=num_loops - 1))
        edge_attr = torch.where(is_loop.unsqueeze(1), own, edge_attr)
    return looped, prior, torch.cat([edge_attr, fill])
