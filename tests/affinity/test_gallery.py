"""Neighbour lists against sorting the whole matrix, and against the whole matrix with the query in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.affinity._vectors import Vectors, stable_top_k
from graphattn.affinity.gallery import GalleryGraph, list_neighbors


def dense(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lists by sorting every row, without the diagonal, and the least of every row, with it."""
    similarity = (x.unsqueeze(1) * x.unsqueeze(0)).sum(-1)
    smallest = similarity.amin(1)
    similarity.fill_diagonal_(-torch.inf)
    values, ids = similarity.sort(dim=1, descending=True, stable=True)
    return ids[:, :k], values[:, :k], smallest


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("k", [1, 7, 52])
@pytest.mark.parametrize("block", [5, 53, 1000])
def test_lists_equal_sorting_everything(monkeypatch: pytest.MonkeyPatch, k: int, block: int) -> None:
    monkeypatch.setattr("graphattn.affinity._vectors._BLOCK_BYTES", block * 6 * 8)
    monkeypatch.setattr("graphattn.affinity.gallery._BLOCK_NUMBERS", 17)
    x = torch.randn(53, 6, dtype=torch.float64)
    graph = GalleryGraph.build(x, k)
    ids, similarity, smallest = dense(F.normalize(x, dim=1), k)
    assert torch.equal(graph.ids, ids)
    eps = torch.finfo(torch.float64).eps
    assert ((graph.similarity - similarity).abs() <= 12 * eps).all()
    assert ((graph.smallest - smallest).abs() <= 12 * eps).all()
    assert (graph.num_items, graph.k) == (53, k)


def test_copies_are_neighbours_and_ties_go_to_the_lowest_id() -> None:
    x = torch.randn(3, 5)[[0, 1, 0, 2, 0, 1]]
    graph = GalleryGraph.build(x, 2)
    assert graph.ids[0].tolist() == [2, 4]
    assert graph.ids[2].tolist() == [0, 4]
    assert graph.ids[4].tolist() == [0, 2]
    assert graph.ids[1, 0] == 5
    assert graph.ids[5, 0] == 1


def test_short_galleries_fill_up() -> None:
    x = unit(3, 4)
    graph = GalleryGraph.build(x, 5)
    ids, similarity, _ = dense(x, 2)
    assert torch.equal(graph.ids[:, :2], ids)
    assert (graph.ids[:, 2:] == -1).all()
    assert (graph.similarity[:, 2:] == -torch.inf).all()
    torch.testing.assert_close(graph.similarity[:, :2], similarity)
    assert GalleryGraph.build(x[:0], 2).ids.shape == (0, 2)
    assert GalleryGraph.build(x[:1], 2).ids.tolist() == [[-1, -1]]


def test_without_normalization_similarity_is_the_inner_product() -> None:
    x = torch.randn(20, 4, dtype=torch.float64)
    ids, similarity, _ = dense(x, 3)
    graph = GalleryGraph.build(x, 3, normalize=False)
    assert torch.equal(graph.ids, ids)
    torch.testing.assert_close(graph.similarity, similarity)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_vectors_are_compared_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(40, 6).to(dtype)
    graph = GalleryGraph.build(x, 4)
    assert graph.similarity.dtype == torch.float32
    assert torch.equal(graph.ids, GalleryGraph.build(x.float(), 4).ids)


