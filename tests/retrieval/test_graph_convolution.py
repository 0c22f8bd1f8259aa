"""Graph convolution re-ranking against the published algorithm on whole matrices, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.retrieval import GraphConvolution
from tests.retrieval import published
from tests.retrieval.cases import CONTRACT, InnerProduct, Make, Problem, all_vectors_rotated, problem, score_of

EPS = torch.finfo(torch.float32).eps
SETTINGS = [(15, 0.2, 3), (4, 0.05, 1), (45, 0.08, 2), (500, 10.0, 2)]


def whole_matrix(case: Problem, k: int, beta: float, rounds: int, mode: str) -> Tensor:
    queries, gallery = case.queries.numpy(), case.gallery.numpy()
    return torch.from_numpy(published.graph_convolution(queries, gallery, k, beta, rounds, mode == "sym"))


@pytest.mark.parametrize(("k", "beta", "rounds"), SETTINGS)
@pytest.mark.parametrize("mode", ["directed", "sym"])
def test_equals_the_published_algorithm(mode: str, k: int, beta: float, rounds: int) -> None:
    case = problem(items=50, length=50)
    lists = case.rerank(GraphConvolution(k, beta=beta, rounds=rounds, mode=mode))
    expected = [whole_matrix(case.rows(slice(row, row + 1)), k, beta, rounds, mode) for row in range(5)]
    assert ((score_of(lists, 50) - torch.cat(expected)).abs() <= EPS).all()


@pytest.mark.parametrize("mode", ["directed", "sym"])
def test_short_lists_equal_the_published_algorithm_of_their_items(mode: str) -> None:
    case = problem()
    lists = case.rerank(GraphConvolution(6, mode=mode))
    for row in range(len(lists)):
        part = Problem(case.queries[[row]], case.gallery[case.indices[row]], case.indices)
        expected = whole_matrix(part, 6, 0.2, 3, mode)[0][lists.order[row]]
        assert ((lists.scores[row] - expected).abs() <= EPS).all()


@pytest.mark.parametrize(("k", "beta", "rounds"), SETTINGS)
@pytest.mark.parametrize("mode", ["directed", "sym"])
def test_transductive_equals_the_published_algorithm_of_all_queries(
    mode: str, k: int, beta: float, rounds: int
) -> None:
    case = problem(items=50, length=50)
    lists = case.rerank(GraphConvolution(k, beta=beta, rounds=rounds, mode=mode, transductive=True))
    assert ((score_of(lists, 50) - whole_matrix(case, k, beta, rounds, mode)).abs() <= EPS).all()

    in_gallery = case.rerank(
        GraphConvolution(k, beta=beta, rounds=rounds, mode=mode, transductive=True, scope="gallery")
    )
    assert ((score_of(in_gallery, 50) - whole_matrix(case, k, beta, rounds, mode)).abs() <= EPS).all()


def test_transductive_of_one_query_is_inductive() -> None:
    case = problem().rows(slice(2, 3))
    alone, others = (case.rerank(GraphConvolution(5, transductive=flag)) for flag in (False, True))
    assert torch.equal(alone.indices, others.indices)
    assert torch.equal(alone.scores, others.scores)


def smoothed(x: Tensor, k: int, beta: float, rounds: int, mode: str) -> Tensor:
    for _ in range(rounds):
        x = torch.from_numpy(published.convolved(x.numpy(), k, beta, mode == "sym"))
    return x


@pytest.mark.parametrize(("k", "beta", "rounds"), SETTINGS)
@pytest.mark.parametrize("mode", ["directed", "sym"])
def test_gallery_is_one_more_round_with_the_query_beside_the_smoothed_items(
    mode: str, k: int, beta: float, rounds: int
) -> None:
    case = problem(items=90, length=20, seed=3)
    lists = case.rerank(GraphConvolution(k, beta=beta, rounds=rounds, mode=mode, scope="gallery"))
    items = smoothed(F.normalize(case.gallery, dim=1), k, beta, rounds, mode)
    for row, query in enumerate(F.normalize(case.queries, dim=1)):
        refined = smoothed(torch.cat([query.unsqueeze(0), items]), k, beta, 1, mode)[0]
        found = score_of(lists, 90)[row]
        listed = ~found.isnan()
        assert listed.sum() == 20
        assert ((found - items @ refined)[listed].abs() <= EPS).all()


@pytest.mark.parametrize("mode", ["directed", "sym"])
def test_queries_of_the_gallery_are_smoothed_with_it(mode: str) -> None:
    gallery = problem(items=50).gallery
    own = torch.arange(50)
    case = Problem(gallery, gallery, own.expand(50, 50), query_ids=own)
    lists = case.rerank(GraphConvolution(6, mode=mode, scope="gallery", exclude_self=True))
    items = smoothed(F.normalize(gallery, dim=1), 6, 0.2, 3, mode)
    found = score_of(lists, 50)
    assert torch.equal(found.isnan(), torch.eye(50, dtype=torch.bool))
    assert ((found - items @ items.T).nan_to_num().abs() <= EPS).all()


def test_a_smoothed_gallery_is_saved_and_loaded(tmp_path: Path) -> None:
    case = problem()
    reranker, again = GraphConvolution(5, scope="gallery"), GraphConvolution(5, scope="gallery")
    lists = case.rerank(reranker)
    reranker.graph_.save(tmp_path / "graph.npz")
    again.graph_ = type(reranker.graph_).load(tmp_path / "graph.npz").to("cpu")
    loaded = again.rerank(case.queries, case.gallery, case.indices)
    assert torch.equal(loaded.indices, lists.indices)
    assert torch.equal(loaded.scores, lists.scores)


def test_broken_items_take_no_part() -> None:
    case = problem()
    broken, rest = torch.tensor([3, 17]), torch.tensor([i for i in range(40) if i not in (3, 17)])
    gallery = case.gallery.clone()
    gallery[broken] = torch.nan
    whole = Problem(case.queries, gallery, torch.arange(40).expand(5, 40))
    alone = Problem(case.queries, gallery[rest], torch.arange(38).expand(5, 38))
    for mode in ("directed", "sym"):
        lists = whole.rerank(GraphConvolution(45, mode=mode, scope="gallery", nan_policy="last"))
        expected = score_of(alone.rerank(GraphConvolution(45, mode=mode, scope="gallery")), 38)
        found = score_of(lists, 40)
        assert (found[:, broken] == -torch.inf).all()
        assert ((found[:, rest] - expected).abs() <= EPS).all()


METHODS: dict[str, Make] = {
    "directed": partial(GraphConvolution, 5),
    "sym": partial(GraphConvolution, 5, mode="sym", rounds=2),
    "gallery": partial(GraphConvolution, 5, scope="gallery"),
    "sym in gallery": partial(GraphConvolution, 4, mode="sym", rounds=1, scope="gallery"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("holds", [*CONTRACT, all_vectors_rotated], ids=lambda f: f.__name__)
def test_contract(holds: Callable[[Make], None], method: str) -> None:
    holds(METHODS[method])


def test_published_defaults() -> None:
    reranker = GraphConvolution()
    assert (reranker.k, reranker.beta, reranker.rounds, reranker.mode) == (15, 0.2, 3, "directed")


@pytest.mark.parametrize("scope", ["candidates", "gallery"])
@pytest.mark.parametrize("options", [{"k": 1}, {"rounds": 0}])
def test_nothing_to_average_is_the_first_stage(options: dict[str, Any], scope: str) -> None:
    case = problem()
    lists, baseline = case.rerank(GraphConvolution(**options, scope=scope)), case.rerank(InnerProduct())
    assert torch.equal(lists.indices, baseline.indices)
    assert ((lists.scores - baseline.scores).abs() <= EPS).all()


def test_large_beta_averages_neighbours_scaled_by_how_many_list_them() -> None:
    case = problem(items=30, length=30).rows(slice(0, 1))
    lists = case.rerank(GraphConvolution(4, beta=1e12, rounds=1))
    x = F.normalize(torch.cat([case.queries, case.gallery]), dim=1)
    listed = torch.zeros(31, 31, dtype=torch.float64)
    listed.scatter_(1, torch.from_numpy(published.ranks((x @ x.T).numpy())[:, :4]), 1.0)
    mean = F.normalize((listed / listed.sum(0).sqrt()) @ x, dim=1)
    assert ((score_of(lists, 30)[0] - mean[1:] @ mean[0]).abs() <= EPS).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_beta_does_not_overflow(dtype: torch.dtype) -> None:
    """Each node is then alone, zero vectors included, whose weights all vanish."""
    case = problem(dtype=dtype)
    case.gallery[case.indices[:, 3]] = 0.0
    lists, baseline = case.rerank(GraphConvolution(5, beta=1e-5)), case.rerank(InnerProduct())
    assert torch.equal(lists.indices, baseline.indices)
    assert ((lists.scores - baseline.scores).abs() <= 8 * EPS).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0; expected an integer, at least 1"),
        ({"rounds": -1}, "rounds is -1; expected an integer, at least 0"),
        ({"beta": 0.0}, "beta is 0.0; expected a number above 0"),
        ({"mode": "no-norm"}, "mode is 'no-norm'; expected one of 'directed', 'sym'"),
        ({"normalize": False}, "normalize is False, but GraphConvolution makes unit vectors"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GraphConvolution(**options)
