"""Neighbors: exactly those of the direct formula, whatever the blocks, the library and the precision of products."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from graphattn import _optional
from graphattn.affinity import Affinity, SparseAffinity, _search, neighbors
from graphattn.affinity.neighbors import k_reciprocal, knn, mutual_knn, nearest, radius

METRICS = ("euclidean", "cosine", "dot")
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def numpy_values(x: Tensor, y: Tensor, metric: str) -> np.ndarray:
    """Distances or similarities of all pairs in float64, written down anew."""
    a, b = (points.double().numpy() for points in (x, y))
    if metric == "euclidean":
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    if metric == "cosine":
        a, b = (points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-300) for points in (a, b))
    return a @ b.T


def numpy_nearest(x: Tensor, y: Tensor | None, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Sort all pairs by value, ties by index."""
    values = numpy_values(x, x if y is None else y, metric)
    key = values if metric == "euclidean" else -values
    if y is None:
        np.fill_diagonal(key, np.inf)
    order = np.argsort(key, axis=1, kind="stable")[:, : min(k, values.shape[1] - (y is None))]
    return np.take_along_axis(values, order, axis=1), order


def grid(n: int, width: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small integers: products and squares are exact in every dtype, and ties abound."""
    return torch.randint(-2, 3, (n, width)).to(dtype)


def dense(A: Affinity) -> Tensor:
    return A.to_dense().matrix


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_search, "_BLOCK_BYTES", 200)
    monkeypatch.setattr(_search, "_BLOCK_COLS", 1)
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 100)


@pytest.fixture
def faiss() -> Iterator[Any]:
    with warnings.catch_warnings():
        # Its bindings declare types without a module, which Python 3.12 warns about when they are imported.
        warnings.filterwarnings("ignore", "builtin type .* has no __module__ attribute", DeprecationWarning)
        if not _optional.is_available("faiss"):
            pytest.skip("faiss is not installed")
        yield _optional.require("faiss", "retrieval")


# The search ###########################################################################################################


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 4, 39, 100])
@pytest.mark.parametrize("two_sets", [False, True])
def test_agrees_with_sorting_all_pairs(metric: str, k: int, two_sets: bool) -> None:
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.randn(23, 5, dtype=torch.float64)
    other = y if two_sets else None
    value, index = nearest(x, k, y=other, metric=metric)
    truth, order = numpy_nearest(x, other, k, metric)
    assert index.dtype == torch.int64
    assert index.tolist() == order.tolist()
    torch.testing.assert_close(value, torch.tensor(truth), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("metric", ["euclidean", "dot"])
@pytest.mark.parametrize("two_sets", [False, True])
def test_ties_go_to_the_lowest_index(metric: str, two_sets: bool, dtype: torch.dtype) -> None:
    x, y = grid(60, dtype=dtype), grid(50, dtype=dtype)
    other = y if two_sets else None
    for k in (1, 7, 49):
        value, index = nearest(x, k, y=other, metric=metric)
        truth, order = numpy_nearest(x, other, k, metric)
        assert index.tolist() == order.tolist()
        assert value.dtype == torch.promote_types(dtype, torch.float32)
        assert torch.equal(value, torch.tensor(truth).to(value.dtype))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("two_sets", [False, True])
def test_blocks_do_not_matter(metric: str, two_sets: bool) -> None:
    for points in (torch.randn(70, 4), grid(70), torch.randn(70, 4).sort(dim=0).values):
        other = points[::2] + 0 if two_sets else None
        whole = [nearest(points, k, y=other, metric=metric) for k in (1, 3, 20)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_search, "_BLOCK_BYTES", 200)
            patch.setattr(_search, "_BLOCK_COLS", 1)
            for k, (value, index) in zip((1, 3, 20), whole, strict=True):
                again = nearest(points, k, y=other, metric=metric)
                assert torch.equal(value, again[0])
                assert torch.equal(index, again[1])


def test_scores_are_never_stored_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_search, "_BLOCK_BYTES", 4000)
    monkeypatch.setattr(_search, "_BLOCK_COLS", 100)
    sizes, rough = [], _search.Search._rough

    def spy(self: Any, *args: Any) -> Tensor:
        scores = rough(self, *args)
        sizes.append(scores.numel() * scores.element_size())
        return scores

    monkeypatch.setattr(_search.Search, "_rough", spy)
    nearest(torch.randn(500, 3), 5)
    radius(torch.randn(500, 3), 0.1)
    assert max(sizes) <= 4000
    assert sum(sizes) == 2 * 500 * 500 * 4


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_few_pairs_are_compared_twice(metric: str, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    compared, closeness = [], _search.Search.closeness

    def spy(self: Any, target: Tensor, source: Tensor) -> Tensor:
        compared.append(target.numel())
        return closeness(self, target, source)

    monkeypatch.setattr(_search.Search, "closeness", spy)
    x = torch.randn(1000, 8, dtype=torch.float64 if metric != "euclidean" else torch.float32)
    nearest(x + offset, 10, metric=metric)
    assert sum(compared) <= 1000 * 12


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_close_points_far_from_the_origin(offset: float) -> None:
    """The distance of each neighbor is the best possible up to rounding, where products alone find others."""
    width, k = 6, 5
    x = offset + torch.randn(40, 1, width) + 1e-3 * torch.randn(40, 8, width)
    x = x.view(-1, width)
    value, index = nearest(x, k)
    truth, order = numpy_nearest(x, None, k, "euclidean")
    true = np.take_along_axis(numpy_values(x, x, "euclidean"), index.numpy(), axis=1)
    eps = torch.finfo(x.dtype).eps
    assert np.all(np.abs(value.numpy() - true) <= (width + 3) * eps * true)
    assert np.all(true <= truth * (1 + 2 * (width + 3) * eps))
    products = (x.square().sum(1) + x.square().sum(1, keepdim=True) - 2 * x @ x.t()).fill_diagonal_(torch.inf)
    assert (np.sort(products.topk(k, largest=False).indices.numpy()) != np.sort(order)).any()


def test_products_of_low_precision_do_not_matter() -> None:
    x = torch.randn(200, 32)
    expected = [nearest(x, 10, metric=metric) for metric in METRICS]
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert _search._narrowed(x.device)
        assert _search.Search(x, None, "dot")._q.dtype == torch.float64
        found = [nearest(x, 10, metric=metric) for metric in METRICS]
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found += [nearest(x, 10, metric=metric) for metric in METRICS]
    for (value, index), (again, same) in zip(found, expected * 2, strict=True):
        assert torch.equal(value, again)
        assert torch.equal(index, same)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_scikit_learn_finds_the_same(metric: str) -> None:
    x, y = torch.randn(120, 7, dtype=torch.float64), torch.randn(30, 7, dtype=torch.float64)
    model = NearestNeighbors(n_neighbors=9, metric=metric, algorithm="brute").fit(x.numpy())
    distance, index = model.kneighbors()
    value, found = nearest(x, 9, metric=metric)
    assert found.tolist() == index.tolist()
    expected = torch.tensor(distance if metric == "euclidean" else 1 - distance)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    assert nearest(y, 9, y=x, metric=metric)[1].tolist() == model.kneighbors(y.numpy())[1].tolist()


def test_a_node_is_known_by_its_index() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [1.0, 2.0]])
    value, index = nearest(x, 2)
    assert index.tolist() == [[1, 3], [0, 3], [0, 1], [0, 1]]
    assert value[0].tolist() == [0.0, 0.0]
    assert nearest(x, 2, y=x + 0)[1].tolist() == [[0, 1], [0, 1], [2, 0], [0, 1]]
    same = torch.ones(300, 2)
    assert nearest(same, 3)[1][[0, 1, 2, 299]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_cosine_is_safe_for_every_length() -> None:
    x = torch.randn(30, 4)
    value, index = nearest(x, 3, metric="cosine")
    lengths = 10.0 ** torch.linspace(-37, 37, 30).unsqueeze(1)
    assert torch.equal(nearest(x * lengths, 3, metric="cosine")[1], index)
    zero = torch.cat([torch.zeros(1, 4), x])
    value, index = nearest(zero, 30, metric="cosine")
    assert value[0].tolist() == [0.0] * 30
    assert index[0].tolist() == list(range(1, 31))


def test_tiny_and_huge_points() -> None:
    x = torch.randn(30, 4)
    index = nearest(x, 3)[1]
    assert torch.equal(nearest(x * 2.0**-50, 3)[1], index)
    assert torch.equal(nearest(x * 2.0**50, 3)[1], index)
    with pytest.raises(ValueError, match=r"x holds points too far away for torch.float32.*rescale"):
        nearest(x * 1e25, 3)
    assert torch.equal(nearest((x * 1e25).double(), 3)[1], nearest((x * 1e25).double() / 1e25, 3)[1])


# FAISS ################################################################################################################


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_faiss_gives_the_same_bits(faiss: Any, metric: str, dtype: torch.dtype) -> None:
    for points in (torch.randn(90, 6).to(dtype), grid(90, dtype=dtype), 1e3 + torch.randn(90, 2).to(dtype)):
        for other in (None, points[::3] + 0):
            for k in (1, 8, 200):
                ours = nearest(points, k, y=other, metric=metric, backend="torch")
                theirs = nearest(points, k, y=other, metric=metric, backend="faiss")
                assert torch.equal(ours[0], theirs[0])
                assert torch.equal(ours[1], theirs[1])


def test_faiss_is_taken_for_large_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def propose(self: Any, k: int) -> Any:
        asked.append(k)
        return self._scan(k, torch.arange(self.sizes[0]))

    monkeypatch.setattr(_search.Search, "_propose", propose)
    monkeypatch.setattr(_search, "_FAISS_PAIRS", 100)
    monkeypatch.setattr(_search, "is_available", lambda module: module == "faiss")
    x = torch.randn(10, 2)
    for call in (x[:9], x.double()):
        nearest(call, 2)
    nearest(x, 2, backend="torch")
    assert asked == []
    assert nearest(x, 3)[1].tolist() == nearest(x, 3, backend="torch")[1].tolist()
    assert asked == [3]
    monkeypatch.setattr(_search, "is_available", lambda module: False)
    nearest(x, 4)
    assert asked == [3]


def test_faiss_that_cannot_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'faiss', which compares float32 on the CPU, but .* in torch.float64 on cpu"):
        nearest(torch.randn(5, 2, dtype=torch.float64), 1, backend="faiss")
    monkeypatch.setattr(_optional, "_attempt", lambda module: ImportError(f"No module named {module!r}"))
    with pytest.raises(ImportError, match=r"faiss is needed here .* pip install 'graphattn\[retrieval\]'"):
        knn(torch.randn(5, 2), 1, backend="faiss")


# knn and mutual_knn ###################################################################################################


@pytest.mark.parametrize("metric", METRICS)
def test_rows_draw_on_their_neighbors(metric: str) -> None:
    x = torch.randn(20, 3, dtype=torch.float64)
    truth, order = numpy_nearest(x, None, 4, metric)
    expected = np.zeros((20, 20))
    np.put_along_axis(expected, order, np.ones_like(truth) if metric == "euclidean" else truth, axis=1)
    A = knn(x, 4, metric=metric)
    assert isinstance(A, SparseAffinity)
    assert not A.symmetric
    torch.testing.assert_close(dense(A), torch.tensor(expected))
    assert A.edge_index[1].tolist() == [i for i in range(20) for _ in range(4)]
    assert A.edge_index[0].tolist() == order.ravel().tolist()


def test_two_sets() -> None:
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    A = knn(x, 2, y=y, weight=lambda distance: distance)
    assert A.shape == (6, 9)
    truth, order = numpy_nearest(x, y, 2, "euclidean")
    assert A.edge_index.tolist() == [order.ravel().tolist(), [i for i in range(6) for _ in range(2)]]
    torch.testing.assert_close(A.weights(), torch.tensor(truth).flatten())


def test_weights_are_a_function_of_distance_or_similarity() -> None:
    x = torch.randn(15, 3, dtype=torch.float64)
    distance, index = nearest(x, 4)
    A = knn(x, 4, weight=lambda d: torch.exp(-d.square()))
    assert torch.equal(A.weights(), torch.exp(-distance.square()).flatten())
    assert torch.equal(A.edge_index[0], index.flatten())
    similarity, _ = nearest(x, 4, metric="cosine")
    B = knn(x, 4, metric="cosine", weight=lambda s: s.clamp(min=0) ** 3)
    assert torch.equal(B.weights(), similarity.flatten().clamp(min=0) ** 3)


@pytest.mark.parametrize("metric", METRICS)
def test_loops_are_extra_and_first(metric: str) -> None:
    x = torch.cat([torch.zeros(1, 3), torch.randn(11, 3)]).double()
    plain, looped = (knn(x, 3, metric=metric, loops=loops, weight=lambda v: v + 5) for loops in (False, True))
    own = {"euclidean": torch.zeros(12), "cosine": torch.tensor([0.0] + [1.0] * 11), "dot": x.square().sum(1)}[metric]
    torch.testing.assert_close(dense(looped) - dense(plain), torch.diag(own.double() + 5))
    assert looped.edge_index[0].view(12, 4)[:, 0].tolist() == list(range(12))
    assert torch.equal(looped.edge_index[0].view(12, 4)[:, 1:], plain.edge_index[0].view(12, 3))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("loops", [False, True])
def test_mutual_edges(metric: str, loops: bool) -> None:
    x = torch.randn(50, 3)
    one_sided = dense(knn(x, 5, metric=metric, weight=lambda v: v + 10, loops=loops))
    A = mutual_knn(x, 5, metric=metric, weight=lambda v: v + 10, loops=loops)
    expected = torch.where((one_sided != 0) & (one_sided.t() != 0), one_sided, 0)
    assert torch.equal(dense(A), expected)
    assert torch.equal(dense(A), dense(A).t())
    assert A.symmetric
    assert 0 < A.num_edges < 50 * (5 + loops)
    B = knn(x, 5, metric=metric, weight=lambda v: v + 10, loops=loops, mutual=True)
    assert torch.equal(A.edge_index, B.edge_index)
    assert torch.equal(A.weights(), B.weights())


def test_the_example_of_the_design() -> None:
    x = torch.randn(100, 8)
    A = knn(x, k=20, metric="cosine", mutual=True).normalize("symmetric")
    assert A.symmetric
    assert A.spectral_radius() <= 1 + 1e-6
    assert (A @ x).shape == x.shape


# radius ###############################################################################################################


@pytest.mark.parametrize("r", [0, 1.0, 2.0, np.float32(2.5), float("inf")])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_all_pairs_within(r: float, dtype: torch.dtype) -> None:
    """On a grid distances are exact, so that the border counts."""
    x = grid(70, 2, dtype)
    truth = numpy_values(x, x, "euclidean")
    near = (truth <= r) & ~np.eye(70, dtype=bool)
    A = radius(x, r, weight=lambda distance: distance + 1)
    assert A.symmetric
    assert torch.equal(dense(A), torch.tensor(np.where(near, truth + 1, 0)).to(dtype))
    target, place = A.edge_index[1], numpy_nearest(x, None, 70, "euclidean")[1]
    for i in range(70):
        assert A.edge_index[0][target == i].tolist() == place[i, : near[i].sum()].tolist()


def test_radius_as_in_scikit_learn(tiny_blocks: None) -> None:
    x, y = torch.randn(60, 3), torch.randn(20, 3)
    model = NearestNeighbors(radius=0.9).fit(x.numpy())
    assert torch.equal(dense(radius(x, 0.9)), torch.tensor(model.radius_neighbors_graph().toarray()).float())
    rectangular = radius(y, 0.9, y=x)
    assert rectangular.shape == (20, 60)
    assert not rectangular.symmetric
    assert torch.equal(dense(rectangular), torch.tensor(model.radius_neighbors_graph(y.numpy()).toarray()).float())


def test_radius_with_a_limit_keeps_the_nearest() -> None:
    x = torch.randn(80, 2, dtype=torch.float64)
    A = radius(x, 0.6, max_neighbors=3, weight=lambda distance: distance)
    nearest_three = dense(knn(x, 3, weight=lambda distance: distance))
    assert torch.equal(dense(A), torch.where(nearest_three <= 0.6, nearest_three, 0))
    assert A.num_edges < 240
    assert not A.symmetric


def test_radius_zero_joins_copies() -> None:
    x = torch.tensor([[1.0], [2.0], [1.0]])
    assert dense(radius(x, 0.0)).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert dense(radius(x, 0.0, loops=True)).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


# k_reciprocal #########################################################################################################


def literal_sets(rank: np.ndarray, k1: int) -> list[np.ndarray]:
    """The loop of the authors' code, from the ranked lists with self at position 0."""
    sets = []
    for i in range(len(rank)):
        forward = rank[i, : k1 + 1]
        backward = rank[forward, : k1 + 1]
        reciprocal = forward[np.where(backward == i)[0]]
        expanded = reciprocal
        for candidate in reciprocal:
            half = int(np.around(k1 / 2)) + 1
            candidate_forward = rank[candidate, :half]
            candidate_backward = rank[candidate_forward, :half]
            candidate_reciprocal = candidate_forward[np.where(candidate_backward == candidate)[0]]
            if len(np.intersect1d(candidate_reciprocal, reciprocal)) > 2 / 3 * len(candidate_reciprocal):
                expanded = np.append(expanded, candidate_reciprocal)
        sets.append(np.unique(expanded))
    return sets


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6, 7, 10, 20, 79, 200])
@pytest.mark.parametrize("metric", METRICS)
def test_k_reciprocal_sets_as_published(k: int, metric: str, tiny_blocks: None) -> None:
    centers = 3 * torch.randn(8, 4, dtype=torch.float64)
    x = (centers.unsqueeze(1) + torch.randn(8, 10, 4, dtype=torch.float64)).view(-1, 4)
    order = numpy_nearest(x, None, 79, metric)[1]
    rank = np.concatenate([np.arange(80)[:, None], order], axis=1)
    A = k_reciprocal(x, k, metric=metric, weight=lambda v: v + 50)
    sets = literal_sets(rank, k)
    assert A.edge_index[0].tolist() == np.concatenate(sets).tolist()
    assert A.edge_index[1].tolist() == [i for i, members in enumerate(sets) for _ in members]
    expected = torch.tensor(numpy_values(x, x, metric) + 50)[A.edge_index[1], A.edge_index[0]]
    torch.testing.assert_close(A.weights(), expected)


