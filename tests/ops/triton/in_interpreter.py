"""Every kernel in Triton's interpreter against the float64 reference: outputs and all gradients.

Run by ``test_interpreter.py`` in a process of its own, where ``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.ops import Layout, edge_attention, reference, triton
from tests.budget import assert_within_budget
from tests.ops.cases import GRAPHS, HEADS, OPS, Graph, random_graph, run

NARROW = [torch.float32, torch.bfloat16, torch.float16]


def assert_agrees(op: str, inputs: dict[str, Tensor], graph: Graph, edges: Any = None) -> None:
    found = run(OPS[op], inputs, graph, edges, backend="triton")
    same_dtype = run(OPS[op], inputs, graph, backend="reference")
    truth = run(OPS[op], {n: x.double() for n, x in inputs.items()}, graph, backend="reference")
    for name in truth:
        assert_within_budget(found[name], same_dtype[name], truth[name], longest_row=graph.longest, name=name)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_every_graph(graph: Graph) -> None:
    assert_agrees("attention_all", OPS["attention_all"].inputs(graph), graph)


@pytest.mark.parametrize("op", OPS)
def test_every_op(op: str) -> None:
    graph = GRAPHS["duplicates"]
    assert_agrees(op, OPS[op].inputs(graph, torch.float32), graph)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("op", ["attention_all", "sddmm", "spmm"])
def test_every_dtype(op: str, dtype: torch.dtype) -> None:
    graph = GRAPHS["bipartite_unsorted"]
    assert_agrees(op, OPS[op].inputs(graph, dtype), graph)
