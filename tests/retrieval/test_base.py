"""The contract of all re-rankers, with methods so simple that every number is known."""

from __future__ import annotations

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

from graphattn.affinity.gallery import GalleryGraph
from graphattn.retrieval import CandidateBatch, QueryExpansion, Reranker
from tests.retrieval.cases import (
    CONTRACT,
    Crowd,
    InnerProduct,
    Make,
    Reverse,
    all_vectors_rotated,
    any_chunk_size,
    nothing_to_rank,
    padding_changes_nothing,
    problem,
    tail_keeps_its_order,
)


class InGallery(Reranker):
    """Adds what a candidate (counted twice) and its neighbours in the gallery are to the query."""

    scopes = ("candidates", "gallery")
    can_be_transductive = True

    def _graph_width(self) -> int:
        return 3

    def _scores(self, batch: CandidateBatch) -> Tensor:
        if batch.graph is None:
            return batch.similarity
        vectors, _ = batch.gallery.take(batch.graph.ids[batch.indices.clamp(min=0)])
        return 2 * batch.similarity + torch.einsum("bkjd,bd->bk", vectors, batch.queries)


METHODS: dict[str, Make] = {
    "inner_product": InnerProduct,
    "reverse": Reverse,
    "crowd": Crowd,
    "gallery": lambda **options: InGallery(scope="gallery", **options),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("holds", [*CONTRACT, all_vectors_rotated], ids=lambda f: f.__name__)
def test_contract(holds: Callable[[Make], None], method: str) -> None:
    holds(METHODS[method])


# The numbers ##########################################################################################################


def test_scores_are_cosines_and_order_is_theirs() -> None:
    case = problem(dtype=torch.float32)
    lists = case.rerank(InnerProduct())
    cosine = F.cosine_similarity(case.queries.double().unsqueeze(1), case.gallery.double()[case.indices], dim=2)
    expected, order = cosine.sort(dim=1, descending=True)
    assert torch.equal(lists.order, order)
    assert torch.equal(lists.indices, case.indices.gather(1, order))
    torch.testing.assert_close(lists.scores.double(), expected, rtol=0, atol=4 * torch.finfo(torch.float32).eps)
    assert lists.scores.dtype == torch.float32


def test_without_normalization_scores_are_inner_products() -> None:
    case = problem()
    products = torch.einsum("qd,qkd->qk", case.queries, case.gallery[case.indices])
    lists = case.rerank(InnerProduct(normalize=False))
    assert torch.equal(lists.scores, products.sort(dim=1, descending=True).values.float())


def test_search_is_exact() -> None:
    case = problem(items=53)
    similarity = F.normalize(case.queries, dim=1) @ F.normalize(case.gallery, dim=1).T
    order = similarity.sort(dim=1, descending=True, stable=True).indices
    everything = InnerProduct().rerank(case.queries, case.gallery)
    assert torch.equal(everything.indices, order)
    assert torch.equal(everything.order, torch.arange(53).expand(5, -1))
    assert torch.equal(InnerProduct(top_k=9).rerank(case.queries, case.gallery).indices, order[:, :9])
    assert Reverse(top_k=9).rerank(case.queries, case.gallery).indices.tolist() == order[:, :9].flip(1).tolist()


def test_search_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = problem(items=53)
    whole = InnerProduct(top_k=11).rerank(case.queries, case.gallery)
    for rows in (1, 7, 20, 52):
        monkeypatch.setattr("graphattn.affinity._vectors._BLOCK_BYTES", rows * 12 * 8)
        assert torch.equal(InnerProduct(top_k=11).rerank(case.queries, case.gallery).indices, whole.indices)


def test_blend_mixes_min_max_scaled_scores() -> None:
    case = problem()
    old = torch.rand(case.indices.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).sort(
        dim=1, descending=True
    )[0]
    new = -torch.einsum("qd,qkd->qk", F.normalize(case.queries, dim=1), F.normalize(case.gallery, dim=1)[case.indices])

    def unit(x: Tensor) -> Tensor:
        return (x - x.amin(1, keepdim=True)) / (x.amax(1, keepdim=True) - x.amin(1, keepdim=True))

    mixed = 0.75 * unit(new) + 0.25 * unit(old)
    lists = replace(case, scores=old).rerank(Reverse(blend=0.25))
    assert torch.equal(lists.order, mixed.sort(dim=1, descending=True, stable=True).indices)
    torch.testing.assert_close(lists.scores, mixed.sort(dim=1, descending=True).values.float())
    # Padding and a tail are no part of the scale.
    padded = F.pad(case.indices, (0, 2), value=-1), F.pad(old, (0, 2), value=1e6)
    longer = replace(case, indices=padded[0], scores=padded[1]).rerank(Reverse(blend=0.25))
    assert torch.equal(longer.scores[:, :-2], lists.scores)
    assert replace(case, scores=old).rerank(Reverse(blend=1.0)).order.tolist() == [list(range(23))] * 5


def test_blend_of_equal_scores_is_0() -> None:
    x = torch.eye(3)
    lists = InnerProduct(blend=0.5).rerank(x[:1], x[1:], torch.tensor([[1, 0]]), torch.tensor([[2.0, 2.0]]))
    assert lists.scores.tolist() == [[0.0, 0.0]]
    assert lists.indices.tolist() == [[1, 0]]


def test_equal_scores_stay_in_the_order_of_the_first_stage() -> None:
    x = torch.randn(3, 7)
    gallery = x[[0, 1, 0, 1, 2, 0]]
    lists = InnerProduct().rerank(x[:1], gallery, torch.tensor([[5, 1, 4, 3, 2, 0]]))
    assert lists.indices[0, :3].tolist() == [5, 2, 0]
    assert [i for i in lists.indices[0].tolist() if i in (1, 3)] == [1, 3]


class Rounded(Reranker):
    """Errs as products of matrices do: by some eps, depending on where a candidate stands."""

    def _scores(self, batch: CandidateBatch) -> Tensor:
        place = torch.arange(batch.mask.size(1))
        return batch.similarity + torch.finfo(torch.float32).eps * (5 * place % 7 - 3)


@pytest.mark.parametrize("make", [Rounded, Crowd, InnerProduct])
@pytest.mark.parametrize("length", [4, 33, 100])
def test_copies_of_a_vector_share_one_score(make: type[Reranker], length: int) -> None:
    kinds = torch.arange(length) % 3
    gallery = torch.randn(3, 17)[kinds]
    for count in (1, 2):
        lists = make().rerank(torch.randn(count, 17), gallery, torch.arange(length).expand(count, -1))
        for row in range(count):
            for kind in range(3):
                mine = kinds[lists.indices[row]] == kind
                assert lists.scores[row][mine].unique().numel() == 1
                assert lists.indices[row][mine].tolist() == sorted(lists.indices[row][mine].tolist())


def test_different_vectors_keep_their_scores_however_close() -> None:
    class Close(Reranker):
        def _scores(self, batch: CandidateBatch) -> Tensor:
            return 1.0 + torch.finfo(torch.float32).eps * batch.indices.float()

    lists = Close().rerank(torch.randn(1, 4), torch.randn(5, 4), torch.arange(5).unsqueeze(0))
    assert lists.indices.tolist() == [[4, 3, 2, 1, 0]]


def test_unsorted_scores_are_sorted_first() -> None:
    """The head is then the best of the list, and a kept list is in the order of its scores."""
    x = torch.eye(4)
    lists = Reverse(top_k=2).rerank(
        x[:1] + 0.5 * x[1:2], x, torch.tensor([[3, 0, 2, 1]]), torch.tensor([[0.1, 0.8, 0.5, 0.9]])
    )
    assert lists.indices.tolist() == [[1, 0, 2, 3]]
    assert lists.order.tolist() == [[3, 1, 2, 0]]


def test_tail_lies_below_the_head_by_its_old_gaps() -> None:
    x = torch.eye(5)
    scores = torch.tensor([[9.0, 8.0, 5.0, 5.0, 1.0]])
    lists = InnerProduct(top_k=2).rerank(x[:1], x, torch.arange(5).unsqueeze(0), scores)
    torch.testing.assert_close(lists.scores, torch.tensor([[1.0, 0.0, -3.001, -3.001, -7.001]]))
    assert lists.indices.tolist() == [[0, 1, 2, 3, 4]]
    unscored = InnerProduct(top_k=2).rerank(x[:1], x, torch.arange(5).unsqueeze(0))
    torch.testing.assert_close(unscored.scores, torch.tensor([[1.0, 0.0, -0.001, -0.002, -0.003]]))


@pytest.mark.parametrize("scale", [1e-30, 1e6, 1e30])
def test_tail_lies_below_scores_of_any_size(scale: float) -> None:
    class Scaled(Reranker):
        def _scores(self, batch: CandidateBatch) -> Tensor:
            return scale * (1.0 + batch.similarity)

    case = problem(dtype=torch.float32)
    lists = case.rerank(Scaled(top_k=4))
    assert (lists.scores[:, 4] < lists.scores[:, 3]).all()
    assert torch.equal(lists.indices[:, 4:], case.indices[:, 4:])


# Masks, selves and things that are not finite #########################################################################


def test_self_is_excluded_by_its_id_not_by_its_vector() -> None:
    gallery = torch.randn(6, 5)
    gallery[3] = gallery[1]
    ids = torch.tensor([1, -1])
    queries = torch.stack([gallery[1], gallery[4]])
    lists = InnerProduct(exclude_self=True).rerank(queries, gallery, torch.arange(6).expand(2, -1), query_ids=ids)
    assert lists.indices[0, 0] == 3
    assert lists.indices[0, -1] == -1
    assert sorted(lists.indices[0].tolist()) == [-1, 0, 2, 3, 4, 5]
    assert lists.indices[1, 0] == 4
    searched = InnerProduct(exclude_self=True, top_k=2).rerank(queries, gallery, query_ids=ids)
    assert searched.indices[0, 0] == 3
    assert (searched.indices >= 0).all()
    ordinary = InnerProduct().rerank(queries, gallery)
    assert ordinary.indices[0, :2].tolist() == [1, 3]


def test_query_ids_of_arrays() -> None:
    gallery = np.random.default_rng(0).standard_normal((6, 5))
    lists = InnerProduct(exclude_self=True).rerank(gallery, gallery, query_ids=np.arange(6))
    assert lists.indices.shape == (6, 6)
    assert not (lists.indices == np.arange(6)[:, None]).any()
    assert (lists.indices[:, -1] == -1).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_broken_candidates(value: float) -> None:
    case = problem()
    gallery = case.gallery.clone()
    broken = case.indices[0, 2]
    gallery[broken, 1] = value
    bad = replace(case, gallery=gallery)
    with pytest.raises(ValueError, match=rf"gallery is not finite in 1 row\(s\): {int(broken)}; pass nan_policy"):
        bad.rerank(Crowd())
    lists = bad.rerank(Crowd(nan_policy="last"))
    without = replace(case, indices=case.indices.where(case.indices != broken, -1)).rerank(Crowd())
    for row in range(len(lists)):
        has = bool((case.indices[row] == broken).any())
        assert lists.indices[row, -1] == (broken if has else without.indices[row, -1])
        assert torch.equal(lists.scores[row], without.scores[row])
    in_tail = bad.rerank(InnerProduct(top_k=1))
    assert torch.equal(in_tail.indices[0], case.indices[0]), "vectors of the tail are not read"
    kept = bad.rerank(InnerProduct(nan_policy="last", top_k=5))
    assert kept.indices[0].tolist() == [i for i in case.indices[0].tolist() if i != broken] + [int(broken)]
    assert kept.scores[0, -1] == -torch.inf
    dropped = bad.rerank(InnerProduct(nan_policy="last", top_k=5, tail="drop"))
    assert dropped.indices[0, 4:].tolist() == [-1] * 19


def test_broken_items_are_found_last() -> None:
    case = problem()
    gallery = case.gallery.clone()
    gallery[7] = torch.nan
    lists = InnerProduct(nan_policy="last").rerank(case.queries, gallery)
    assert (lists.indices[:, -1] == -1).all()
    assert not (lists.indices == 7).any()
    with pytest.raises(ValueError, match=r"gallery is not finite in 1 row\(s\): 7"):
        InnerProduct().rerank(case.queries, gallery)


def test_broken_queries() -> None:
    case = problem()
    queries = case.queries.clone()
    queries[[1, 3], 0] = torch.nan
    bad = replace(case, queries=queries)
    with pytest.raises(ValueError, match=r"queries is not finite in 2 row\(s\): 1, 3"):
        bad.rerank(Reverse())
    lists, good = bad.rerank(Reverse(nan_policy="last")), case.rerank(Reverse())
    assert torch.equal(lists.indices[[1, 3]], case.indices[[1, 3]])
    assert torch.equal(lists.indices[[0, 2, 4]], good.indices[[0, 2, 4]])
    assert lists.diagnostics["kept"].tolist() == [False, True, False, True, False]


def test_broken_scores() -> None:
    case = problem()
    scores = torch.linspace(1, 0, 23).repeat(5, 1)
    scores[2, 4] = torch.nan
    bad = replace(case, scores=scores)
    with pytest.raises(ValueError, match=r"scores is not finite in row\(s\) 2;"):
        bad.rerank(InnerProduct())
    lists = bad.rerank(InnerProduct(nan_policy="last"))
    assert lists.indices[2, -1] == case.indices[2, 4]
    assert lists.scores[2, -1] == -torch.inf
    # They come before slots that are empty, whatever emptied them.
    more = case.indices.clone()
    more[2, 1], more[2, 3] = -1, more[2, 0]
    lists = replace(bad, indices=more).rerank(InnerProduct(nan_policy="last"))
    assert lists.indices[2, -3:].tolist() == [int(case.indices[2, 4]), -1, -1]
    itself = torch.full((5,), -1).index_fill(0, torch.tensor([2]), int(case.indices[2, 4]))
    alone = replace(bad, query_ids=itself).rerank(InnerProduct(nan_policy="last", exclude_self=True))
    assert alone.indices[2, -1] == -1
    # What a first stage writes into an empty slot is no score.
    scores[2, 4] = -torch.inf
    empty = case.indices.clone()
    empty[2, 4] = -1
    assert replace(case, indices=empty, scores=scores).rerank(InnerProduct()).indices[2, -1] == -1


def test_repeated_ids_can_raise() -> None:
    x = torch.eye(3)
    with pytest.raises(ValueError, match="indices holds 2 twice in row 1; pass duplicates='keep_first'"):
        InnerProduct(duplicates="error", chunk=1).rerank(x[:2], x, torch.tensor([[0, 1, -1, -1], [2, -1, 0, 2]]))


def test_first_of_repeated_ids_is_the_one_with_the_best_score() -> None:
    x = torch.eye(3)
    lists = Reverse(min_support=0).rerank(x[:1], x, torch.tensor([[0, 1, 0]]), torch.tensor([[0.1, 0.2, 0.3]]))
    assert lists.order[0, :2].tolist() == [1, 2]


# Support and diagnostics ##############################################################################################


def test_lists_with_little_support_keep_their_order() -> None:
    case = problem()
    support = case.rerank(Crowd()).diagnostics["support"]
    assert support.min() < support.max()
    limit = int(support.max())
    lists, full = case.rerank(Crowd(min_support=limit)), case.rerank(Crowd())
    few = support < limit
    assert torch.equal(lists.diagnostics["kept"], few)
    assert torch.equal(lists.indices[few], case.indices[few])
    assert torch.equal(lists.indices[~few], full.indices[~few])
    similarity = torch.einsum(
        "qd,qkd->qk", F.normalize(case.queries, dim=1), F.normalize(case.gallery, dim=1)[case.indices]
    )
    torch.testing.assert_close(lists.scores[few], similarity[few].float())


def test_a_kept_list_that_is_not_sorted_gets_scores_that_never_rise() -> None:
    case = problem()
    flipped = replace(case, indices=case.indices.flip(1))
    lists = flipped.rerank(Crowd(min_support=1000, top_k=20))
    assert torch.equal(lists.indices, flipped.indices)
    assert (lists.scores[:, 1:] <= lists.scores[:, :-1]).all()
    assert (lists.scores[:, 20] < lists.scores[:, 19]).all()


def test_no_support_at_all_keeps_the_order() -> None:
    class Lonely(Reranker):
        reports_support = True

        def _scores(self, batch: CandidateBatch) -> Tensor:
            batch.report(support=torch.tensor([0, 1])[: len(batch.mask)])
            return -batch.similarity

    case = problem(num_queries=2)
    lists = case.rerank(Lonely())
    assert torch.equal(lists.indices[0], case.indices[0])
    assert torch.equal(lists.indices[1], case.indices[1].flip(0))
    assert lists.diagnostics["kept"].tolist() == [True, False]


def test_overlap_of_the_first_ten() -> None:
    case = problem(length=13)
    assert case.rerank(InnerProduct()).diagnostics["overlap"].tolist() == [1.0] * 5
    assert case.rerank(Reverse()).diagnostics["overlap"].tolist() == pytest.approx([0.7] * 5)
    short = replace(case, indices=case.indices[:, :4])
    assert short.rerank(Reverse()).diagnostics["overlap"].tolist() == [1.0] * 5


def test_reports_are_joined_over_chunks_and_missing_ones_are_0() -> None:
    case = problem()
    indices = case.indices.clone()
    indices[1] = -1
    whole = replace(case, indices=indices).rerank(Crowd(chunk=1))
    expected = case.rerank(Crowd()).diagnostics["support"]
    expected[1] = 0
    assert torch.equal(whole.diagnostics["support"], expected)
    assert whole.diagnostics["method"] == "Crowd"
    assert whole.diagnostics["transductive"] is False


# Other queries ########################################################################################################


def test_peers_are_the_other_queries() -> None:
    case = problem()
    unit = F.normalize(case.queries, dim=1), F.normalize(case.gallery, dim=1)
    lists = case.rerank(Crowd(transductive=True, chunk=2))
    assert lists.diagnostics["transductive"] is True
    for row in range(5):
        nodes = torch.cat([unit[0], unit[1][case.indices[row]]])
        expected = (nodes @ nodes.T).clamp(min=0).sum(1)[5:]
        order = expected.sort(descending=True).indices
        assert torch.equal(lists.indices[row], case.indices[row][order])
        torch.testing.assert_close(lists.scores[row], expected[order].float())


def test_one_query_has_no_peers() -> None:
    case = problem(num_queries=1)
    a, b = case.rerank(Crowd(transductive=True)), case.rerank(Crowd())
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.scores, b.scores)


