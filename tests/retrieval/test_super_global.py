"""SuperGlobal re-ranking against the formulas, written as loops in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import scipy.io
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.retrieval import SuperGlobal
from tests.retrieval.cases import CONTRACT, InnerProduct, Make, all_vectors_rotated, problem

ORL = Path(__file__).parents[2].parent / "shared" / "data" / "feature_selection" / "ORL.mat"


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def literal(query: list[float], found: list[list[float]], k: int, beta: float) -> list[float]:
    """Scores of one list of unit vectors."""
    refined = []
    for i, x in enumerate(found):
        near = sorted((j for j in range(len(found)) if j != i), key=lambda j: -dot(x, found[j]))[:k]
        total, weight = list(x), 1.0
        for j in near:
            w = beta * max(dot(x, found[j]), 0.0)
            weight += w
            total = [t + w * z for t, z in zip(total, found[j], strict=True)]
        refined.append([t / weight for t in total])
    direct = [dot(query, x) for x in refined]
    best = sorted(range(len(found)), key=lambda i: -direct[i])[: k + 1]
    largest = [max(refined[i][d] for i in best) for d in range(len(query))]
    return [(s + dot(largest, x)) / 2 for s, x in zip(direct, refined, strict=True)]


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.double(), dim=-1)


@pytest.mark.parametrize("k", [0, 1, 4, 9, 22, 100])
@pytest.mark.parametrize("beta", [0.15, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_formula(k: int, beta: float, dtype: torch.dtype) -> None:
    case = problem(dtype=dtype)
    queries, gallery = unit(case.queries), unit(case.gallery)
    lists = case.rerank(SuperGlobal(k, beta=beta))
    for row in range(len(queries)):
        scores = literal(queries[row].tolist(), gallery[case.indices[row]].tolist(), k, beta)
        expected, order = torch.tensor(scores, dtype=torch.float64).sort(descending=True)
        assert torch.equal(lists.order[row], order)
        # Components of the largest vector add up to at most the root of the width.
        bound = 12 * 12**0.5 * torch.finfo(torch.float32).eps
        assert ((lists.scores[row] - expected).abs() <= bound).all()


@pytest.mark.parametrize("holds", CONTRACT, ids=lambda f: f.__name__)
def test_contract(holds: Callable[[Make], None]) -> None:
    holds(partial(SuperGlobal, 4))


def test_published_defaults() -> None:
    reranker = SuperGlobal()
    assert (reranker.k, reranker.beta, reranker.top_k) == (9, 0.15, 400)


def test_depends_on_the_basis() -> None:
    with pytest.raises(AssertionError):
        all_vectors_rotated(partial(SuperGlobal, 4))


def test_without_neighbours_the_first_term_is_the_first_stage() -> None:
    """And with one candidate at the top, the second is its similarity to the others."""
    case = problem()
    gallery = unit(case.gallery)
    lists, first = case.rerank(SuperGlobal(0)), case.rerank(InnerProduct())
    best = gallery[first.indices[:, :1]]
    items = gallery[lists.indices]
    expected = (torch.einsum("qd,qkd->qk", unit(case.queries), items) + (best * items).sum(2)) / 2
    torch.testing.assert_close(lists.scores, expected.float())
    unweighted = case.rerank(SuperGlobal(0, beta=0.0))
    assert torch.equal(unweighted.scores, lists.scores)


def test_negative_similarities_weigh_nothing() -> None:
    """Opposite vectors would have a divisor of 0."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    lists = SuperGlobal(1, beta=1.0).rerank(x[:1], x)
    assert lists.indices.tolist() == [[0, 1]]
    assert lists.scores.tolist() == [[1.0, -1.0]]


def test_copies_are_neighbours() -> None:
    """An item is told from its copies by its place in the list."""
    gallery = torch.tensor([[0.6, 0.8], [0.6, 0.8], [1.0, 0.0]])
    lists = SuperGlobal(1, beta=0.5).rerank(torch.tensor([[0.0, 1.0]]), gallery)
    scores = literal([0.0, 1.0], gallery.double().tolist(), 1, 0.5)
    assert lists.indices.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(lists.scores, torch.tensor([scores]))


def test_candidates_that_are_not_finite_are_no_neighbours() -> None:
    case = problem()
    gallery = case.gallery.clone()
    broken = case.indices[0, 1]
    gallery[broken] = torch.nan
    lists = replace(case, gallery=gallery).rerank(SuperGlobal(4, nan_policy="last"))
    without = replace(case, indices=case.indices.where(case.indices != broken, -1)).rerank(SuperGlobal(4))
    assert torch.equal(lists.scores, without.scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": -1}, "k is -1; expected an integer, at least 0"),
        ({"k": 1.5}, "k is 1.5; expected an integer"),
        ({"beta": -0.1}, "beta is -0.1; expected a weight of at least 0"),
        ({"beta": float("nan")}, "beta is nan; expected a weight"),
        ({"scope": "gallery"}, "scope is 'gallery', but SuperGlobal has only 'candidates'"),
        ({"transductive": True}, "transductive is True, but SuperGlobal has no form"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SuperGlobal(**options)


@pytest.mark.slow
@pytest.mark.skipif(not ORL.exists(), reason="needs the ORL faces in shared/data")
def test_ranking_of_faces() -> None:
    """Each of 400 faces, by its pixels, against the others: mean average precision of 9 relevant ones."""
    content = scipy.io.loadmat(ORL)
    x, person = torch.from_numpy(content["X"].astype("float32")), torch.from_numpy(content["Y"].ravel().astype(int))
    own = torch.arange(400)
    found = {}
    for reranker in (InnerProduct(exclude_self=True), SuperGlobal(exclude_self=True)):
        indices = reranker.rerank(x, x, query_ids=own).indices[:, :-1]
        relevant = (person[indices] == person.unsqueeze(1)).double()
        precision = relevant.cumsum(1) / torch.arange(1, 400)
        found[type(reranker)] = float((precision * relevant).sum(1).mean() / 9)
    assert found[InnerProduct] == pytest.approx(0.531, abs=0.005)
    assert found[SuperGlobal] == pytest.approx(0.427, abs=0.005)
