"""neumann, pagerank and heat against powers, inverses and exponentials of dense matrices, theory and PyG."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_geometric.nn import APPNP
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from graphattn.affinity import Affinity, DenseAffinity, SparseAffinity
from graphattn.diffusion import heat, neumann, pagerank
from tests.diffusion.cases import (
    CASES,
    CHANNELS,
    HEADS,
    STORAGES,
    dense_truth,
    features,
    given_radius,
    pairs,
    permuted,
    stored,
    system,
)

EPS = torch.finfo(torch.float64).eps


def _scaled(A: Affinity) -> Tensor:
    """The dense matrix divided by its radius, one a head."""
    radius = given_radius(A)
    return A.to_dense().matrix / radius.reshape(*radius.shape, 1, 1)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.matmul(matrix, x) if matrix.dim() == 2 else torch.matmul(matrix, x).transpose(0, 1)


def _assert_close(y: Tensor, truth: Tensor, terms: int) -> None:
    """Equal up to the rounding of sums of so many float64 terms."""
    assert y.shape == truth.shape
    assert (y - truth).abs().max() <= 8 * EPS * terms * (1 + truth.abs().max())


# neumann #############################################################################################################


@pytest.mark.parametrize("hops", [0, 1, 2, 7])
@pytest.mark.parametrize(("name", "storage"), pairs())
def test_the_sum_of_powers(name: str, storage: str, hops: int) -> None:
    A = CASES[name]()
    x, step = features(A), 0.8 * _scaled(A)
    truth = sum(torch.linalg.matrix_power(step, t) for t in range(hops + 1))
    options = {"radius": given_radius(A)} if storage == "implicit" else {}
    _assert_close(neumann(stored(A, storage), x, 0.8, hops, **options), _times(truth, x), 20 * (hops + 1))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["signed_symmetric", "bipartite", "path", "two_components", "heads_symmetric"])
def test_the_rest_of_the_sum_is_bounded(name: str, decay: float) -> None:
    A = CASES[name]()
    x = features(A)
    truth = dense_truth(system(A, decay, given_radius(A)), x)
    size = x.norm(dim=0)
    for hops in range(1, 21):
        rest = (truth - neumann(A, x, decay, hops)).norm(dim=0)
        assert (rest <= decay ** (hops + 1) / (1 - decay) * size * (1 + 1e-12)).all()
    # The bound is reached along the leading eigenvector, so that a term too few would be noticed.
    matrix = _scaled(A) if A.num_heads == 1 else _scaled(A)[0]
    values, vectors = torch.linalg.eigh(matrix)
    if values[-1] > 1 - 1e-12:
        lead = DenseAffinity(matrix, symmetric=True)
        v = vectors[:, -1]
        rest = v / (1 - decay) - neumann(lead, v, decay, 5, radius=1.0)
        assert rest.norm().item() == pytest.approx(decay**6 / (1 - decay), rel=1e-10)


def test_a_cycle_keeps_ones() -> None:
    A = Affinity.from_dense((CASES["directed_cycle"]().to_dense().matrix != 0).double())
    assert torch.equal(neumann(A, torch.ones(40).double(), 0.5, 3), torch.full((40,), 1.875).double())


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rule", ["neumann", "pagerank", "heat"])
def test_relabelled_nodes_get_relabelled_results(rule: str, storage: str) -> None:
    A = CASES["isolated"]().to_sparse()
    A = A.with_weight(A.weights() / given_radius(A))
    run = {
        "neumann": lambda A, x: neumann(A, x, radius=1.0),
        "pagerank": pagerank,
        "heat": lambda A, x: heat(A, x, radius=1.0),
    }[rule]
    order = torch.randperm(12)
    x = features(A)
    turned = torch.empty_like(x).index_copy(0, order, x)
    _assert_close(run(stored(permuted(A, order), storage), turned)[order], run(stored(A, storage), x), 12 * 11)


# pagerank ############################################################################################################


def _graph() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    edge_index = torch.randint(20, (2, 70), generator=generator)
    return edge_index, torch.rand(70, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("hops", [1, 2, 10])
@pytest.mark.parametrize("teleport", [0.1, 0.5])
def test_pagerank_is_appnp(hops: int, teleport: float) -> None:
    edge_index, weight = _graph()
    x = torch.randn(20, CHANNELS, dtype=torch.float64)
    expected = APPNP(hops, teleport)(x, edge_index, weight)
    A = Affinity.from_edge_index(*gcn_norm(edge_index, weight, 20, dtype=torch.float64), 20)
    for storage in STORAGES:
        _assert_close(pagerank(stored(A, storage), x, teleport, hops), expected, 20 * hops)


@pytest.mark.parametrize("storage", STORAGES)
def test_the_limit_of_pagerank(storage: str) -> None:
    A = stored(Affinity.from_edge_index(*_graph(), 20).normalize("row"), storage)
    x = features(A)
    truth = 0.2 * torch.linalg.solve(torch.eye(20) - 0.8 * A.to_dense().matrix, x)
    _assert_close(pagerank(A, x, 0.2, 200), truth, 20 * 200)
    inverse = torch.linalg.matrix_norm(torch.linalg.inv(torch.eye(20) - 0.8 * A.to_dense().matrix), 2)
    y = pagerank(A, x, 0.2, math.inf)
    assert ((y - truth).norm(dim=0) <= 0.2 * inverse * 1e-6 * x.norm(dim=0)).all()


def test_pagerank_of_every_head() -> None:
    A = CASES["heads_directed"]().to_sparse().normalize("row")
    teleport = torch.tensor([0.1, 0.3, 0.8], dtype=torch.float64)
    for x in (features(A), features(A, HEADS, CHANNELS), features(A)[:, 0]):
        for hops in (0, 5, math.inf):
            y = pagerank(A, x, teleport, hops)
            for head in range(HEADS):
                single = A.with_weight(A.weights()[:, head])
                part = x[:, head] if x.dim() == 3 else x
                expected = pagerank(single, part, float(teleport[head]), hops)
                torch.testing.assert_close(y[:, head], expected, rtol=0, atol=1e-4 if hops == math.inf else 1e-13)


# heat ################################################################################################################


@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("time", [0.0, 0.1, 1.0, 30.0])
# An implicit affinity bounds its norm by sums of weights, which must not be negative then.
@pytest.mark.parametrize(("name", "storage"), [pair for pair in pairs() if pair != ("directed", "implicit")])
def test_heat_is_the_matrix_exponential(name: str, storage: str, time: float, tol: float) -> None:
    A = CASES[name]()
    x, matrix = features(A), _scaled(A)
    generator = -time * (torch.eye(matrix.size(-1)).double() - matrix)
    kernel = torch.from_numpy(np.asarray(scipy.linalg.expm(generator.numpy())))
    truth = _times(kernel, x)
    options = {"radius": given_radius(A)} if storage == "implicit" else {}
    error = heat(stored(A, storage), x, time, tol=tol, **options) - truth
    rounding = 200 * EPS * (1 + time)
    if A.symmetric:
        assert (error.norm(dim=0) <= (tol + rounding) * x.norm(dim=0)).all()
    else:
        bounds = [(error.abs().sum(0), x.abs().sum(0)), (error.abs().amax(0), x.abs().amax(0))]
        assert any((found <= (tol + rounding) * size).all() for found, size in bounds)


def test_no_more_hops_than_the_tolerance_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the leading eigenvector every term counts, so that one term less misses the tolerance."""
    module = sys.modules[heat.__module__]  # the function of the same name hides it from an import
    for time in (0.5, 3.0, 40.0, 1000.0):
        for symmetric in (True, False):
            counts = [module._terms(time, symmetric, 1.0, tol) for tol in (1e-2, 1e-4, 1e-8)]
            assert counts == sorted(set(counts))
            v = torch.ones(1, dtype=torch.float64)
            A = DenseAffinity(torch.ones(1, 1, dtype=torch.float64), symmetric=symmetric)
            for tol, count in zip((1e-2, 1e-4, 1e-8), counts, strict=True):
                assert (heat(A, v, time, tol=tol) - 1).abs() <= tol
                monkeypatch.setattr(module, "_terms", lambda *_, count=count: count - 1)
                assert (heat(A, v, time, tol=tol) - 1).abs() > tol
                monkeypatch.undo()


