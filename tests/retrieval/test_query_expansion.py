"""Query expansion and database augmentation against the formulas, written as loops in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.retrieval import DatabaseAugmentation, QueryExpansion, expand_query
from tests.retrieval.cases import CONTRACT, InnerProduct, Make, all_vectors_rotated, problem

KINDS = ("average", "weighted", "alpha")


def literal(query: list[float], found: list[list[float]], kind: str, k: int, alpha: float = 3.0) -> list[float]:
    """One expanded query: unit vectors in, a unit vector out."""
    similarity = [sum(a * b for a, b in zip(query, z, strict=True)) for z in found]
    order = sorted(range(len(found)), key=lambda j: -similarity[j])[:k]
    k = len(order)
    total = list(query)
    for j, place in enumerate(order, start=1):
        weight = {"average": 1.0, "weighted": (k + 1 - j) / (k + 1), "alpha": max(similarity[place], 0.0) ** alpha}[
            kind
        ]
        total = [t + weight * z for t, z in zip(total, found[place], strict=True)]
    length = math.sqrt(sum(t * t for t in total))
    return [t / length for t in total] if length else total


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.double(), dim=-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_formula(kind: str, times: int, dtype: torch.dtype) -> None:
    case = problem(dtype=dtype)
    queries, gallery = unit(case.queries), unit(case.gallery)
    lists = case.rerank(QueryExpansion(kind, 5, times=times))
    for row in range(len(queries)):
        found = gallery[case.indices[row]]
        query = queries[row].tolist()
        for _ in range(times):
            query = literal(query, found.tolist(), kind, 5)
        expected = found @ torch.tensor(query, dtype=torch.float64)
        order = expected.sort(descending=True).indices
        assert torch.equal(lists.order[row], order)
        assert ((lists.scores[row] - expected[order]).abs() <= 12 * torch.finfo(torch.float32).eps).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holds", [*CONTRACT, all_vectors_rotated], ids=lambda f: f.__name__)
def test_contract(holds: Callable[[Make], None], kind: str) -> None:
    holds(partial(QueryExpansion, kind, 4))


@pytest.mark.parametrize(("kind", "k"), [("average", 4), ("weighted", 8), ("alpha", 48)])
def test_published_defaults(kind: str, k: int) -> None:
    assert QueryExpansion(kind).k == k
    assert (QueryExpansion().kind, QueryExpansion().alpha) == ("alpha", 3.0)
    case = problem(items=70, length=60)
    assert torch.equal(case.rerank(QueryExpansion(kind)).scores, case.rerank(QueryExpansion(kind, k)).scores)


@pytest.mark.parametrize("kind", KINDS)
def test_no_neighbours_is_the_first_stage(kind: str) -> None:
    case = problem()
    lists, baseline = case.rerank(QueryExpansion(kind, 0)), case.rerank(InnerProduct())
    assert torch.equal(lists.indices, baseline.indices)
    torch.testing.assert_close(lists.scores, baseline.scores)


def test_alpha_0_of_positive_similarities_is_the_average() -> None:
    case = problem()
    case = replace(case, queries=case.queries.abs(), gallery=case.gallery.abs())
    a, b = case.rerank(QueryExpansion("alpha", 6, alpha=0.0)), case.rerank(QueryExpansion("average", 6))
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.scores, b.scores)


def test_fractional_alpha_of_negative_similarities_is_finite() -> None:
    query, found = torch.tensor([[1.0, 0.0]]), torch.tensor([[[-1.0, 0.0], [-0.6, 0.8]]])
    assert torch.equal(expand_query(query, found, kind="alpha", alpha=0.5), query)


def test_more_neighbours_than_candidates_are_those_there_are() -> None:
    case = problem()
    for kind in KINDS:
        a, b = case.rerank(QueryExpansion(kind, 1000)), case.rerank(QueryExpansion(kind, 23))
        assert torch.equal(a.scores, b.scores)


def test_neighbours_come_from_the_head() -> None:
    case = problem()
    head = replace(case, indices=case.indices[:, :3]).rerank(QueryExpansion("average", 8))
    assert torch.equal(case.rerank(QueryExpansion("average", 8, top_k=3)).scores[:, :3], head.scores)


def test_expand_query_gives_the_query_of_a_second_search() -> None:
    case = problem()
    lists = case.rerank(QueryExpansion("weighted", 4))
    new = expand_query(case.queries, case.gallery[case.indices], kind="weighted", k=4)
    assert new.dtype == torch.float64
    scores = torch.einsum("qd,qkd->qk", new, unit(case.gallery)[lists.indices])
    torch.testing.assert_close(lists.scores, scores.float())
    torch.testing.assert_close(new.norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_expand_query_masks_candidates() -> None:
    case = problem()
    found = case.gallery[case.indices].clone()
    mask = torch.ones(5, 23, dtype=torch.bool)
    mask[:, ::2] = False
    expected = expand_query(case.queries, found[:, 1::2], k=3)
    torch.testing.assert_close(expand_query(case.queries, found, mask, k=3), expected)
    nobody = expand_query(case.queries, found, torch.zeros_like(mask))
    torch.testing.assert_close(nobody, unit(case.queries))


def test_expand_query_of_half_precision() -> None:
    case = problem(dtype=torch.bfloat16)
    found = case.gallery[case.indices]
    new = expand_query(case.queries, found)
    assert new.dtype == torch.bfloat16
    assert torch.equal(new, expand_query(case.queries.float(), found.float()).bfloat16())


def test_expand_query_is_differentiable() -> None:
    case = problem(num_queries=2, length=6)
    found = case.gallery[case.indices].requires_grad_()
    queries = case.queries.requires_grad_()
    for kind in KINDS:
        assert torch.autograd.gradcheck(lambda q, z, kind=kind: expand_query(q, z, kind=kind, k=3), (queries, found))


def test_zero_vectors_stay_zero() -> None:
    assert expand_query(torch.zeros(1, 3), torch.zeros(1, 2, 3)).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mean"}, "kind is 'mean'; expected one of 'average', 'weighted', 'alpha'"),
        ({"k": -1}, "k is -1; expected an integer, at least 0, or None"),
        ({"k": 2.0}, "k is 2.0; expected an integer"),
        ({"alpha": -1.0}, "alpha is -1.0; expected an exponent of at least 0"),
        ({"times": 0}, "times is 0; expected an integer, at least 1"),
        ({"scope": "gallery"}, "scope is 'gallery', but QueryExpansion has only 'candidates'"),
        ({"transductive": True}, "transductive is True, but QueryExpansion has no form"),
        ({"min_support": 1}, "min_support is 1, but QueryExpansion has no reciprocal neighbours"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueryExpansion(**options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(2), torch.ones(1, 3, 2)), ValueError, r"queries has shape \(2,\); expected \[Q, D\]"),
        ((torch.ones(1, 2), torch.ones(3, 2)), ValueError, r"candidates has shape \(3, 2\); expected \[Q, K, D\]"),
        (
            (torch.ones(1, 2), torch.ones(1, 3, 4)),
            ValueError,
            r"candidates has shape \(1, 3, 4\); expected \[1, K, 2\]",
        ),
        ((torch.ones(1, 2).int(), torch.ones(1, 3, 2)), TypeError, "queries is of dtype torch.int32"),
        ((torch.ones(1, 2), [[1.0]]), TypeError, "candidates is a list"),
        (
            (torch.ones(1, 2), torch.ones(1, 3, 2), torch.ones(1, 3)),
            ValueError,
            r"dtype torch.float32; expected \(1, 3\)",
        ),
    ],
)
def test_bad_arguments_of_expand_query(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        expand_query(*arguments)


# Database augmentation ################################################################################################


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_augmentation_equals_the_formula(kind: str, dtype: torch.dtype) -> None:
    gallery = problem(dtype=dtype).gallery
    vectors = unit(gallery)
    new = DatabaseAugmentation(5, kind).fit_transform(gallery)
    assert new.dtype == dtype
    for i in range(len(gallery)):
        others = torch.cat([vectors[:i], vectors[i + 1 :]])
        expected = torch.tensor(literal(vectors[i].tolist(), others.tolist(), kind, 5), dtype=torch.float64)
        assert ((new[i] - expected).abs() <= 12 * torch.finfo(dtype).eps).all()


def test_augmentation_counts_copies_as_neighbours() -> None:
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    new = DatabaseAugmentation(1).fit_transform(gallery)
    torch.testing.assert_close(new[:2], gallery[:2])
    torch.testing.assert_close(new[2], torch.full((2,), 0.5**0.5))


def test_augmentation_without_neighbours_normalizes() -> None:
    gallery = problem().gallery
    torch.testing.assert_close(DatabaseAugmentation(0).fit_transform(gallery), unit(gallery))
    raw = DatabaseAugmentation(0, normalize=False).fit_transform(gallery)
    assert torch.equal(raw, gallery)


def test_augmentation_of_few_items() -> None:
    gallery = torch.tensor([[2.0, 0.0]])
    assert DatabaseAugmentation(4, "alpha").fit_transform(gallery).tolist() == [[1.0, 0.0]]
    assert DatabaseAugmentation().fit_transform(torch.empty(0, 3)).shape == (0, 3)


def test_augmentation_of_arrays(tmp_path: Path) -> None:
    gallery = problem().gallery.numpy().astype(np.float32)
    np.save(tmp_path / "gallery.npy", gallery)
    new = DatabaseAugmentation().fit_transform(np.load(tmp_path / "gallery.npy", mmap_mode="r"))
    assert isinstance(new, np.ndarray)
    assert new.dtype == np.float32
    assert np.array_equal(new, DatabaseAugmentation().fit_transform(torch.from_numpy(gallery)).numpy())


def test_augmentation_needs_its_gallery() -> None:
    augmentation = DatabaseAugmentation()
    with pytest.raises(ValueError, match=r"there are no neighbours yet; call fit\(gallery\) first"):
        augmentation.transform(torch.eye(5))
    with pytest.raises(ValueError, match="gallery has 5 items but was fitted with 4; call fit anew"):
        augmentation.fit(torch.eye(4)).transform(torch.eye(5))
    with pytest.raises(TypeError, match="gallery is a function"):
        augmentation.fit(lambda ids: ids)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind is 'x'"):
        DatabaseAugmentation(kind="x")


def test_augmentation_helps_noisy_clusters() -> None:
    """What it is for: with centres far apart, means of neighbours lie closer to the centre than the items do."""
    labels = torch.arange(60) % 4
    centers = unit(torch.randn(4, 32))
    gallery = unit(centers[labels] + 0.15 * torch.randn(60, 32))
    new = DatabaseAugmentation().fit_transform(gallery)
    before, after = ((x * centers[labels]).sum(1) for x in (gallery, new))
    assert (after > before).float().mean() > 0.9