def test_k_reciprocal_expands_strictly_above_two_thirds() -> None:
    """Lists by hand, around an overlap of exactly two thirds and one above."""
    near = torch.tensor([[0, 1, 2], [1, 0, -1], [2, 0, -1], [3, -1, -1], [4, -1, -1]])
    two_thirds = torch.tensor([[0, -1, -1], [1, 0, 3], [2, -1, -1], [3, -1, -1], [4, -1, -1]])
    target, source = neighbors._expanded(near, two_thirds)
    assert source[target == 0].tolist() == [0, 1, 2]
    near = torch.tensor([[0, 1, 2, 4], [1, 0, -1, -1], [2, 0, -1, -1], [3, -1, -1, -1], [4, 0, -1, -1]])
    above = torch.tensor([[0, -1, -1, -1], [1, 0, 2, 3], [2, -1, -1, -1], [3, -1, -1, -1], [4, -1, -1, -1]])
    target, source = neighbors._expanded(near, above)
    assert source[target == 0].tolist() == [0, 1, 2, 3, 4]
    assert source[target == 3].tolist() == [3]


def test_the_encoding_of_the_paper() -> None:
    """Weights exp(-d^2 / largest d^2 of the row), rows of sum 1, are a kernel on these edges."""
    x = torch.randn(40, 3, dtype=torch.float64)
    square = torch.tensor(numpy_values(x, x, "euclidean")) ** 2
    D = square / square.amax(1, keepdim=True)
    A = k_reciprocal(x, 6)
    encoded = A.with_weight(torch.exp(-D[A.edge_index[1], A.edge_index[0]])).normalize("row")
    truth = torch.where(dense(A) > 0, torch.exp(-D), 0)
    torch.testing.assert_close(dense(encoded), truth / truth.sum(1, keepdim=True))


