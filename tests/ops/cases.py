"""The case grid of the ops: graphs that break naive code, and one way to call every public op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn._optional import is_available
from graphattn.ops import edge_aggregate, edge_attention, edge_softmax, sddmm, spmm

needs_scatter = pytest.mark.skipif(not is_available("torch_scatter"), reason="torch_scatter cannot be imported")
BACKENDS = ["csr", pytest.param("scatter", marks=needs_scatter)]
ALL_BACKENDS = ["reference", *BACKENDS]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
HEADS, CHANNELS, EDGE_CHANNELS = 3, 5, 2  # all different, and different from every N, M and E below


@dataclass(frozen=True)
class Graph:
    edge_index: Tensor
    num_rows: int
    num_cols: int

    @property
    def num_edges(self) -> int:
        return self.edge_index.size(1)

    @property
    def longest(self) -> int:
        """Terms of the longest chain of nested sums: projection and dot product, forward and backward, then edges."""
        return self.num_edges + 2 * (CHANNELS + EDGE_CHANNELS)


def random_graph(num_rows: int, num_cols: int, num_edges: int, seed: int = 0) -> Graph:
    """Edges without duplicates, in random order."""
    generator = torch.Generator().manual_seed(seed)
    key = torch.randperm(num_rows * num_cols, generator=generator)[:num_edges]
    return Graph(torch.stack([key % num_cols, key // num_cols]), num_rows, num_cols)


def by_target(graph: Graph) -> Graph:
    source, target = graph.edge_index
    order = torch.argsort(target * graph.num_cols + source)
    return Graph(graph.edge_index[:, order], graph.num_rows, graph.num_cols)


def complete_edges(num_rows: int, num_cols: int) -> Tensor:
    """All edges, target by target: edge ``i * num_cols + j`` goes from j to i."""
    target = torch.arange(num_rows).repeat_interleave(num_cols)
    return torch.stack([torch.arange(num_cols).repeat(num_rows), target])


def _with_edges(edges: list[tuple[int, int]], num_rows: int, num_cols: int) -> Graph:
    return Graph(torch.tensor(edges).t().contiguous().view(2, -1).long(), num_rows, num_cols)


_UNSORTED = random_graph(7, 11, 31)
_LOOPS = [(0, 0), (3, 1), (1, 1), (2, 3), (0, 1), (3, 3), (2, 2), (1, 0), (3, 2), (0, 2), (2, 2)]
GRAPHS: dict[str, Graph] = {
    "bipartite_unsorted": _UNSORTED,
    "wide_sorted": by_target(random_graph(4, 13, 29)),
    "tall_sorted": by_target(random_graph(17, 2, 21)),
    "duplicates": Graph(torch.cat([_UNSORTED.edge_index, _UNSORTED.edge_index[:, 5:20]], dim=1), 7, 11),
    "self_loops": _with_edges(_LOOPS, 4, 4),
    "int32": Graph(_UNSORTED.edge_index.int(), 7, 11),
    "isolated_rows": _with_edges([(5, 6), (1, 2), (4, 2), (0, 6)], 8, 6),
    "hub": _with_edges([(j, 1) for j in range(40)] + [(2, 0)], 4, 40),
    "no_edges": Graph(torch.empty(2, 0, dtype=torch.long), 4, 6),
    "no_nodes": Graph(torch.empty(2, 0, dtype=torch.long), 0, 0),
    "one_node": _with_edges([(0, 0)], 1, 1),
    "one_node_no_edge": Graph(torch.empty(2, 0, dtype=torch.long), 1, 1),
}


@dataclass(frozen=True)
class Op:
    """A public op: the shapes of its tensors and how to call it with them, a graph's edges and options."""

    shapes: Callable[[Graph], dict[str, tuple[int, ...]]]
    call: Callable[..., Tensor | tuple[Tensor, Tensor]]

    def inputs(self, graph: Graph, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = self.shapes(graph)
        return {n: torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for n, s in shapes.items()}


def _nodes(graph: Graph, *names: str) -> dict[str, tuple[int, ...]]:
    return {n: (graph.num_rows if n == "q" else graph.num_cols, HEADS, CHANNELS) for n in names}


def _edges(graph: Graph, *names: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names, (graph.num_edges, HEADS))


def _features(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {"edge_attr": (graph.num_edges, EDGE_CHANNELS), "edge_proj": (HEADS, CHANNELS, EDGE_CHANNELS)}


def _attention(x: dict[str, Tensor], graph: Graph, edges: Any, **options: Any) -> Any:
    rest = {n: t for n, t in x.items() if n not in ("q", "k", "v")}
    return edge_attention(x["q"], x["k"], x["v"], edges, **rest, **options)


def _aggregate(x: dict[str, Tensor], graph: Graph, edges: Any, **options: Any) -> Any:
    rest = {n: t for n, t in x.items() if n not in ("scores", "v")}
    return edge_aggregate(x["scores"], x["v"], edges, num_rows=graph.num_rows, **rest, **options)


def _attention_weights(x: dict[str, Tensor], graph: Graph, edges: Any, **options: Any) -> Any:
    return _attention(x, graph, edges, return_weights=True, **options)


def _attention_edge_keys(x: dict[str, Tensor], graph: Graph, edges: Any, **options: Any) -> Any:
    return _attention(x, graph, edges, edge_values=False, **options)


def _aggregate_weights(x: dict[str, Tensor], graph: Graph, edges: Any, **options: Any) -> Any:
    return _aggregate(x, graph, edges, return_weights=True, **options)


def _sddmm(x: dict[str, Tensor], graph: Graph, edges: Any, **options: Any) -> Tensor:
    return sddmm(x["q"], x["k"], edges, **options)


def _spmm(x: dict[str, Tensor], graph: Graph, edges: Any, **options: Any) -> Tensor:
    return spmm(x["weights"], x["x"], edges, num_rows=graph.num_rows, **options)


def _softmax(x: dict[str, Tensor], graph: Graph, edges: Any, **options: Any) -> Tensor:
    return edge_softmax(x["scores"], edges, num_rows=graph.num_rows, **options)


OPS: dict[str, Op] = {
    "attention": Op(lambda g: _nodes(g, "q", "k", "v"), _attention),
    "attention_bias": Op(lambda g: _nodes(g, "q", "k", "v") | _edges(g, "bias"), _attention_weights),
    "attention_edge_attr": Op(lambda g: _nodes(g, "q", "k", "v") | _features(g), _attention),
    "attention_edge_keys": Op(lambda g: _nodes(g, "q", "k", "v") | _features(g), _attention_edge_keys),
    "attention_all": Op(lambda g: _nodes(g, "q", "k", "v") | _edges(g, "bias") | _features(g), _attention_weights),
    "attention_wide_values": Op(lambda g: _nodes(g, "q", "k") | {"v": (g.num_cols, HEADS, CHANNELS + 3)}, _attention),
    "aggregate": Op(lambda g: _edges(g, "scores") | _nodes(g, "v"), _aggregate),
    "aggregate_all": Op(lambda g: _edges(g, "scores") | _nodes(g, "v") | _features(g), _aggregate_weights),
    "sddmm": Op(lambda g: _nodes(g, "q", "k"), _sddmm),
    "sddmm_one_key_head": Op(lambda g: _nodes(g, "q") | {"k": (g.num_cols, 1, CHANNELS)}, _sddmm),
    "spmm": Op(lambda g: _edges(g, "weights") | _nodes(g, "x"), _spmm),
    "spmm_one_head": Op(lambda g: _edges(g, "weights") | {"x": (g.num_cols, 1, CHANNELS)}, _spmm),
    "softmax": Op(lambda g: _edges(g, "scores"), _softmax),
}
# One entry per public function, for what need not be repeated over every option.
PUBLIC = ["attention_all", "aggregate_all", "sddmm", "spmm", "softmax"]


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def run(
    op: Op, inputs: dict[str, Tensor], graph: Graph, edges: Any = None, *, seed: int = 7, **options: Any
) -> dict[str, Tensor]:
    """Call an op and differentiate it: outputs and the gradient of every input, by name.

    The cotangents depend on ``seed`` and the output shapes only, so that runs in two dtypes or with two backends get
    the same ones; they are rounded to the narrowest dtype in play by drawing them as small integers.
    """
    leaves = {n: x.detach().requires_grad_() for n, x in inputs.items()}
    outputs = as_tuple(op.call(leaves, graph, graph.edge_index if edges is None else edges, **options))
    generator = torch.Generator().manual_seed(seed)
    cotangents = [torch.randint(-4, 5, y.shape, generator=generator).to(y) for y in outputs]
    grads = torch.autograd.grad(outputs, list(leaves.values()), cotangents)
    named = {f"output {i}": y.detach() for i, y in enumerate(outputs)}
    return named | {f"gradient of {n}": g for n, g in zip(leaves, grads, strict=True)}