@pytest.mark.parametrize(
    "holds", [any_chunk_size, nothing_to_rank, padding_changes_nothing, tail_keeps_its_order], ids=lambda f: f.__name__
)
def test_contract_with_peers(holds: Callable[[Make], None]) -> None:
    holds(partial(Crowd, transductive=True))


def test_broken_peers_are_left_out() -> None:
    case = problem()
    queries = case.queries.clone()
    queries[2] = torch.nan
    lists = replace(case, queries=queries).rerank(Crowd(transductive=True, nan_policy="last"))
    rest = [0, 1, 3, 4]
    alone = case.rows(rest).rerank(Crowd(transductive=True))
    assert torch.equal(lists.indices[rest], alone.indices)
    torch.testing.assert_close(lists.scores[rest], alone.scores)


# The whole gallery ####################################################################################################


def test_gallery_scope_hands_over_the_graph() -> None:
    seen: list[CandidateBatch] = []

    class Spy(InGallery):
        def _scores(self, batch: CandidateBatch) -> Tensor:
            seen.append(batch)
            return super()._scores(batch)

    case = problem()
    case.rerank(Spy(scope="gallery"))
    expected = GalleryGraph.build(case.gallery, 3)
    assert seen[0].graph is not None
    assert torch.equal(seen[0].graph.ids, expected.ids)
    assert seen[0].query_nodes.tolist() == [-1] * 5

    own = torch.tensor([4, -1, 0, 1, 2])
    replace(case, query_ids=own).rerank(Spy(scope="gallery"))
    assert torch.equal(seen[1].query_nodes, own)

    case.rerank(Spy(scope="gallery", transductive=True))
    stacked = GalleryGraph.build(torch.cat([case.gallery, case.queries]), 3)
    assert seen[2].graph is not None
    assert torch.equal(seen[2].graph.ids, stacked.ids)
    assert seen[2].query_nodes.tolist() == [40, 41, 42, 43, 44]
    assert seen[2].nodes.shape[1] == 24, "other queries are nodes of the graph, not of the lists"


