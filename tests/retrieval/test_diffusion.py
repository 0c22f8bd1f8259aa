"""Diffusion against the formulas, written as loops in float64 and solved as dense systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.retrieval import Diffusion
from tests.retrieval.cases import (
    CONTRACT,
    Make,
    Problem,
    all_vectors_rotated,
    assert_same,
    candidates_without_scores_in_another_order,
    problem,
    score_of,
)

Matrix = list[list[float]]
EPS = torch.finfo(torch.float32).eps
exact = partial(Diffusion, tol=1e-12, max_iter=1000)
KINDS: dict[str, Make] = {
    "candidates": partial(Diffusion, 4, 3),
    "gallery": partial(Diffusion, 4, 3, scope="gallery", n_trunc=15),
    "offline": partial(Diffusion, 4, 3, scope="gallery", offline=True, n_trunc=15, keep=9),
}


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.double(), dim=-1)


def system(items: Tensor, k: int, gamma: float = 3.0, decay: float = 0.99) -> np.ndarray:
    """I - decay S of unit vectors."""
    s = (items @ items.T).tolist()
    n = len(s)
    near = [set(sorted((j for j in range(n) if j != i), key=lambda j: (-s[i][j], j))[:k]) for i in range(n)]
    w = [[max(s[i][j], 0.0) ** gamma if j in near[i] and i in near[j] else 0.0 for j in range(n)] for i in range(n)]
    degree = [sum(row) for row in w]
    matrix = np.eye(n)
    for i in range(n):
        for j in range(n):
            if w[i][j] > 0:
                matrix[i, j] -= decay * w[i][j] / (degree[i] * degree[j]) ** 0.5
    return matrix


def entry(query: Tensor, items: Tensor, kq: int, gamma: float = 3.0, own: int = -1) -> np.ndarray:
    s = (items @ query).tolist()
    y = np.zeros(len(s))
    for i in sorted((i for i in range(len(s)) if i != own), key=lambda i: -s[i])[:kq]:
        y[i] = max(s[i], 0.0) ** gamma
    return y


def assert_scores(case: Problem, reranker: Diffusion, row: int, expected: np.ndarray, bound: float) -> None:
    """Compare with the scores of all items; the bound is relative to the largest."""
    found = score_of(case.rerank(reranker), len(case.gallery))[row]
    listed = ~found.isnan()
    truth = torch.from_numpy(expected)
    assert ((found - truth)[listed].abs() <= bound * truth.abs().max()).all()


def by_item(case: Problem, row: int, scores: np.ndarray) -> np.ndarray:
    """Scores of a list as scores of all items."""
    whole = np.zeros(len(case.gallery))
    whole[case.indices[row]] = scores
    return whole


@pytest.mark.parametrize(("k", "kq"), [(1, 1), (4, 3), (8, 23), (100, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_solution_in_the_list(k: int, kq: int, dtype: torch.dtype) -> None:
    case = problem(dtype=dtype)
    for row in range(3):
        items = unit(case.gallery)[case.indices[row]]
        expected = np.linalg.solve(system(items, k), entry(unit(case.queries)[row], items, kq))
        # Vectors of 12 components in float32, cubes of their products, times the condition of the system.
        bound = 2 * EPS if dtype == torch.float64 else 199 * 12 * 3 * EPS
        assert_scores(case, exact(k, kq), row, by_item(case, row, expected), bound)


@pytest.mark.parametrize(("gamma", "decay"), [(1.0, 0.5), (0.5, 0.9), (5.0, 0.0)])
def test_other_exponents_and_decays(gamma: float, decay: float) -> None:
    case = problem()
    items = unit(case.gallery)[case.indices[0]]
    expected = np.linalg.solve(system(items, 4, gamma, decay), entry(unit(case.queries)[0], items, 3, gamma))
    assert_scores(case, exact(4, 3, gamma=gamma, decay=decay), 0, by_item(case, 0, expected), 2 * EPS)


@pytest.mark.parametrize("max_iter", [1, 5, 20])
def test_few_products_are_those_of_scipy(max_iter: int) -> None:
    """The published solver stops after 20 products, converged or not."""
    case = problem()
    items = unit(case.gallery)[case.indices[0]]
    matrix, y = system(items, 4), entry(unit(case.queries)[0], items, 3)
    expected, _ = scipy.sparse.linalg.cg(matrix, y, rtol=1e-6, atol=0.0, maxiter=max_iter)
    reranker = Diffusion(4, 3, max_iter=max_iter)
    assert_scores(case, reranker, 0, by_item(case, 0, expected), 2 * EPS)
    residual = np.linalg.norm(y - matrix @ expected) / np.linalg.norm(y)
    assert case.rerank(reranker).diagnostics["residual"][0].item() == pytest.approx(residual, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("n_trunc", [1, 9, 40, 1000])
def test_equals_the_solution_in_the_gallery(n_trunc: int) -> None:
    """Scaled as a whole, then restricted; the size of the gallery restricts nothing."""
    case = problem()
    queries, items = unit(case.queries), unit(case.gallery)
    matrix = system(items, 4)
    for row in range(3):
        y = entry(queries[row], items, 3)
        inside = np.argsort(-(items @ queries[row]).numpy(), kind="stable")[:n_trunc]
        expected = np.zeros(40)
        expected[inside] = np.linalg.solve(matrix[np.ix_(inside, inside)], y[inside])
        assert_scores(case, exact(4, 3, scope="gallery", n_trunc=n_trunc), row, expected, 2 * EPS)


def offline_scores(query: Tensor, items: Tensor, n_trunc: int, keep: int, own: int = -1) -> np.ndarray:
    matrix, y = system(items, 4), entry(query, items, 3, own=own)
    expected = np.zeros(len(items))
    for i in np.flatnonzero(y):
        similarity = (items @ items[i]).numpy().copy()
        similarity[i] = np.inf
        inside = np.argsort(-similarity, kind="stable")[:n_trunc]
        unit_vector = (inside == i).astype(float)
        column = np.linalg.solve(matrix[np.ix_(inside, inside)], unit_vector)
        column[np.argsort(-column, kind="stable")[keep:]] = 0.0
        expected[inside] += y[i] * column
    return expected


@pytest.mark.parametrize(("n_trunc", "keep"), [(1, None), (9, None), (9, 4), (40, None), (1000, 7)])
def test_equals_the_solutions_made_offline(n_trunc: int, keep: int | None) -> None:
    case = problem()
    queries, items = unit(case.queries), unit(case.gallery)
    reranker = exact(4, 3, scope="gallery", offline=True, n_trunc=n_trunc, keep=keep)
    for row in range(3):
        expected = offline_scores(queries[row], items, n_trunc, keep or n_trunc)
        assert_scores(case, reranker, row, expected, 4 * EPS)
    assert reranker.columns_[0].shape == (40, min(keep or n_trunc, 40))


def test_offline_without_restriction_is_the_whole_solution() -> None:
    case = problem()
    online = case.rerank(exact(4, 3, scope="gallery", n_trunc=40))
    offline = case.rerank(exact(4, 3, scope="gallery", n_trunc=40, offline=True))
    a, b = (score_of(lists, 40) for lists in (online, offline))
    listed = ~a.isnan()
    assert ((a - b)[listed].abs() <= 4 * EPS * a[listed].abs().max()).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "holds",
    [
        *(holds for holds in CONTRACT if holds is not candidates_without_scores_in_another_order),
        all_vectors_rotated,
    ],
    ids=lambda f: f.__name__,
)
def test_contract(holds: Callable[[Make], None], kind: str) -> None:
    holds(KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_in_another_order_get_the_same_scores(kind: str) -> None:
    """Those that nothing reaches all score 0, and stay in the order in which they are listed."""
    case = problem()
    mixed = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    permuted = replace(case, indices=case.indices[:, mixed])
    a, b = (score_of(x.rerank(KINDS[kind]()), 40) for x in (case, permuted))
    torch.testing.assert_close(a, b, rtol=0, atol=2 * EPS, equal_nan=True)


def test_published_defaults() -> None:
    reranker = Diffusion()
    assert (reranker.k, reranker.kq, reranker.gamma, reranker.decay) == (50, 10, 3.0, 0.99)
    assert (reranker.top_k, reranker.scope, reranker.tol) == (None, "candidates", 1e-6)
    case = problem()
    options = {"scope": "gallery"}
    assert_same(case.rerank(Diffusion(4, n_trunc=1000, **options)), case.rerank(Diffusion(4, **options)))


def test_without_decay_the_score_is_what_enters() -> None:
    case = problem()
    lists = case.rerank(Diffusion(4, 3, decay=0.0))
    similarity = torch.einsum("qd,qkd->qk", unit(case.queries), unit(case.gallery)[lists.indices[:, :3]])
    torch.testing.assert_close(lists.scores[:, :3], (similarity**3).float())
    assert torch.equal(lists.scores[:, 3:], torch.zeros(5, 20))
    assert torch.equal(lists.indices, case.indices), "what nothing reaches stays in order"


@pytest.mark.parametrize("options", [{}, {"scope": "gallery"}, {"scope": "gallery", "offline": True}])
def test_items_without_neighbours_keep_what_enters(options: dict[str, Any]) -> None:
    gallery = torch.eye(4)
    query = torch.tensor([[0.5, 0.5, 0.5, -0.5]])
    lists = Diffusion(k=1, **options).fit(gallery).rerank(query, gallery, torch.arange(4).unsqueeze(0))
    assert lists.indices.tolist() == [[0, 1, 2, 3]]
    torch.testing.assert_close(lists.scores, torch.tensor([[0.125, 0.125, 0.125, 0.0]]))


@pytest.mark.parametrize("offline", [False, True])
def test_a_query_of_the_gallery_does_not_enter_at_itself(offline: bool) -> None:
    case = problem()
    own = torch.tensor([4, 0, -1, 1, 2])
    queries = case.gallery[own.clamp(min=0)]
    items = unit(case.gallery)
    everything = replace(case, queries=queries, indices=torch.arange(40).expand(5, -1), query_ids=own)
    reranker = exact(4, 3, scope="gallery", n_trunc=40, offline=offline)
    for row in range(3):
        y = entry(items[own[row].clamp(min=0)], items, 3, own=int(own[row]))
        expected = np.linalg.solve(system(items, 4), y)
        assert_scores(everything, reranker, row, expected, 4 * EPS)
    excluded = everything.rows([0, 1, 3, 4]).rerank(
        exact(4, 3, scope="gallery", n_trunc=40, offline=offline, exclude_self=True)
    )
    assert (excluded.indices[:, -1] == -1).all()
    assert not (excluded.indices == own[[0, 1, 3, 4]].unsqueeze(1)).any()


def test_candidates_that_are_not_finite_are_no_nodes() -> None:
    case = problem()
    gallery = case.gallery.clone()
    broken = case.indices[0, 1]
    gallery[broken] = torch.nan
    for kind in KINDS.values():
        lists = replace(case, gallery=gallery).rerank(kind(nan_policy="last"))
        assert lists.indices[0, -1] == broken
        assert lists.scores[0, -1] == -torch.inf
        assert lists.scores[0, :-1].isfinite().all()
    without = replace(case, indices=case.indices.where(case.indices != broken, -1)).rerank(KINDS["candidates"]())
    assert torch.equal(
        replace(case, gallery=gallery).rerank(KINDS["candidates"](nan_policy="last")).scores, without.scores
    )


@pytest.mark.parametrize("offline", [False, True])
def test_items_that_are_not_finite_leave_the_gallery(offline: bool) -> None:
    case = problem()
    gallery = case.gallery.clone()
    gallery[7] = torch.nan
    rest = torch.arange(40) != 7
    renumber = (rest.cumsum(0) - 1).masked_fill(~rest, -1)
    options = {"scope": "gallery", "offline": offline, "n_trunc": 40}
    everything = torch.arange(40).expand(5, -1)
    lists = replace(case, gallery=gallery, indices=everything).rerank(exact(4, 3, nan_policy="last", **options))
    without = replace(case, gallery=gallery[rest], indices=renumber[everything]).rerank(exact(4, 3, **options))
    assert (lists.indices[:, -1] == 7).all()
    assert torch.equal(renumber[lists.indices], without.indices)
    torch.testing.assert_close(lists.scores, without.scores, rtol=2 * EPS, atol=0)


def test_any_size_of_fitted_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    case = problem()
    whole = case.rerank(KINDS["offline"]())
    monkeypatch.setattr("graphattn.retrieval.diffusion._FIT_BYTES", 1)
    monkeypatch.setattr("graphattn.retrieval.diffusion._SEARCH_ROWS", 5)
    monkeypatch.setattr("graphattn.affinity._vectors._BLOCK_BYTES", 7 * 12 * 8)
    assert_same(case.rerank(KINDS["offline"]()), whole)


@pytest.mark.parametrize("kind", ["gallery", "offline"])
def test_save_and_load(tmp_path: Path, kind: str) -> None:
    case = problem()
    reranker = KINDS[kind](decay=0.9, top_k=11, exclude_self=True).fit(case.gallery)
    reranker.save(tmp_path / "fitted.npz")
    loaded = Diffusion.load(tmp_path / "fitted.npz")
    assert repr(loaded) == repr(reranker)
    arguments = case.queries, case.gallery, case.indices, None, torch.full((5,), -1)
    a, b = reranker.rerank(*arguments), loaded.rerank(*arguments)
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.scores, b.scores)
    assert [path.name for path in tmp_path.iterdir()] == ["fitted.npz"]
    with pytest.raises(ValueError, match="gallery has 39 items but was fitted with 40; call fit"):
        loaded.rerank(case.queries, case.gallery[:-1], case.indices.clamp(max=38), None, torch.full((5,), -1))


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", ids=np.zeros(3))
    with pytest.raises(ValueError, match=r"other.npz is no fitted Diffusion; expected a file that Diffusion.save"):
        Diffusion.load(tmp_path / "other.npz")
    for reranker in (Diffusion(), Diffusion(scope="gallery")):
        with pytest.raises(ValueError, match="there is nothing to save; call fit"):
            reranker.save(tmp_path / "fitted.npz")


def test_repr() -> None:
    text = (
        "Diffusion(k=50, kq=10, gamma=3.0, decay=0.99, n_trunc=None, offline=False, keep=None, tol=1e-06, max_iter=150"
    )
    assert repr(Diffusion()) == text + ")"
    assert repr(Diffusion(scope="gallery").fit(torch.eye(4))) == text + ", scope='gallery')"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0; expected an integer, at least 1"),
        ({"kq": 1.5}, "kq is 1.5; expected an integer"),
        ({"max_iter": 0}, "max_iter is 0; expected an integer, at least 1"),
        ({"n_trunc": 0, "scope": "gallery"}, "n_trunc is 0; expected an integer"),
        ({"keep": 0, "scope": "gallery", "offline": True}, "keep is 0; expected an integer"),
        ({"gamma": 0.0}, "gamma is 0.0; expected a positive number"),
        ({"tol": float("nan")}, "tol is nan; expected a positive number"),
        ({"decay": 1.0}, r"decay is 1.0; expected a number in \[0, 1\)"),
        ({"decay": -0.1}, r"decay is -0.1; expected a number in \[0, 1\)"),
        ({"offline": True}, "offline is True but scope is 'candidates'; pass scope='gallery'"),
        ({"n_trunc": 5}, "n_trunc is 5 but scope is 'candidates'; pass scope='gallery'"),
        ({"keep": 5, "scope": "gallery"}, "keep is 5 but nothing is solved ahead; pass offline=True"),
        ({"transductive": True}, "transductive is True, but Diffusion has no form"),
        ({"min_support": 1}, "min_support is 1, but Diffusion has no reciprocal neighbours"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Diffusion(**options)
