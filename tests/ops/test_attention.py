"""The public ops: every backend against the reference, the reference against independent mathematics."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from graphattn.ops import Layout, edge_aggregate, edge_attention, edge_scores, edge_softmax, sddmm, spmm
from tests.budget import assert_within_budget
from tests.ops.cases import (
    ALL_BACKENDS,
    BACKENDS,
    CHANNELS,
    DTYPES,
    EDGE_CHANNELS,
    GRAPHS,
    HEADS,
    OPS,
    PUBLIC,
    Graph,
    as_tuple,
    complete_edges,
    needs_scatter,
    random_graph,
    run,
)


def doubled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: x.double() for n, x in inputs.items()}


def assert_runs_agree(
    result: dict[str, Tensor], reference: dict[str, Tensor], truth: dict[str, Tensor], longest_row: int
) -> None:
    assert result.keys() == truth.keys()
    for name in truth:
        assert_within_budget(result[name], reference[name], truth[name], longest_row=longest_row, name=name)


def assert_backend_agrees(op_name: str, inputs: dict[str, Tensor], graph: Graph, backend: str, **options: Any) -> None:
    """Compare outputs and all gradients of a backend with the float64 reference, within the error budget."""
    op = OPS[op_name]
    result = run(op, inputs, graph, backend=backend, **options)
    reference = run(op, inputs, graph, backend="reference", **options)
    truth = run(op, doubled(inputs), graph, backend="reference", **options)
    assert_runs_agree(result, reference, truth, graph.longest)


# Every backend against the reference #################################################################################


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
@pytest.mark.parametrize("op", OPS)
def test_outputs_and_gradients_agree_with_the_reference(
    op: str, graph: Graph, backend: str, dtype: torch.dtype
) -> None:
    assert_backend_agrees(op, OPS[op].inputs(graph, dtype), graph, backend)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_auto_is_csr_on_the_cpu(graph: Graph) -> None:
    for op in OPS.values():
        inputs = op.inputs(graph, torch.float32)
        auto, csr, default = (run(op, inputs, graph, **o) for o in ({"backend": "auto"}, {"backend": "csr"}, {}))
        assert all(torch.equal(auto[n], csr[n]) and torch.equal(default[n], csr[n]) for n in csr)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", OPS)
def test_non_contiguous_inputs_agree_with_the_reference(op: str, backend: str) -> None:
    graph = GRAPHS["bipartite_unsorted"]
    edge_index = graph.edge_index.repeat_interleave(2, dim=1)[:, ::2]
    strided = Graph(edge_index, graph.num_rows, graph.num_cols)
    inputs = {n: x.mT.contiguous().mT for n, x in OPS[op].inputs(graph, torch.float32).items()}
    assert not edge_index.is_contiguous()
    assert not any(x.is_contiguous() for x in inputs.values() if min(x.shape[-2:]) > 1)
    assert_backend_agrees(op, inputs, strided, backend)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_expanded_cotangents_are_served(backend: str) -> None:
    """``sum().backward()`` sends a gradient of stride 0."""
    graph = GRAPHS["bipartite_unsorted"]
    for op in OPS.values():
        inputs = op.inputs(graph)
        grads = []
        for name in (backend, "reference"):
            leaves = {n: x.clone().requires_grad_() for n, x in inputs.items()}
            outputs = as_tuple(op.call(leaves, graph, graph.edge_index, backend=name))
            grads.append(torch.autograd.grad(sum(y.sum() for y in outputs), list(leaves.values())))
        for found, truth in zip(*grads, strict=True):
            # Weights sum to 1 whatever the scores are, so some true gradients are 0 up to rounding.
            one = torch.ones_like(truth)
            assert_within_budget(one + found, one + truth, one + truth, longest_row=graph.longest)


def test_a_gradient_is_right_whichever_inputs_need_one() -> None:
    """The kernels build the transposed pattern only where a gradient needs it: ask for one input at a time."""
    graph = GRAPHS["duplicates"]
    for op in OPS.values():
        inputs = op.inputs(graph)
        expected = run(op, inputs, graph, backend="csr")
        for name in inputs:
            leaves = {n: x.clone().requires_grad_(n == name) for n, x in inputs.items()}
            outputs = as_tuple(op.call(leaves, graph, graph.edge_index, backend="csr"))
            generator = torch.Generator().manual_seed(7)
            cotangents = [torch.randint(-4, 5, y.shape, generator=generator).to(y.dtype) for y in outputs]
            pairs = [(y, c) for y, c in zip(outputs, cotangents, strict=True) if y.requires_grad]
            (found,) = torch.autograd.grad([y for y, _ in pairs], [leaves[name]], [c for _, c in pairs])
            assert torch.equal(found, expected[f"gradient of {name}"])


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_mixed_dtypes_promote_and_gradients_keep_the_dtype_of_their_input(backend: str) -> None:
    graph = GRAPHS["bipartite_unsorted"]
    inputs = OPS["attention_all"].inputs(graph, torch.float16) | {"bias": torch.randn(graph.num_edges, HEADS)}
    found = run(OPS["attention_all"], inputs, graph, backend=backend)
    assert found["output 0"].dtype == found["output 1"].dtype == torch.float32
    assert all(found[f"gradient of {n}"].dtype == x.dtype for n, x in inputs.items())
    if backend != "reference":
        assert_backend_agrees("attention_all", inputs, graph, backend)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("op", OPS)
def test_autocast_changes_nothing(op: str, backend: str) -> None:
    """Sums stay in float32 under autocast; the backward runs outside of it, as torch asks."""
    graph = GRAPHS["bipartite_unsorted"]
    inputs = OPS[op].inputs(graph, torch.float32)
    expected = run(OPS[op], inputs, graph, backend=backend)
    leaves = {n: x.clone().requires_grad_() for n, x in inputs.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = as_tuple(OPS[op].call(leaves, graph, graph.edge_index, backend=backend))
    generator = torch.Generator().manual_seed(7)
    cotangents = [torch.randint(-4, 5, y.shape, generator=generator).to(y.dtype) for y in outputs]
    grads = torch.autograd.grad(outputs, list(leaves.values()), cotangents)
    assert all(torch.equal(y, expected[f"output {i}"]) for i, y in enumerate(outputs))
    for name, found in zip(leaves, grads, strict=True):
        assert torch.equal(found, expected[f"gradient of {name}"]), name


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("op", ["attention_bias", "aggregate", "sddmm", "spmm", "softmax"])
def test_backward_inside_autocast_changes_nothing_either(op: str, backend: str) -> None:
    graph = GRAPHS["bipartite_unsorted"]
    inputs = OPS[op].inputs(graph, torch.float32)
    expected = run(OPS[op], inputs, graph, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(OPS[op], inputs, graph, backend=backend)
    assert all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_autocast_takes_half_inputs_of_a_linear_layer(backend: str) -> None:
    graph = GRAPHS["self_loops"]
    x = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(3 * HEADS * CHANNELS, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q, k, v = linear(x, weight).view(4, 3, HEADS, CHANNELS).unbind(1)
        out = edge_attention(q, k, v, graph.edge_index, backend=backend)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(weight.grad).all()
    assert weight.grad.abs().max() > 0


# D4: rows without a finite score #####################################################################################


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("op", ["attention_bias", "attention_all", "aggregate_all", "softmax"])
def test_masked_rows_are_empty_and_their_gradients_exactly_zero(op: str, backend: str, dtype: torch.dtype) -> None:
    target = torch.tensor([3, 0, 2, 1, 3, 0, 1, 2, 1, 4, 0])
    graph = Graph(torch.stack([torch.arange(11) % 7, target]), 6, 7)
    inputs = OPS[op].inputs(graph, dtype)
    name = "bias" if "bias" in inputs else "scores"
    inputs[name][target == 0] = -torch.inf  # fully
    inputs[name][3] = -torch.inf  # row 1 partly
    inputs[name][target == 2, 0] = -torch.inf  # fully, in one head only
    masked = torch.isinf(inputs[name])

    found = run(OPS[op], inputs, graph, backend=backend)
    for n, x in found.items():
        assert torch.isfinite(x).all(), n
    weights = found["output 0"] if op == "softmax" else found["output 1"]
    assert (weights[masked] == 0).all()
    assert (weights[~masked] > 0).all()
    assert (found[f"gradient of {name}"][masked] == 0).all()
    if op != "softmax":
        assert (found["output 0"][0] == 0).all()
        assert (found["output 0"][2, 0] == 0).all()
    if "q" in inputs:
        assert (found["gradient of q"][0] == 0).all()
        assert (found["gradient of q"][2, 0] == 0).all()
    if backend != "reference":
        assert_backend_agrees(op, inputs, graph, backend)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_single_masked_edge(backend: str) -> None:
    scores = torch.full((1, 1), -torch.inf, requires_grad=True)
    weights = edge_softmax(scores, torch.zeros(2, 1, dtype=torch.long), num_rows=1, backend=backend)
    weights.sum().backward()
    assert weights.item() == 0
    assert scores.grad.item() == 0


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_isolated_rows_are_zero(backend: str) -> None:
    graph = GRAPHS["isolated_rows"]
    isolated = torch.bincount(graph.edge_index[1], minlength=graph.num_rows) == 0
    assert isolated.any()
    for name in ("attention_all", "aggregate_all", "spmm"):
        found = run(OPS[name], OPS[name].inputs(graph), graph, backend=backend)
        assert (found["output 0"][isolated] == 0).all()
        assert (found["output 0"][~isolated] != 0).all()
        if name == "attention_all":
            assert (found["gradient of q"][isolated] == 0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_a_bad_score_spoils_its_own_row_and_head_only(backend: str, value: float) -> None:
    graph = GRAPHS["duplicates"]
    inputs = OPS["aggregate_all"].inputs(graph)
    clean, clean_weights = OPS["aggregate_all"].call(inputs, graph, graph.edge_index, backend=backend)
    inputs["scores"][4, 1] = value
    out, weights = OPS["aggregate_all"].call(inputs, graph, graph.edge_index, backend=backend)
    row = graph.edge_index[1, 4]
    spoiled_rows = torch.zeros(graph.num_rows, HEADS, dtype=torch.bool)
    spoiled_rows[row, 1] = True
    spoiled_edges = spoiled_rows[graph.edge_index[1]]
    assert torch.equal(torch.isnan(weights), spoiled_edges)
    assert torch.equal(torch.isnan(out).all(-1), spoiled_rows)
    assert torch.equal(torch.isnan(out).any(-1), spoiled_rows)
    assert torch.equal(weights[~spoiled_edges], clean_weights[~spoiled_edges])
    assert torch.equal(out[~spoiled_rows], clean[~spoiled_rows])


# The reference against independent mathematics #######################################################################


def dense_attention(scores: Tensor, values: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
    """Softmax over a dense matrix of logits [H, N, M], where parallel edges are one entry: their log-sum-exp."""
    logits = torch.full((scores.size(1), graph.num_rows, graph.num_cols), -torch.inf, dtype=scores.dtype)
    for edge, (j, i) in enumerate(graph.edge_index.t().tolist()):
        logits[:, i, j] = torch.logaddexp(logits[:, i, j], scores[edge])
    entries = torch.softmax(logits, dim=-1).nan_to_num(0.0)  # rows without edges
    weights = torch.empty_like(scores)
    for edge, (j, i) in enumerate(graph.edge_index.t().tolist()):
        weights[edge] = entries[:, i, j] * (scores[edge] - logits[:, i, j]).exp()
    return torch.einsum("hnm,mhc->nhc", entries, values), weights


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_reference_is_dense_masked_attention(graph: Graph) -> None:
    if graph.num_cols == 0:
        pytest.skip("a dense matrix without columns has no softmax")
    x = OPS["attention_bias"].inputs(graph)
    dots = torch.einsum("nhc,mhc->nmh", x["q"], x["k"])
    source, target = graph.edge_index.long()
    scores = dots[target, source] * CHANNELS**-0.5 + x["bias"]
    expected_out, expected_weights = dense_attention(scores, x["v"], graph)
    check = partial(assert_within_budget, longest_row=graph.longest)

    out, weights = edge_attention(**x, edge_index=graph.edge_index, return_weights=True, backend="reference")
    check(out, expected_out, expected_out)
    check(weights, expected_weights, expected_weights)
    out, weights = edge_aggregate(
        scores, x["v"], graph.edge_index, num_rows=graph.num_rows, return_weights=True, backend="reference"
    )
    check(out, expected_out, expected_out)
    check(weights, expected_weights, expected_weights)
    check(
        edge_softmax(scores, graph.edge_index, num_rows=graph.num_rows, backend="reference"),
        expected_weights,
        expected_weights,
    )
    check(sddmm(x["q"], x["k"], graph.edge_index, backend="reference"), dots[target, source], dots[target, source])
    dense = torch.zeros(HEADS, graph.num_rows, graph.num_cols, dtype=torch.float64)
    for edge, (j, i) in enumerate(graph.edge_index.t().tolist()):
        dense[:, i, j] += x["bias"][edge]
    hop = torch.einsum("hnm,mhc->nhc", dense, x["v"])
    check(spmm(x["bias"], x["v"], graph.edge_index, num_rows=graph.num_rows, backend="reference"), hop, hop)


@pytest.mark.parametrize("edge_values", [True, False])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_edge_features_are_added_to_keys_and_values(backend: str, edge_values: bool) -> None:
    """With one source per edge, edge features can be folded into the keys and values by hand."""
    num_edges, num_rows = 9, 4
    graph = Graph(torch.stack([torch.arange(num_edges), torch.randint(num_rows, (num_edges,))]), num_rows, num_edges)
    x = OPS["attention_all"].inputs(graph)
    projected = torch.stack([x["edge_attr"] @ w.t() for w in x["edge_proj"]], dim=1)
    folded = {"q": x["q"], "k": x["k"] + projected, "v": x["v"] + projected * edge_values, "bias": x["bias"]}
    expected = edge_attention(**folded, edge_index=graph.edge_index, return_weights=True, backend="reference")
    options: dict[str, Any] = {"edge_values": edge_values, "return_weights": True, "backend": backend}
    found = edge_attention(**x, edge_index=graph.edge_index, **options)
    for a, b in zip(found, expected, strict=True):
        assert_within_budget(a, b, b, longest_row=graph.longest)


def _sdpa(x: dict[str, Tensor], num_rows: int, num_cols: int, **options: Any) -> dict[str, Tensor]:
    leaves = {n: t.detach().requires_grad_() for n, t in x.items()}
    mask = leaves["bias"].view(num_rows, num_cols, HEADS).permute(2, 0, 1) if "bias" in leaves else None
    q, k, v = (leaves[n].transpose(0, 1) for n in ("q", "k", "v"))
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, **options).transpose(0, 1)
    grads = torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out).tril())
    return {"output 0": out.detach()} | {f"gradient of {n}": g for n, g in zip(leaves, grads, strict=True)}


def _edge(x: dict[str, Tensor], edge_index: Tensor, **options: Any) -> dict[str, Tensor]:
    leaves = {n: t.detach().requires_grad_() for n, t in x.items()}
    out = edge_attention(**leaves, edge_index=edge_index, **options)
    grads = torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out).tril())
    return {"output 0": out.detach()} | {f"gradient of {n}": g for n, g in zip(leaves, grads, strict=True)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [None, 0.25])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_complete_graph_is_torch_attention_with_an_additive_mask(
    backend: str, scale: float | None, dtype: torch.dtype
) -> None:
    num_rows, num_cols = 6, 9
    graph = Graph(complete_edges(num_rows, num_cols), num_rows, num_cols)
    x = OPS["attention_bias"].inputs(graph, dtype)
    found = _edge(x, graph.edge_index, scale=scale, backend=backend)
    same_dtype = _sdpa(x, num_rows, num_cols, scale=scale)
    truth = _sdpa(doubled(x), num_rows, num_cols, scale=scale)
    assert_runs_agree(found, same_dtype, truth, graph.longest)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_causal_attention_is_the_edge_list_of_earlier_nodes(backend: str) -> None:
    n = 8
    source, target = complete_edges(n, n)
    edge_index = torch.stack([source, target])[:, source <= target]
    graph = Graph(edge_index, n, n)
    x = OPS["attention"].inputs(graph)
    truth = _sdpa(x, n, n, is_causal=True)
    assert_runs_agree(_edge(x, edge_index, backend=backend), truth, truth, graph.longest)


# D3: hubs in half precision ##########################################################################################


def _rounded(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """The best that a result in this dtype can be: the truth, rounded once."""
    return truth.to(dtype)


def _hub(num_edges: int) -> Tensor:
    return torch.stack([torch.arange(num_edges), torch.zeros(num_edges, dtype=torch.long)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_hub_of_70000_equal_logits(backend: str, dtype: torch.dtype) -> None:
    n = 70_000
    weights = edge_softmax(torch.ones(n, 1, dtype=dtype), _hub(n), num_rows=1, backend=backend)
    truth = torch.full((n, 1), 1 / n, dtype=torch.float64)
    assert_within_budget(weights, _rounded(truth, dtype), truth)
    if dtype == torch.float32:  # rounded half weights of a hub cannot sum to 1 even when each is perfect
        total = weights.double().sum().float()
        assert_within_budget(total, torch.ones_like(total), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_attention_into_a_hub_of_100000_neighbours(backend: str, dtype: torch.dtype) -> None:
    n, channels = 100_000, 4
    x = {
        "q": torch.randn(1, 1, channels).to(dtype),
        "k": torch.randn(n, 1, channels).to(dtype),
        "v": (1 + torch.randn(n, 1, channels)).to(dtype),
    }

    def oracle(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(k[:, 0] @ q[0, 0] * channels**-0.5, dim=0)
        return (weights @ v[:, 0]).view(1, 1, channels)

    leaves, exact = ({n: t.to(d).requires_grad_() for n, t in x.items()} for d in (dtype, torch.float64))
    out, truth = edge_attention(**leaves, edge_index=_hub(n), backend=backend), oracle(**exact)
    cotangent = torch.tensor([1.0, -2.0, 3.0, 1.0]).view(1, 1, channels)
    grads = torch.autograd.grad(out, list(leaves.values()), cotangent.to(dtype))
    true_grads = torch.autograd.grad(truth, list(exact.values()), cotangent.double())
    assert_within_budget(out.detach(), _rounded(truth.detach(), dtype), truth.detach(), name="output")
    for name, found, true in zip(x, grads, true_grads, strict=True):
        assert_within_budget(found, _rounded(true, dtype), true, name=f"gradient of {name}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_edge_scores_add_up_over_a_hub_in_half_precision(dtype: torch.dtype) -> None:
    """70,000 equal terms: a running sum in half precision stops growing at 2,048 (fp16) or 256 (bf16)."""
    n = 70_000
    q = torch.full((1, 1, 2), 0.5, dtype=dtype, requires_grad=True)
    k, layout = torch.ones(n, 1, 2, dtype=dtype), Layout(_hub(n), 1, n)
    weight = torch.ones(2, dtype=dtype, requires_grad=True)
    cotangent = torch.full((n, 1), 2.0**-7, dtype=dtype)
    scores = edge_scores(lambda q, k, e: ((q + k) * weight).sum(-1), q, k, None, layout, (weight,))
    grad_q, grad_weight = torch.autograd.grad(scores, (q, weight), cotangent)
    true_q = torch.full((1, 1, 2), n * 2.0**-7, dtype=torch.float64)
    true_weight = torch.full((2,), 1.5 * n * 2.0**-7, dtype=torch.float64)
    assert_within_budget(grad_q, _rounded(true_q, dtype), true_q, name="gradient of q")
    assert_within_budget(grad_weight, _rounded(true_weight, dtype), true_weight, name="gradient of weight")


@pytest.mark.parametrize("scores_scale", [1.0, 100.0, 10_000.0])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_rows_sum_to_one_and_empty_rows_to_zero(backend: str, scores_scale: float) -> None:
    for graph in GRAPHS.values():
        scores = scores_scale * torch.randn(graph.num_edges, HEADS)
        weights = edge_softmax(scores, graph.edge_index, num_rows=graph.num_rows, backend=backend)
        target = graph.edge_index[1].long()
        zero = torch.zeros(graph.num_rows, HEADS, dtype=torch.float64)
        rows = [torch.softmax(scores[target == i], dim=0) for i in range(graph.num_rows)]
        plain = torch.stack([r.double().sum(0) for r in rows]) if rows else zero
        truth = (torch.bincount(target, minlength=graph.num_rows) > 0).double().unsqueeze(1).expand_as(zero)
        assert (weights >= 0).all()
        assert_within_budget(zero.index_add(0, target, weights.double()).float(), plain.float(), truth)


# Symmetries ##########################################################################################################


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("op", OPS)
def test_edges_may_come_in_any_order(op: str, backend: str) -> None:
    graph = GRAPHS["duplicates"]
    per_edge = ("bias", "scores", "weights", "edge_attr")
    inputs = OPS[op].inputs(graph, torch.float32)
    order = torch.randperm(graph.num_edges)
    moved = {n: x[order] if n in per_edge else x for n, x in inputs.items()}
    shuffled = Graph(graph.edge_index[:, order], graph.num_rows, graph.num_cols)

    def edge_values_of(x: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
        sized = {n for n, t in x.items() if t.size(0) == graph.num_edges}
        return {n: t[order] if n in sized else t for n, t in x.items()}

    # Random cotangents would be misaligned with moved edges; ones weighted by the node are not.
    def outputs_and_grads(inputs: dict[str, Tensor], graph: Graph, backend: str) -> dict[str, Tensor]:
        leaves = {n: x.detach().requires_grad_() for n, x in inputs.items()}
        outputs = as_tuple(OPS[op].call(leaves, graph, graph.edge_index, backend=backend))
        source, target = graph.edge_index
        by_edge, by_node = (source + 2 * target) % 5 - 2, torch.arange(graph.num_rows) % 5 - 2
        cotangents = [
            (by_edge if y.size(0) == graph.num_edges else by_node).view(-1, *[1] * (y.dim() - 1)).expand_as(y).to(y)
            for y in outputs
        ]
        grads = torch.autograd.grad(outputs, list(leaves.values()), cotangents)
        named = {f"output {i}": y.detach() for i, y in enumerate(outputs)}
        return named | {f"gradient of {n}": g for n, g in zip(leaves, grads, strict=True)}

    assert graph.num_edges not in (graph.num_rows, graph.num_cols, HEADS, CHANNELS, EDGE_CHANNELS)
    found = outputs_and_grads(moved, shuffled, backend)
    reference = edge_values_of(outputs_and_grads(inputs, graph, "reference"), order)
    truth = edge_values_of(outputs_and_grads(doubled(inputs), graph, "reference"), order)
    assert_runs_agree(found, reference, truth, graph.longest)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_relabelling_nodes_relabels_the_output(backend: str) -> None:
    """A 3-cycle is not its own inverse, so applying it the wrong way round is seen."""
    graph = GRAPHS["self_loops"]
    new_name = torch.tensor([1, 2, 0, 3])
    x = OPS["attention_all"].inputs(graph)
    moved = dict(x)
    for n in ("q", "k", "v"):
        moved[n] = torch.empty_like(x[n]).index_copy_(0, new_name, x[n])
    out, weights = edge_attention(**x, edge_index=graph.edge_index, return_weights=True, backend="reference")
    moved_out, moved_weights = edge_attention(
        **moved, edge_index=new_name[graph.edge_index], return_weights=True, backend=backend
    )
    assert_within_budget(moved_out[new_name], out, out, longest_row=graph.longest)
    assert_within_budget(moved_weights, weights, weights, longest_row=graph.longest)
    with pytest.raises(AssertionError):
        assert_within_budget(moved_out[new_name.argsort()], out, out, longest_row=graph.longest)


@pytest.mark.parametrize("sizes", [(1, 2), (2, 5), (5, 2)])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_batched_equals_looped(backend: str, sizes: tuple[int, ...]) -> None:
    """Complete graphs of unequal sizes around one without edges."""
    nodes = [sizes[0], 3, sizes[1]]
    edges = [complete_edges(sizes[0], sizes[0]), torch.empty(2, 0, dtype=torch.long), complete_edges(*[sizes[1]] * 2)]
    starts = [0, nodes[0], nodes[0] + 3]
    batch = Graph(torch.cat([e + s for e, s in zip(edges, starts, strict=True)], dim=1), sum(nodes), sum(nodes))
    x = OPS["attention_all"].inputs(batch, torch.float32)
    found = edge_attention(**x, edge_index=batch.edge_index, return_weights=True, backend=backend)

    def looped(x: dict[str, Tensor]) -> list[Tensor]:
        parts, first = [], 0
        for n, s, e in zip(nodes, starts, edges, strict=True):
            mine = {m: t[s : s + n] for m, t in x.items() if m in ("q", "k", "v")}
            mine |= {m: x[m][first : first + e.size(1)] for m in ("bias", "edge_attr")} | {"edge_proj": x["edge_proj"]}
            parts.append(edge_attention(**mine, edge_index=e, return_weights=True, backend="reference"))
            first += e.size(1)
        return [torch.cat(p) for p in zip(*parts, strict=True)]

    for result, same_dtype, truth in zip(found, looped(x), looped(doubled(x)), strict=True):
        assert_within_budget(result, same_dtype, truth)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("name", ["self_loops", "duplicates", "int32", "isolated_rows"])
def test_returned_weights_rebuild_the_output(name: str, backend: str) -> None:
    """Loops stand first, in the middle and last in ``self_loops``, the last one twice."""
    graph = GRAPHS[name]
    x = OPS["attention_bias"].inputs(graph)
    out, weights = edge_attention(**x, edge_index=graph.edge_index, return_weights=True, backend=backend)
    source, target = graph.edge_index.long()
    rebuilt = torch.zeros_like(out).index_add(0, target, weights.unsqueeze(-1) * x["v"][source])
    assert_within_budget(out, rebuilt, rebuilt, longest_row=graph.longest)


# Dropout #############################################################################################################


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", ["attention", "attention_all", "aggregate_all"])
def test_dropout_draws_the_same_mask_for_every_backend(op: str, backend: str) -> None:
    graph = GRAPHS["duplicates"]
    inputs = OPS[op].inputs(graph, torch.float32)

    def dropped(inputs: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
        torch.manual_seed(5)
        return run(OPS[op], inputs, graph, backend=backend, dropout=0.4)

    found, reference, truth = (
        dropped(inputs, backend),
        dropped(inputs, "reference"),
        dropped(doubled(inputs), "reference"),
    )
    assert_runs_agree(found, reference, truth, graph.longest)
    assert not torch.equal(found["output 0"], run(OPS[op], inputs, graph, backend=backend)["output 0"])


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("op", ["attention_all", "aggregate_all"])
def test_dropout_of_zero_is_none_and_of_one_is_all(op: str, backend: str) -> None:
    graph = GRAPHS["duplicates"]
    inputs = OPS[op].inputs(graph)
    plain = run(OPS[op], inputs, graph, backend=backend)
    state = torch.random.get_rng_state()
    zero = run(OPS[op], inputs, graph, backend=backend, dropout=0.0)
    assert torch.equal(torch.random.get_rng_state(), state), "no random number is drawn without dropout"
    assert all(torch.equal(zero[n], plain[n]) for n in plain)
    out, weights = OPS[op].call(inputs, graph, graph.edge_index, backend=backend, dropout=1.0)
    assert (out == 0).all()
    assert torch.equal(weights, plain["output 1"]), "returned weights are those before dropout"
    leaves = {n: x.clone().requires_grad_() for n, x in inputs.items()}
    out, _ = OPS[op].call(leaves, graph, graph.edge_index, backend=backend, dropout=1.0)
    assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), list(leaves.values())))


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_dropout_keeps_the_expectation_and_returns_weights_before_it(backend: str) -> None:
    num_rows, degree, p = 2000, 50, 0.3
    target = torch.arange(num_rows).repeat_interleave(degree)
    edges = torch.stack([torch.randint(num_rows, target.shape), target])
    scores, v = torch.zeros(target.numel(), 2), torch.ones(num_rows, 2, 1)
    out, weights = edge_aggregate(scores, v, edges, dropout=p, return_weights=True, backend=backend)
    assert torch.equal(weights, edge_softmax(scores, edges, num_rows=num_rows, backend=backend))
    # A mean of independent Bernoulli draws, each kept value divided by 1 - p: five standard deviations.
    deviation = math.sqrt(p / (1 - p) / (degree * num_rows * 2))
    assert abs(out.double().mean().item() - 1) < 5 * deviation
    assert out.unique().numel() > 10


# Derivatives #########################################################################################################

_SMALL = Graph(torch.tensor([[2, 0, 1, 2, 4, 2], [1, 0, 1, 1, 2, 1]]), 4, 5)  # duplicates, a loop, an isolated row


def _differentiable(op: str, backend: str, strided: bool = False) -> tuple[Any, list[Tensor]]:
    inputs = OPS[op].inputs(_SMALL)
    tensors = [(x.mT.contiguous().mT if strided else x).requires_grad_() for x in inputs.values()]
    call = OPS[op].call

    def function(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        return call(dict(zip(inputs, tensors, strict=True)), _SMALL, _SMALL.edge_index, backend=backend)

    return function, tensors


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("backend", ["reference", "csr", pytest.param("scatter", marks=needs_scatter)])
@pytest.mark.parametrize("op", OPS)
def test_gradcheck(op: str, backend: str, strided: bool) -> None:
    function, tensors = _differentiable(op, backend, strided)
    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("backend", ["reference", pytest.param("scatter", marks=needs_scatter)])
@pytest.mark.parametrize("op", OPS)
def test_gradgradcheck(op: str, backend: str) -> None:
    function, tensors = _differentiable(op, backend)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("op", OPS)
def test_csr_refuses_to_differentiate_twice(op: str) -> None:
    function, tensors = _differentiable(op, "csr")
    outputs = as_tuple(function(*tensors))
    grads = torch.autograd.grad(sum(y.square().sum() for y in outputs), tensors, create_graph=True)
    with pytest.raises(RuntimeError, match=r"backend 'csr' has no double backward; pass backend='reference'"):
        torch.autograd.grad(sum(g.square().sum() for g in grads), tensors)


def test_edge_scores_refuses_to_differentiate_twice() -> None:
    q, k = torch.randn(4, HEADS, 2, requires_grad=True), torch.randn(5, HEADS, 2, requires_grad=True)
    scores = edge_scores(lambda q, k, e: (q * k).sum(-1), q, k, None, Layout(_SMALL.edge_index, 4, 5))
    grads = torch.autograd.grad(scores.square().sum(), (q, k), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        sum(g.square().sum() for g in grads).backward()


# Kernel corners ######################################################################################################


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("num_rows", "num_cols"), [(1, 2), (2, 3), (20, 30)])
def test_parallel_edges_may_outnumber_the_entries_of_the_matrix(op: str, num_rows: int, num_cols: int) -> None:
    """``sampled_addmm`` writes past its buffers there: wrong numbers at 2 x 3, a crash of the process at 20 x 30."""
    num_edges = 4 * num_rows * num_cols + 1
    ends = [torch.randint(n, (num_edges,)) for n in (num_cols, num_rows)]
    graph = Graph(torch.stack(ends), num_rows, num_cols)
    assert_backend_agrees(op, OPS[op].inputs(graph), graph, "csr")


@pytest.mark.parametrize("op", OPS)
def test_csr_agrees_on_a_torch_without_mkl(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphattn.ops.kernels._HAS_MKL", False)
    for name in ("duplicates", "self_loops", "isolated_rows", "int32", "hub", "no_edges"):
        assert_backend_agrees(op, OPS[op].inputs(GRAPHS[name], torch.float32), GRAPHS[name], "csr")


# Bits and bytes ######################################################################################################


@pytest.mark.parametrize("backend", ["reference", "csr"])
@pytest.mark.parametrize("op", PUBLIC)
def test_same_bits_twice(op: str, backend: str) -> None:
    graph = Graph(torch.stack([torch.randint(400, (20_000,)), torch.randint(300, (20_000,))]), 300, 400)
    inputs = OPS[op].inputs(graph, torch.float32)
    first, second = (run(OPS[op], inputs, graph, backend=backend) for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("op", PUBLIC)
def test_inputs_are_not_edited(op: str) -> None:
    graph = GRAPHS["duplicates"]
    for backend in ("reference", "csr"):
        inputs = OPS[op].inputs(graph)
        before = {n: x.clone() for n, x in inputs.items()}
        edges = graph.edge_index.clone()
        run(OPS[op], inputs, graph, backend=backend)
        assert torch.equal(graph.edge_index, edges)
        assert all(torch.equal(inputs[n], before[n]) for n in inputs)


def _largest_saved(function: Any) -> int:
    """Number of elements of the largest storage that autograd keeps for the backward (views count their base)."""
    sizes = [0]

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.untyped_storage().nbytes() // x.element_size())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        function()
    return max(sizes)


def _big_enough(num_edges: int = 3000) -> tuple[Graph, int]:
    graph = Graph(torch.stack([torch.randint(30, (num_edges,)), torch.randint(20, (num_edges,))]), 20, 30)
    limit = num_edges * HEADS * CHANNELS
    assert max(30 * HEADS * CHANNELS, num_edges * HEADS, num_edges * EDGE_CHANNELS, 2 * num_edges) < limit
    return graph, limit


@pytest.mark.parametrize("backend", ["csr", "auto"])
@pytest.mark.parametrize("op", OPS)
def test_nothing_of_edges_times_channels_is_kept(op: str, backend: str) -> None:
    graph, limit = _big_enough()
    inputs = {n: x.requires_grad_() for n, x in OPS[op].inputs(graph).items()}
    options = {"dropout": 0.3} if "att" in op or "agg" in op else {}
    largest = _largest_saved(lambda: OPS[op].call(inputs, graph, graph.edge_index, backend=backend, **options))
    assert 0 < largest < limit


def test_the_memory_probe_sees_what_the_reference_keeps() -> None:
    graph, limit = _big_enough()
    inputs = {n: x.requires_grad_() for n, x in OPS["attention"].inputs(graph).items()}
    kept = _largest_saved(lambda: OPS["attention"].call(inputs, graph, graph.edge_index, backend="reference"))
    assert kept >= limit


# Scores in blocks ####################################################################################################


def _gatv2(weight: Tensor, proj: Tensor) -> Any:
    def function(q: Tensor, k: Tensor, e: Tensor | None) -> Tensor:
        hidden = q + k if e is None else q + k + (e @ proj).unsqueeze(1)
        return (torch.tanh(hidden) * weight).sum(-1)

    return function


def _scores_run(x: dict[str, Tensor], graph: Graph, blocks: bool) -> dict[str, Tensor]:
    leaves = {n: t.detach().requires_grad_() for n, t in x.items()}
    function = _gatv2(leaves["weight"], leaves["proj"])
    edge_attr = leaves.get("edge_attr")
    if blocks:
        layout = Layout(graph.edge_index, graph.num_rows, graph.num_cols)
        parameters = (leaves["weight"], leaves["proj"])
        scores = edge_scores(function, leaves["q"], leaves["k"], edge_attr, layout, parameters)
    else:
        source, target = graph.edge_index.long()
        scores = function(leaves["q"][target], leaves["k"][source], edge_attr)
    cotangent = torch.randint(-4, 5, scores.shape, generator=torch.Generator().manual_seed(7)).to(scores.dtype)
    grads = torch.autograd.grad(scores, list(leaves.values()), cotangent, allow_unused=True)
    found = {n: torch.zeros_like(x[n]) if g is None else g for n, g in zip(leaves, grads, strict=True)}
    return {"scores": scores.detach()} | {f"gradient of {n}": g for n, g in found.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("edges_per_block", [4, 10_000])
@pytest.mark.parametrize("with_edge_attr", [False, True])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_edge_scores_in_blocks_agree_with_all_at_once(
    graph: Graph, with_edge_attr: bool, edges_per_block: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    block_bytes = edges_per_block * HEADS * CHANNELS * torch.finfo(dtype).bits // 8
    monkeypatch.setattr("graphattn.ops.blocks._BLOCK_BYTES", block_bytes)
    shapes = {
        "q": (graph.num_rows, HEADS, CHANNELS),
        "k": (graph.num_cols, HEADS, CHANNELS),
        "edge_attr": (graph.num_edges, EDGE_CHANNELS),
        "weight": (HEADS, CHANNELS),
        "proj": (EDGE_CHANNELS, CHANNELS),
    }
    x = {n: torch.randn(s).to(dtype) for n, s in shapes.items() if with_edge_attr or n != "edge_attr"}
    found, plain = _scores_run(x, graph, blocks=True), _scores_run(x, graph, blocks=False)
    assert_runs_agree(found, plain, _scores_run(doubled(x), graph, blocks=False), graph.longest)


def test_edge_scores_keep_no_intermediate() -> None:
    graph, limit = _big_enough()
    q, k = (torch.randn(n, HEADS, CHANNELS, requires_grad=True) for n in (20, 30))
    weight, proj = torch.randn(HEADS, CHANNELS, requires_grad=True), torch.randn(EDGE_CHANNELS, CHANNELS)
    layout, function = Layout(graph.edge_index, 20, 30), _gatv2(weight, proj)
    assert 0 < _largest_saved(lambda: edge_scores(function, q, k, None, layout, (weight,))) < limit
    source, target = graph.edge_index
    assert _largest_saved(lambda: function(q[target], k[source], None)) >= limit


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_random_simple_graphs_agree(backend: str) -> None:
    """A few more sizes, each a different mix of degrees."""
    if backend == "reference":
        pytest.skip("this compares with the reference")
    for i, (n, m, e) in enumerate([(2, 3, 4), (5, 2, 9), (23, 19, 101), (3, 50, 77)]):
        graph = random_graph(n, m, e, seed=i)
        for op in PUBLIC:
            assert_backend_agrees(op, OPS[op].inputs(graph, torch.float32, seed=i), graph, backend)


@pytest.mark.small_graphs
@pytest.mark.parametrize("op", OPS)
def test_auto_gathers_a_small_graph_that_is_used_once(op: str) -> None:
    graph = GRAPHS["bipartite_unsorted"]
    inputs = OPS[op].inputs(graph)
    layout = Layout(graph.edge_index, graph.num_rows, graph.num_cols)
    once, gathered = run(OPS[op], inputs, graph), run(OPS[op], inputs, graph, backend="reference")
    reused, sparse = run(OPS[op], inputs, graph, layout), run(OPS[op], inputs, graph, layout, backend="csr")
    assert all(torch.equal(once[n], gathered[n]) and torch.equal(reused[n], sparse[n]) for n in once)


@pytest.mark.small_graphs
def test_scores_of_a_small_graph_equal_those_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GRAPHS["bipartite_unsorted"]
    q, k = (torch.randn(n, 3, 5, dtype=torch.float64, requires_grad=True) for n in (graph.num_rows, graph.num_cols))
    layout = Layout(graph.edge_index, graph.num_rows, graph.num_cols)

    def evaluate() -> tuple[Tensor, ...]:
        scores = edge_scores(lambda q, k, e: (q * k).tanh().sum(dim=-1), q, k, None, layout)
        return scores, *torch.autograd.grad(scores.sin().sum(), (q, k))

    at_once = evaluate()
    monkeypatch.setattr("graphattn.ops.blocks._KEPT_BYTES", -1)
    torch.testing.assert_close(at_once, evaluate())
