"""Kernels of node features: scikit-learn and literal loops agree, three storages are one formula, limits hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise
from torch import Tensor
from torch_geometric import EdgeIndex

from graphattn.affinity import Affinity, DenseAffinity, ImplicitAffinity, SparseAffinity
from graphattn.affinity.kernels import bilateral, cosine, dot_product, gaussian
from graphattn.affinity.pairs import squared_distances
from tests.budget import assert_within_budget

N, M, D = 7, 5, 3

Kernel = Callable[..., Affinity]
# Kernels of one set of nodes, and of two.
SQUARE: dict[str, Kernel] = {
    "dot_product": dot_product,
    "cosine": cosine,
    "gaussian": lambda x, e=None, **options: gaussian(x, e, bandwidth=0.7, **options),
    "self-tuning": lambda x, e=None, **options: gaussian(x, e, bandwidth="self-tuning", k=2, **options),
    "bilateral": lambda x, e=None, **options: bilateral(
        x[:, :1], x[:, 1:], e, position_bandwidth=0.7, value_bandwidth=1.3, **options
    ),
}
RECTANGULAR = {name: SQUARE[name] for name in ("dot_product", "cosine", "gaussian")}


def features(n: int = N, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, D, dtype=dtype)


def all_edges(n: int, m: int) -> Tensor:
    """Every pair once, shuffled."""
    target, source = torch.cartesian_prod(torch.arange(n), torch.arange(m)).t()
    return torch.stack([source, target])[:, torch.randperm(n * m)]


def differences(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None, :] - y[None, :, :]).square().sum(-1)


def by_formula(name: str, x: Tensor, y: Tensor) -> Tensor:
    """The kernels, from arrays of N x M x D and in the dtype of the arguments."""
    if name == "dot_product":
        return (x[:, None, :] * y[None, :, :]).sum(-1) / math.sqrt(x.size(1))
    if name == "cosine":
        norms = x.square().sum(1).sqrt()[:, None] * y.square().sum(1).sqrt()[None, :]
        return (x[:, None, :] * y[None, :, :]).sum(-1) / norms
    if name == "gaussian":
        return (-differences(x, y) / (2 * 0.7**2)).exp()
    if name == "bilateral":
        near, alike = differences(x[:, :1], y[:, :1]), differences(x[:, 1:], y[:, 1:])
        return (-near / (2 * 0.7**2) - alike / (2 * 1.3**2)).exp()
    distance = differences(x, x).sqrt()
    scale = distance.sort(dim=1).values[:, 2]  # column 0 is the node itself
    return (-distance.square() / (scale[:, None] * scale[None, :])).exp()


def matrix(A: Affinity) -> Tensor:
    return A.to_dense().matrix


def close(a: Tensor, b: Tensor) -> None:
    """Equal up to the order of D sums and a few roundings of float64 values of order 1."""
    assert a.dtype == b.dtype == torch.float64
    torch.testing.assert_close(a, b, rtol=64 * torch.finfo(a.dtype).eps, atol=64 * torch.finfo(a.dtype).eps)


# Against the formula and scikit-learn ################################################################################


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SQUARE)
@pytest.mark.parametrize("storage", ["dense", "implicit", "edges"])
def test_formula(name: str, storage: str, dtype: torch.dtype) -> None:
    x = features(dtype=dtype)
    truth = by_formula(name, x.double(), x.double())
    reference = by_formula(name, *[x.to(torch.promote_types(dtype, torch.float32))] * 2).to(dtype)
    edges = all_edges(N, N)
    A = SQUARE[name](x, edges) if storage == "edges" else SQUARE[name](x, stored=storage == "dense")
    assert isinstance(A, {"dense": DenseAffinity, "implicit": ImplicitAffinity, "edges": SparseAffinity}[storage])
    assert (A.shape, A.dtype) == ((N, N), dtype)
    assert_within_budget(matrix(A), reference, truth, longest_row=D)
    if isinstance(A, SparseAffinity):
        assert torch.equal(A.weights(), matrix(A)[edges[1], edges[0]])


@pytest.mark.parametrize("name", RECTANGULAR)
def test_two_sets(name: str) -> None:
    x, y = features(), features(M)
    truth = by_formula(name, x, y)
    kernel = RECTANGULAR[name]
    for A in (kernel(x, y=y), kernel(x, y=y, stored=False), kernel(x, all_edges(N, M), y=y)):
        assert (A.shape, A.symmetric) == ((N, M), False)
        close(matrix(A), truth)
        close(matrix(A.T), matrix(kernel(y, y=x)))
        v, w = torch.randn(M, 2, dtype=torch.float64), torch.randn(N, 2, dtype=torch.float64)
        close(A @ v, truth @ v)
        close(A.T @ w, truth.t() @ w)


def test_scikit_learn() -> None:
    x, y = features(40), features(30)
    for ours, theirs, truth in (
        (
            gaussian(x, y=y, bandwidth=0.7),
            pairwise.rbf_kernel(x, y, gamma=1 / (2 * 0.7**2)),
            by_formula("gaussian", x, y),
        ),
        (cosine(x, y=y), pairwise.cosine_similarity(x, y), by_formula("cosine", x, y)),
        (dot_product(x, y=y, scale=1.0), pairwise.linear_kernel(x, y), by_formula("dot_product", x, y) * D**0.5),
        (dot_product(x), pairwise.linear_kernel(x) / D**0.5, by_formula("dot_product", x, x)),
    ):
        assert_within_budget(matrix(ours), torch.from_numpy(theirs), truth, longest_row=D)


def test_close_points_far_from_the_origin() -> None:
    """Distances of 1 at 10^4 from the origin: inner products in float32 are off by several units there."""
    x = (1e4 + torch.randint(-3, 4, (N, D))).float()
    truth = by_formula("gaussian", x.double(), x.double())
    edges = all_edges(N, N)
    for A in (SQUARE["gaussian"](x), SQUARE["gaussian"](x, edges), SQUARE["gaussian"](x, stored=False)):
        assert_within_budget(matrix(A), truth.float(), truth)


@pytest.mark.parametrize("name", SQUARE)
def test_relabeled_nodes(name: str) -> None:
    x, edges = features(), all_edges(N, N)[:, :20]
    perm = torch.tensor([2, 0, 1, 4, 5, 6, 3])  # not its own inverse
    close(matrix(SQUARE[name](x[perm])), matrix(SQUARE[name](x))[perm][:, perm])
    close(SQUARE[name](x[perm], perm.argsort()[edges]).weights(), SQUARE[name](x, edges).weights())


@pytest.mark.parametrize("name", SQUARE)
def test_autocast_narrows_nothing(name: str) -> None:
    x, edges = features(dtype=torch.float32), all_edges(N, N)
    v = torch.randn(N, 2)
    plain = [SQUARE[name](x), SQUARE[name](x, edges), SQUARE[name](x, stored=False)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = [SQUARE[name](x), SQUARE[name](x, edges), SQUARE[name](x, stored=False)]
        rows = cast[2].rows(2, 4)
    for a, b in zip(plain[:2], cast[:2], strict=True):
        assert torch.equal(matrix(a), matrix(b))
    assert torch.equal(rows, matrix(plain[0])[2:4])
    assert torch.equal(plain[2] @ v, cast[2] @ v)


# Edges ################################################################################################################


@pytest.mark.parametrize("name", SQUARE)
def test_parallel_edges_and_loops_keep_their_places(name: str) -> None:
    x = features()
    edges = torch.tensor([[4, 0, 0, 3, 4, 1], [2, 1, 0, 0, 2, 1]])
    weight = SQUARE[name](x, edges).weights()
    if name == "self-tuning":
        simple = SQUARE[name](x, torch.tensor([[4, 0, 3], [2, 1, 0]])).weights()
        close(weight, torch.cat([simple[:2], simple.new_ones(1), simple[[2, 0]], simple.new_ones(1)]))
    else:
        close(weight, by_formula(name, x, x)[edges[1], edges[0]])


@pytest.mark.parametrize("name", SQUARE)
def test_affinity_lends_its_layout_and_symmetry(name: str) -> None:
    x = features(3)
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    path = Affinity.from_edge_index(edges, torch.rand(4), symmetric=True, labels=["a", "b", "c"])
    A = SQUARE[name](x, path)
    assert A.layout is path.layout
    assert A.symmetric
    assert A.labels == ("a", "b", "c")
    close(A.weights(), SQUARE[name](x, edges).weights())
    assert torch.equal(matrix(A), matrix(A).t())
    assert not SQUARE[name](x, path.with_weight(None)).symmetric  # the caller does not say so


def test_forms_of_edges() -> None:
    x, edges = features(3), torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]])
    truth = gaussian(x, edges, bandwidth=1.0)
    assert not truth.symmetric
    dense = Affinity.from_dense(torch.tensor([[0.0, 2.0, 0.0], [2.0, 0.0, 2.0], [0.0, 2.0, 0.0]]), symmetric=True)
    undirected = EdgeIndex(edges, sparse_size=(3, 3), is_undirected=True)
    for form, symmetric in ((edges.int(), False), (EdgeIndex(edges), False), (undirected, True), (dense, True)):
        A = gaussian(x, form, bandwidth=1.0)
        close(matrix(A), matrix(truth))
        assert A.symmetric is symmetric
    pair = Affinity.from_edge_index(edges, symmetric=True)
    assert not gaussian(x, pair, y=features(3), bandwidth=1.0).symmetric


@pytest.mark.parametrize("name", SQUARE)
@pytest.mark.parametrize("n", [0, 1, 4])
def test_few_nodes_and_no_edges(name: str, n: int) -> None:
    x = features(n)
    for A in (SQUARE[name](x), SQUARE[name](x, stored=False)):
        assert A.symmetric
        assert A.shape == (n, n)
        assert torch.isfinite(matrix(A)).all()
    A = SQUARE[name](x, torch.empty(2, 0, dtype=torch.int64))
    assert (A.shape, A.num_edges) == ((n, n), 0)
    if n == 1 and name not in ("dot_product", "cosine"):
        assert matrix(SQUARE[name](x)).item() == 1.0
        assert SQUARE[name](x, torch.tensor([[0], [0]])).weights().item() == 1.0


def test_empty_second_set() -> None:
    for n, m in ((3, 0), (0, 3)):
        x, y = features(n).requires_grad_(), features(m).requires_grad_()
        A = gaussian(x, y=y, bandwidth=1.0)
        assert A.shape == (n, m)
        A.matrix.sum().backward()
        assert torch.equal(x.grad, torch.zeros_like(x))
        assert torch.equal(y.grad, torch.zeros_like(y))


# What is special about each ##########################################################################################


def test_zero_vectors_have_cosine_0() -> None:
    x = torch.zeros(3, 2, dtype=torch.float64)
    x[0] = torch.tensor([3.0, 4.0])
    truth = torch.zeros(3, 3, dtype=torch.float64)
    truth[0, 0] = 1.0
    x.requires_grad_()
    for A in (cosine(x), cosine(x, all_edges(3, 3))):
        close(matrix(A), truth)
        (gradient,) = torch.autograd.grad(matrix(A).sum(), x)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["dot_product", "cosine"])
def test_unstored_inner_products_are_two_thin_factors(name: str) -> None:
    n = 200_000  # a product by rows would take minutes
    x = torch.randn(n, 2, dtype=torch.float64)
    A = SQUARE[name](x, stored=False)
    unit = x / x.norm(dim=1, keepdim=True) if name == "cosine" else x / 2**0.25
    torch.testing.assert_close(A @ x, unit @ (unit.t() @ x))
    close(A.rows(5, 7), (unit[5:7] @ unit.t()))
    single = SQUARE[name](x.float(), stored=False)
    assert (single @ x.half()).dtype == torch.float32
    assert (single @ x).dtype == torch.float64
    v = x[:, :1].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = single @ v
    assert torch.equal(cast, single @ v)


def test_self_tuning_by_loops() -> None:
    x = features(9)
    edges = torch.cat([all_edges(9, 9)[:, :30], torch.tensor([[0, 3], [0, 3]])], dim=1)
    near: list[set[int]] = [set() for _ in range(9)]
    for j, i in edges.t().tolist():
        if i != j:
            near[i].add(j)
            near[j].add(i)
    for k in (1, 3, 8, 50):
        scale = [sorted((x[i] - x[j]).norm() for j in near[i])[: min(k, len(near[i]))][-1] for i in range(9)]
        truth = [torch.exp(-(x[i] - x[j]).square().sum() / (scale[i] * scale[j])) for j, i in edges.t().tolist()]
        close(gaussian(x, edges, bandwidth="self-tuning", k=k).weights(), torch.stack(truth))
        whole = gaussian(x, all_edges(9, 9), bandwidth="self-tuning", k=k)
        close(matrix(gaussian(x, bandwidth="self-tuning", k=k)), matrix(whole))


def test_self_tuning_on_nearest_neighbors_is_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(30)
    order = differences(x, x).argsort(dim=1)[:, 1:8]
    edges = torch.stack([order.flatten(), torch.arange(30).repeat_interleave(7)])
    close(
        gaussian(x, edges, bandwidth="self-tuning").weights(),
        matrix(gaussian(x, bandwidth="self-tuning"))[edges[1], edges[0]],
    )
    whole = matrix(gaussian(x, bandwidth="self-tuning"))
    monkeypatch.setattr("graphattn.affinity.kernels._BLOCK_BYTES", 4 * 30 * 8)  # four rows a block, two in the last
    close(matrix(gaussian(x, bandwidth="self-tuning")), whole)


def test_self_tuning_with_points_in_one_place() -> None:
    """Three points coincide, so that two of their bandwidths' neighbors do: the limit of small bandwidths."""
    x = torch.tensor([[0.0], [0.0], [0.0], [1.0], [3.0]], dtype=torch.float64, requires_grad=True)
    truth = torch.eye(5, dtype=torch.float64)
    truth[:3, :3] = 1.0
    truth[3, 4] = truth[4, 3] = math.exp(-4 / (1 * 3))  # second neighbors at 1 and at 3
    for A in (
        gaussian(x, bandwidth="self-tuning", k=2),
        gaussian(x, all_edges(5, 5), bandwidth="self-tuning", k=2),
        gaussian(x, bandwidth="self-tuning", k=2, stored=False),
    ):
        close(matrix(A), truth)
        (gradient,) = torch.autograd.grad(matrix(A).sum(), x)
        assert torch.isfinite(gradient).all()