# Gradients, dtypes, invariances #######################################################################################


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("two_sets", [False, True])
def test_gradients_of_the_weights(metric: str, two_sets: bool) -> None:
    x = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)

    def build(x: Tensor, y: Tensor) -> Tensor:
        return knn(x, 3, y=y if two_sets else None, metric=metric, weight=lambda v: torch.exp(-v)).weights()

    inputs = (x, y) if two_sets else (x, y.detach())
    assert torch.autograd.gradcheck(build, inputs)
    assert torch.equal(build(x, y), build(x.detach(), y.detach()))
    with torch.no_grad():
        assert not build(x, y).requires_grad


@pytest.mark.parametrize(
    "build",
    [
        lambda x: mutual_knn(x, 3, metric="cosine", loops=True),
        lambda x: radius(x, 1.5, weight=torch.square, loops=True),
        lambda x: radius(x, 1.5, max_neighbors=2, weight=torch.square),
        lambda x: k_reciprocal(x, 4, metric="dot"),
    ],
)
def test_gradients_reach_every_affinity(build: Callable[[Tensor], SparseAffinity]) -> None:
    x = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    assert build(x).num_edges > 0
    assert torch.autograd.gradcheck(lambda x: build(x).weights(), x)


def test_gradients_of_copies_and_zero_vectors_are_finite() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    for metric in METRICS:
        A = knn(x, 2, metric=metric, weight=lambda v: torch.exp(-v), loops=True)
        (grad,) = torch.autograd.grad(A.weights().sum(), x)
        assert grad.isfinite().all()


