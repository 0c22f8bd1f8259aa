"""Layout: one sorted view of every accepted edge list, built once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from graphattn.ops import Layout, edge_attention, edge_softmax, spmm
from graphattn.ops import layout as layout_module
from tests.budget import assert_within_budget
from tests.ops.cases import GRAPHS, OPS, Graph, by_target, random_graph, run

SIMPLE = random_graph(7, 11, 31)


def _formats(graph: Graph, dtype: torch.dtype) -> dict[str, tuple[Any, Tensor]]:
    """Every accepted form of the same edges, each with the caller's edge that stands in each place."""
    size = (graph.num_cols, graph.num_rows)
    source, target = graph.edge_index
    orders = {
        "shuffled": torch.randperm(graph.num_edges),
        "by_target": torch.argsort(target * graph.num_cols + source),
        "by_source": torch.argsort(source * graph.num_rows + target),
    }
    edges = {n: graph.edge_index[:, o].to(dtype) for n, o in orders.items()}
    plain = {f"coo_{n}": (e, orders[n]) for n, e in edges.items()}
    objects = {
        "edge_index_unsorted": (EdgeIndex(edges["shuffled"], sparse_size=size), orders["shuffled"]),
        "edge_index_by_col": (EdgeIndex(edges["by_target"], sparse_size=size, sort_order="col"), orders["by_target"]),
        "edge_index_by_row": (EdgeIndex(edges["by_source"], sparse_size=size, sort_order="row"), orders["by_source"]),
        "edge_index_unknown_size": (EdgeIndex(edges["by_target"], sort_order="col"), orders["by_target"]),
        "layout": (Layout(edges["shuffled"], graph.num_rows, graph.num_cols), orders["shuffled"]),
        "has_a_layout": (
            SimpleNamespace(layout=Layout(edges["by_source"], graph.num_rows, graph.num_cols)),
            orders["by_source"],
        ),
    }
    return plain | objects


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_every_format_gives_the_same_bits_on_a_simple_graph(dtype: torch.dtype) -> None:
    x = OPS["attention_all"].inputs(SIMPLE, torch.float32)
    expected: dict[str, Tensor] | None = None
    for name, (edges, order) in _formats(SIMPLE, dtype).items():
        moved = {n: t[order] if n in ("bias", "edge_attr") else t for n, t in x.items()}
        leaves = {n: t.clone().requires_grad_() for n, t in moved.items()}
        out, weights = edge_attention(**leaves, edge_index=edges, return_weights=True)
        back = order.argsort()
        nodes = torch.arange(SIMPLE.num_rows).view(-1, 1, 1) % 5 - 2.0
        loss = (out * nodes).sum() + (weights[back] * torch.arange(31).view(-1, 1)).sum()
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        found = {"out": out, "weights": weights[back]}
        found |= {n: g[back] if n in ("bias", "edge_attr") else g for n, g in grads.items()}
        expected = expected or found
        for n in found:
            if name in ("edge_index_by_col", "edge_index_unknown_size") and n in x:
                # The transpose that PyG caches comes from an unstable sort: gradients add up in its order.
                truth = expected[n].double()
                assert_within_budget(found[n], expected[n], truth, name=f"gradient of {n} of {name}")
            else:
                assert torch.equal(found[n], expected[n]), f"{n} of {name}"


def test_an_edge_index_sorted_by_target_only_stays_within_the_budget() -> None:
    """PyG's sort leaves the sources of a target in any order, so the sums may round differently."""
    source, target = SIMPLE.edge_index
    order = torch.argsort(target * SIMPLE.num_cols + (SIMPLE.num_cols - source))
    graph = Graph(SIMPLE.edge_index[:, order], SIMPLE.num_rows, SIMPLE.num_cols)
    edges = EdgeIndex(graph.edge_index, sparse_size=(11, 7), sort_order="col")
    inputs = OPS["attention_all"].inputs(graph, torch.float32)
    found = run(OPS["attention_all"], inputs, graph, edges)
    reference = run(OPS["attention_all"], inputs, graph, backend="reference")
    truth = run(OPS["attention_all"], {n: x.double() for n, x in inputs.items()}, graph, backend="reference")
    for n in truth:
        assert_within_budget(found[n], reference[n], truth[n], name=n)


