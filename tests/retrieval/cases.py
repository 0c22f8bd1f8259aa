"""What the tests of all re-rankers share: data, trivial methods, and the contract that every method keeps.

A test file of a method parametrizes over ``CONTRACT`` with a function that makes the method:

    @pytest.mark.parametrize("holds", CONTRACT, ids=lambda f: f.__name__)
    def test_contract(holds): holds(lambda **options: KReciprocal(k1=4, k2=2, **options))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.retrieval import CandidateBatch, RankedLists, Reranker

Make = Callable[..., Reranker]


class InnerProduct(Reranker):
    """The simplest method: it keeps the order of the first stage that searched by inner products."""

    def _scores(self, batch: CandidateBatch) -> Tensor:
        return batch.similarity


class Reverse(Reranker):
    """The method that changes most: the least similar candidate comes first."""

    def _scores(self, batch: CandidateBatch) -> Tensor:
        return -batch.similarity


class Crowd(Reranker):
    """A method on the graph: how similar a candidate is to all nodes; its support is the candidates above 0."""

    can_be_transductive = True
    reports_support = True

    def _scores(self, batch: CandidateBatch) -> Tensor:
        batch.report(support=((batch.similarity > 0) & batch.mask).sum(1))
        return batch.between.clamp(min=0).sum(2)[:, 1 : 1 + batch.mask.size(1)]


@dataclass(frozen=True)
class Problem:
    queries: Tensor
    gallery: Tensor
    indices: Tensor
    scores: Tensor | None = None
    query_ids: Tensor | None = None

    def rerank(self, reranker: Reranker) -> RankedLists:
        """Run the method, fitted if its scope asks for it."""
        if reranker.scope == "gallery":
            reranker.fit(self.gallery)
        return reranker.rerank(self.queries, self.gallery, self.indices, self.scores, self.query_ids)

    def rows(self, rows: Any) -> Problem:
        """Keep some of the queries."""
        kept = {name: getattr(self, name) for name in ("queries", "indices", "scores", "query_ids")}
        return replace(self, **{name: value if value is None else value[rows] for name, value in kept.items()})


def problem(
    num_queries: int = 5,
    length: int = 23,
    items: int = 40,
    width: int = 12,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Problem:
    """Noisy clusters of unequal size and length, lists sorted by inner product; all sizes differ from one another."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(6, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(6, (items + num_queries,), generator=generator)
    x = centers[labels] + 0.7 * torch.randn(items + num_queries, width, generator=generator, dtype=torch.float64)
    x = x * (0.5 + torch.rand(items + num_queries, 1, generator=generator, dtype=torch.float64))
    queries, gallery = x[items:].to(dtype), x[:items].to(dtype)
    similarity = F.normalize(queries.double(), dim=1) @ F.normalize(gallery.double(), dim=1).T
    return Problem(queries, gallery, similarity.sort(dim=1, descending=True).indices[:, :length])


def score_of(lists: RankedLists, items: int) -> Tensor:
    """Scores by item, ``[Q, items]``; NaN for those that are not in the list."""
    indices, scores = torch.as_tensor(lists.indices), torch.as_tensor(lists.scores)
    table = torch.full((len(lists), items + 1), torch.nan, dtype=scores.dtype)
    return table.scatter(1, indices.where(indices >= 0, items), scores)[:, :items]


def assert_same(a: RankedLists, b: RankedLists, *, order: bool = True) -> None:
    """Assert equal lists, scores up to the rounding of the float32 in which they are returned."""
    assert torch.equal(torch.as_tensor(a.indices), torch.as_tensor(b.indices))
    if order:
        assert torch.equal(torch.as_tensor(a.order), torch.as_tensor(b.order))
    left, right = torch.as_tensor(a.scores), torch.as_tensor(b.scores)
    finite = left.isfinite()
    assert torch.equal(finite, right.isfinite())
    scale = left[finite].abs().max() if finite.any() else 0.0
    assert ((left - right)[finite].abs() <= 2 * torch.finfo(torch.float32).eps * scale).all()


# The contract #########################################################################################################


def one_query_at_a_time(make: Make) -> None:
    case = problem()
    whole = case.rerank(make())
    for row in range(len(whole)):
        single = case.rows(slice(row, row + 1)).rerank(make())
        assert_same(single, RankedLists(*(x[row : row + 1] for x in (whole.indices, whole.scores, whole.order))))