def test_long_diffusion_averages_components() -> None:
    A = CASES["two_components"]().to_sparse()
    triangle = A.with_weight(torch.where(A.edge_index[0] < 3, 0.5, 1.0).double(), symmetric=True)
    x = features(A)
    y = heat(triangle, x, 500.0)
    mean = torch.stack([x[:3].mean(0)] * 3 + [x[3:5].mean(0)] * 2 + [x[5] * math.exp(-500.0)])
    assert ((y - mean).norm(dim=0) <= 1e-6 * x.norm(dim=0)).all()


def test_heat_conserves_the_sum_of_a_doubly_stochastic_affinity() -> None:
    A = Affinity.from_dense(torch.full((6, 6), 1 / 6, dtype=torch.float64), symmetric=True)
    x = features(A)
    _assert_close(heat(A, x, 2.0, tol=1e-14).sum(0), x.sum(0), 60)


def test_heat_of_every_head() -> None:
    A = CASES["heads_symmetric"]()
    x = features(A, HEADS, CHANNELS)
    y = heat(A, x, 2.0, tol=1e-13)
    for head in range(HEADS):
        single = DenseAffinity(A.to_dense().matrix[head], symmetric=True)
        _assert_close(y[:, head], heat(single, x[:, head], 2.0, tol=1e-13), 200)


