"""Known-wrong variants of the reference must fail the comparison that the suite relies on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.ops import Layout, reference
from tests.ops.cases import GRAPHS, OPS, Graph
from tests.ops.test_attention import assert_runs_agree, doubled, run

_attention, _edge_softmax = reference.attention, reference.edge_softmax


def mask_dropped(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, bias: Any, *rest: Any) -> Any:
    return _attention(q, k, v, layout, scale, bias.masked_fill(bias == -torch.inf, 0.0), *rest)


def bias_clipped(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, bias: Any, *rest: Any) -> Any:
    return _attention(q, k, v, layout, scale, bias.clamp(max=0.0), *rest)


def transposed(q: Tensor, k: Tensor, v: Tensor, layout: Layout, *rest: Any) -> Any:
    return _attention(q, k, v, Layout(layout.edge_index.flip(0), layout.num_rows, layout.num_cols), *rest)


def scale_missing(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, *rest: Any) -> Any:
    return _attention(q, k, v, layout, 1.0, *rest)


def one_edge_lost(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, bias: Any, *rest: Any) -> Any:
    lost = bias.index_fill(0, torch.tensor([3]), -torch.inf)
    return _attention(q, k, v, layout, scale, lost, *rest)


def weights_shuffled(*args: Any) -> Any:
    out, weights = _attention(*args)
    return out, weights.roll(1, 0)


def value_gradient_lost(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Any:
    return _attention(q, k, v.detach() + 0 * v, *rest)


def max_missing(scores: Tensor, layout: Layout) -> Tensor:
    target = layout.edge_index[1].long()
    exp = scores.exp()
    total = scores.new_zeros(layout.num_rows, scores.size(1)).index_add(0, target, exp)
    return exp / total.index_select(0, target)


def normalised_over_sources(scores: Tensor, layout: Layout) -> Tensor:
    return _edge_softmax(scores, Layout(layout.edge_index.flip(0), layout.num_cols, layout.num_rows))


def half_sums(scores: Tensor, layout: Layout) -> Tensor:
    """D3: the exponentials are added up in the dtype of the input."""
    target = layout.edge_index[1].long()
    exp = (scores - scores.max()).exp().half()
    total = torch.zeros(layout.num_rows, scores.size(1), dtype=torch.half).index_add(0, target, exp)
    return (exp / total.index_select(0, target)).to(scores.dtype)


def compare(op: str, inputs: dict[str, Tensor], graph: Graph, spoil: Callable[[], None]) -> None:
    truth = run(OPS[op], doubled(inputs), graph, backend="reference")
    same_dtype = run(OPS[op], inputs, graph, backend="reference")
    spoil()
    assert_runs_agree(run(OPS[op], inputs, graph, backend="reference"), same_dtype, truth, graph.longest)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "wrong",
    [mask_dropped, bias_clipped, transposed, scale_missing, one_edge_lost, weights_shuffled, value_gradient_lost],
)
def test_a_wrong_attention_is_seen(
    wrong: Callable[..., Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = GRAPHS["self_loops"]
    inputs = OPS["attention_bias"].inputs(graph, dtype)
    inputs["bias"][1] = -torch.inf
    compare("attention_bias", inputs, graph, lambda: None)
    with pytest.raises(AssertionError, match="is off by"):
        compare("attention_bias", inputs, graph, lambda: monkeypatch.setattr(reference, "attention", wrong))


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 200.0), (torch.float32, 200.0), (torch.float64, 2000.0)])
def test_a_missing_maximum_is_seen_at_large_scores(
    dtype: torch.dtype, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = GRAPHS["self_loops"]
    inputs = {"scores": size * OPS["softmax"].inputs(graph)["scores"].to(dtype)}
    compare("softmax", inputs, graph, lambda: None)
    with pytest.raises(AssertionError, match="is not finite"):
        compare("softmax", inputs, graph, lambda: monkeypatch.setattr(reference, "edge_softmax", max_missing))


def test_a_softmax_over_sources_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GRAPHS["bipartite_unsorted"]
    inputs = OPS["softmax"].inputs(graph)
    with pytest.raises(AssertionError, match="is off by"):
        compare(
            "softmax", inputs, graph, lambda: monkeypatch.setattr(reference, "edge_softmax", normalised_over_sources)
        )


def test_sums_in_half_precision_are_seen_at_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 70_000
    graph = Graph(torch.stack([torch.arange(n), torch.zeros(n, dtype=torch.long)]), 1, n)
    inputs = {"scores": torch.ones(n, 1, dtype=torch.float16)}
    compare("softmax", inputs, graph, lambda: None)
    with pytest.raises(AssertionError, match=r"is off by|is not finite"):
        compare("softmax", inputs, graph, lambda: monkeypatch.setattr(reference, "edge_softmax", half_sums))


def test_the_budget_itself() -> None:
    from tests.budget import assert_within_budget

    truth = torch.tensor([1.0, 2.0], dtype=torch.float64)
    ok = truth.float()
    assert_within_budget(ok, ok, truth)
    assert_within_budget(ok * (1 + 1e-7), ok, truth)
    with pytest.raises(AssertionError, match="is off by"):
        assert_within_budget(ok * (1 + 1e-6), ok, truth)
    with pytest.raises(AssertionError, match="is not finite"):
        assert_within_budget(ok / 0, ok, truth)
    with pytest.raises(AssertionError, match="has shape"):
        assert_within_budget(ok[:1], ok, truth)
    with pytest.raises(AssertionError, match="must be float64"):
        assert_within_budget(ok, ok, ok)
    with pytest.raises(AssertionError, match="against"):
        assert_within_budget(ok.half(), ok, truth)
    zero = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(AssertionError, match="is off by"):
        assert_within_budget(ok * 1e-30, ok * 0, zero)