def any_chunk_size(make: Make) -> None:
    case = problem()
    whole = case.rerank(make())
    for chunk in (1, 2, 3, 100):
        assert_same(case.rerank(make(chunk=chunk)), whole)


def candidates_in_another_order(make: Make) -> None:
    """With scores, which tell the first stage's order, it does not matter how the candidates are listed."""
    case = problem()
    case = replace(case, scores=torch.linspace(1.0, 0.0, case.indices.size(1)).expand(case.indices.shape))
    whole = case.rerank(make())
    mixed = torch.randperm(case.indices.size(1), generator=torch.Generator().manual_seed(1))
    permuted = replace(case, indices=case.indices[:, mixed], scores=case.scores[:, mixed]).rerank(make())
    assert_same(permuted, whole, order=False)
    assert torch.equal(mixed[permuted.order], whole.order)


def candidates_without_scores_in_another_order(make: Make) -> None:
    """No method but those whose features are ranks of the first stage depends on the order of the list."""
    case = problem()
    whole = case.rerank(make(top_k=case.indices.size(1)))
    mixed = torch.randperm(case.indices.size(1), generator=torch.Generator().manual_seed(1))
    permuted = replace(case, indices=case.indices[:, mixed]).rerank(make(top_k=case.indices.size(1)))
    assert_same(permuted, whole, order=False)
    assert torch.equal(mixed[permuted.order], whole.order)


def items_with_other_ids(make: Make) -> None:
    case = problem()
    new_id = torch.randperm(case.gallery.size(0), generator=torch.Generator().manual_seed(2))
    gallery = torch.empty_like(case.gallery)
    gallery[new_id] = case.gallery
    whole = case.rerank(make())
    renamed = replace(case, gallery=gallery, indices=new_id[case.indices]).rerank(make())
    assert torch.equal(renamed.indices, new_id[whole.indices])
    assert_same(replace_indices(renamed, whole.indices), whole)


def padding_changes_nothing(make: Make) -> None:
    """Empty slots in the middle and at the end leave the ranking of the others as it is."""
    case = problem()
    whole = case.rerank(make())
    padded = torch.full((len(whole), case.indices.size(1) + 4), -1)
    slots = torch.cat([torch.arange(2, 10), torch.arange(11, case.indices.size(1) + 3)])
    padded[:, slots] = case.indices
    lists = replace(case, indices=padded).rerank(make())
    length = case.indices.size(1)
    assert_same(RankedLists(lists.indices[:, :length], lists.scores[:, :length], whole.order), whole)
    assert (lists.indices[:, length:] == -1).all()
    assert (lists.scores[:, length:] == -torch.inf).all()
    assert torch.equal(lists.order.sort(1).values, torch.arange(length + 4).expand(len(whole), -1))


def lists_of_unequal_length(make: Make) -> None:
    """Down to one candidate and none, each list is ranked as if it were alone."""
    case = problem()
    short = case.indices.clone()
    for row, length in enumerate((1, 0, 2, 9)):
        short[row, length:] = -1
    lists = replace(case, indices=short).rerank(make())
    for row, length in enumerate((1, 0, 2, 9)):
        alone = replace(case.rows(slice(row, row + 1)), indices=short[row : row + 1, :length]).rerank(make())
        found = RankedLists(*(x[row : row + 1, :length] for x in (lists.indices, lists.scores, lists.order)))
        assert_same(found, alone)
        assert (lists.indices[row, length:] == -1).all()


def repeated_ids_count_once(make: Make) -> None:
    case = problem()
    whole = case.rerank(make())
    repeated = torch.cat([case.indices, case.indices[:, :3]], dim=1)
    lists = replace(case, indices=repeated).rerank(make())
    length = case.indices.size(1)
    assert_same(RankedLists(lists.indices[:, :length], lists.scores[:, :length], lists.order[:, :length]), whole)
    assert (lists.indices[:, length:] == -1).all()
    assert lists.diagnostics["duplicates"].tolist() == [3] * len(whole)


