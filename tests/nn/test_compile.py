"""``torch.compile(fullgraph=True, dynamic=True)`` equals eager, and does not compile again for other sizes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn import Affinity
from tests.nn.cases import EDGE_DIM, SCORE_NAMES, WIDTH, assert_same_run, make, run

SIZES = [(8, 11), (5, 17), (13, 30), (21, 19)]  # nodes and edges, at least 2 of each; 0 and 1 would be specialised


def _inputs(num_nodes: int, num_edges: int, edges: str, with_edge_attr: bool) -> tuple[Tensor, Any, Tensor | None]:
    edge_index: Any = torch.randint(num_nodes, (2, num_edges))
    edge_index[:, 0] = 1  # a self-loop
    if edges == "affinity":
        edge_index = Affinity.from_edge_index(edge_index, torch.rand(num_edges).double(), num_nodes)
        edge_index.layout.csc()  # built eagerly, as decision 8 asks
        edge_index.layout.with_self_loops()[0].csc()
    edge_attr = torch.randn(num_edges, EDGE_DIM).double() if with_edge_attr else None
    return torch.randn(num_nodes, WIDTH).double(), edge_index, edge_attr


# All but this are slow; tests/contracts compiles every score over edges that are a tensor.
QUICK = {("dot", "affinity", False)}
CASES = [
    pytest.param(
        score,
        edges,
        full,
        marks=() if (score, edges, full) in QUICK else pytest.mark.slow,
        id=f"{score}-{edges}-{'full' if full else 'plain'}",
    )
    for score in SCORE_NAMES
    for edges in ("tensor", "affinity")
    for full in (True, False)
]


@pytest.mark.usefixtures("reset_dynamo")
@pytest.mark.parametrize(("score", "edges", "full"), CASES)
def test_compiled_equals_eager(score: str, edges: str, full: bool) -> None:
    """``full``: with self-loops and edge features."""
    conv = make(score, edge_dim=EDGE_DIM if full else None, add_self_loops=full)
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, examples: list[Any]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, examples)

    compiled = torch.compile(conv, fullgraph=True, dynamic=True, backend=count)
    for i, (num_nodes, num_edges) in enumerate(SIZES):
        inputs = _inputs(num_nodes, num_edges, edges, full)
        expected, found = run(conv, *inputs), run(compiled, *inputs)
        assert_same_run({name.removeprefix("_orig_mod."): value for name, value in found.items()}, expected)
        if i == 1:
            warm = len(graphs)
    assert warm >= 1
    assert len(graphs) == warm


@pytest.mark.usefixtures("reset_dynamo")
@pytest.mark.parametrize(
    "score", [pytest.param(score, marks=() if score == "gat" else pytest.mark.slow) for score in SCORE_NAMES]
)
def test_compiled_weights(score: str) -> None:
    conv = make(score, edge_dim=EDGE_DIM, add_self_loops=True, normalize="row")
    compiled = torch.compile(conv, fullgraph=True, dynamic=True, backend="aot_eager")
    inputs = _inputs(*SIZES[0], "tensor", True)
    out, (edges, alpha) = conv(*inputs, return_attention_weights=True)
    found, (found_edges, found_alpha) = compiled(*inputs, return_attention_weights=True)
    torch.testing.assert_close(found, out)
    torch.testing.assert_close(found_alpha, alpha)
    assert torch.equal(found_edges, edges)


_INDUCTOR = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from tests.nn.test_compile import SIZES, _inputs
from tests.nn.cases import EDGE_DIM, assert_same_run, make, run

torch.manual_seed(0)
conv = make(sys.argv[1], edge_dim=EDGE_DIM, add_self_loops=True)
compiled = torch.compile(conv, fullgraph=True, dynamic=True)
for size in SIZES:
    inputs = _inputs(*size, "tensor", True)
    found = run(compiled, *inputs)
    assert_same_run({name.removeprefix("_orig_mod."): x for name, x in found.items()}, run(conv, *inputs))
"""


@pytest.mark.slow
@pytest.mark.parametrize("score", ["dot", "gat", "gatv2"])
def test_inductor(score: str) -> None:
    """In a fresh process: compiled code and its caches do not survive into other tests."""
    done = subprocess.run([sys.executable, "-c", _INDUCTOR, score], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
