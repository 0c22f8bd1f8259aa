"""Additive attention on the CPU backends against its definition in float64; the fused kernels are in ``triton``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.ops import Layout, additive_attention, fuses
from tests.budget import assert_within_budget
from tests.ops.cases import GRAPHS, HEADS, Graph

CHANNELS, WIDTH, EDGE_DIM = 5, 4, 2


def _inputs(graph: Graph) -> dict[str, Tensor]:
    shapes = {
        "q": (graph.num_rows, HEADS, CHANNELS),
        "k": (graph.num_cols, HEADS, CHANNELS),
        "v": (graph.num_cols, HEADS, WIDTH),
        "vector": (HEADS, CHANNELS),
        "edge_attr": (graph.num_edges, EDGE_DIM),
        "edge_proj": (HEADS, CHANNELS, EDGE_DIM),
        "bias": (graph.num_edges, HEADS),
    }
    return {name: torch.randn(shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}


def _dense(x: dict[str, Tensor], graph: Graph, slope: float) -> tuple[Tensor, Tensor]:
    """The definition, edge by edge, with the softmax over all edges of a target as one masked matrix [E, N]."""
    source, target = graph.edge_index.long()
    total = x["q"][target] + x["k"][source] + torch.einsum("hcd,ed->ehc", x["edge_proj"], x["edge_attr"])
    scores = (torch.where(total > 0, total, slope * total) * x["vector"]).sum(dim=2) + x["bias"]
    member = torch.nn.functional.one_hot(target, graph.num_rows).double()
    exp = (scores - scores.max()).exp()
    weights = exp / torch.einsum("en,nh->eh", member, torch.einsum("en,eh->nh", member, exp))
    return torch.einsum("en,eh,ehc->nhc", member, weights, x["v"][source]), weights


@pytest.mark.parametrize("backend", ["auto", "csr", "reference"])
@pytest.mark.parametrize("graph", ["bipartite_unsorted", "duplicates", "self_loops", "int32"])
def test_agrees_with_the_definition(graph: str, backend: str) -> None:
    case = GRAPHS[graph]
    x = _inputs(case)
    found = additive_attention(
        **x, edge_index=case.edge_index, negative_slope=0.1, return_weights=True, backend=backend
    )
    truth = _dense(x, case, 0.1)
    cotangents = [torch.randn_like(y) for y in truth]
    grads = [torch.autograd.grad(y, list(x.values()), cotangents) for y in (found, truth)]
    for a, b in zip((*found, *grads[0]), (*truth, *grads[1]), strict=True):
        assert_within_budget(a.detach(), b.detach(), b.detach(), longest_row=case.longest)


def test_isolated_targets_get_zero() -> None:
    graph = GRAPHS["isolated_rows"]
    out = additive_attention(**_inputs(graph), edge_index=graph.edge_index)
    isolated = torch.ones(graph.num_rows, dtype=torch.bool)
    isolated[graph.edge_index[1]] = False
    assert isolated.any()
    assert (out[isolated] == 0).all()
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vector": torch.zeros(HEADS, 2)}, r"vector has shape \(3, 2\); expected \(3, 5\): heads, channels"),
        ({"edge_proj": None}, "edge_proj is None but edge_attr is given; pass both or neither"),
        ({"edge_proj": torch.zeros(HEADS, 2, EDGE_DIM)}, r"edge_proj has shape .* expected \(3, 5, 2\)"),
        ({"dropout": 2.0}, r"dropout is 2.0; expected a probability in \[0, 1\]"),
        ({"backend": "fast"}, "backend is 'fast'; expected one of"),
    ],
)
def test_bad_inputs(changed: dict[str, Any], message: str) -> None:
    graph = GRAPHS["self_loops"]
    with pytest.raises(ValueError, match=message):
        additive_attention(**(_inputs(graph) | changed), edge_index=graph.edge_index)


def test_no_backend_fuses_on_the_cpu() -> None:
    x = torch.ones(2, 1, 4)
    layout = Layout(torch.tensor([[0], [1]]), 2, 2)
    assert not any(fuses(backend, layout, x, x, x) for backend in ("auto", "reference", "csr"))
