"""k-reciprocal encoding against the published algorithm on whole matrices, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.retrieval import KReciprocal, RankedLists
from tests.retrieval import published
from tests.retrieval.cases import (
    CONTRACT,
    InnerProduct,
    Make,
    Problem,
    all_vectors_rotated,
    assert_same,
    problem,
    score_of,
)

SETTINGS = [(20, 6, None), (7, 3, None), (5, 1, None), (6, 8, "torchreid"), (200, 6, None)]


def whole_matrix(case: Problem, k1: int, k2: int, compat: str | None, blend: float = 0.3) -> Tensor:
    power = 2.0 if compat else 1.0
    distance = published.k_reciprocal(case.queries.numpy(), case.gallery.numpy(), k1, k2, blend, power)
    return -torch.from_numpy(distance)


def one_at_a_time(case: Problem, *args: Any, **kwargs: Any) -> Tensor:
    return torch.cat(
        [whole_matrix(case.rows(slice(row, row + 1)), *args, **kwargs) for row in range(len(case.queries))]
    )


def assert_scores(found: Any, expected: Tensor, items: int) -> None:
    """Lists that are not kept have the scores of a float64 computation, rounded to float32."""
    again = score_of(found, items)
    moved = ~found.diagnostics["kept"]
    assert moved.any()
    listed = ~again.isnan() & moved.unsqueeze(1)
    assert ((again - expected)[listed].abs() <= torch.finfo(torch.float32).eps).all()


@pytest.mark.parametrize(("k1", "k2", "compat"), SETTINGS)
@pytest.mark.parametrize("scope", ["candidates", "gallery"])
def test_all_items_equal_the_published_algorithm(scope: str, k1: int, k2: int, compat: str | None) -> None:
    case = problem(items=60, length=60)
    lists = case.rerank(KReciprocal(k1, k2, compat=compat, scope=scope))
    assert_scores(lists, one_at_a_time(case, k1, k2, compat), 60)


@pytest.mark.parametrize(("k1", "k2", "compat"), SETTINGS)
@pytest.mark.parametrize("chunk", [1, 3])
def test_gallery_equals_the_published_algorithm_on_short_lists(
    k1: int, k2: int, compat: str | None, chunk: int
) -> None:
    """The lists are a fifth of the gallery, so that most nodes lie outside of them."""
    case = problem(num_queries=4, items=150, length=30, seed=1)
    lists = case.rerank(KReciprocal(k1, k2, compat=compat, scope="gallery", chunk=chunk))
    assert_scores(lists, one_at_a_time(case, k1, k2, compat), 150)


def test_gallery_of_300_items() -> None:
    case = problem(num_queries=3, items=300, length=100, seed=2)
    assert_scores(case.rerank(KReciprocal(scope="gallery")), one_at_a_time(case, 20, 6, None), 300)


@pytest.mark.parametrize(("k1", "k2", "compat"), SETTINGS)
@pytest.mark.parametrize("scope", ["candidates", "gallery"])
def test_transductive_equals_the_published_algorithm_of_all_queries(
    scope: str, k1: int, k2: int, compat: str | None
) -> None:
    case = problem(items=60, length=60)
    lists = case.rerank(KReciprocal(k1, k2, compat=compat, scope=scope, transductive=True))
    assert_scores(lists, whole_matrix(case, k1, k2, compat), 60)


def test_transductive_of_one_query_is_inductive() -> None:
    case = problem().rows(slice(2, 3))
    for scope in ("candidates", "gallery"):
        alone, others = (case.rerank(KReciprocal(7, 3, scope=scope, transductive=flag)) for flag in (False, True))
        assert torch.equal(alone.indices, others.indices)
        torch.testing.assert_close(alone.scores, others.scores, rtol=0, atol=torch.finfo(torch.float32).eps)


def test_a_query_of_the_gallery_is_not_inserted_again() -> None:
    """Every item against the others is the published algorithm with this item as the query."""
    gallery = problem(items=50).gallery
    own = torch.arange(50)
    case = Problem(gallery, gallery, own.expand(50, 50), query_ids=own)
    lists = case.rerank(KReciprocal(6, 3, scope="gallery", exclude_self=True))
    for query in range(0, 50, 7):
        others = torch.cat([own[:query], own[query + 1 :]])
        expected = torch.full((50,), torch.nan, dtype=torch.float64)
        expected[others] = whole_matrix(Problem(gallery[[query]], gallery[others], own), 6, 3, None)[0]
        found = score_of(lists, 50)[query]
        assert torch.equal(found.isnan(), expected.isnan())
        assert lists.diagnostics["kept"][query] or (found - expected).nan_to_num().abs().max() <= 2e-7


def test_known_and_new_queries_in_one_call() -> None:
    """Encodings of all items serve the known ones; the scores are those of the lists around each."""
    case = problem(num_queries=6, items=80, length=40, seed=4)
    ids = torch.tensor([3, 70, 11, -1, -1, -1])
    queries = torch.where((ids >= 0).unsqueeze(1), case.gallery[ids], case.queries)
    for k1, k2, compat in SETTINGS:
        make = partial(KReciprocal, k1, k2, compat=compat, scope="gallery")
        together = replace(case, queries=queries, query_ids=ids).rerank(make(chunk=6))
        for rows in (slice(0, 3), slice(3, 6)):
            alone = replace(case, queries=queries, query_ids=ids).rows(rows).rerank(make())
            assert_same(alone, RankedLists(*(x[rows] for x in (together.indices, together.scores, together.order))))
            assert torch.equal(alone.diagnostics["support"], together.diagnostics["support"][rows])


def test_two_rerankers_share_a_graph() -> None:
    case = replace(problem(items=50), queries=problem(items=50).gallery[:5], query_ids=torch.arange(5))
    wide = KReciprocal(8, 4, scope="gallery")
    case.rerank(wide)
    narrow = KReciprocal(4, 1, scope="gallery", compat="torchreid")
    expected = case.rerank(narrow)
    narrow.graph_ = wide.graph_
    for _ in range(2):
        assert_same(narrow.rerank(case.queries, case.gallery, case.indices, query_ids=case.query_ids), expected)


METHODS: dict[str, Make] = {
    "candidates": partial(KReciprocal, 4, 2),
    "torchreid": partial(KReciprocal, 5, 1, compat="torchreid"),
    "gallery": partial(KReciprocal, 4, 3, scope="gallery"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("holds", [*CONTRACT, all_vectors_rotated], ids=lambda f: f.__name__)
def test_contract(holds: Callable[[Make], None], method: str) -> None:
    holds(METHODS[method])


def test_published_defaults() -> None:
    reranker = KReciprocal()
    assert (reranker.k1, reranker.k2, reranker.blend, reranker.top_k) == (20, 6, 0.3, None)
    assert KReciprocal(blend=None).blend == 0.3


@pytest.mark.parametrize("scope", ["candidates", "gallery"])
def test_blend_1_is_the_first_stage(scope: str) -> None:
    case = problem()
    lists = case.rerank(KReciprocal(7, 3, blend=1.0, scope=scope))
    assert torch.equal(lists.indices, case.rerank(InnerProduct()).indices)


def test_without_blend_scores_are_jaccard_distances() -> None:
    """A copy of the query, which shares all its neighbours, is at distance 0; who shares none is at distance 1."""
    case = problem(items=30, length=30)
    gallery = case.gallery.clone()
    gallery[0] = case.queries[0]
    lists = replace(case, gallery=gallery).rows(slice(0, 1)).rerank(KReciprocal(2, 1, blend=0.0))
    assert lists.indices[0, 0] == 0
    assert lists.scores[0, 0].abs() <= torch.finfo(torch.float32).eps
    assert lists.scores[0, -1] == -1.0
    assert ((lists.scores >= -1) & (lists.scores <= 0)).all()


def test_support_is_the_reciprocal_set_of_the_query() -> None:
    case = problem(items=40, length=40)
    x = F.normalize(torch.cat([case.queries[:1], case.gallery]), dim=1).numpy()
    rank = published.ranks(x @ x.T)
    expected = sum(0 in rank[j, :8] for j in rank[0, 1:8])
    for scope in ("candidates", "gallery"):
        lists = case.rerank(KReciprocal(7, 3, scope=scope))
        assert lists.diagnostics["support"][0] == expected
        kept = case.rerank(KReciprocal(7, 3, scope=scope, min_support=expected + 1))
        assert torch.equal(kept.indices[0], case.indices[0])
        assert kept.diagnostics["kept"][0]


def test_a_query_that_nobody_lists_keeps_its_order() -> None:
    gallery = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [1.0, 0.03]]), dim=1)
    lists = KReciprocal(1, 1).rerank(torch.tensor([[1.0, -0.3]]), gallery, torch.tensor([[3, 0, 1, 2]]))
    assert lists.diagnostics["support"].tolist() == [0]
    assert lists.indices.tolist() == [[3, 0, 1, 2]]


def test_copies_only() -> None:
    """All distances are 0, so that there is no largest one to divide by."""
    lists = KReciprocal().rerank(torch.ones(2, 3), torch.ones(4, 3), torch.arange(4).expand(2, 4))
    assert lists.indices.tolist() == [[0, 1, 2, 3]] * 2
    assert (lists.scores == lists.scores[:, :1]).all()
    assert lists.scores.isfinite().all()


def test_gallery_smaller_than_the_lists() -> None:
    for gallery in (torch.eye(3)[:2], torch.eye(3)[:1]):
        case = Problem(torch.ones(1, 3), gallery, torch.arange(len(gallery)).unsqueeze(0))
        lists = case.rerank(KReciprocal(scope="gallery"))
        assert torch.equal(lists.indices, case.indices)
        assert lists.scores.isfinite().all()


def test_broken_vectors_rank_last() -> None:
    case = problem()
    gallery = case.gallery.clone()
    gallery[case.indices[:, 3]] = torch.nan
    for scope in ("candidates", "gallery"):
        lists = replace(case, gallery=gallery).rerank(KReciprocal(5, 3, scope=scope, nan_policy="last"))
        assert (lists.scores[:, -1] == -torch.inf).all()
        assert lists.scores[:, 0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, "k1 is 0; expected an integer, at least 1"),
        ({"k2": 2.0}, "k2 is 2.0; expected an integer, at least 1"),
        ({"compat": "fastreid"}, "compat is 'fastreid'; expected one of None, 'torchreid'"),
        ({"normalize": False}, "normalize is False, but KReciprocal needs distances of unit vectors"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KReciprocal(**options)