def test_memory_mapped_gallery(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((40, 6))
    np.save(tmp_path / "x.npy", x)
    graph = GalleryGraph.build(np.load(tmp_path / "x.npy", mmap_mode="r"), 4)
    assert torch.equal(graph.ids, GalleryGraph.build(torch.from_numpy(x), 4).ids)


@pytest.mark.parametrize(("items", "k"), [(30, 4), (300, 20), (5, 8)])
def test_insertion_equals_the_whole_matrix_with_the_query(items: int, k: int) -> None:
    """Every list of the gallery, once the query is in it: the published algorithm puts the query in front."""
    x = unit(items, 8)
    graph = GalleryGraph.build(x, k, normalize=False)
    before = graph.ids.clone()
    for query in (*unit(4, 8), x[3], F.normalize(x[:4].mean(0), dim=0)):
        ids, similarity, smallest = dense(torch.cat([query.unsqueeze(0), x]), k)
        renamed = torch.where(ids == 0, items, ids - 1)[1:]
        lists = graph.insert(torch.arange(items), (x * query).sum(1))
        length = min(k, items)
        assert torch.equal(lists.ids[:, :length], renamed[:, :length])
        eps = 8 * torch.finfo(torch.float64).eps
        assert ((lists.similarity[:, :length] - similarity[1:, :length]).abs() <= eps).all()
        assert ((lists.smallest - smallest[1:]).abs() <= eps).all()
    assert torch.equal(graph.ids, before)


def test_insertion_into_some_items_of_many_lists() -> None:
    x = unit(30, 8)
    graph = GalleryGraph.build(x, 4)
    similarity = (x * unit(1, 8)).sum(1)
    whole = graph.insert(torch.arange(30), similarity)
    touched = torch.tensor([[3, 7], [29, 3]])
    some = graph.insert(touched, similarity[touched])
    assert all(torch.equal(a, b[touched]) for a, b in zip(some, whole, strict=True))


def test_insertion_goes_before_equals() -> None:
    graph = GalleryGraph(torch.tensor([[1, 2]]), torch.tensor([[0.5, 0.5]]), torch.tensor([0.0]))
    assert graph.insert(torch.tensor([0]), torch.tensor([0.5])).ids.tolist() == [[1, 1]]  # one item: the query is 1
    assert graph.insert(torch.tensor([0]), torch.tensor([0.4])).similarity.tolist() == [[0.5, 0.5]]


def test_affinity_of_the_lists() -> None:
    x = unit(40, 6)
    graph = GalleryGraph.build(x, 5)
    expected = torch.zeros(40, 40, dtype=torch.float64).scatter(1, graph.ids, graph.similarity)
    assert torch.equal(graph.to_affinity().to_dense().matrix, expected)
    both = (expected != 0) & (expected.T != 0)
    mutual = graph.to_affinity(mutual=True)
    assert mutual.symmetric
    matrix = mutual.to_dense().matrix
    assert torch.equal(matrix, matrix.T)
    assert torch.equal(matrix != 0, both)
    torch.testing.assert_close(matrix, expected.masked_fill(~both, 0.0))
    assert GalleryGraph.build(x[:2], 5).to_affinity().num_edges == 2


def test_mutual_affinity_of_lists_from_elsewhere_is_symmetric() -> None:
    """Another library may have rounded the two products of a pair differently."""
    graph = GalleryGraph(torch.tensor([[1], [0]]), torch.tensor([[0.25], [0.75]]), torch.zeros(2))
    assert graph.to_affinity(mutual=True).to_dense().matrix.tolist() == [[0.0, 0.5], [0.5, 0.0]]


def test_saved_lists_load_equal(tmp_path: Path) -> None:
    graph = GalleryGraph.build(torch.randn(10, 3), 2)
    graph.save(tmp_path / "graph.npz")
    loaded = GalleryGraph.load(tmp_path / "graph.npz")
    for name in ("ids", "similarity", "smallest"):
        assert torch.equal(getattr(graph, name), getattr(loaded, name))
        assert getattr(graph, name).dtype == getattr(loaded, name).dtype
    assert [path.name for path in tmp_path.iterdir()] == ["graph.npz"]
    assert repr(loaded) == "GalleryGraph(10 items, k=2)"
    np.savez(tmp_path / "other.npz", ids=np.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"other.npz has no similarity, smallest; expected a file that GalleryGraph"):
        GalleryGraph.load(tmp_path / "other.npz")


def test_items_that_are_not_finite_have_no_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphattn.affinity._vectors._BLOCK_BYTES", 2 * 6 * 8)
    x = torch.randn(9, 6, dtype=torch.float64)
    broken, rest = [2, 3, 7], [0, 1, 4, 5, 6, 8]
    x[broken, 1] = torch.nan
    graph = GalleryGraph.build(x, 3, nan_policy="last")
    alone = GalleryGraph.build(x[rest], 3)
    assert torch.equal(graph.ids[rest], torch.tensor(rest)[alone.ids])
    torch.testing.assert_close(graph.smallest[rest], alone.smallest)
    assert (graph.ids[broken] == -1).all()
    assert (graph.similarity[broken] == -torch.inf).all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="k is 0; expected a positive integer"):
        GalleryGraph.build(torch.eye(3), 0)
    with pytest.raises(TypeError, match=r"gallery is a list; expected a Tensor or an array \[N, D\]"):
        GalleryGraph.build([[1.0]], 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"gallery is not finite in 1 row\(s\): 1"):
        GalleryGraph.build(torch.tensor([[1.0], [torch.nan]]), 1)
    with pytest.raises(ValueError, match=r"have shapes \(2, 2\), \(2, 1\) and \(2,\); expected \[N, k\]"):
        GalleryGraph(torch.zeros(2, 2), torch.zeros(2, 1), torch.zeros(2))
    graph = GalleryGraph.build(torch.eye(3), 1)
    with pytest.raises(ValueError, match=r"similarity has shape \(2,\); expected \(1,\), as ids"):
        graph.insert(torch.tensor([0]), torch.zeros(2))