def test_bandwidth_tensor_equals_number() -> None:
    x = features()
    for bandwidth in (torch.tensor(0.5), torch.tensor([0.5], dtype=torch.float64), 0.5):
        close(matrix(gaussian(x, bandwidth=bandwidth)), matrix(gaussian(x, bandwidth=0.5)))
    half = gaussian(x.half(), bandwidth=torch.tensor(0.5, dtype=torch.float64))
    assert half.dtype == torch.float16
    # The square of this bandwidth is 0 in float32.
    assert gaussian(torch.tensor([[2.0], [2.0], [3.0]]), bandwidth=1e-30).matrix[0].tolist() == [1.0, 1.0, 0.0]


def test_bilateral_is_a_gaussian_of_both() -> None:
    x, edges = features(), all_edges(N, N)
    scaled = torch.cat([x[:, :1] / 0.7, x[:, 1:] / 1.3], dim=1)
    close(SQUARE["bilateral"](x, edges).weights(), gaussian(scaled, edges, bandwidth=1.0).weights())


def image(height: int, width: int) -> tuple[np.ndarray, Tensor, Tensor]:
    """A noisy step, its pixel coordinates and its pixels."""
    pixels = 0.2 * np.random.rand(height, width) + (np.arange(width) >= width // 2)
    position = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    return pixels, position, torch.from_numpy(pixels).reshape(-1, 1)


def window_edges(height: int, width: int, radius: int) -> Tensor:
    edges = [
        (r2 * width + c2, r * width + c)
        for r in range(height)
        for c in range(width)
        for r2 in range(max(r - radius, 0), min(r + radius + 1, height))
        for c2 in range(max(c - radius, 0), min(c + radius + 1, width))
    ]
    return torch.tensor(edges).t()


def test_bilateral_filter() -> None:
    height, width, radius = 5, 6, 2
    pixels, position, value = image(height, width)
    truth = np.zeros((height, width))
    for r in range(height):
        for c in range(width):
            total = 0.0
            for r2 in range(max(r - radius, 0), min(r + radius + 1, height)):
                for c2 in range(max(c - radius, 0), min(c + radius + 1, width)):
                    space = ((r - r2) ** 2 + (c - c2) ** 2) / (2 * 1.5**2)
                    weight = np.exp(-space - (pixels[r, c] - pixels[r2, c2]) ** 2 / (2 * 0.3**2))
                    truth[r, c] += weight * pixels[r2, c2]
                    total += weight
            truth[r, c] /= total
    A = bilateral(position, value, window_edges(height, width, radius), position_bandwidth=1.5, value_bandwidth=0.3)
    close((A.normalize("row") @ value).view(height, width), torch.from_numpy(truth))


def test_non_local_means() -> None:
    height, width, radius, h = 5, 6, 2, 0.4
    pixels, _, value = image(height, width)
    padded = np.pad(pixels, 1, mode="reflect")
    weights = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
    truth = np.zeros((height, width))
    for r in range(height):
        for c in range(width):
            total = 0.0
            for r2 in range(max(r - radius, 0), min(r + radius + 1, height)):
                for c2 in range(max(c - radius, 0), min(c + radius + 1, width)):
                    apart = padded[r : r + 3, c : c + 3] - padded[r2 : r2 + 3, c2 : c2 + 3]
                    weight = np.exp(-(weights * apart**2).sum() / h**2)
                    truth[r, c] += weight * pixels[r2, c2]
                    total += weight
            truth[r, c] /= total
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)) * np.sqrt(weights)
    A = gaussian(
        torch.from_numpy(patches.reshape(height * width, 9)), window_edges(height, width, radius), bandwidth=h / 2**0.5
    )
    close((A.normalize("row") @ value).view(height, width), torch.from_numpy(truth))