def tail_keeps_its_order(make: Make) -> None:
    case = problem()
    head = 7
    kept = case.rerank(make(top_k=head))
    alone = replace(case, indices=case.indices[:, :head]).rerank(make())
    assert_same(RankedLists(kept.indices[:, :head], kept.scores[:, :head], kept.order[:, :head]), alone)
    assert torch.equal(kept.indices[:, head:], case.indices[:, head:])
    assert (kept.scores[:, head] < kept.scores[:, head - 1]).all()
    assert (kept.scores[:, 1:] <= kept.scores[:, :-1]).all()
    dropped = case.rerank(make(top_k=head, tail="drop"))
    assert_same(RankedLists(*(x[:, :head] for x in (dropped.indices, dropped.scores, dropped.order))), alone)
    assert (dropped.indices[:, head:] == -1).all()


def arrays_give_arrays(make: Make) -> None:
    case = problem()
    whole = case.rerank(make())
    array = replace(case, queries=case.queries.numpy(), gallery=case.gallery.numpy(), indices=case.indices.numpy())
    lists = array.rerank(make())
    fields = (lists.indices, lists.scores, lists.order, lists.diagnostics["overlap"])
    assert all(isinstance(x, np.ndarray) for x in fields)
    assert_same(lists, whole)


def a_function_gives_the_vectors(make: Make) -> None:
    if make().scope == "gallery":
        pytest.skip("the gallery graph needs all vectors at once")
    case = problem()
    asked: list[Tensor] = []

    def fetch(ids: Tensor) -> Tensor:
        asked.append(ids)
        return case.gallery[ids]

    lists = make(chunk=2).rerank(case.queries, fetch, case.indices)
    assert_same(lists, case.rerank(make()))
    assert len(asked) == 3
    assert all(ids.unique().numel() == ids.numel() for ids in asked)


def the_same_twice(make: Make) -> None:
    case = problem(dtype=torch.float32)
    reranker = make()
    first, second = case.rerank(reranker), case.rerank(reranker)
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.scores, second.scores)


def nothing_is_edited(make: Make) -> None:
    case = problem()
    case = replace(case, scores=torch.linspace(0.0, 1.0, case.indices.size(1)).expand(case.indices.shape).clone())
    before = [x.clone() for x in (case.queries, case.gallery, case.indices, case.scores)]
    case.rerank(make())
    after = (case.queries, case.gallery, case.indices, case.scores)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def half_precision_is_computed_in_float32(make: Make) -> None:
    case = problem(dtype=torch.bfloat16)
    wide = replace(case, queries=case.queries.float(), gallery=case.gallery.float())
    assert_same(case.rerank(make()), wide.rerank(make()))


def nothing_to_rank(make: Make) -> None:
    case = problem()
    empty = case.rows(slice(0, 0)).rerank(make())
    assert empty.indices.shape == (0, case.indices.size(1))
    short = replace(case, indices=case.indices[:, :0]).rerank(make())
    assert short.indices.shape == (len(case.queries), 0)
    unfilled = replace(case, indices=torch.full_like(case.indices, -1)).rerank(make())
    assert (unfilled.indices == -1).all()
    assert (unfilled.scores == -torch.inf).all()
    assert torch.equal(unfilled.order, torch.arange(case.indices.size(1)).expand_as(case.indices))


def zero_vectors_are_ranked(make: Make) -> None:
    case = problem()
    gallery = case.gallery.clone()
    gallery[case.indices[:, 4]] = 0.0
    queries = case.queries.clone()
    queries[0] = 0.0
    lists = replace(case, gallery=gallery, queries=queries).rerank(make())
    assert lists.scores.isfinite().all()
    assert torch.equal(lists.indices.sort(1).values, case.indices.sort(1).values)


def all_vectors_rotated(make: Make) -> None:
    """Not in ``CONTRACT``: for methods that see nothing but inner products."""
    case = problem()
    rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    rotated = replace(case, queries=case.queries @ rotation, gallery=case.gallery @ rotation)
    assert_same(rotated.rerank(make()), case.rerank(make()))


def replace_indices(lists: RankedLists, indices: Any) -> RankedLists:
    return RankedLists(indices, lists.scores, lists.order, lists.diagnostics)


CONTRACT: list[Callable[[Make], None]] = [
    one_query_at_a_time,
    any_chunk_size,
    candidates_in_another_order,
    candidates_without_scores_in_another_order,
    items_with_other_ids,
    padding_changes_nothing,
    lists_of_unequal_length,
    repeated_ids_count_once,
    tail_keeps_its_order,
    arrays_give_arrays,
    a_function_gives_the_vectors,
    the_same_twice,
    nothing_is_edited,
    half_precision_is_computed_in_float32,
    nothing_to_rank,
    zero_vectors_are_ranked,
]