@pytest.mark.parametrize("radius", ["estimate", 0.7])
def test_heat_with_a_radius_below_the_norm(radius: str | float) -> None:
    A = CASES["directed"]().to_dense()
    A = A.normalize("spectral")
    divisor = 1.0 if radius == "estimate" else 0.7
    x = features(A)
    truth = torch.linalg.matrix_exp(-(torch.eye(15).double() - A.matrix / divisor)) @ x
    error = heat(A, x, 1.0, radius=radius, tol=1e-10) - truth
    assert error.abs().max() <= 1e-10 * x.abs().max() or error.abs().sum(0).max() <= 1e-10 * x.abs().sum(0).min()


@pytest.mark.parametrize("symmetric", [True, False])
def test_heat_is_differentiable_in_everything(symmetric: bool) -> None:
    matrix = (_scaled(CASES["signed_symmetric" if symmetric else "directed"]())[:6, :6]).clone().requires_grad_()
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    time = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def function(m: Tensor, x: Tensor, time: Tensor) -> Tensor:
        even = (m + m.t()) / 2 if symmetric else m
        return heat(DenseAffinity(even, symmetric=symmetric), x, time, radius=3.0, tol=1e-13)

    assert torch.autograd.gradcheck(function, (matrix, x, time))
    assert torch.autograd.gradgradcheck(function, (matrix, x, time))


def test_the_derivative_in_time_is_the_heat_equation() -> None:
    A = CASES["path"]()
    x = features(A)
    time = torch.tensor(0.7, requires_grad=True)
    y = heat(A, x, time, tol=1e-12)
    cotangent = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, time, cotangent)
    expected = (cotangent * ((A @ y) / A.spectral_radius() - y)).sum()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["path", "directed"])
@pytest.mark.parametrize("tol", [1e-2, 1e-9])
def test_the_derivative_in_time_is_within_twice_the_tolerance(name: str, tol: float) -> None:
    A = CASES[name]()
    x, matrix = features(A), _scaled(A)
    for start in (0.0, 0.3, 4.0):
        time = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        y = heat(A, x, time, tol=tol)
        slope = torch.stack([torch.autograd.grad(v, time, retain_graph=True)[0] for v in y[:, 0]])
        generator = matrix - torch.eye(matrix.size(-1)).double()
        truth = generator @ torch.linalg.matrix_exp(start * generator) @ x[:, 0]
        norms = [2] if A.symmetric else [1, torch.inf]
        sizes = [(torch.linalg.vector_norm(slope - truth, o), torch.linalg.vector_norm(x[:, 0], o)) for o in norms]
        assert any(error <= (2 * tol + 1e-13) * size for error, size in sizes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    A = CASES["path"]().to(dtype)
    x = features(A, dtype=dtype)
    for y, wide in (
        (heat(A, x, 2.0), heat(A.to(torch.float64), x.double(), 2.0, tol=1e-12)),
        (pagerank(A, x, 0.5, 3), pagerank(A.to(torch.float64), x.double(), 0.5, 3)),
    ):
        assert y.dtype == dtype
        assert (y.double() - wide).abs().max() <= (0.5 + 2**-6) * torch.finfo(dtype).eps * wide.abs().max()


def test_nothing_is_changed_in_place() -> None:
    A = SparseAffinity(torch.tensor([[0, 1], [1, 0]]), torch.ones(2), (2, 2), symmetric=True)
    x = torch.tensor([1.0, 2.0])
    kept = x.clone()
    for function in (neumann, pagerank, heat):
        function(A, x)
        assert torch.equal(x, kept)