@pytest.mark.parametrize("transductive", [False, True])
def test_broken_items_are_no_neighbours(transductive: bool) -> None:
    case = problem()
    gallery = case.gallery.clone()
    gallery[7] = torch.nan
    options = {"scope": "gallery", "nan_policy": "last", "transductive": transductive}
    lists = replace(case, gallery=gallery).rerank(InGallery(**options))
    renumber = torch.arange(40) - (torch.arange(40) > 7).long()
    renumber[7] = -1
    rest = torch.arange(40) != 7
    without = replace(case, gallery=gallery[rest], indices=renumber[case.indices]).rerank(InGallery(**options))
    assert torch.equal(renumber[lists.indices], without.indices)
    torch.testing.assert_close(lists.scores, without.scores)
    with pytest.raises(ValueError, match=r"gallery is not finite in 1 row\(s\): 7"):
        InGallery(scope="gallery").fit(gallery)


def test_neighbours_of_items_may_be_queries() -> None:
    case = problem()
    lists = case.rerank(InGallery(scope="gallery", transductive=True, chunk=2))
    x = F.normalize(torch.cat([case.gallery, case.queries]), dim=1)
    similarity = x @ x.T
    near = similarity.clone().fill_diagonal_(-torch.inf).topk(3, dim=1).indices
    assert (near[:40] >= 40).any()
    for row in range(5):
        items = case.indices[row]
        expected = 2 * similarity[40 + row, items] + similarity[40 + row, near[items]].sum(1)
        order = expected.sort(descending=True).indices
        assert torch.equal(lists.indices[row], items[order])
        torch.testing.assert_close(lists.scores[row], expected[order].float())