# Gradients ############################################################################################################


@pytest.mark.parametrize("storage", ["dense", "implicit", "edges"])
@pytest.mark.parametrize("name", SQUARE)
def test_gradients(name: str, storage: str) -> None:
    x = features().requires_grad_()
    edges = all_edges(N, N)[:, :20]
    v = torch.randn(N, 2, dtype=torch.float64, requires_grad=True)

    def product(x: Tensor, v: Tensor) -> Tensor:
        A = SQUARE[name](x, edges) if storage == "edges" else SQUARE[name](x, stored=storage == "dense")
        return A @ v

    assert torch.autograd.gradcheck(product, (x, v))


@pytest.mark.parametrize("storage", ["dense", "implicit", "edges"])
def test_gradients_of_two_sets_and_bandwidths(storage: str) -> None:
    x, y = features().requires_grad_(), features(M).requires_grad_()
    a, b = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.6, 0.9))
    edges = all_edges(N, M)[:, :20] if storage == "edges" else None
    square = all_edges(N, N)[:, :20] if storage == "edges" else None
    ones = torch.ones(M, 1, dtype=torch.float64), torch.ones(N, 1, dtype=torch.float64)

    def product(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        options: dict[str, Any] = {"stored": storage != "implicit"}
        alike = bilateral(x[:, :1], x[:, 1:], square, position_bandwidth=a, value_bandwidth=b, **options)
        return gaussian(x, edges, y=y, bandwidth=a, **options) @ ones[0] + alike @ ones[1]

    assert torch.autograd.gradcheck(product, (x, y, a, b))


def test_distances_are_twice_differentiable() -> None:
    x, y = features().requires_grad_(), features(M).requires_grad_()
    assert torch.autograd.gradgradcheck(squared_distances, (x, y))


@pytest.mark.parametrize("name", SQUARE)
def test_nothing_large_is_kept_for_the_backward(name: str) -> None:
    """Neither E x D nor N x M x D."""
    n, d = 12, 40
    x = torch.randn(n, d, dtype=torch.float64, requires_grad=True)
    edges = torch.cat([all_edges(n, n)] * 3, dim=1)
    kept: list[int] = []

    def pack(saved: Tensor) -> Tensor:
        kept.append(saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        for A in (SQUARE[name](x), SQUARE[name](x, edges)):
            A.to_dense()
    assert max(kept) <= 2 * edges.size(1)  # the edges themselves, two indices each
    assert 2 * edges.size(1) < n * n * d


# Errors ###############################################################################################################


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: cosine(x.numpy()), TypeError, "x is a ndarray; expected a floating-point Tensor"),
        (lambda x: cosine(x.long()), TypeError, "x has dtype torch.int64"),
        (lambda x: cosine(x[0]), ValueError, r"x has shape \(3,\); expected \[nodes, D\] with D at least 1"),
        (lambda x: cosine(x[:, :0]), ValueError, r"x has shape \(7, 0\)"),
        (lambda x: cosine(x, y=x[:, :2]), ValueError, r"y has 2 features but x has 3"),
        (lambda x: cosine(x, y=x.abs().neg().log()), ValueError, r"y is not finite in \d rows, the first being"),
        (lambda x: cosine(x, y=x.to("meta")), ValueError, "y is on meta but x is on cpu; move one of them"),
        (lambda x: cosine(x, "complete"), TypeError, "edge_index is a str; expected an integer Tensor"),
        (lambda x: cosine(x, x), TypeError, "edge_index has dtype torch.float64"),
        (lambda x: cosine(x, cosine(x, stored=False)), TypeError, "edge_index is a ImplicitAffinity"),
        (lambda x: cosine(x, torch.tensor([[0], [7]])), ValueError, r"edge_index\[1\] contains 7"),
        (
            lambda x: gaussian(x, cosine(x[:4]), bandwidth=1.0),
            ValueError,
            "edge_index has 4 targets, but the features have 7",
        ),
        (
            lambda x: cosine(x, torch.tensor([[0], [1]], device="meta")),
            ValueError,
            "x is on cpu but edge_index is on meta",
        ),
        (lambda x: cosine(x, torch.tensor([[0], [1]]), stored=False), ValueError, "stored is False but edge_index"),
        (lambda x: dot_product(x, scale=math.inf), ValueError, "scale is inf; expected a finite number"),
        (lambda x: gaussian(x, bandwidth=0.0), ValueError, "bandwidth is 0.0; expected a positive number"),
        (lambda x: gaussian(x.float(), bandwidth=1e-60), ValueError, "bandwidth is 1e-60; .* of torch.float32"),
        (lambda x: gaussian(x, bandwidth=math.nan), ValueError, "bandwidth is nan"),
        (lambda x: gaussian(x, bandwidth=torch.tensor(-1.0)), ValueError, "bandwidth is -1.0"),
        (lambda x: gaussian(x, bandwidth=torch.ones(2)), ValueError, r"bandwidth has shape \(2,\) and dtype"),
        (lambda x: gaussian(x, bandwidth=torch.tensor(1)), ValueError, "and dtype torch.int64; expected one floating"),
        (lambda x: gaussian(x, bandwidth=torch.ones((), device="meta")), ValueError, "bandwidth is on meta"),
        (lambda x: gaussian(x, bandwidth=None), TypeError, "bandwidth is a NoneType; expected a positive number"),
        (lambda x: gaussian(x, bandwidth="median"), ValueError, "bandwidth is 'median'; expected a positive number or"),
        (lambda x: gaussian(x, bandwidth=1.0, k=7), ValueError, "k is 7 but bandwidth is not 'self-tuning'"),
        (lambda x: gaussian(x, bandwidth="self-tuning", k=0), ValueError, "k is 0; expected a positive integer"),
        (lambda x: gaussian(x, bandwidth="self-tuning", y=x), ValueError, "y is given but bandwidth is 'self-tuning'"),
        (
            lambda x: bilateral(x, x[:4], position_bandwidth=1.0, value_bandwidth=1.0),
            ValueError,
            "position has 7 rows but value has 4; expected one row per node",
        ),
        (
            lambda x: bilateral(x, x, position_bandwidth=1.0, value_bandwidth=-2.0),
            ValueError,
            "value_bandwidth is -2.0",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(features())
