"""Scores that no sparse kernel computes, in blocks of edges that fit the cache, recomputed in the backward.

A score such as GATv2's needs all channels of both ends of an edge at once. Visiting the edges in blocks keeps the
E x H x C intermediate down to one block, forward and backward; only the E x H scores are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphattn.ops.layout import Layout, slot_rows

# A block's working set is a few (edges x H x C) arrays. On a CPU with 1 MiB of L2 cache a core, 2 MiB each was the
# fastest of 0.5 to 4 MiB; an accelerator wants few large launches instead.
_BLOCK_BYTES, _ACCELERATOR_BLOCK_BYTES = 2 << 20, 256 << 20

# Up to this size the intermediates of a forward that will be differentiated are kept: recomputing a small graph costs
# more than its memory is worth. Without a backward, smaller blocks spare it the page faults of fresh large arrays.
_KEPT_BYTES, _SMALL_BLOCK_BYTES = 8 << 20, 1 << 19

EdgeFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def edge_scores(
    function: EdgeFunction,
    q: Tensor,
    k: Tensor,
    edge_attr: Tensor | None,
    layout: Layout,
    parameters: tuple[Tensor, ...] = (),
) -> Tensor:
    r"""Evaluate ``function(q_i, k_j, e_ij)`` on every edge without keeping its intermediates.

    Two cases are evaluated at once and keep them: small graphs whose scores will be differentiated (up to 8 MiB an
    array), and everything under ``torch.compile``, where the compiler decides what to recompute.

    Args:
        function: Maps the ends and features of some edges to their scores, each edge on its own and the same way
            every time it is called (no dropout).
        q: Queries of the targets.
        k: Keys of the sources.
        edge_attr: Edge features in the caller's edge order, or ``None``.
        layout: The graph.
        parameters: Every tensor that ``function`` reads besides its arguments and that may need a gradient.

    Shapes:
        - **input:** ``q`` :math:`(N, H, C)`, ``k`` :math:`(M, H, C)`, ``edge_attr`` :math:`(E, D)`
        - **output:** :math:`(E, H)`, in the caller's edge order

    Returns:
        The scores. They are differentiable once with respect to ``q``, ``k``, ``edge_attr`` and ``parameters``.

    Example:
        >>> x = torch.tensor([[[1.0]], [[4.0]]])
        >>> layout = Layout(torch.tensor([[0, 1], [1, 1]]), num_rows=2, num_cols=2)
        >>> edge_scores(lambda q, k, e: (q - k).abs().sum(-1), x, x, None, layout).flatten().tolist()
        [3.0, 0.0]
    """
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and _is_small(layout, q)):
        source, target = layout.edge_index.long()
        return function(q.index_select(0, target), k.index_select(0, source), edge_attr)
    return _EdgeScores.apply(function, layout, q, k, edge_attr, *parameters)


class _EdgeScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: EdgeFunction,
        layout: Layout,
        q: Tensor,
        k: Tensor,
        edge_attr: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.function, ctx.layout = function, layout
        ctx.save_for_backward(q, k, edge_attr, *parameters)
        scores = q.new_empty(0, q.size(1))
        for edges, row, col in _blocks(layout, q):
            block = function(q.index_select(0, row), k.index_select(0, col), _take(edge_attr, edges))
            if scores.size(0) != layout.num_edges:
                scores = block.new_empty(layout.num_edges, block.size(1))
            scores.index_copy_(0, edges, block)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        wanted = [i for i, need in enumerate(ctx.needs_input_grad[2:]) if need]
        # Sums over many edges, which half precision would stop adding to.
        sums = {i: torch.zeros_like(tensors[i], dtype=_wide(tensors[i])) for i in wanted}
        for edges, row, col in _blocks(ctx.layout, tensors[0]):
            ends = row, col, edges
            inputs = [_take(x, at) for x, at in zip(tensors[:3], ends, strict=True)]
            leaves: list[Any] = [x if x is None else x.requires_grad_(i in wanted) for i, x in enumerate(inputs)]
            leaves += tensors[3:]
            with torch.enable_grad():
                scores = ctx.function(*leaves[:3])
            found = torch.autograd.grad(
                scores, [leaves[i] for i in wanted], grad.index_select(0, edges), allow_unused=True
            )
            for i, part in zip(wanted, found, strict=True):
                if part is not None and i < 3:
                    sums[i].index_add_(0, ends[i], part.to(sums[i].dtype))
                elif part is not None:
                    sums[i].add_(part)
        return None, None, *(sums[i].to(x.dtype) if i in sums else None for i, x in enumerate(tensors))


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _blocks(layout: Layout, q: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (caller's edges, targets, sources), of a large graph in slot order: then a block's rows lie together."""
    edges = torch.arange(layout.num_edges, device=q.device)
    if _is_small(layout, q):
        col, row = layout.edge_index.long()
        budget = _SMALL_BLOCK_BYTES
    else:
        rowptr, col, perm = layout.csr()
        row = slot_rows(rowptr, layout.num_edges)
        edges = edges if perm is None else perm
        budget = _BLOCK_BYTES
    budget = budget if q.device.type == "cpu" else _ACCELERATOR_BLOCK_BYTES
    size = max(1, budget // (q.size(1) * q.size(2) * q.element_size()))
    for start in range(0, layout.num_edges, size):
        block = slice(start, start + size)
        yield edges[block], row[block], col[block].long()


def _is_small(layout: Layout, q: Tensor) -> bool:
    return layout.num_edges * q.size(1) * q.size(2) * q.element_size() <= _KEPT_BYTES


def _take(x: Tensor | None, index: Tensor) -> Tensor | None:
    return None if x is None else x.index_select(0, index)