def test_gallery_scope_needs_a_fit_to_this_gallery() -> None:
    case = problem()
    reranker = InGallery(scope="gallery")
    with pytest.raises(ValueError, match="scope is 'gallery' but the re-ranker is not fitted; call fit"):
        reranker.rerank(case.queries, case.gallery, case.indices)
    reranker.fit(case.gallery[:-1])
    with pytest.raises(ValueError, match="gallery has 40 items but was fitted with 39; call fit"):
        reranker.rerank(case.queries, case.gallery, case.indices)
    with pytest.raises(ValueError, match="gallery is a function, but scope is 'gallery'"):
        reranker.rerank(case.queries, lambda ids: case.gallery[ids], case.indices)
    with pytest.raises(ValueError, match="gallery is a function, but scope is 'gallery'"):
        reranker.fit(lambda ids: case.gallery[ids])  # type: ignore[arg-type]


def test_fit_is_nothing_to_methods_that_need_none() -> None:
    reranker = InnerProduct()
    assert reranker.fit(torch.eye(3)) is reranker
    assert not hasattr(reranker, "graph_")


# Sources of vectors ###################################################################################################


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_memory_mapped_gallery(tmp_path: Path, dtype: type) -> None:
    case = problem(dtype=torch.float32)
    stored = case.gallery.numpy().astype(dtype)
    np.save(tmp_path / "gallery.npy", stored)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    lists = Crowd().rerank(case.queries, mapped, case.indices)
    expected = Crowd().rerank(case.queries, torch.from_numpy(stored), case.indices)
    assert torch.equal(lists.indices, expected.indices)
    assert torch.equal(lists.scores, expected.scores)
    searched = Crowd().rerank(case.queries, mapped)
    assert torch.equal(searched.indices, Crowd().rerank(case.queries, torch.from_numpy(stored)).indices)


