"""Every mistake a caller can make is named: the argument, what it was and what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from graphattn import Affinity
from graphattn.nn import AttentionConv, Score
from tests.nn.cases import CHANNELS, EDGE_DIM, HEADS, WIDTH, make

X = torch.randn(4, WIDTH).double()
EDGES = torch.tensor([[0, 1, 2], [1, 2, 3]])
ATTR = torch.randn(3, EDGE_DIM).double()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"score": "bilinear"}, "score is 'bilinear'; expected a Score module or one of 'dot', 'gat'"),
        ({"score": None}, "score is None; expected a Score module"),
        ({"normalize": "spectral"}, "normalize is 'spectral'; expected one of 'softmax'"),
        ({"backend": "cuda"}, "backend is 'cuda'; expected one of 'auto'"),
        ({"dropout": -0.1}, "dropout is -0.1; expected a probability in [0, 1]"),
        ({"dropout": 1.5}, "dropout is 1.5; expected a probability in [0, 1]"),
        ({"dropout": float("nan")}, "dropout is nan; expected a probability in [0, 1]"),
        ({"heads": 0}, "heads is 0; expected at least 1"),
        ({"out_channels": 0}, "out_channels is 0 and heads is 1"),
        ({"residual": True}, "residual and root_weight are both True"),
        ({"residual": True, "root_weight": True, "score": "gat"}, "residual and root_weight are both True"),
        ({"beta": True, "root_weight": False}, "beta is True but root_weight is False"),
        ({"beta": True, "score": "gatv2"}, "beta is True but root_weight is False"),
        ({"flow": "target_to_source"}, "flow is 'target_to_source'; pass edge_index.flip(0)"),
        ({"fill_value": "median"}, "fill_value is 'median'; expected"),
    ],
    ids=str,
)
def test_options(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        AttentionConv(WIDTH, **{"out_channels": CHANNELS} | options)


def _affinity(weight: torch.Tensor) -> Affinity:
    return Affinity.from_edge_index(EDGES, weight, num_nodes=4)


CALLS: dict[str, tuple[dict[str, Any], Callable[[AttentionConv], Any], type[Exception], str]] = {
    "x of one dimension": ({}, lambda c: c(X[0], EDGES), ValueError, "x[0] has shape (7,); expected"),
    "x of three dimensions": ({}, lambda c: c(X[None], EDGES), ValueError, "x[0] has shape (1, 4, 7); expected"),
    "x is a list": ({}, lambda c: c((X.tolist(), X), EDGES), ValueError, "x[0] has type list; expected a Tensor"),
    "x[1] of one dimension": ({}, lambda c: c((X, X[0]), EDGES), ValueError, "x[1] has shape (7,); expected"),
    "source too large": (
        {},
        lambda c: c(X, EDGES + torch.tensor([[5], [0]])),
        ValueError,
        "edge_index[0] contains 7, but there are 4 source nodes; expected values in [0, 4)",
    ),
    "target too large": (
        {},
        lambda c: c((X, X[:3]), EDGES),
        ValueError,
        "edge_index[1] contains 3, but there are 3 target nodes; expected values in [0, 3)",
    ),
    "negative index": ({}, lambda c: c(X, EDGES - 1), ValueError, "edge_index[0] contains -1"),
    "float edges": ({}, lambda c: c(X, EDGES.float()), TypeError, "edge_index has dtype torch.float32; expected int64"),
    "bool edges": ({}, lambda c: c(X, EDGES.bool()), TypeError, "edge_index has dtype torch.bool; expected int64"),
    "transposed edges": ({}, lambda c: c(X, EDGES.T), ValueError, "edge_index has shape (3, 2); expected [2, E]"),
    "edges in a list": ({}, lambda c: c(X, EDGES.tolist()), TypeError, "edge_index is a list; expected"),
    "no edges": ({}, lambda c: c(X, None), TypeError, "edge_index is a NoneType; expected"),
    "sources in size": ({}, lambda c: c(X, EDGES, size=(5, 4)), ValueError, "size[0] is 5, but x has 4 rows there"),
    "targets in size": ({}, lambda c: c((X, X), EDGES, size=(4, 9)), ValueError, "size[1] is 9, but x has 4 rows"),
    "size of another type": ({}, lambda c: c(X, EDGES, None, True), TypeError, "size is True; expected"),
    "affinity of another size": (
        {},
        lambda c: c(X, Affinity.from_edge_index(EDGES, num_nodes=6)),
        ValueError,
        "edge_index has 6 targets, but the features have 4 rows for them",
    ),
    "sparse tensor of another size": (
        {},
        lambda c: c(X, torch.eye(5).to_sparse()),
        ValueError,
        "edge_index has 5 targets, but the features have 4 rows",
    ),
    "negative prior": (
        {},
        lambda c: c(X, _affinity(torch.tensor([1.0, -0.5, 1.0]))),
        ValueError,
        "edge_index has weight -0.5; a prior must not be negative",
    ),
    "prior of two heads": (
        {},
        lambda c: c(X, _affinity(torch.ones(3, 2))),
        ValueError,
        "edge_index has weights for 2 heads; expected 1 or 3",
    ),
    "x on another device": ({}, lambda c: c(X.to("meta"), EDGES), ValueError, "x is on meta but edge_index is on cpu"),
    "edges on another device": ({}, lambda c: c(X, EDGES.to("meta")), ValueError, "edge_index is on meta; move one"),
    "edge_attr on another device": (
        {"edge_dim": EDGE_DIM},
        lambda c: c(X, EDGES, ATTR.to("meta")),
        ValueError,
        "edge_attr is on meta but edge_index is on cpu",
    ),
    "edge_attr without edge_dim": (
        {},
        lambda c: c(X, EDGES, ATTR),
        ValueError,
        "edge_attr has shape (3, 2) but edge_dim is None; pass edge_dim=2",
    ),
    "edge_attr of one dimension without edge_dim": (
        {},
        lambda c: c(X, EDGES, ATTR[:, 0]),
        ValueError,
        "edge_attr has shape (3,) but edge_dim is None; pass edge_dim=1",
    ),
    "too few edge_attr": (
        {"edge_dim": EDGE_DIM},
        lambda c: c(X, EDGES, ATTR[:2]),
        ValueError,
        "edge_attr has shape (2, 2); expected (3, 2)",
    ),
    "too wide edge_attr": (
        {"edge_dim": EDGE_DIM},
        lambda c: c(X, EDGES, torch.cat([ATTR, ATTR], dim=1)),
        ValueError,
        "edge_attr has shape (3, 4); expected (3, 2)",
    ),
    "edge_attr of one dimension": (
        {"edge_dim": EDGE_DIM},
        lambda c: c(X, EDGES, ATTR[:, 0]),
        ValueError,
        "edge_attr has shape (3, 1); expected (3, 2)",
    ),
    "edge_attr in a list": (
        {"edge_dim": EDGE_DIM},
        lambda c: c(X, EDGES, ATTR.tolist()),
        TypeError,
        "edge_attr is a list; expected",
    ),
    "integer edge_attr": (
        {"edge_dim": EDGE_DIM},
        lambda c: c(X, EDGES, ATTR.long()),
        TypeError,
        "edge_attr has dtype torch.int64; expected a floating-point dtype",
    ),
    "batch of another length": (
        {"normalize": "relu_frobenius"},
        lambda c: c(X, EDGES, batch=torch.zeros(3, dtype=torch.long)),
        ValueError,
        "batch has shape (3,) and dtype torch.int64; expected (4,) integers",
    ),
    "batch of another dtype": (
        {"normalize": "relu_frobenius"},
        lambda c: c(X, EDGES, batch=torch.zeros(4)),
        ValueError,
        "batch has shape (4,) and dtype torch.float32; expected (4,) integers",
    ),
}


@pytest.mark.parametrize("score", ["dot", "gat", "gatv2"])
@pytest.mark.parametrize("case", CALLS)
def test_calls(case: str, score: str) -> None:
    options, call, error, expected = CALLS[case]
    with pytest.raises(error, match=re.escape(expected)):
        call(make(score, **options))


@pytest.mark.parametrize("score", ["dot", "gatv2", "cosine", "gaussian", "manhattan"])
def test_only_gat_works_without_target_features(score: str) -> None:
    name = type(make(score).score).__name__
    with pytest.raises(ValueError, match=re.escape(f"x[1] is None, but {name} needs target features")):
        make(score)((X, None), EDGES, size=(4, 4))


def test_a_score_without_edge() -> None:
    with pytest.raises(TypeError, match=re.escape("Score does not define edge(q_i, k_j, e_ij)")):
        AttentionConv(WIDTH, CHANNELS, HEADS, score=Score()).double()(X, EDGES)


@pytest.mark.parametrize("option", ["hop", "edge_dims", "negative_slope"])
def test_unknown_arguments_are_not_swallowed(option: str) -> None:
    with pytest.raises(TypeError, match=option):
        AttentionConv(WIDTH, CHANNELS, **{option: 1})


def test_explain_without_a_mask() -> None:
    conv = make("dot")
    conv.explain = True
    with pytest.raises(ValueError, match="_edge_mask is None; an explainer sets it"):
        conv(X, EDGES)