def test_edges_without_weights_need_no_gradient() -> None:
    x = torch.randn(5, 2, requires_grad=True)
    assert not knn(x, 2).weights().requires_grad
    assert knn(x.double(), 2).weights().tolist() == [1.0] * 10
    assert knn(x.double(), 2).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_low_precision_is_compared_in_float32(dtype: torch.dtype, metric: str) -> None:
    x = torch.randn(60, 200).to(dtype)
    narrow, wide = (knn(points, 6, metric=metric, weight=lambda v: v / 2) for points in (x, x.float()))
    assert torch.equal(narrow.edge_index, wide.edge_index)
    assert narrow.dtype == dtype
    assert torch.equal(narrow.weights(), wide.weights().to(dtype))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("build", [knn, mutual_knn, k_reciprocal])
def test_node_relabelling(build: Any, metric: str) -> None:
    x = torch.randn(30, 4, dtype=torch.float64)
    order = torch.arange(30).roll(7)
    A, B = (dense(build(points, 5, metric=metric, weight=lambda v: v + 20)) for points in (x, x[order]))
    torch.testing.assert_close(B, A[order][:, order])


def test_distances_ignore_rotation_and_origin() -> None:
    x = torch.randn(40, 5, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    for build in (lambda p: knn(p, 6), lambda p: radius(p, 1.7), lambda p: k_reciprocal(p, 6)):
        assert torch.equal(build(x).edge_index, build(x @ rotation + 3).edge_index)


def test_inputs_stay_as_they_are_and_may_be_strided() -> None:
    base = torch.randn(20, 12)
    x = base.t()[::2, ::2]
    copy = x.clone()
    for build in (lambda p: knn(p, 3, metric="cosine"), lambda p: radius(p, 2.0), lambda p: k_reciprocal(p, 3)):
        A, B = build(x), build(copy)
        assert torch.equal(A.edge_index, B.edge_index)
        assert torch.equal(A.weights(), B.weights())
    assert torch.equal(x, copy)


# Degenerate inputs and errors #########################################################################################


def test_few_nodes() -> None:
    none, one, two = torch.empty(0, 3), torch.ones(1, 3), torch.randn(2, 3)
    for build in (lambda p: knn(p, 4), lambda p: mutual_knn(p, 4), lambda p: radius(p, 9.0)):
        assert (build(none).shape, build(none).num_edges) == ((0, 0), 0)
        assert (build(one).shape, build(one).num_edges) == ((1, 1), 0)
        assert dense(build(two)).tolist() == [[0, 1], [1, 0]]
        assert (build(one) @ torch.ones(1)).tolist() == [0.0]
    assert [dense(k_reciprocal(p)).tolist() for p in (none, one, two)] == [[], [[1]], [[1, 1], [1, 1]]]
    assert dense(knn(one, 1, loops=True)).tolist() == [[1]]
    assert [part.shape for part in nearest(one, 2)] == [(1, 0), (1, 0)]
    for n, m in ((0, 4), (4, 0)):
        assert knn(torch.ones(n, 2), 3, y=torch.ones(m, 2)).shape == (n, m)
        assert radius(torch.ones(n, 2), 3.0, y=torch.ones(m, 2)).num_edges == 0


X = torch.randn(6, 2)
NAN = X.clone()
NAN[2, 1] = torch.nan
NAN[4, 0] = torch.inf


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: knn(X, 0), ValueError, "k is 0; expected a positive integer"),
        (lambda: knn(X, 2.0), ValueError, "k is 2.0; expected a positive integer"),
        (lambda: k_reciprocal(X, True), ValueError, "k is True; expected a positive integer"),
        (lambda: knn(X, 1, metric="l1"), ValueError, "metric is 'l1'; expected one of 'euclidean', 'cosine', 'dot'"),
        (lambda: nearest(X, 1, backend="annoy"), ValueError, "backend is 'annoy'; expected .* 'torch', 'faiss'"),
        (lambda: knn(X[0], 1), ValueError, r"x has shape \(2,\); expected \[nodes, D\]"),
        (lambda: knn(X[:, :0], 1), ValueError, r"x has shape \(6, 0\).* D at least 1"),
        (lambda: knn(X.long(), 1), TypeError, "x has dtype torch.int64; expected a floating-point dtype"),
        (lambda: knn(X.tolist(), 1), TypeError, "x is a list; expected a floating-point Tensor"),
        (lambda: knn(X, 1, y=X[:, :1]), ValueError, r"y has shape \(6, 1\); expected \[M, 2\]"),
        (lambda: knn(NAN, 1), ValueError, "x is not finite in 2 rows, the first being 2"),
        (lambda: radius(X, 1.0, y=NAN), ValueError, "y is not finite in 2 rows"),
        (lambda: knn(X, 1, y=X, mutual=True), ValueError, "mutual is True but y is given"),
        (lambda: knn(X, 1, y=X, loops=True), ValueError, "loops is True but y is given"),
        (lambda: radius(X, 1.0, y=X, loops=True), ValueError, "loops is True but y is given"),
        (lambda: radius(X, -1.0), ValueError, "r is -1.0; expected a number of at least 0"),
        (lambda: radius(X, float("nan")), ValueError, "r is nan; expected a number"),
        (lambda: radius(X, "1"), ValueError, "r is '1'; expected a number"),
        (lambda: radius(X, 1.0, max_neighbors=0), ValueError, "max_neighbors is 0; expected a positive integer"),
        (lambda: knn(X, 2, weight=lambda d: d.sum()), ValueError, r"weight\(values\) has shape \(\); expected \(12,\)"),
        (lambda: knn(X, 2, weight=lambda d: d > 1), TypeError, r"weight\(values\) has dtype torch.bool"),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