def test_a_large_gallery_is_only_asked_for_its_candidates() -> None:
    """A million items of which no array exists: only vectors of candidates are ever made."""
    most = 0

    def fetch(ids: np.ndarray) -> np.ndarray:
        nonlocal most
        most = max(most, len(ids))
        assert isinstance(ids, np.ndarray)
        return np.cos(ids[:, None] * np.arange(1, 9) + 0.1)

    rng = np.random.default_rng(0)
    indices = rng.integers(0, 10**6, size=(64, 1000))
    lists = InnerProduct(chunk=4, top_k=500).rerank(rng.standard_normal((64, 8)), fetch, indices)
    assert lists.indices.shape == (64, 1000)
    assert most <= 4 * 500


def test_chunks_fit_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Spy(Crowd):
        def _scores(self, batch: CandidateBatch) -> Tensor:
            sizes.append(len(batch.mask))
            return super()._scores(batch)

    case = problem()
    per_query = Spy()._bytes_per_query(24, 12)
    monkeypatch.setattr("graphattn.retrieval.base._CHUNK_BYTES", 2 * per_query)
    case.rerank(Spy())
    assert sizes == [2, 2, 1]
    sizes.clear()
    monkeypatch.setattr("graphattn.retrieval.base._CHUNK_BYTES", 1)
    case.rerank(Spy())
    assert sizes == [1] * 5


