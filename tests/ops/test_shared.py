"""Attention to shared features against its formula in float64, on every path, with the gradient of every input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphattn.ops import Layout
from graphattn.ops.kernels import Pattern, product
from graphattn.ops.shared import shared_attention

EPS = torch.finfo(torch.float64).eps
HEADS, C, D, SOURCES, ROWS = 3, 4, 2, 6, 5
EDGES = torch.tensor([[5, 0, 1, 1, 4, 0, 3, 5], [3, 0, 0, 0, 3, 1, 3, 4]])  # unsorted, one pair twice, row 2 empty


def inputs() -> dict[str, Tensor]:
    shapes = {"q": (ROWS, HEADS, C + D), "x": (SOURCES, C), "edge_attr": (EDGES.size(1), D), "bias": (8, HEADS)}
    return {name: torch.randn(shape).double().requires_grad_() for name, shape in shapes.items()}


def formula(q: Tensor | None, x: Tensor, edge_attr: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    source, target = EDGES
    z = torch.cat([x[source], edge_attr], dim=1)
    scores = torch.zeros(EDGES.size(1), HEADS).double() if bias is None else bias
    scores = scores if q is None else scores + torch.einsum("ehd,ed->eh", q[target], z)
    rows = [(target == i).nonzero().squeeze(1) for i in range(ROWS)]
    parts = [scores[own].softmax(0) for own in rows]
    weights = torch.zeros_like(scores).index_put((torch.cat(rows),), torch.cat(parts))
    return torch.stack([torch.einsum("eh,ed->hd", p, z[own]) for p, own in zip(parts, rows, strict=True)]), weights


@pytest.mark.parametrize("missing", ["q", "bias", None])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_is_its_formula(backend: str, missing: str | None) -> None:
    given = inputs()
    leaves = {name: value for name, value in given.items() if name != missing}
    call = {**given, missing: None} if missing else given
    layout = Layout(EDGES, ROWS, SOURCES)
    found = shared_attention(call["q"], call["x"], call["edge_attr"], layout, bias=call["bias"], backend=backend)
    expected = formula(**call)
    cotangents = [torch.randn_like(part) for part in expected]
    gradients = torch.autograd.grad(found, list(leaves.values()), cotangents)
    truths = torch.autograd.grad(expected, list(leaves.values()), cotangents)
    for value, truth in zip([*found, *gradients], [*expected, *truths], strict=True):
        torch.testing.assert_close(value, truth, rtol=0, atol=256 * EPS * max(1.0, truth.abs().max().item()))
    assert bool((found[0][2] == 0).all())


def test_dropout_is_the_same_on_both_paths() -> None:
    given, layout = inputs(), Layout(EDGES, ROWS, SOURCES)
    sums = []
    for backend in ("csr", "reference"):
        torch.manual_seed(1)
        sums.append(shared_attention(given["q"], given["x"], given["edge_attr"], layout, dropout=0.5, backend=backend))
    for fused, plain in zip(*sums, strict=True):
        torch.testing.assert_close(fused, plain, rtol=0, atol=256 * EPS * plain.abs().max().item())


def test_a_product_does_not_read_what_its_result_held() -> None:
    pattern = Pattern(torch.tensor([0, 2, 2, 3]), torch.tensor([0, 1, 1]), num_cols=2)
    values, x = torch.randn(3).double(), torch.randn(2, 4).double()
    truth = torch.stack([values[:2] @ x, torch.zeros(4).double(), values[2] * x[1]])
    for out in (torch.full((3, 4), math.nan).double(), torch.full((3, 8), math.inf).double()[:, 4:]):
        assert product(values, x, pattern, out) is out
        torch.testing.assert_close(out, truth, rtol=0, atol=8 * EPS * truth.abs().max().item())


def test_bad_inputs() -> None:
    given, layout = inputs(), Layout(EDGES, ROWS, SOURCES)
    q, x, edge_attr, _ = given.values()
    with pytest.raises(ValueError, match="q and bias are both None"):
        shared_attention(None, x, edge_attr, layout)
    with pytest.raises(ValueError, match="q has 5 channels; expected 6, those of x and of edge_attr"):
        shared_attention(q[..., 1:], x, edge_attr, layout)
    with pytest.raises(ValueError, match=r"edge_attr has shape \(7, 2\); expected 8 rows: edges"):
        shared_attention(q, x, edge_attr[1:], layout)
    with pytest.raises(ValueError, match=r"x has shape \(6, 4, 1\); expected \[rows, channels\]"):
        shared_attention(q, x.unsqueeze(2), edge_attr, layout)
