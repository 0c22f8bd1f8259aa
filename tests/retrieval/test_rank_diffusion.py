"""Rank diffusion against the iteration of the whole matrix, written as loops in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.retrieval import RankDiffusion
from tests.retrieval.cases import (
    CONTRACT,
    Make,
    all_vectors_rotated,
    any_chunk_size,
    nothing_to_rank,
    padding_changes_nothing,
    problem,
    tail_keeps_its_order,
)

EPS = torch.finfo(torch.float32).eps
exact = partial(RankDiffusion, tol=1e-12)


def scaled(x: np.ndarray, k: int, sigma: float = 0.5) -> np.ndarray:
    """S of some vectors."""
    n = len(x)
    square = [[float(((a - b) ** 2).sum()) for b in x] for a in x]
    largest = max(map(max, square)) or 1.0
    w = np.zeros((n, n))
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: (square[i][j], j))
        for j in [i, *others[: k - 1]]:
            w[i, j] = math.exp(-((square[i][j] / largest) ** 2) / sigma**2)
    w = (w + w.T) / 2
    degree = w.sum(1)
    return w / np.sqrt(np.outer(degree, degree))


def iterate(S: np.ndarray, steps: int, mu: float = 0.3) -> np.ndarray:
    alpha = 1 / (1 + mu)
    A = np.eye(len(S))
    for _ in range(steps):
        A = alpha * S @ A @ S.T + (1 - alpha) * np.eye(len(S))
    return A


def limit(S: np.ndarray, mu: float = 0.3) -> np.ndarray:
    alpha = 1 / (1 + mu)
    return (1 - alpha) * np.linalg.inv(np.eye(len(S)) - alpha * S @ S)


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.double(), dim=-1)


def in_order_of_input(scores: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(scores).scatter(0, order, scores)


@pytest.mark.parametrize("k", [1, 2, 7, 24, 100])
@pytest.mark.parametrize("iters", [None, 0, 3, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_whole_matrix(k: int, iters: int | None, dtype: torch.dtype) -> None:
    case = problem(dtype=dtype)
    lists = case.rerank(exact(k, iters=iters))
    for row in range(3):
        nodes = torch.cat([unit(case.queries)[row : row + 1], unit(case.gallery)[case.indices[row]]]).numpy()
        S = scaled(nodes, k)
        expected = torch.from_numpy((limit(S) if iters is None else iterate(S, iters))[0, 1:])
        found = in_order_of_input(lists.scores[row], lists.order[row])
        # Of float32, products of 12 components; the limit has condition (1 + alpha) / (1 - alpha) = 7.7.
        bound = 2 * EPS if dtype == torch.float64 else 8 * 12 * EPS
        assert ((found - expected).abs() <= bound * max(1.0, float(expected.abs().max()))).all()


@pytest.mark.parametrize(("sigma", "mu"), [(0.2, 1.0), (2.0, 0.05)])
def test_other_widths_and_weights(sigma: float, mu: float) -> None:
    case = problem()
    lists = case.rerank(exact(5, sigma=sigma, mu=mu))
    nodes = torch.cat([unit(case.queries)[:1], unit(case.gallery)[case.indices[0]]]).numpy()
    expected = torch.from_numpy(limit(scaled(nodes, 5, sigma), mu)[0, 1:])
    found = in_order_of_input(lists.scores[0], lists.order[0])
    assert ((found - expected).abs() <= 2 * EPS).all()


def test_limit_solves_the_equation_of_both_ends() -> None:
    """vec A = (1 - alpha) (I - alpha S x S)^-1 vec I, with the product of Kronecker."""
    case = problem(num_queries=1, length=14)
    nodes = torch.cat([unit(case.queries), unit(case.gallery)[case.indices[0]]]).numpy()
    S, alpha = scaled(nodes, 4), 1 / 1.3
    whole = np.linalg.solve(np.eye(225) - alpha * np.kron(S, S), (1 - alpha) * np.eye(15).ravel()).reshape(15, 15)
    lists = case.rerank(exact(4))
    found = in_order_of_input(lists.scores[0], lists.order[0])
    assert ((found - torch.from_numpy(whole[0, 1:])).abs() <= 2 * EPS).all()


def test_distances_of_vectors_of_any_length() -> None:
    case = problem()
    lists = case.rerank(exact(5, normalize=False))
    nodes = torch.cat([case.queries[:1], case.gallery[case.indices[0]]]).numpy()
    expected = torch.from_numpy(limit(scaled(nodes, 5))[0, 1:])
    found = in_order_of_input(lists.scores[0], lists.order[0])
    assert ((found - expected).abs() <= 2 * EPS).all()


@pytest.mark.parametrize("iters", [None, 4])
@pytest.mark.parametrize("holds", [*CONTRACT, all_vectors_rotated], ids=lambda f: f.__name__)
def test_contract(holds: Callable[[Make], None], iters: int | None) -> None:
    holds(partial(RankDiffusion, 5, iters=iters))


@pytest.mark.parametrize(
    "holds", [any_chunk_size, nothing_to_rank, padding_changes_nothing, tail_keeps_its_order], ids=lambda f: f.__name__
)
def test_contract_with_peers(holds: Callable[[Make], None]) -> None:
    holds(partial(RankDiffusion, 5, transductive=True))


def test_peers_are_nodes() -> None:
    case = problem()
    lists = case.rerank(exact(6, transductive=True))
    for row in range(5):
        others = [other for other in range(5) if other != row]
        nodes = [unit(case.queries)[[row]], unit(case.gallery)[case.indices[row]], unit(case.queries)[others]]
        expected = torch.from_numpy(limit(scaled(torch.cat(nodes).numpy(), 6))[0, 1:24])
        found = in_order_of_input(lists.scores[row], lists.order[row])
        assert ((found - expected).abs() <= 2 * EPS).all()


def test_published_defaults() -> None:
    reranker = RankDiffusion()
    assert (reranker.k, reranker.sigma, reranker.mu, reranker.iters) == (30, 0.5, 0.3, None)


def test_20_steps_are_close_to_the_limit() -> None:
    """S has no eigenvalue above 1 in size: what is missing is at most alpha^20 of the rest."""
    case = problem()
    a, b = (case.rerank(exact(5, iters=iters)) for iters in (None, 20))
    limit_scores, steps = (torch.empty(5, 23).scatter(1, x.order, x.scores) for x in (a, b))
    assert (limit_scores - steps).abs().max() <= (1 / 1.3) ** 20


def test_no_steps_keep_the_order() -> None:
    case = problem()
    lists = case.rerank(RankDiffusion(5, iters=0))
    assert torch.equal(lists.indices, case.indices)
    assert torch.equal(lists.scores, torch.zeros(5, 23))


def test_copies_of_one_vector_score_alike() -> None:
    x = torch.ones(4, 3)
    lists = RankDiffusion().rerank(x[:1], x)
    assert lists.indices.tolist() == [[0, 1, 2, 3]]
    assert lists.scores.unique().numel() == 1


def test_candidates_that_are_not_finite_are_no_nodes() -> None:
    case = problem()
    gallery = case.gallery.clone()
    broken = case.indices[0, 1]
    gallery[broken] = torch.nan
    lists = replace(case, gallery=gallery).rerank(RankDiffusion(4, nan_policy="last"))
    without = replace(case, indices=case.indices.where(case.indices != broken, -1)).rerank(RankDiffusion(4))
    torch.testing.assert_close(lists.scores, without.scores)


def test_reports_its_residual() -> None:
    residual = problem().rerank(RankDiffusion(5, max_iter=1)).diagnostics["residual"]
    assert ((residual > 1e-6) & (residual < 1)).all()
    assert (problem().rerank(RankDiffusion(5)).diagnostics["residual"] <= 1e-6).all()
    assert "residual" not in problem().rerank(RankDiffusion(5, iters=2)).diagnostics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0; expected an integer, at least 1"),
        ({"iters": -1}, "iters is -1; expected an integer, at least 0"),
        ({"max_iter": 0}, "max_iter is 0; expected an integer, at least 1"),
        ({"sigma": 0.0}, "sigma is 0.0; expected a positive number"),
        ({"mu": -1.0}, "mu is -1.0; expected a positive number"),
        ({"tol": 0.0}, "tol is 0.0; expected a positive number"),
        ({"scope": "gallery"}, "scope is 'gallery', but RankDiffusion has only 'candidates'"),
        ({"min_support": 1}, "min_support is 1, but RankDiffusion has no reciprocal neighbours"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RankDiffusion(**options)