def test_integer_kinds_of_ids() -> None:
    case = problem()
    whole = case.rerank(InnerProduct())
    for ids in (case.indices.int(), case.indices.numpy().astype(np.uint8)):
        assert torch.equal(InnerProduct().rerank(case.queries, case.gallery, ids).indices, whole.indices)


def test_read_only_and_strided_arrays() -> None:
    case = problem()
    queries = np.asfortranarray(case.queries.numpy())
    gallery = np.repeat(case.gallery.numpy(), 2, axis=0)[::2]
    for array in (queries, gallery):
        array.flags.writeable = False
    expected = case.rerank(InnerProduct()).indices.numpy()
    lists = InnerProduct().rerank(queries, gallery, case.indices.numpy()[:, ::-1][:, ::-1])
    assert np.array_equal(lists.indices, expected)

    def fetch(ids: np.ndarray) -> np.ndarray:
        rows = gallery[ids]
        rows.flags.writeable = False
        return rows

    assert np.array_equal(InnerProduct().rerank(queries, fetch, case.indices.numpy()).indices, expected)


def test_vectors_with_gradient_are_taken_as_numbers() -> None:
    case = problem()
    lists = replace(case, queries=case.queries.requires_grad_(), gallery=case.gallery.requires_grad_()).rerank(Crowd())
    assert not lists.scores.requires_grad


