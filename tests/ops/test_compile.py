"""torch.compile and the registered operators behind it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import graphattn.ops  # noqa: F401  (registers the operators)
from graphattn.ops import Layout, edge_scores
from tests.ops.cases import CHANNELS, GRAPHS, HEADS, OPS, PUBLIC, Graph, as_tuple, random_graph

# Registered operators ################################################################################################


def _registered() -> list[str]:
    return sorted({n.split("::")[1] for n in torch._C._dispatch_get_all_op_names() if n.startswith("graphattn::")})


def _runs_on_cpu(name: str) -> bool:
    """Triton's operators run there in its interpreter alone; tests/ops/triton checks them."""
    return not name.startswith("triton_")


def _samples(name: str, graph: Graph, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Arguments of a registered operator: with and without its optional ones."""
    layout = Layout(graph.edge_index, graph.num_rows, graph.num_cols)
    rowptr, col, _ = layout.csr()
    csc = layout.csc()
    none = (None, None, None)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, requires_grad=True)

    n, m, e = graph.num_rows, graph.num_cols, graph.num_edges
    q, k, v = random(HEADS, n, CHANNELS), random(HEADS, m, CHANNELS), random(HEADS, m, CHANNELS + 1)
    edges, out = random(HEADS, e), random(HEADS, n, CHANNELS + 1)
    weights = edges.detach().softmax(1)
    keep = torch.rand(HEADS, e) > 0.5
    plain = (None, weights, q.detach(), k.detach(), v.detach(), weights, None, 0.5, False, rowptr, col, *csc)
    full = (out.detach(), weights, q.detach(), k.detach(), v.detach(), weights, keep, 0.5, True, rowptr, col, *csc)
    wide, x, attr = random(HEADS, n, CHANNELS + 2), random(m, CHANNELS), random(e, 2)
    _, *edge = layout.incidence().pattern(attr)
    both, alone = (wide, x, attr, edges, keep, HEADS), (None, x, attr, edges, None, HEADS)
    fixed = tuple(part.detach() for part in (wide, x, attr, weights))
    samples: dict[str, list[tuple[Any, ...]]] = {
        "csr_layout": [(graph.edge_index, n, m), (graph.edge_index.int(), n, m)],
        "csc_layout": [(rowptr, col, m)],
        "csr_sddmm": [(q, k, rowptr, col, *csc), (q, random(1, m, CHANNELS), rowptr, col, *none)],
        "csr_spmm": [(edges, k, rowptr, col, *csc), (edges, random(1, m, CHANNELS), rowptr, col, *none)],
        "csr_spmm_transposed": [(weights, q.detach(), *csc, False), (weights, q.detach(), *csc, True)],
        "csr_softmax": [(edges, rowptr, col, m)],
        "csr_softmax_backward": [(edges.detach(), weights, rowptr, col, m)],
        "csr_attention": [
            (q, k, v, None, None, 0.5, rowptr, col, *none),
            (q, k, v, edges, keep, 0.5, rowptr, col, *csc),
        ],
        "csr_attention_backward": [plain, full],
        "csr_shared_attention": [
            (*both, rowptr, col, *csc, *edge),
            (*alone, rowptr, col, *none, edge[0], *none),
        ],
        "csr_shared_attention_backward": [
            (fixed[0], weights, *fixed, keep, True, True, rowptr, col, *csc, *edge),
            (fixed[0], weights, None, *fixed[1:], None, False, False, rowptr, col, *none, edge[0], *none),
        ],
    }
    return samples[name]


# opcheck itself looks at .grad of the copies that it made of the arguments.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor is being:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("graph", ["bipartite_unsorted", "duplicates", "no_edges"])
@pytest.mark.parametrize("name", [n for n in _registered() if _runs_on_cpu(n)])
def test_opcheck(name: str, graph: str, dtype: torch.dtype) -> None:
    """A new operator without samples fails here with a KeyError."""
    op = getattr(torch.ops.graphattn, name).default
    for args in _samples(name, GRAPHS[graph], dtype):
        torch.library.opcheck(op, args)


def test_every_operator_is_found() -> None:
    assert {"csr_layout", "csc_layout", "csr_attention", "csr_attention_backward"} <= set(_registered())


# Public ops ##########################################################################################################

Runner = Callable[[dict[str, Tensor], Any], tuple[Tensor, ...]]
SIZES = [(7, 11, 31), (9, 5, 23), (13, 17, 61)]


def _runner(op: str, num_rows: int | None, **options: Any) -> Runner:
    """A function of tensors alone, whose graph sizes all follow from them."""

    def call(x: dict[str, Tensor], edges: Any) -> tuple[Tensor, ...]:
        rows = x["rows"].size(0) if num_rows is None else num_rows
        graph = Graph(torch.empty(2, 0), rows, 0)
        return as_tuple(OPS[op].call({n: t for n, t in x.items() if n != "rows"}, graph, edges, **options))

    return call


def _with_gradients(function: Runner, x: dict[str, Tensor], edges: Any) -> list[Tensor]:
    leaves = {n: t.detach().clone().requires_grad_(n != "rows") for n, t in x.items()}
    outputs = function(leaves, edges)
    generator = torch.Generator().manual_seed(7)
    cotangents = [torch.randint(-4, 5, y.shape, generator=generator).to(y.dtype) for y in outputs]
    grads = torch.autograd.grad(outputs, [t for t in leaves.values() if t.requires_grad], cotangents)
    return [*(y.detach() for y in outputs), *grads]


def _assert_compiled_is_eager(function: Runner, op: str, backend: str, as_layout: bool) -> None:
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    for step, (n, m, e) in enumerate(SIZES):
        graph = random_graph(n, m, e, seed=step)
        x = OPS[op].inputs(graph) | {"rows": torch.empty(n, 0)}
        edges: Any = graph.edge_index
        if as_layout:
            edges = Layout(edges, n, m)
            edges.csr(), edges.csc()
        # Two sizes may compile twice; from then on any recompilation is an error.
        with torch._dynamo.config.patch(error_on_recompile=step >= 2):
            found = _with_gradients(compiled, x, edges)
        for a, b in zip(found, _with_gradients(function, x, edges), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("as_layout", [False, True], ids=["tensor", "layout"])
@pytest.mark.parametrize("backend", ["auto", pytest.param("reference", marks=pytest.mark.slow)])
@pytest.mark.parametrize("op", PUBLIC)
def test_compiled_equals_eager_without_recompiling(op: str, backend: str, as_layout: bool, reset_dynamo: None) -> None:
    _assert_compiled_is_eager(_runner(op, None, backend=backend), op, "aot_eager", as_layout)


@pytest.mark.parametrize("op", ["attention_all", "aggregate_all"])
def test_compiled_dropout_draws_the_eager_mask(op: str, reset_dynamo: None) -> None:
    function = _runner(op, None, dropout=0.5)
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    graph = random_graph(7, 11, 31)
    x = OPS[op].inputs(graph) | {"rows": torch.empty(7, 0)}
    runs = []
    for f in (compiled, function):
        torch.manual_seed(3)
        runs.append(_with_gradients(f, x, graph.edge_index))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("sizes", [(4, 6, 0), (1, 1, 1), (1, 5, 1)])
@pytest.mark.parametrize("op", ["attention_all", "softmax"])
def test_sizes_of_zero_and_one_compile_on_their_own(op: str, sizes: tuple[int, int, int], reset_dynamo: None) -> None:
    """dynamo specialises them, so they are not part of the test above."""
    graph, function = random_graph(*sizes), _runner(op, None)
    x = OPS[op].inputs(graph) | {"rows": torch.empty(sizes[0], 0)}
    found = _with_gradients(torch.compile(function, fullgraph=True, backend="aot_eager"), x, graph.edge_index)
    for a, b in zip(found, _with_gradients(function, x, graph.edge_index), strict=True):
        assert torch.equal(a, b)


def test_edge_scores_compile(reset_dynamo: None) -> None:
    def function(x: dict[str, Tensor], edges: Any) -> tuple[Tensor, ...]:
        layout = Layout(edges, x["q"].size(0), x["k"].size(0))
        weight = x["weight"]
        score = edge_scores(
            lambda q, k, e: (torch.tanh(q + k) * weight).sum(-1), x["q"], x["k"], None, layout, (weight,)
        )
        return (score,)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for step, (n, m, e) in enumerate(SIZES):
        graph = random_graph(n, m, e)
        x = OPS["sddmm"].inputs(graph) | {"weight": torch.randn(HEADS, CHANNELS, dtype=torch.float64)}
        with torch._dynamo.config.patch(error_on_recompile=step >= 2):
            found = _with_gradients(compiled, x, graph.edge_index)
        for a, b in zip(found, _with_gradients(function, x, graph.edge_index), strict=True):
            torch.testing.assert_close(a, b)  # blocks and the whole sum in different orders


@pytest.mark.slow
def test_inductor_in_a_fresh_process() -> None:
    script = """
import torch
from tests.ops.test_compile import _assert_inductor_is_eager
_assert_inductor_is_eager()
print("equal")
"""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"


def _assert_inductor_is_eager() -> None:
    from tests.budget import assert_within_budget

    op, function = OPS["attention_all"], _runner("attention_all", None)
    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for step, (n, m, e) in enumerate(SIZES):
        graph = random_graph(n, m, e, seed=step)
        x = op.inputs(graph, torch.float32) | {"rows": torch.empty(n, 0)}
        reference = _with_gradients(_runner("attention_all", None, backend="reference"), x, graph.edge_index)
        exact = {name: t.double() for name, t in x.items()}
        truth = _with_gradients(_runner("attention_all", None, backend="reference"), exact, graph.edge_index)
        with torch._dynamo.config.patch(error_on_recompile=step >= 2):
            found = _with_gradients(compiled, x, graph.edge_index)
        for a, b, c in zip(found, reference, truth, strict=True):
            assert_within_budget(a, b, c)
