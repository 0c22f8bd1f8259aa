"""The default method against its formulas, written as loops in float64, and its confidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.retrieval import Auto, RankedLists
from tests.retrieval.cases import (
    CONTRACT,
    Make,
    Problem,
    all_vectors_rotated,
    candidates_without_scores_in_another_order,
    problem,
)

EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Literal:
    """One list, item by item in its order."""

    scores: list[float]
    confidence: float
    support: int


def weights(x: list[list[float]], k: int) -> list[list[float]]:
    n = len(x)
    k = min(k, n - 1)
    similarity = [[math.fsum(a * b for a, b in zip(x[i], x[j], strict=True)) for j in range(n)] for i in range(n)]
    rank: list[dict[int, int]] = []
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: -similarity[i][j])
        rank.append({j: place for place, j in enumerate(others[:k], start=1)})
    w = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in rank[i]:
            if i in rank[j]:
                w[i][j] = math.exp(-5 * (rank[i][j] + rank[j][i] - 2) / k)
    return w


def walk(w: list[list[float]], start: int) -> list[float]:
    """Distribution of a walk after ten hops, each from the start anew with probability 0.1."""
    n = len(w)
    here = [float(j == start) for j in range(n)]
    for _ in range(10):
        after = [0.1 * (j == start) for j in range(n)]
        for i in range(n):
            for j in range(n):
                if w[i][j]:
                    after[j] += 0.9 * here[i] * w[i][j] / sum(w[i])
        here = after
    return here


def clustering(w: list[list[float]], i: int) -> float:
    n = len(w)
    pairs = [(j, m) for j in range(n) for m in range(n) if j != m and w[i][j] and w[i][m]]
    if not pairs:
        return 0.0
    chance = sum(map(sum, w)) / (n * (n - 1))
    closed = sum(w[i][j] * w[j][m] * w[m][i] for j, m in pairs)
    return max(0.0, (closed / sum(w[i][j] * w[i][m] for j, m in pairs) - chance) / (1 - chance))


def scaled(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def literal(query: Tensor, found: Tensor, k: int, fallback: bool) -> Literal:
    x = [query.tolist(), *found.tolist()]
    first = [sum(a * b for a, b in zip(x[0], row, strict=True)) for row in x[1:]]
    w = weights(x, k)
    support = sum(value > 0 for value in w[0])
    if not support:
        return Literal(first, 0.0, 0)
    walks = [walk(w, i) for i in range(len(x))]
    meeting = [math.sqrt(sum(a * b for a, b in zip(walks[0], row, strict=True))) for row in walks[1:]]
    c = min(1.0, 2 * sum(walks[0][i] * clustering(w, i) for i in range(len(x))))
    mixed = [c * a + (1 - c) * b for a, b in zip(scaled(meeting), scaled(first), strict=True)]
    return Literal(mixed if fallback else meeting, c, support)


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.double(), dim=-1)


def in_order_of_input(lists: RankedLists) -> Tensor:
    return torch.empty_like(lists.scores).scatter(1, lists.order, lists.scores)


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("k", [1, 2, 5, 9, 22, 40])
def test_equals_the_formulas(k: int, fallback: bool) -> None:
    case = problem()
    lists = case.rerank(Auto(k, fallback=fallback))
    for row, found in enumerate(in_order_of_input(lists)):
        expected = literal(unit(case.queries)[row], unit(case.gallery)[case.indices[row]], k, fallback)
        assert lists.diagnostics["support"][row] == expected.support
        assert lists.diagnostics["kept"][row] == (expected.support == 0)
        assert abs(float(lists.diagnostics["confidence"][row]) - expected.confidence) <= 1e-12
        # Computed in float64 and returned in float32; below sqrt(eps) a root magnifies what is 0 but for rounding.
        torch.testing.assert_close(found, torch.tensor(expected.scores), rtol=EPS, atol=EPS)
        assert (lists.scores[row].diff() <= 0).all()


def test_the_formulas_cover_all_regimes() -> None:
    """Of the lists above, some trust the graph in part, some fully, some not at all."""
    case = problem()
    confidences = torch.cat([case.rerank(Auto(k)).diagnostics["confidence"] for k in (1, 2, 5, 9)])
    assert (confidences == 0).any()
    assert ((confidences > 0) & (confidences < 1)).any()


def test_float32_rounds_the_formulas() -> None:
    case = problem(dtype=torch.float32)
    exact = replace(case, queries=case.queries.double(), gallery=case.gallery.double()).rerank(Auto(5))
    lists = case.rerank(Auto(5))
    # A hop is a sum of at most 5 terms per node; 20 of them, then sums over 24 nodes.
    budget = 2 * EPS * (20 * 5 + 24)
    assert (lists.diagnostics["confidence"] - exact.diagnostics["confidence"]).abs().max() <= budget
    assert (in_order_of_input(lists) - in_order_of_input(exact)).abs().max() <= budget


@pytest.mark.parametrize("k", [5, 40])
@pytest.mark.parametrize("holds", [*CONTRACT, all_vectors_rotated], ids=lambda f: f.__name__)
def test_contract(holds: Callable[[Make], None], k: int) -> None:
    holds(partial(Auto, k))


@pytest.mark.parametrize(
    "holds",
    [holds for holds in CONTRACT if holds is not candidates_without_scores_in_another_order],
    ids=lambda f: f.__name__,
)
def test_contract_without_fallback(holds: Callable[[Make], None]) -> None:
    """What no walk reaches stays in the order in which it came."""
    holds(partial(Auto, 5, fallback=False))


def test_defaults() -> None:
    reranker = Auto()
    assert (reranker.k, reranker.fallback, reranker.top_k, reranker.blend) == (40, True, 1000, 0.0)
    assert repr(reranker) == "Auto(k=40, fallback=True)"


# Confidence ###########################################################################################################


def ring(size: int) -> Tensor:
    angle = 2 * math.pi * torch.arange(size, dtype=torch.float64) / size
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_a_ring_has_no_structure() -> None:
    """Neighbours on a ring have no neighbours in common, so that the first stage, whatever it was, decides."""
    points = ring(15)
    given = torch.randperm(14, generator=torch.Generator().manual_seed(0)).unsqueeze(0)
    scores = torch.linspace(1, 0, 14).unsqueeze(0)
    lists = Auto(2).rerank(points[:1], points[1:], given, scores)
    assert lists.diagnostics["support"].tolist() == [2]
    assert lists.diagnostics["confidence"].tolist() == [0.0]
    assert torch.equal(lists.indices, given)
    assert not torch.equal(Auto(2, fallback=False).rerank(points[:1], points[1:], given, scores).indices, given)


def scattered(width: int, *, seed: int = 0) -> Problem:
    """Directions without any clusters."""
    generator = torch.Generator().manual_seed(seed)
    queries, gallery = torch.randn(10, width, generator=generator), torch.randn(100, width, generator=generator)
    similarity = F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    value, index = similarity.sort(dim=1, descending=True)
    return Problem(queries, gallery, index, value)


@pytest.mark.parametrize("width", [2, 8, 64, 512])
@pytest.mark.parametrize("k", [10, 40])
def test_who_is_far_ahead_stays_ahead(width: int, k: int) -> None:
    """What the confidence promises: distances of scaled scores that it cannot bridge."""
    case = scattered(width)
    lists = case.rerank(Auto(k))
    assert case.scores is not None
    low, high = case.scores.aminmax(dim=1, keepdim=True)
    first = ((case.scores - low) / (high - low)).gather(1, lists.order)
    confidence = lists.diagnostics["confidence"].unsqueeze(1)
    overtaken = (first - first.cummin(1).values).amax(1, keepdim=True)
    assert (overtaken * (1 - confidence) <= confidence + 4 * EPS).all()


def test_the_more_directions_the_less_confidence() -> None:
    """Points that are scattered in many dimensions share neighbours only by chance."""
    confidence = [float(scattered(width).rerank(Auto(10)).diagnostics["confidence"].mean()) for width in (2, 8, 64)]
    assert confidence[0] > confidence[1] > confidence[2]
    assert confidence[2] < 0.1


def average_precision(lists: RankedLists, relevant: Tensor) -> Tensor:
    """Mean precision at the relevant items, ``relevant [Q, N]``."""
    hit = relevant.gather(1, lists.indices).double()
    precision = hit.cumsum(1) / torch.arange(1, hit.size(1) + 1)
    return (precision * hit).sum(1) / relevant.sum(1)


def mixture() -> tuple[Problem, Tensor]:
    """Thirty queries of one set: the first 15 belong to clusters; the others see a blurred sphere without any.

    Relevant are the same cluster, or the items that would be the ten nearest were it not for the blur.
    """
    generator = torch.Generator().manual_seed(7)
    width, noise = 32, 0.9
    label = torch.arange(10).repeat_interleave(12)
    centers = 0.7 * torch.randn(10, width, generator=generator)[label]
    sphere = torch.randn(120, width, generator=generator)
    clean = torch.cat([centers, sphere])
    seen = clean + noise * torch.randn(clean.shape, generator=generator)
    rows = torch.cat([torch.arange(0, 120, 8), torch.arange(120, 240, 8)])
    others = torch.ones(240, dtype=torch.bool)
    others[rows] = False
    queries, gallery = seen[rows], seen[others]
    nearest = (F.normalize(clean[rows], dim=1) @ F.normalize(clean[others], dim=1).T).topk(10).indices
    relevant = torch.zeros(30, len(gallery), dtype=torch.bool).scatter(1, nearest, True)
    kind = torch.cat([label, torch.full((120,), -1)])
    relevant[:15] = kind[rows[:15]].unsqueeze(1) == kind[others]
    similarity = F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    return Problem(queries, gallery, similarity.sort(dim=1, descending=True).indices), relevant


def test_clusters_gain_and_what_has_none_loses_little() -> None:
    case, relevant = mixture()
    before = average_precision(RankedLists(case.indices, case.indices, case.indices), relevant)
    lists, bold = case.rerank(Auto(20)), case.rerank(Auto(20, fallback=False))
    after, without = average_precision(lists, relevant), average_precision(bold, relevant)
    clustered, blurred = slice(0, 15), slice(15, 30)
    confidence = lists.diagnostics["confidence"]
    assert torch.equal(confidence, bold.diagnostics["confidence"])
    assert confidence[clustered].mean() > confidence[blurred].mean()
    assert after[clustered].mean() > before[clustered].mean() + 0.05
    assert without[blurred].mean() < before[blurred].mean() - 0.05
    assert after[blurred].mean() > before[blurred].mean() - 0.01
    assert after.mean() > without.mean() > before.mean()


def test_a_query_without_reciprocal_neighbours_keeps_its_order() -> None:
    """Candidates in pairs are the nearest of one another, and none is that of the query."""
    generator = torch.Generator().manual_seed(1)
    pairs = torch.randn(6, 8, generator=generator).repeat_interleave(2, 0)
    gallery = pairs + 1e-3 * torch.randn(12, 8, generator=generator)
    given = torch.randperm(12, generator=generator).unsqueeze(0)
    for fallback in (True, False):
        lists = Auto(1, fallback=fallback).rerank(torch.randn(1, 8, generator=generator), gallery, given)
        assert torch.equal(lists.indices, given)
        assert lists.diagnostics["kept"].tolist() == [True]
        assert lists.diagnostics["support"].tolist() == [0]
        assert lists.diagnostics["confidence"].tolist() == [0.0]


def test_min_support_counts_reciprocal_neighbours() -> None:
    case = problem()
    support = case.rerank(Auto(5)).diagnostics["support"]
    least = int(support.median()) + 1
    lists = case.rerank(Auto(5, min_support=least))
    assert torch.equal(lists.diagnostics["kept"], support < least)
    assert torch.equal(lists.indices[support < least], case.indices[support < least])


def test_a_list_that_is_not_finite_reports_no_confidence() -> None:
    case = problem()
    queries = case.queries.clone()
    queries[1] = torch.nan
    lists = replace(case, queries=queries).rerank(Auto(5, nan_policy="last"))
    assert lists.diagnostics["kept"].tolist() == [False, True, False, False, False]
    assert lists.diagnostics["confidence"][1] == 0
    assert torch.equal(lists.indices[1], case.indices[1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k is 0; expected an integer, at least 1"),
        ({"k": True}, ValueError, "k is True; expected an integer"),
        ({"k": 2.0}, ValueError, "k is 2.0; expected an integer"),
        ({"fallback": 1}, TypeError, "fallback is 1; expected True or False"),
        ({"scope": "gallery"}, ValueError, "scope is 'gallery', but Auto has only 'candidates'"),
        ({"transductive": True}, ValueError, "transductive is True, but Auto has no form"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Auto(**options)