def _dense(pointer: Tensor, index: Tensor, shape: tuple[int, int]) -> Tensor:
    """How often each entry is stored in a compressed pattern."""
    counts = torch.zeros(shape, dtype=torch.long)
    for row in range(shape[0]):
        for col in index[pointer[row] : pointer[row + 1]].tolist():
            counts[row, col] += 1
    return counts


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_csr_and_csc_are_the_graph_and_its_transpose(graph: Graph) -> None:
    n, m = graph.num_rows, graph.num_cols
    layout = Layout(graph.edge_index, n, m)
    expected = torch.zeros(n, m, dtype=torch.long)
    for j, i in graph.edge_index.t().tolist():
        expected[i, j] += 1
    rowptr, col, perm = layout.csr()
    colptr, row, slot = layout.csc()
    assert rowptr.shape == (n + 1,)
    assert colptr.shape == (m + 1,)
    assert torch.equal(_dense(rowptr, col, (n, m)), expected)
    assert torch.equal(_dense(colptr, row, (m, n)), expected.t())
    assert rowptr.dtype == col.dtype == colptr.dtype == row.dtype == torch.int32
    assert perm is not None
    assert perm.dtype == slot.dtype == torch.int64
    # Each slot is the caller's edge that perm names, and slots are ordered by (row, column), ties by the caller.
    rows = layout_module.slot_rows(rowptr, graph.num_edges)
    assert torch.equal(torch.stack([col.long(), rows]), graph.edge_index[:, perm].long())
    key = (rows * max(m, 1) + col) * max(graph.num_edges, 1) + perm
    assert (key.diff() > 0).all()
    # Each entry of the transpose is the slot that it says.
    assert torch.equal(rows[slot], row.long())
    assert (col[slot].diff() >= 0).all()


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_incidence_has_one_column_per_edge(graph: Graph) -> None:
    e = graph.num_edges
    incidence = Layout(graph.edge_index, graph.num_rows, graph.num_cols).incidence()
    assert (incidence.num_rows, incidence.num_cols, incidence.num_edges) == (graph.num_rows, e, e)
    rowptr, col, _ = incidence.csr()
    colptr, row, _ = incidence.csc()
    expected = torch.zeros(graph.num_rows, e, dtype=torch.long)
    expected[graph.edge_index[1].long(), torch.arange(e)] = 1
    assert torch.equal(_dense(rowptr, col, (graph.num_rows, e)), expected)
    assert torch.equal(_dense(colptr, row, (e, graph.num_rows)), expected.t())


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_slots_and_edges_round_trip(graph: Graph) -> None:
    for g in (graph, by_target(graph)):
        layout = Layout(g.edge_index, g.num_rows, g.num_cols)
        values = torch.randn(g.num_edges, 3, requires_grad=True)
        slots = layout.to_slots(values)
        assert slots.shape == (3, g.num_edges)
        assert slots.is_contiguous()
        assert torch.equal(layout.to_edges(slots), values)
        (grad,) = torch.autograd.grad(layout.to_edges(slots), values, values.detach())
        assert torch.equal(grad, values)
        target = layout.to_slots(g.edge_index[1].view(-1, 1))[0]
        assert (target.diff() >= 0).all()