# Refusals #############################################################################################################


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tail": "cut"}, "tail is 'cut'; expected 'keep' or 'drop'"),
        ({"scope": "world"}, "scope is 'world'; expected 'candidates' or 'gallery'"),
        ({"duplicates": "drop"}, "duplicates is 'drop'; expected 'keep_first' or 'error'"),
        ({"nan_policy": "omit"}, "nan_policy is 'omit'; expected 'raise' or 'last'"),
        ({"top_k": 0}, "top_k is 0; expected an integer, at least 1"),
        ({"top_k": 2.5}, "top_k is 2.5; expected an integer"),
        ({"chunk": 0}, "chunk is 0; expected an integer, at least 1"),
        ({"chunk": "all"}, "chunk is 'all'; expected an integer"),
        ({"min_support": -1}, "min_support is -1; expected an integer, at least 0"),
        ({"blend": 1.5}, r"blend is 1.5; expected a weight in \[0, 1\]"),
        ({"blend": float("nan")}, r"blend is nan; expected a weight in \[0, 1\]"),
        ({"scope": "gallery"}, "scope is 'gallery', but InnerProduct has only 'candidates'"),
        ({"transductive": True}, "transductive is True, but InnerProduct has no form"),
        ({"min_support": 2}, "min_support is 2, but InnerProduct has no reciprocal neighbours"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InnerProduct(**options)


def test_unknown_option() -> None:
    with pytest.raises(TypeError, match="InnerProduct has no option topk; its options are top_k, blend"):
        InnerProduct(topk=3)  # type: ignore[call-arg]


def test_published_numbers_are_the_defaults() -> None:
    class Published(InnerProduct):
        published_top_k = 7
        published_blend = 0.3

    assert (Published().top_k, Published().blend) == (7, 0.3)
    assert (Published(top_k=9, blend=0.0).top_k, Published(top_k=9, blend=0.0).blend) == (9, 0.0)
    assert (InnerProduct().top_k, InnerProduct().blend) == (None, 0.0)
    case = problem()
    lists = case.rerank(Published())
    assert torch.equal(lists.scores[:, :7], case.rerank(InnerProduct()).scores[:, :7]), (
        "the method blends, not the base"
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": [[1.0]]}, TypeError, r"queries is a list; expected a Tensor or an array \[Q, D\]"),
        ({"queries": torch.ones(12)}, ValueError, r"queries has shape \(12,\); expected \[rows, width\]"),
        ({"queries": torch.ones(5, 12).long()}, TypeError, "queries has dtype torch.int64"),
        ({"queries": torch.ones(5, 0)}, ValueError, r"queries has shape \(5, 0\)"),
        ({"gallery": "file.npy"}, TypeError, "gallery is a str; expected a Tensor, an array or a function of ids"),
        ({"gallery": torch.ones(40, 11)}, ValueError, "gallery has width 11, but the queries have width 12"),
        ({"gallery": np.ones((40, 12), int)}, TypeError, "gallery has dtype int64"),
        ({"gallery": np.full((40, 12), "a")}, TypeError, "gallery has dtype <U1"),
        ({"gallery": np.ones((40, 12), ">f4")}, TypeError, "gallery has dtype >f4; expected a floating-point dtype of"),
        ({"gallery": lambda ids: None}, TypeError, "gallery returned a NoneType"),
        ({"gallery": lambda ids: torch.ones(3, 12)}, ValueError, "gallery returned 3 vectors for"),
        ({"gallery": lambda ids: torch.ones(len(ids), 4)}, ValueError, "gallery has width 4, but the queries have"),
        ({"indices": torch.zeros(5)}, TypeError, "indices has dtype torch.float32; expected an integer dtype"),
        ({"indices": torch.zeros(4, 2).long()}, ValueError, r"indices has shape \(4, 2\); expected 5 rows"),
        ({"indices": torch.zeros(5).long()}, ValueError, r"indices has shape \(5,\); expected \[5, K\]"),
        ({"indices": torch.full((5, 2), 40)}, ValueError, "indices contains 40; expected ids below 40"),
        ({"indices": torch.full((5, 2), -2)}, ValueError, "indices contains -2; expected ids below 40"),
        ({"indices": [[1]]}, TypeError, "indices is a list; expected a Tensor or an array"),
        ({"scores": torch.zeros(5, 2)}, ValueError, r"scores has shape \(5, 2\); expected \(5, 23\), as indices"),
        ({"scores": torch.zeros(5, 23).long()}, TypeError, "scores has dtype torch.int64"),
        ({"scores": np.full((5, 23), "a")}, TypeError, "scores has dtype <U1; expected numbers"),
        ({"indices": None, "scores": torch.zeros(5, 23)}, ValueError, "scores is given but indices is None"),
        ({"indices": None, "gallery": lambda ids: ids}, ValueError, "indices is None, but gallery is a function"),
        ({"query_ids": torch.arange(5)}, ValueError, "query_ids is given but has no use here; pass exclude_self=True"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(problem(), **change).rerank(InnerProduct())


def test_bad_query_ids() -> None:
    case = problem()
    for ids, message in (
        (None, "exclude_self is True but query_ids is None"),
        (torch.arange(4), r"query_ids has shape \(4,\); expected 5 rows"),
        (torch.zeros(5, 1).long(), r"query_ids has shape \(5, 1\); expected \[5\]"),
        (torch.full((5,), 99), "query_ids contains 99; expected ids below 40"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(case, query_ids=ids).rerank(InnerProduct(exclude_self=True))


def test_devices_must_agree() -> None:
    case = problem()
    with pytest.raises(ValueError, match="gallery is on meta but the queries are on cpu"):
        replace(case, gallery=case.gallery.to("meta")).rerank(InnerProduct())
    with pytest.raises(ValueError, match="indices is on meta but the queries are on cpu"):
        replace(case, indices=case.indices.to("meta")).rerank(InnerProduct())


def test_mistakes_of_a_method_are_named() -> None:
    class Short(Reranker):
        def _scores(self, batch: CandidateBatch) -> Tensor:
            return batch.similarity[:, 1:]

    class Broken(Reranker):
        def _scores(self, batch: CandidateBatch) -> Tensor:
            scores = batch.similarity.clone()
            scores[-1, 0] = torch.nan
            return scores

    with pytest.raises(ValueError, match=r"Short gave scores \(5, 22\); expected \(5, 23\)"):
        problem().rerank(Short())
    with pytest.raises(ValueError, match="Broken gave a score that is not finite to query 3"):
        problem().rerank(Broken(chunk=4))
    with pytest.raises(TypeError, match="abstract"):
        Reranker()  # type: ignore[abstract]


def test_repr_names_what_differs() -> None:
    assert repr(InnerProduct()) == "InnerProduct()"
    assert repr(QueryExpansion(k=3, top_k=9)) == "QueryExpansion(kind='alpha', k=3, alpha=3.0, times=1, top_k=9)"
    assert repr(InGallery(scope="gallery").fit(torch.eye(4))) == "InGallery(scope='gallery')"
