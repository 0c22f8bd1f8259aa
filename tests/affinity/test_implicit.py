"""ImplicitAffinity agrees with the matrix it stands for and keeps none of it; the bounds of the radius hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

from graphattn.affinity import Affinity, DenseAffinity, ImplicitAffinity, SparseAffinity, implicit
from graphattn.affinity.spectrum import perron_bound
from tests.budget import assert_within_budget

N, M = 7, 5
F64 = torch.float64


def positive(n: int, m: int) -> Tensor:
    """A matrix with empty rows, ties and zeros."""
    matrix = torch.randint(0, 4, (n, m)).to(F64)
    if n:
        matrix[-1] = 0
    return matrix


def by_products(matrix: Tensor, symmetric: bool = False) -> ImplicitAffinity:
    """Only products; rows come from unit vectors."""
    return ImplicitAffinity(
        lambda x: matrix @ x,
        tuple(matrix.shape),
        rmatvec=None if symmetric else lambda x: matrix.t() @ x,
        symmetric=symmetric,
        dtype=matrix.dtype,
    )


def by_product_alone(matrix: Tensor, symmetric: bool = False) -> ImplicitAffinity:
    return ImplicitAffinity(lambda x: matrix @ x, tuple(matrix.shape), symmetric=symmetric, dtype=matrix.dtype)


def by_rows(block_size: int | None) -> Callable[..., ImplicitAffinity]:
    def build(matrix: Tensor, symmetric: bool = False) -> ImplicitAffinity:
        return ImplicitAffinity.from_rows(
            lambda start, stop: matrix[start:stop],
            tuple(matrix.shape),
            symmetric=symmetric,
            block_size=block_size,
            dtype=matrix.dtype,
        )

    return build


BUILDS = {
    "products": by_products,
    "product alone": by_product_alone,
    "rows": by_rows(None),
    "rows by 1": by_rows(1),
    "rows by 3": by_rows(3),
    "rows by 100": by_rows(100),
}
SHAPES = [(N, M), (M, N), (N, N), (1, 1), (0, 0), (0, M), (N, 0)]


def close(a: Any, b: Any) -> None:
    a, b = (x.to_dense().matrix if isinstance(x, Affinity) else x for x in (a, b))
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


# The same as the matrix ###############################################################################################


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_matrix(build: Any, shape: tuple[int, int]) -> None:
    matrix = positive(*shape)
    A, D = build(matrix), DenseAffinity(matrix)
    assert (A.shape, A.dtype, A.num_heads, A.has_heads, A.symmetric) == (shape, F64, 1, False, False)
    for size in [(shape[1],), (shape[1], 2), (shape[1], 3, 2), (shape[1], 0)]:
        x = torch.randn(size, dtype=F64)
        close(A @ x, D @ x)
    close(A.row_sums(), D.row_sums())
    assert torch.equal(A.to_dense().matrix, matrix)
    for ours, theirs in [
        (A.to_sparse(), D.to_sparse()),
        (A.top_k(2), D.top_k(2).to_sparse()),
        (A.threshold(2.0), D.threshold(2.0).to_sparse()),
    ]:
        assert isinstance(ours, SparseAffinity)
        assert ours.shape == shape
        assert torch.equal(ours.edge_index, theirs.edge_index)
        assert torch.equal(ours.weights(), theirs.weights())
    for start, stop in [(0, shape[0]), (shape[0] // 2, shape[0]), (0, 0)]:
        assert torch.equal(A.rows(start, stop), matrix[start:stop])


@pytest.mark.parametrize("build", [by_products, by_rows(3), by_rows(None)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_transpose_equals_the_matrix(build: Any, shape: tuple[int, int]) -> None:
    matrix = positive(*shape)
    A = build(matrix)
    x = torch.randn(shape[0], 2, dtype=F64)
    assert A.T.shape == shape[::-1]
    close(A.T @ x, matrix.t() @ x)
    close(A.T.T @ x.new_ones(shape[1]), matrix.sum(1))
    assert torch.equal(A.T.to_dense().matrix, matrix.t())
    assert torch.equal(A.T.rows(0, shape[1] // 2), matrix.t()[: shape[1] // 2])


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize("kind", ["row", "symmetric", "spectral", "none"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_normalized_equals_the_matrix_normalized(build: Any, kind: str, symmetric: bool) -> None:
    matrix = positive(N, N)
    matrix = matrix + matrix.t() if symmetric else matrix
    A, D = build(matrix, symmetric).normalize(kind), DenseAffinity(matrix, symmetric=symmetric).normalize(kind)
    scale = (A.to_dense().matrix.sum() / D.matrix.sum()).item()
    if kind == "spectral":  # the implicit radius is an upper bound
        assert 1 - 1e-4 <= scale <= 1 + 1e-14
        D = DenseAffinity(D.matrix * scale, symmetric=D.symmetric)
    assert A.symmetric == D.symmetric
    close(A, D)
    x = torch.randn(N, 3, dtype=F64)
    close(A @ x, D @ x)
    close(A.rows(2, 4), D.matrix[2:4])
    if build is not by_product_alone or symmetric:
        close(A.T @ x, D.T @ x)
        close(A.T, D.T)


@pytest.mark.parametrize("kind", ["row", "symmetric"])
def test_rectangular_ones_are_normalized_on_both_sides(kind: str) -> None:
    matrix = positive(N, M)
    close(by_rows(2)(matrix).normalize(kind), DenseAffinity(matrix).normalize(kind))


def test_a_regular_graph_normalized_by_rows_is_not_marked_symmetric() -> None:
    """Its rows happen to be equal; what an affinity is marked as does not hang on values."""
    ring = torch.tensor(nx.to_numpy_array(nx.cycle_graph(6)))
    assert not by_rows(None)(ring, symmetric=True).normalize("row").symmetric
    assert by_rows(None)(ring, symmetric=True).normalize("symmetric").symmetric


def test_normalized_affinities_can_be_normalized_again() -> None:
    matrix = positive(N, N) + 1
    A = by_rows(3)(matrix).normalize("row").normalize("symmetric").normalize("row")
    close(A, DenseAffinity(matrix).normalize("row").normalize("symmetric").normalize("row"))
    close(A.row_sums(), torch.ones(N, dtype=F64))


def test_a_product_that_is_never_a_matrix() -> None:
    """f f^T of a million features: 8 TB if it were stored."""
    f = torch.rand(1_000_000, dtype=F64)
    A = ImplicitAffinity(lambda x: f[:, None] * (f @ x), (f.numel(), f.numel()), symmetric=True, dtype=F64)
    assert A.spectral_radius().item() == pytest.approx(f.square().sum().item(), rel=1e-4)
    assert A.normalize("row").row_sums().sub(1).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64], ids=str)
@pytest.mark.parametrize("other", [torch.float16, torch.float32, F64], ids=str)
def test_dtypes_are_promoted_as_those_of_a_matrix(dtype: torch.dtype, other: torch.dtype) -> None:
    matrix, x = torch.rand(3000, 3000).to(dtype), torch.rand(3000, 2).to(other)
    A, D = by_rows(500)(matrix), DenseAffinity(matrix)
    for ours, theirs, wide in [(A @ x, D @ x, matrix.double()), (A.T @ x, D.T @ x, matrix.double().t())]:
        assert_within_budget(ours, theirs, wide @ x.double(), longest_row=3000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = A @ x
    assert torch.equal(ours, A @ x)


# Blocks ###############################################################################################################


def test_blocks_are_as_large_as_asked() -> None:
    asked: list[tuple[int, int]] = []
    matrix = positive(N, M)

    def rows(start: int, stop: int) -> Tensor:
        asked.append((start, stop))
        return matrix[start:stop]

    A = ImplicitAffinity.from_rows(rows, (N, M), block_size=3, dtype=F64)
    whole = [(0, 3), (3, 6), (6, 7)]
    for use in (
        lambda: A @ torch.ones(M, dtype=F64),
        lambda: A.T @ torch.ones(N, dtype=F64),
        A.to_dense,
        A.to_sparse,
        lambda: A.top_k(1),
        lambda: A.threshold(1.0),
    ):
        asked.clear()
        use()
        assert asked == whole
    normalized = A.normalize("row")
    asked.clear()
    normalized.top_k(1)
    assert asked == whole


def test_blocks_fit_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit, "_BLOCK_BYTES", 8 * M * 2)
    asked: list[int] = []
    matrix = positive(N, M)

    def rows(start: int, stop: int) -> Tensor:
        asked.append(stop - start)
        return matrix[start:stop]

    ImplicitAffinity.from_rows(rows, (N, M), dtype=F64).to_dense()
    assert asked == [1] * N  # counted by the longer side, which blocks of the transpose have
    assert torch.equal(by_products(matrix).to_dense().matrix, matrix)


def test_without_a_transpose_columns_are_computed_once() -> None:
    calls = []
    matrix = positive(N, M)

    def matvec(x: Tensor) -> Tensor:
        calls.append(x.shape)
        return matrix @ x

    A = ImplicitAffinity(matvec, (N, M), dtype=F64)
    A._block_size = 1
    assert torch.equal(A.to_dense().matrix, matrix)
    assert calls == [(M, M)]


# Gradients ############################################################################################################


@pytest.mark.parametrize("block_size", [1, 3, None])
def test_gradients_reach_features_and_what_the_rows_read(block_size: int | None) -> None:
    points = torch.randn(N, 2, dtype=F64, requires_grad=True)
    others = torch.randn(M, 2, dtype=F64, requires_grad=True)
    x = torch.randn(M, 2, dtype=F64, requires_grad=True)

    def run(points: Tensor, others: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        def rows(start: int, stop: int) -> Tensor:
            return torch.exp(points[start:stop] @ others.t())

        A = ImplicitAffinity.from_rows(rows, (N, M), block_size=block_size, dtype=F64)
        return (
            A @ x,
            A.T @ points,
            A.row_sums(),
            A.normalize("row") @ x,
            A.normalize("symmetric") @ x,
            A.top_k(2).weights(),
            A.to_dense().matrix,
        )

    assert torch.autograd.gradcheck(run, (points, others, x))


def test_the_radius_is_a_constant() -> None:
    weight = torch.rand(4, 4, dtype=F64, requires_grad=True)
    A = by_rows(2)(weight @ weight.t(), symmetric=True)
    assert not A.spectral_radius().requires_grad
    assert not A.norm_bound().requires_grad
    normalized = A.normalize("spectral") @ torch.ones(4, dtype=F64)
    expected = (weight @ weight.t()).sum(1) / A.spectral_radius()
    for ours, theirs in zip(*(torch.autograd.grad(y.sum(), weight) for y in (normalized, expected)), strict=True):
        close(ours, theirs)


PRODUCTS: dict[str, tuple[Any, Any]] = {
    "product": (lambda A, x: A @ x, lambda K, x: K @ x),
    "transposed": (lambda A, x: A.T @ x, lambda K, x: K.t() @ x),
    "normalized": (lambda A, x: A.normalize("row") @ x, lambda K, x: (K / K.sum(1, keepdim=True)) @ x),
}


@pytest.mark.parametrize(("ours", "theirs"), PRODUCTS.values(), ids=PRODUCTS)
def test_nothing_of_the_matrix_is_kept_for_the_backward(ours: Any, theirs: Any) -> None:
    n = 200
    points = torch.randn(n, 2, dtype=F64, requires_grad=True)
    x = torch.randn(n, 3, dtype=F64, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    A = ImplicitAffinity.from_rows(lambda a, b: torch.exp(points[a:b] @ points.t()), (n, n), block_size=10, dtype=F64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = ours(A, x)
    assert sum(kept.values()) <= 10 * 8 * n * 3 < 8 * n * n / 6
    found = torch.autograd.grad(y.square().sum(), (points, x))
    expected = torch.autograd.grad(theirs(torch.exp(points @ points.t()), x).square().sum(), (points, x))
    for grad, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(grad, truth, rtol=1e-10, atol=1e-12 * truth.abs().max().item())


# Bounds of the radius #################################################################################################


def matrix_of(graph: nx.Graph) -> Tensor:
    return torch.tensor(nx.to_numpy_array(graph), dtype=F64)


def random(n: int, density: float) -> Tensor:
    return torch.rand(n, n, dtype=F64) * (torch.rand(n, n) < density)


def weighted_cycle() -> Tensor:
    return torch.diag(torch.rand(6, dtype=F64) + 0.1).roll(1, dims=1)


SYMMETRIC: dict[str, Callable[[], Tensor]] = {
    "dense": lambda: (lambda B: B + B.t())(random(40, 1.0)),
    "sparse": lambda: (lambda B: B + B.t())(random(60, 0.05)),
    "bipartite": lambda: matrix_of(nx.complete_bipartite_graph(3, 20)),
    "star": lambda: matrix_of(nx.star_graph(300)),
    "path": lambda: matrix_of(nx.path_graph(12)),
    "disconnected": lambda: torch.block_diag(
        random(9, 1.0).new_ones(9, 9), matrix_of(nx.cycle_graph(5)), torch.zeros(3, 3)
    ),
    "zero": lambda: torch.zeros(4, 4, dtype=F64),
    "identity": lambda: torch.eye(5, dtype=F64),
    "one node": lambda: torch.full((1, 1), 3.0, dtype=F64),
    "tiny": lambda: 1e-200 * (lambda B: B + B.t())(random(20, 1.0)),
    "huge": lambda: 1e150 * (lambda B: B + B.t())(random(20, 1.0)),
}
IRREDUCIBLE: dict[str, Callable[[], Tensor]] = {
    "dense": lambda: random(40, 1.0),
    "sparse": lambda: random(60, 0.15) + 0.01 * matrix_of(nx.cycle_graph(60, create_using=nx.DiGraph)),
    "directed cycle": lambda: matrix_of(nx.cycle_graph(7, create_using=nx.DiGraph)),
    "weighted cycle": weighted_cycle,
    "stochastic": lambda: (lambda B: B / B.sum(1, keepdim=True))(random(30, 1.0)),
}
REDUCIBLE: dict[str, Callable[[], Tensor]] = {
    "triangular": lambda: random(20, 1.0).triu(1),
    "with loops": lambda: random(20, 1.0).triu(),
    "two blocks": lambda: torch.block_diag(random(10, 1.0), 3 * random(6, 1.0)) + random(16, 0.2).triu(10),
    "zero rows": lambda: random(20, 1.0) * (torch.arange(20) % 3 > 0).unsqueeze(1),
}
CASES = [
    *[(make, True, True) for make in SYMMETRIC.values()],
    *[(make, False, True) for make in IRREDUCIBLE.values()],
    *[(make, False, False) for make in REDUCIBLE.values()],
]
NAMES = [*SYMMETRIC, *(f"directed {name}" for name in IRREDUCIBLE), *(f"reducible {name}" for name in REDUCIBLE)]


def radius_of(matrix: Tensor) -> float:
    scale = matrix.max().item() or 1.0
    return scale * np.abs(np.linalg.eigvals((matrix / scale).numpy())).max()


@pytest.mark.parametrize(("make", "symmetric", "closes"), CASES, ids=NAMES)
def test_the_bracket_holds_at_every_step(make: Callable[[], Tensor], symmetric: bool, closes: bool) -> None:
    matrix = make()
    # Of a nilpotent matrix a numerical eigenvalue is far from 0: n-th root of the rounding.
    rho = 0.0 if not matrix.tril().any() else radius_of(matrix)
    rounding = 1 + 4 * len(matrix) * torch.finfo(F64).eps
    uppers = []
    for steps in (1, 2, 3, 5, 10, 50, 200):
        bound = perron_bound(lambda v: matrix @ v, len(matrix), symmetric, max_iter=steps)
        assert bound.upper * rounding >= rho
        assert bound.products <= steps
        if bound.certified:
            assert bound.upper <= rho / (1 - 1.01e-4)
        uppers.append(bound.upper)
    assert uppers == sorted(uppers, reverse=True)
    assert uppers[0] == pytest.approx(matrix.sum(1).max().item(), rel=1e-14)
    assert bound.certified or not closes
    A = by_rows(None)(matrix, symmetric=symmetric)
    assert A.spectral_radius().item() == uppers[-1]


@pytest.mark.parametrize("tol", [1e-2, 1e-6, 1e-10])
def test_the_tolerance_is_kept(tol: float) -> None:
    for matrix, symmetric in ((SYMMETRIC["sparse"](), True), (IRREDUCIBLE["dense"](), False)):
        rho = radius_of(matrix)
        upper, certified, products = perron_bound(
            lambda v, matrix=matrix: matrix @ v, len(matrix), symmetric, tol=tol, max_iter=500
        )
        assert certified
        assert products < 500
        assert rho * (1 - 1e-13) <= upper <= rho * (1 + 1.01 * tol)


def test_dense_affinities_take_few_products() -> None:
    x = torch.randn(400, 50, dtype=F64) + torch.randn(400, 1, dtype=F64)
    correlation = torch.corrcoef(x.t()).abs()
    spread = torch.rand(50, dtype=F64)
    for matrix in (
        correlation,
        torch.maximum(spread, spread[:, None]) + 1 - correlation,
        torch.exp(-torch.cdist(x, x) / 10),
    ):
        bound = perron_bound(lambda v, matrix=matrix: matrix @ v, len(matrix), symmetric=True)
        assert bound.certified
        assert bound.products <= 5


@pytest.mark.parametrize("leaves", [10, 1000, 100_000])
def test_a_hub_of_any_size_is_soon_bounded(leaves: int) -> None:
    """A star is bipartite and its radius, the root of the number of leaves, is far below the largest row sum."""

    def star(v: Tensor) -> Tensor:
        return torch.cat([v[1:].sum().view(1), v[:1].expand(leaves)])

    bound = perron_bound(star, leaves + 1, symmetric=True)
    assert bound.certified
    assert bound.products <= 20
    assert bound.upper == pytest.approx(math.sqrt(leaves), rel=1e-4)


def test_no_nodes_have_radius_zero() -> None:
    assert perron_bound(lambda v: v, 0, symmetric=True) == (0.0, True, 0)
    assert by_rows(None)(torch.zeros(0, 0)).spectral_radius() == 0
    assert by_rows(None)(torch.zeros(0, 0)).norm_bound() == 0


def test_float32_bounds_hold_up_to_its_rounding() -> None:
    matrix = SYMMETRIC["dense"]()
    A = by_rows(None)(matrix.float(), symmetric=True)
    assert A.spectral_radius().dtype == torch.float32
    rounding = 1 + len(matrix) * torch.finfo(torch.float32).eps
    assert radius_of(matrix) / rounding <= A.spectral_radius().item() <= radius_of(matrix) * (1 + 1.1e-4)


def test_the_radius_is_computed_once_and_without_a_graph() -> None:
    calls = []
    weight = (random(6, 1.0) + 0.1).requires_grad_()

    def matvec(x: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return weight @ x

    A = ImplicitAffinity(matvec, (6, 6), rmatvec=lambda x: weight.t() @ x, dtype=F64)
    first = A.spectral_radius()
    assert not any(calls)
    count = len(calls)
    assert A.spectral_radius() is first
    assert A.T.spectral_radius() is first
    assert len(calls) == count


@pytest.mark.parametrize("heads", [None, 3])
@pytest.mark.parametrize("shape", [(N, N), (N, M), (0, 0), (0, M), (N, 0)])
def test_sums_bound_the_radius_in_every_storage(shape: tuple[int, int], heads: int | None) -> None:
    matrix = torch.randn(*([heads] if heads else []), *shape, dtype=F64)
    size = matrix.abs()
    sums = [side.amax(-1) if side.size(-1) else side.sum(-1) for side in (size.sum(-1), size.sum(-2))]
    truth = torch.minimum(*sums)
    D = DenseAffinity(matrix)
    storages: list[Affinity] = [D, D.to_sparse(), D.T, D.to_sparse().T]
    if heads is None:
        positive_part = by_rows(2)(matrix.abs())
        storages += [positive_part, positive_part.T, by_products(matrix.abs())]
    for A in storages:
        bound = A.norm_bound()
        torch.testing.assert_close(bound, truth, rtol=1e-13, atol=0)
    if shape == (N, N):
        assert (truth.numpy() >= np.abs(np.linalg.eigvals(matrix.numpy())).max(-1)).all()


def test_norm_bound_of_parallel_edges_and_low_precision() -> None:
    edges = torch.stack([torch.zeros(4000, dtype=torch.int64), torch.arange(4000) % 2])
    A = Affinity.from_edge_index(edges, torch.full((4000,), -0.5).half(), 2)
    assert A.norm_bound().dtype == torch.float32
    assert A.norm_bound() == 1000.0
    D = DenseAffinity(torch.full((4000, 2), -0.5).half())
    assert (D.norm_bound().dtype, D.norm_bound()) == (torch.float32, 1.0)


def test_norm_bound_without_a_transpose_takes_rows() -> None:
    matrix = torch.tensor([[0.0, 5.0], [1.0, 0.0]])
    assert by_product_alone(matrix).norm_bound() == 5.0
    assert by_products(torch.tensor([[3.0, 5.0], [0.0, 0.0]])).norm_bound() == 5.0


# Errors ###############################################################################################################

A = by_rows(2)(torch.ones(3, 3))
R = by_rows(2)(torch.ones(3, 2))
ALONE = by_product_alone(torch.ones(3, 2))
SIGNED = by_rows(None)(torch.tensor([[1.0, -2.0], [1.0, 1.0]]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ImplicitAffinity(torch.relu, (3,)), ValueError, r"shape is \(3,\); expected \(targets, sources\)"),
        (lambda: ImplicitAffinity(torch.relu, (3, -1)), ValueError, r"shape is \(3, -1\)"),
        (lambda: ImplicitAffinity.from_rows(torch.ones, (3,)), ValueError, r"shape is \(3,\)"),
        (lambda: ImplicitAffinity(torch.relu, (3, 2), symmetric=True), ValueError, "symmetric is True but .* 3 x 2"),
        (lambda: ImplicitAffinity(torch.relu, (3, 2), dtype=torch.int64), TypeError, "dtype is torch.int64"),
        (lambda: ImplicitAffinity.from_rows(torch.ones, (3, 2), block_size=0), ValueError, "block_size is 0; .* 1"),
        (lambda: ALONE.T, ValueError, "rmatvec is None; a transposed product needs it, or symmetric=True"),
        (lambda: ALONE.normalize("symmetric"), ValueError, "rmatvec is None"),
        (lambda: A.to(torch.float64), ValueError, "torch.float32 on cpu was asked to be torch.float64 on cpu"),
        (lambda: A.to("meta"), ValueError, "was asked to be torch.float32 on meta"),
        (lambda: A.normalize("softmax"), ValueError, r"'softmax', which needs the entries; call to_dense\(\) or top_k"),
        (lambda: A.normalize("max"), ValueError, "kind is 'max'; expected one of 'softmax'"),
        (lambda: R.normalize("spectral"), ValueError, "3 x 2; only a square one has a spectral radius"),
        (lambda: R.spectral_radius(), ValueError, "3 x 2; only a square one has a spectral radius"),
        (lambda: A.top_k(0), ValueError, "k is 0; expected a positive integer"),
        (lambda: A.rows(2, 4), ValueError, "start is 2 and stop is 4; expected 0 <= start <= stop <= 3"),
        (lambda: A.rows(2, 1), ValueError, "start is 2 and stop is 1"),
        (lambda: A @ torch.ones(2), ValueError, r"x has shape \(2,\); expected \[3\], \[3, C\] or \[3, H, C\]"),
        (
            lambda: ImplicitAffinity.from_rows(lambda a, b: torch.ones(3, 3), (3, 3), block_size=2) @ torch.ones(3),
            ValueError,
            r"rows\(0, 2\) returned shape \(3, 3\); expected \(2, 3\)",
        ),
        (
            lambda: ImplicitAffinity(lambda x: x[:2], (3, 3), rows=lambda a, b: torch.ones(3, 1)).to_dense(),
            ValueError,
            r"rows\(0, 3\) returned shape \(3, 1\); expected \(3, 3\)",
        ),
        (
            lambda: ImplicitAffinity(lambda x: x[:2], (3, 3)) @ torch.ones(3, 4),
            ValueError,
            r"3 x 3 weights with x of shape \(3, 4\) came back with shape \(2, 4\); expected \(3, 4\)",
        ),
        (lambda: SIGNED.normalize("row"), ValueError, "negative or undefined weights: a row sums to -1"),
        (lambda: SIGNED.normalize("symmetric"), ValueError, "a row sums to -1"),
        (lambda: SIGNED.norm_bound(), ValueError, "a row sums to -1"),
        (lambda: SIGNED.spectral_radius(), ValueError, "negative or undefined weights; pass radius="),
        (lambda: perron_bound(lambda v: v / 0, 2, True), ValueError, "negative or undefined weights"),
        (lambda: perron_bound(lambda v: v * torch.nan, 2, True), ValueError, "negative or undefined weights"),
        (lambda: perron_bound(lambda v: v, 2, True, tol=0.0), ValueError, "tol is 0.0 and max_iter is 200; expected"),
        (lambda: perron_bound(lambda v: v, 2, True, max_iter=0), ValueError, "max_iter is 0"),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_what_changes_nothing() -> None:
    assert A.to("cpu") is A
    assert A.to(torch.float32) is A
    assert A.normalize("none") is A
    assert repr(A) == "ImplicitAffinity(3 x 3, dtype=torch.float32)"
    symmetric = by_rows(2)(torch.ones(3, 3), symmetric=True)
    assert symmetric.T is symmetric
    assert repr(symmetric) == "ImplicitAffinity(3 x 3, dtype=torch.float32, symmetric)"