def _count(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    calls, original = [0], getattr(layout_module, name)

    def counted(*args: Any) -> Any:
        calls[0] += 1
        return original(*args)

    monkeypatch.setattr(layout_module, name, counted)
    return calls


def test_a_layout_sorts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    csr, csc = _count(monkeypatch, "csr_layout"), _count(monkeypatch, "csc_layout")
    layout = Layout(SIMPLE.edge_index, SIMPLE.num_rows, SIMPLE.num_cols)
    for _ in range(3):
        for op in ("attention_bias", "aggregate", "sddmm", "spmm", "softmax"):
            run(OPS[op], OPS[op].inputs(SIMPLE), SIMPLE, layout)
    assert csr == [1]
    assert csc == [1]


def test_nothing_is_transposed_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    csc = _count(monkeypatch, "csc_layout")
    for op in OPS.values():
        leaves = {n: x.requires_grad_() for n, x in op.inputs(SIMPLE).items()}
        with torch.no_grad():
            op.call(leaves, SIMPLE, SIMPLE.edge_index)
    assert csc == [0]


def test_a_sorted_edge_index_lends_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    csr, csc = _count(monkeypatch, "csr_layout"), _count(monkeypatch, "csc_layout")
    graph = by_target(SIMPLE)
    edges = EdgeIndex(graph.edge_index, sparse_size=(11, 7), sort_order="col").fill_cache_()
    for op in ("attention_bias", "aggregate", "sddmm", "spmm"):
        run(OPS[op], OPS[op].inputs(graph), graph, edges)
    assert csr == [0]
    assert csc == [0]
    layout = Layout(edges.int(), graph.num_rows, graph.num_cols)
    assert layout.csr()[2] is None
    assert type(layout.edge_index) is Tensor
    assert type(layout.csr()[0]) is Tensor


def test_an_edge_index_that_is_not_sorted_by_target_is_sorted_by_us(monkeypatch: pytest.MonkeyPatch) -> None:
    csr = _count(monkeypatch, "csr_layout")
    for order in (None, "row"):
        edges = SIMPLE.edge_index[:, torch.argsort(SIMPLE.edge_index[0])]
        Layout(EdgeIndex(edges, sparse_size=(11, 7), sort_order=order), 7, 11).csr()
    assert csr == [2]


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_with_self_loops_counts_one_loop_per_node(graph: Graph) -> None:
    layout = Layout(graph.edge_index, graph.num_rows, graph.num_cols)
    looped, counts = layout.with_self_loops()
    assert layout.with_self_loops()[0] is looped
    loops = min(graph.num_rows, graph.num_cols)
    assert looped.num_edges == counts.numel() == graph.num_edges + loops
    assert torch.equal(looped.edge_index[:, : graph.num_edges], graph.edge_index)
    assert looped.edge_index.dtype == graph.edge_index.dtype
    seen: set[int] = set()
    for (j, i), counted in zip(looped.edge_index.t().tolist(), counts.tolist(), strict=True):
        assert counted == (i != j or i not in seen)
        if i == j:
            seen.add(i)
    assert seen == set(range(loops)) if graph.num_edges + loops else not seen


def test_more_nodes_than_int32_can_name_need_int64_pointers() -> None:
    edges = torch.tensor([[2**31, 5], [1, 0]])
    rowptr, col, perm = Layout(edges, 2, 2**31 + 1).csr()
    assert rowptr.dtype == col.dtype == torch.int64
    assert col.tolist() == [5, 2**31]
    assert perm is not None
    assert perm.tolist() == [1, 0]


@pytest.mark.parametrize("most", [40, 2**58], ids=["numbers that leave room for their places", "numbers that do not"])
def test_the_order_is_stable_whatever_the_size_of_the_numbers(most: int) -> None:
    rows = 8
    source = torch.tensor([most, 3, 0, most - 1])[torch.randint(4, (1000,))]
    edges = torch.stack([source, torch.randint(rows, (1000,))])
    rowptr, col, perm = Layout(edges, rows, most + 1).csr()
    assert perm is not None
    expected = sorted(range(1000), key=lambda e: (int(edges[1, e]), int(edges[0, e]), e))
    assert perm.tolist() == expected
    assert torch.equal(col.long(), source[perm])
    assert torch.equal(rowptr.long(), torch.searchsorted(edges[1][perm], torch.arange(rows + 1)))


def test_a_graph_too_large_to_number_is_refused() -> None:
    with pytest.raises(ValueError, match="more entries than int64 can number"):
        Layout(torch.zeros(2, 1, dtype=torch.long), 2**32, 2**32).csr()


def test_layout_defaults_and_repr() -> None:
    layout = Layout(SIMPLE.edge_index, 7, 11)
    assert repr(layout) == "Layout(rows=7, cols=11, edges=31)"
    weights = edge_softmax(torch.zeros(31, 2), layout)
    out = spmm(weights, torch.ones(11, 2, 1), layout)
    assert out.shape == (7, 2, 1)
    filled = torch.bincount(SIMPLE.edge_index[1], minlength=7) > 0
    truth = filled.double().view(7, 1, 1).expand(7, 2, 1)
    assert_within_budget(out, spmm(weights, torch.ones(11, 2, 1), layout, backend="reference"), truth)
