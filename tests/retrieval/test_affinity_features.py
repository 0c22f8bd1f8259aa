"""Raw affinity features against the formula, written as loops in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.retrieval import AffinityFeatures
from tests.retrieval.cases import (
    CONTRACT,
    Make,
    all_vectors_rotated,
    candidates_without_scores_in_another_order,
    problem,
)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def literal(query: Tensor, found: Tensor, num_anchors: int, exclude: bool) -> list[float]:
    """Scores of one list of unit vectors."""
    nodes = [query.tolist(), *found.tolist()]
    features = [[dot(node, anchor) for anchor in nodes[:num_anchors]] for node in nodes]
    scores = []
    for i in range(1, len(nodes)):
        columns = [j for j in range(len(features[0])) if not (exclude and j in (0, i))]
        a, b = [features[0][j] for j in columns], [features[i][j] for j in columns]
        length = math.sqrt(dot(a, a) * dot(b, b))
        scores.append(dot(a, b) / length if length else 0.0)
    return scores


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.double(), dim=-1)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("num_anchors", [1, 2, 9, 24, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_formula(num_anchors: int, exclude: bool, dtype: torch.dtype) -> None:
    case = problem(dtype=dtype)
    queries, gallery = unit(case.queries), unit(case.gallery)
    lists = case.rerank(AffinityFeatures(num_anchors, exclude_self_columns=exclude))
    for row in range(len(queries)):
        expected = torch.tensor(literal(queries[row], gallery[case.indices[row]], num_anchors, exclude))
        found = torch.empty(23).scatter(0, lists.order[row], lists.scores[row])
        # The width and the number of anchors are the terms of the two sums.
        torch.testing.assert_close(found, expected, rtol=0, atol=24 * torch.finfo(torch.float32).eps)
        assert (lists.scores[row].diff() <= 0).all()


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("holds", [*CONTRACT, all_vectors_rotated], ids=lambda f: f.__name__)
def test_contract(holds: Callable[[Make], None], exclude: bool) -> None:
    holds(partial(AffinityFeatures, exclude_self_columns=exclude))


@pytest.mark.parametrize(
    "holds",
    [holds for holds in CONTRACT if holds is not candidates_without_scores_in_another_order],
    ids=lambda f: f.__name__,
)
def test_contract_with_few_anchors(holds: Callable[[Make], None]) -> None:
    """Which candidates are the anchors is a matter of their ranks."""
    holds(partial(AffinityFeatures, 5))


def test_published_defaults() -> None:
    reranker = AffinityFeatures()
    assert (reranker.num_anchors, reranker.top_k, reranker.exclude_self_columns) == (512, 1024, False)


def test_order_of_anchors_does_not_matter() -> None:
    """Anchors behind the query may swap their columns, as a cosine does not see it."""
    case = problem()
    swapped = case.indices.clone()
    swapped[:, :4] = case.indices[:, [2, 0, 3, 1]]
    a, b = case.rerank(AffinityFeatures(5)), replace(case, indices=swapped).rerank(AffinityFeatures(5))
    assert torch.equal(a.indices, b.indices)
    torch.testing.assert_close(a.scores, b.scores)


def test_a_copy_of_the_query_scores_1() -> None:
    case = problem(num_queries=1)
    gallery = case.gallery.clone()
    gallery[case.indices[:, 10]] = 3 * case.queries
    lists = replace(case, gallery=gallery).rerank(AffinityFeatures())
    assert torch.equal(lists.indices[:, 0], case.indices[:, 10])
    torch.testing.assert_close(lists.scores[:, 0], torch.ones(1))


def test_a_candidate_alone_without_self_columns_scores_0() -> None:
    lists = AffinityFeatures(exclude_self_columns=True).rerank(torch.ones(1, 2), torch.ones(1, 2))
    assert lists.scores.tolist() == [[0.0]]


def test_candidates_that_are_not_finite_are_no_anchors() -> None:
    case = problem()
    gallery = case.gallery.clone()
    broken = case.indices[0, 1]
    gallery[broken] = torch.nan
    lists = replace(case, gallery=gallery).rerank(AffinityFeatures(5, nan_policy="last"))
    without = replace(case, indices=case.indices.where(case.indices != broken, -1)).rerank(AffinityFeatures(5))
    assert torch.equal(lists.scores, without.scores)


def test_scale_does_not_matter_without_normalization() -> None:
    case = problem(dtype=torch.float32)
    raw = case.rerank(AffinityFeatures(normalize=False))
    small = replace(case, queries=1e-8 * case.queries, gallery=1e-8 * case.gallery)
    torch.testing.assert_close(small.rerank(AffinityFeatures(normalize=False)).scores, raw.scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_anchors": 0}, "num_anchors is 0; expected an integer, at least 1"),
        ({"num_anchors": 2.0}, "num_anchors is 2.0; expected an integer"),
        ({"num_anchors": True}, "num_anchors is True; expected an integer"),
        ({"scope": "gallery"}, "scope is 'gallery', but AffinityFeatures has only 'candidates'"),
        ({"transductive": True}, "transductive is True, but AffinityFeatures has no form"),
        ({"min_support": 1}, "min_support is 1, but AffinityFeatures has no reciprocal neighbours"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AffinityFeatures(**options)