# Small sets ###########################################################################################################


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("k", [0, 1, 4, 8, 20])
def test_list_neighbors_equals_a_loop(k: int, loops: bool) -> None:
    similarity = torch.randn(3, 9, 9).mul(3).round()  # many ties
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, [0, 4]] = False
    mask[2] = False
    index, found = list_neighbors(similarity, k, mask, loops=loops)
    assert index.shape == (3, 9, min(k, 8) + loops)
    for b in range(3):
        for i in range(9):
            others = [j for j in range(9) if j != i and mask[b, i] and mask[b, j]]
            expected = sorted(others, key=lambda j: (-similarity[b, i, j].item(), j))[:k]
            expected = [i, *expected] if loops and mask[b, i] else expected
            assert index[b, i][found[b, i]].tolist() == expected
            assert found[b, i].tolist() == sorted(found[b, i].tolist(), reverse=True), "what is there stands in front"
    assert ((index >= 0) & (index < 9)).all()


def test_list_neighbors_of_one_node_and_of_none() -> None:
    index, found = list_neighbors(torch.ones(2, 1, 1), 3)
    assert index.shape == found.shape == (2, 1, 0)
    index, found = list_neighbors(torch.ones(2, 1, 1), 3, loops=True)
    assert index.tolist() == [[[0]], [[0]]]
    assert found.all()
    assert list_neighbors(torch.ones(0, 4, 4), 2)[0].shape == (0, 4, 2)
    assert list_neighbors(torch.ones(2, 0, 0), 2)[0].shape == (2, 0, 0)


def test_list_neighbors_refusals() -> None:
    with pytest.raises(ValueError, match=r"similarity has shape \(2, 3, 4\); expected \[B, n, n\]"):
        list_neighbors(torch.ones(2, 3, 4), 1)
    with pytest.raises(ValueError, match=r"mask has shape \(3,\); expected \(2, 3\)"):
        list_neighbors(torch.ones(2, 3, 3), 1, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="k is -1; expected at least 0"):
        list_neighbors(torch.ones(2, 3, 3), -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_stable_top_k_equals_a_stable_sort(dtype: torch.dtype) -> None:
    for values in (torch.randn(4, 30), torch.randn(4, 30).round(), torch.zeros(4, 30), -torch.rand(2, 4, 30).round()):
        values = values.to(dtype)
        for k in (0, 1, 5, 30):
            top, place = stable_top_k(values, k)
            expected = values.sort(dim=-1, descending=True, stable=True)
            assert torch.equal(top, expected.values[..., :k])
            assert torch.equal(place, expected.indices[..., :k])


def test_vectors_that_are_missing() -> None:
    x = torch.tensor([[3.0, 4.0], [torch.nan, 0.0], [0.0, 0.0]])
    vectors = Vectors(x, nan_policy="last")
    rows, there = vectors.take(torch.tensor([[0, -1], [1, 2]]))
    assert rows.tolist() == [[[0.6000000238418579, 0.800000011920929], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert there.tolist() == [[True, False], [False, True]]
    assert x[0].tolist() == [3.0, 4.0]
    fetched, found = Vectors(lambda ids: x[ids], like=x, nan_policy="last").take(torch.tensor([[0, -1], [1, 2]]))
    assert torch.equal(fetched, rows)
    assert torch.equal(found, there)
    nothing, _ = Vectors(lambda ids: 1 / 0, like=x).take(torch.tensor([[-1, -1]]))
    assert torch.equal(nothing, torch.zeros(1, 2, 2))
