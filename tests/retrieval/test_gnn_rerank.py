"""GNN re-ranking against the published algorithm on whole matrices, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.retrieval import GNNRerank
from tests.retrieval import published
from tests.retrieval.cases import CONTRACT, InnerProduct, Make, Problem, all_vectors_rotated, problem, score_of

EPS = torch.finfo(torch.float32).eps
SETTINGS = [(26, 7), (5, 3), (1, 4), (4, 9), (500, 200)]


def whole_matrix(case: Problem, k1: int, k2: int, variant: str, alpha: float = 2.0, blend: float = 0.3) -> Tensor:
    scores = published.gnn(
        case.queries.numpy(), case.gallery.numpy(), k1, k2, alpha, blend, residual=variant == "residual"
    )
    return torch.from_numpy(scores)


def one_at_a_time(case: Problem, *args: Any, **kwargs: Any) -> Tensor:
    return torch.cat(
        [whole_matrix(case.rows(slice(row, row + 1)), *args, **kwargs) for row in range(len(case.queries))]
    )


@pytest.mark.parametrize(("k1", "k2"), SETTINGS)
@pytest.mark.parametrize("variant", ["official", "residual"])
@pytest.mark.parametrize(("scope", "alpha"), [("candidates", 2.0), ("candidates", 0.5), ("gallery", 2.0)])
def test_equals_the_published_algorithm(scope: str, variant: str, k1: int, k2: int, alpha: float) -> None:
    case = problem(items=50, length=50)
    lists = case.rerank(GNNRerank(k1, k2, alpha=alpha, variant=variant, blend=0.3, scope=scope))
    expected = one_at_a_time(case, k1, k2, variant, alpha)
    assert ((score_of(lists, 50) - expected).abs() <= EPS).all()


@pytest.mark.parametrize("variant", ["official", "residual"])
def test_short_lists_equal_the_published_algorithm_of_their_items(variant: str) -> None:
    case = problem()
    lists = case.rerank(GNNRerank(5, 3, variant=variant, blend=0.3))
    for row in range(len(lists)):
        part = Problem(case.queries[[row]], case.gallery[case.indices[row]], case.indices)
        expected = whole_matrix(part, 5, 3, variant)[0][lists.order[row]]
        assert ((lists.scores[row] - expected).abs() <= EPS).all()


@pytest.mark.parametrize(("k1", "k2"), SETTINGS)
@pytest.mark.parametrize("variant", ["official", "residual"])
@pytest.mark.parametrize("scope", ["candidates", "gallery"])
def test_transductive_equals_the_published_algorithm_of_all_queries(scope: str, variant: str, k1: int, k2: int) -> None:
    case = problem(items=50, length=50)
    lists = case.rerank(GNNRerank(k1, k2, variant=variant, blend=0.3, scope=scope, transductive=True))
    assert ((score_of(lists, 50) - whole_matrix(case, k1, k2, variant)).abs() <= EPS).all()


@pytest.mark.parametrize(("k1", "k2"), SETTINGS)
@pytest.mark.parametrize("variant", ["official", "residual"])
def test_gallery_equals_the_published_algorithm_on_short_lists(variant: str, k1: int, k2: int) -> None:
    case = problem(num_queries=3, items=200, length=30, seed=1)
    found = score_of(case.rerank(GNNRerank(k1, k2, variant=variant, blend=0.3, scope="gallery")), 200)
    listed = ~found.isnan()
    assert ((found - one_at_a_time(case, k1, k2, variant))[listed].abs() <= EPS).all()


def test_transductive_of_one_query_is_inductive() -> None:
    case = problem().rows(slice(2, 3))
    alone, others = (case.rerank(GNNRerank(5, 3, transductive=flag)) for flag in (False, True))
    assert torch.equal(alone.indices, others.indices)
    assert torch.equal(alone.scores, others.scores)


def test_queries_of_the_gallery_beside_others() -> None:
    """An item as a query is the published algorithm of this item against the others."""
    case = problem(num_queries=2, items=40, length=40)
    own = torch.tensor([7, -1, 12, -1])
    queries = torch.stack([case.gallery[7], case.queries[0], case.gallery[12], case.queries[1]])
    lists = Problem(queries, case.gallery, torch.arange(40).expand(4, 40), query_ids=own).rerank(
        GNNRerank(5, 3, scope="gallery", exclude_self=True)
    )
    found = score_of(lists, 40)
    for row, item in enumerate(own.tolist()):
        others = torch.tensor([i for i in range(40) if i != item])
        expected = whole_matrix(Problem(queries[[row]], case.gallery[others], others), 5, 3, "official")[0]
        assert ((found[row, others] - expected).abs() <= EPS).all()
        assert item < 0 or found[row, item].isnan()


METHODS: dict[str, Make] = {
    "official": partial(GNNRerank, 5, 3),
    "gallery": partial(GNNRerank, 5, 3, scope="gallery"),
    "residual": partial(GNNRerank, 5, 3, variant="residual", blend=0.3),  # without blend, scores may tie
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("holds", [*CONTRACT, all_vectors_rotated], ids=lambda f: f.__name__)
def test_contract(holds: Callable[[Make], None], method: str) -> None:
    holds(METHODS[method])


def test_published_defaults() -> None:
    official, residual = GNNRerank(), GNNRerank(variant="residual")
    assert (official.k1, official.k2, official.alpha, official.blend) == (26, 7, 2.0, 0.3)
    assert (residual.k1, residual.k2, residual.alpha, residual.blend) == (40, 10, 2.0, 0.0)
    assert GNNRerank(variant="residual", blend=0.3).blend == 0.3


@pytest.mark.parametrize("variant", ["official", "residual"])
def test_blend_1_is_the_first_stage(variant: str) -> None:
    case = problem()
    lists, baseline = case.rerank(GNNRerank(5, 3, variant=variant, blend=1.0)), case.rerank(InnerProduct())
    assert torch.equal(lists.indices, baseline.indices)
    assert torch.equal(lists.scores, baseline.scores)


def test_without_layers_scores_count_shared_neighbours() -> None:
    case = problem(items=30, length=30)
    lists = case.rerank(GNNRerank(6, 1, blend=0.0))
    x = F.normalize(torch.cat([case.queries[:1], case.gallery]), dim=1).numpy()
    rank = published.ranks(x @ x.T)[:, :6]
    shared = [len(set(rank[0]) & set(rank[1 + i])) for i in lists.indices[0].tolist()]
    assert lists.scores[0].tolist() == shared


def test_a_node_without_similarity_to_anything_gets_0() -> None:
    case = problem()
    gallery = case.gallery.clone()
    gallery[case.indices[0, 4]] = 0.0
    lists = replace(case, gallery=gallery).rows(slice(0, 1)).rerank(GNNRerank(5, 3))
    assert score_of(lists, 40)[0, case.indices[0, 4]] == 0.0


@pytest.mark.parametrize("scope", ["candidates", "gallery"])
def test_broken_vectors_are_nobodys_neighbours(scope: str) -> None:
    case = problem()
    sound = torch.arange(40) != case.indices[0, 3]
    gallery = case.gallery.masked_fill(~sound.unsqueeze(1), torch.nan)
    lists = replace(case, gallery=gallery).rows(slice(0, 1)).rerank(GNNRerank(5, 3, scope=scope, nan_policy="last"))
    place = sound.long().cumsum(0) - 1
    kept = case.indices[:1, sound[case.indices[0]]]
    alone = Problem(case.queries[:1], case.gallery[sound], place[kept]).rerank(GNNRerank(5, 3, scope=scope))
    assert lists.scores[0, -1] == -torch.inf
    assert torch.equal(place[lists.indices[0, :-1]], alone.indices[0])
    assert ((lists.scores[0, :-1] - alone.scores[0]).abs() <= EPS).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, "k1 is 0; expected an integer, at least 1, or None"),
        ({"k2": True}, "k2 is True; expected an integer, at least 1, or None"),
        ({"alpha": -1.0}, r"alpha is -1.0; expected an exponent of at least 0"),
        ({"variant": "x"}, "variant is 'x'; expected one of 'official', 'residual'"),
        ({"min_support": 1}, "min_support is 1, but GNNRerank has no reciprocal neighbours"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GNNRerank(**options)
