"""The kernels where they are meant to run: on a CUDA device, against the float64 reference there.

What they compute is tested everywhere by Triton's interpreter (``triton/in_interpreter.py``). Here is what only a
device shows: compiled code, programs that run at the same time, indices and rows of real size, and float32 gradients
that are summed in another order.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphattn.ops import Layout
from tests.budget import assert_within_budget
from tests.ops.cases import GRAPHS, HEADS, OPS, Graph, Op, random_graph, run

pytest.importorskip("triton", reason="triton is not installed")
if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

from graphattn.ops.triton import launch
from tests.ops.triton.in_interpreter import ADDITIVE, assert_agrees, attention_with_mask

ALL = {**OPS, **ADDITIVE}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
WIDE = (torch.float32, torch.float64)
DRAWS = 8
FUSED = ["attention", "attention_all", "gat", "gatv2", "gatv2_all"]


def _there(graph: Graph) -> Graph:
    return Graph(graph.edge_index.cuda(), graph.num_rows, graph.num_cols)


def _inputs(op: Op, graph: Graph, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    return {name: x.cuda() for name, x in op.inputs(graph, dtype, seed).items()}


def _wide(num_rows: int, num_cols: int, channels: int, heads: int = 2) -> Op:
    shapes = {n: (num_rows if n == "q" else num_cols, heads, channels) for n in "qkv"}
    return Op(lambda _: shapes, OPS["attention"].call)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", list(ALL))
@pytest.mark.parametrize("graph", list(GRAPHS))
def test_every_op_on_every_graph(graph: str, op: str, dtype: torch.dtype) -> None:
    """In the worst of several draws: on a graph of few edges plain torch may be all but exact once."""
    there = _there(GRAPHS[graph])
    runs: list[list[dict[str, Tensor]]] = [[], [], []]
    for seed in range(DRAWS):
        inputs = _inputs(ALL[op], there, dtype, seed)
        runs[0].append(run(ALL[op], inputs, there, backend="triton"))
        runs[1].append(run(ALL[op], inputs, there, backend="reference"))
        runs[2].append(run(ALL[op], {n: x.double() for n, x in inputs.items()}, there, backend="reference"))
    for name in runs[2][0]:
        found, same_dtype, truth = (torch.stack([draw[name] for draw in draws]) for draws in runs)
        assert_within_budget(found, same_dtype, truth, name=name)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("op", FUSED)
def test_many_edges(op: str, seed: int) -> None:
    """Enough rows to fill the device, of all lengths, in float32."""
    there = _there(random_graph(2_000, 3_000, 40_000, seed))
    assert_agrees(ALL[op], _inputs(ALL[op], there, torch.float32, seed), there)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 8, 20, 33, 64, 72, 128, 129, 256])
def test_every_width(channels: int, dtype: torch.dtype) -> None:
    there = _there(random_graph(50, 70, 900))
    op = _wide(50, 70, channels)
    assert_agrees(op, _inputs(op, there, dtype), there)


@pytest.mark.parametrize("op", FUSED)
def test_a_hub_of_many_neighbours(op: str) -> None:
    """One row, and one column, of 100,000 edges, both split over programs."""
    n = 100_000
    hub = torch.zeros(n, dtype=torch.long)
    edges = torch.cat([torch.stack([torch.arange(n), hub]), torch.stack([hub, torch.arange(n)])], dim=1)
    there = _there(Graph(edges, n, n))
    assert_agrees(ALL[op], _inputs(ALL[op], there, torch.float32), there)


@pytest.mark.parametrize("op", FUSED)
def test_indices_of_64_bits(op: str) -> None:
    there = _there(GRAPHS["duplicates"])
    layout = Layout(there.edge_index, there.num_rows, there.num_cols)
    (rowptr, col, perm), (colptr, row, slot) = layout.csr(), layout.csc()
    assert rowptr.dtype == torch.int32
    wide = Layout(
        there.edge_index, there.num_rows, there.num_cols,
        (rowptr.long(), col.long(), perm), (colptr.long(), row.long(), slot),
    )  # fmt: skip
    assert_agrees(ALL[op], _inputs(ALL[op], there, torch.float32), there, wide)


@pytest.mark.parametrize("op", FUSED)
def test_short_segments(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and columns of less than a segment, exactly one, several and a ragged last."""
    monkeypatch.setattr(launch, "SEGMENT", 4)
    there = _there(random_graph(6, 11, 40))
    assert_agrees(ALL[op], _inputs(ALL[op], there, torch.float32), there)


@pytest.mark.parametrize("op", [name for name in ALL if name not in ("sddmm", "spmm")])
def test_the_same_bits_twice(op: str) -> None:
    there = _there(random_graph(500, 300, 20_000))
    inputs = _inputs(ALL[op], there, torch.float32)
    first, second = (run(ALL[op], inputs, there, backend="triton") for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("op", ["attention_bias", "gatv2_all"])
def test_masked_rows_are_empty_and_their_gradients_exactly_zero(op: str) -> None:
    there = _there(GRAPHS["self_loops"])
    inputs = _inputs(ALL[op], there, torch.float32)
    masked = there.edge_index[1] == 1
    inputs["bias"][masked] = -torch.inf
    found = run(ALL[op], inputs, there, backend="triton")
    assert all(torch.isfinite(x).all() for x in found.values())
    assert (found["output 0"][1] == 0).all()
    assert (found["gradient of bias"][masked] == 0).all()
    assert (found["gradient of q"][1] == 0).all()


@pytest.mark.parametrize("which", ["attention_bias", "attention_all", "gatv2_all"])
def test_dropout_is_replayed_by_the_backward(which: str) -> None:
    """Read the mask off a call whose values name their source, then differentiate the reference with that mask."""
    there = _there(random_graph(20, 40, 400))
    op = ALL[which]
    inputs = _inputs(op, there, torch.float32)
    names = torch.eye(there.num_cols, device="cuda").unsqueeze(1).expand(-1, HEADS, -1)
    named = {n: names if n == "v" else x for n, x in inputs.items() if n not in ("edge_attr", "edge_proj")}
    source, target = there.edge_index
    torch.manual_seed(5)
    shown, _ = op.call(named, there, there.edge_index, dropout=0.5, backend="triton")
    keep = shown[target, :, source] != 0
    assert 0.4 < keep.float().mean() < 0.6
    torch.manual_seed(5)
    found = run(op, inputs, there, backend="triton", dropout=0.5)
    masked = Op(op.shapes, lambda x, *_: attention_with_mask(x, there, (keep * 2.0).to(x["q"])))
    same, truth = (run(masked, {n: x.to(dtype) for n, x in inputs.items()}, there) for dtype in WIDE)
    for name in truth:
        assert_within_budget(found[name], same[name], truth[name], name=name)
