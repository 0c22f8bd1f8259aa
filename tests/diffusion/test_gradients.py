"""Implicit gradients: against finite differences and the dense inverse, their memory, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from graphattn.affinity import Affinity, DenseAffinity, ImplicitAffinity, SparseAffinity
from graphattn.diffusion import neumann, operators, pagerank, resolvent
from tests.diffusion.cases import CASES, HEADS, dense_truth, features, given_radius

TOL = 1e-13
Made = tuple[Callable[[Tensor], Affinity], Tensor, bool]


def _maker(name: str, storage: str) -> Made:
    """How to make the affinity of a tensor of weights, those weights, and whether the affinity has heads.

    Weights of a symmetric affinity are free in pairs: they are symmetrized before, so that a finite difference moves
    both entries of a pair.
    """
    A = CASES[name]().to_dense()
    radius, symmetric = given_radius(A), A.symmetric
    matrix = A.matrix / radius.reshape(*radius.shape, 1, 1)

    def even(m: Tensor) -> Tensor:
        return (m + m.transpose(-1, -2)) / 2 if symmetric else m

    if storage == "dense":
        return lambda m: DenseAffinity(even(m), symmetric=symmetric), matrix.clone().requires_grad_(), A.has_heads
    if storage == "implicit":

        def implicit(m: Tensor) -> Affinity:
            return ImplicitAffinity.from_rows(
                lambda a, b: even(m)[a:b], A.shape, symmetric=symmetric, block_size=4, dtype=torch.float64
            )

        return implicit, matrix.clone().requires_grad_(), False
    edges = A.to_sparse()
    # Out of order and with a parallel edge, which shares the weight of the first.
    order = torch.randperm(edges.num_edges)
    order = torch.cat([order, order[:1]])
    layout = SparseAffinity(edges.edge_index[:, order], None, A.shape).layout

    def sparse(m: Tensor) -> Affinity:
        target, source = layout.edge_index[1], layout.edge_index[0]
        weight = even(m)[..., target, source]
        half = torch.ones(weight.size(-1), dtype=m.dtype)
        half[[0, -1]] = 0.5
        weight = weight * half
        return SparseAffinity(layout, weight.t() if A.has_heads else weight, symmetric=symmetric)

    return sparse, matrix.clone().requires_grad_(), A.has_heads


MAKERS = [
    (name, storage)
    for name in ("signed_symmetric", "directed", "isolated", "acyclic", "heads_symmetric", "heads_directed")
    for storage in ("sparse", "dense", "implicit")
    if not (storage == "implicit" and "heads" in name)
]


def _decay(heads: bool) -> Tensor:
    values = torch.tensor([0.3, 0.6, 0.9] if heads else 0.7, dtype=torch.float64)
    return values.requires_grad_()


@pytest.mark.parametrize(("name", "storage"), MAKERS)
def test_gradients_are_those_of_the_dense_inverse(name: str, storage: str) -> None:
    _assert_gradients(name, storage)


def _assert_gradients(name: str, storage: str) -> None:
    make, weights, heads = _maker(name, storage)
    decay = _decay(heads)
    A = make(weights)
    x = features(A).requires_grad_()
    y = resolvent(A, x, decay, radius=1.0, tol=TOL)
    cotangent = torch.randn_like(y)
    found = torch.autograd.grad(y, (x, weights, decay), cotangent)

    dense = make(weights).to_dense().matrix
    eye = torch.eye(dense.size(-1), dtype=dense.dtype)
    truth = dense_truth(eye - decay.reshape(*decay.shape, 1, 1) * dense, x)
    expected = torch.autograd.grad(truth, (x, weights, decay), cotangent)
    # Both solves are exact to TOL, and the inverse multiplies that by its norm, once in either solve.
    inverse = torch.linalg.matrix_norm(torch.linalg.inv(eye - decay.detach().max() * dense.detach()), 2).max().item()
    allowed = 100 * TOL * (1 + inverse) ** 2
    for what, a, b in zip(("x", "weights", "decay"), found, expected, strict=True):
        # Entries that are no edges have no gradient in sparse storage.
        b = b * (weights.detach() != 0) if what == "weights" and storage == "sparse" else b
        error = (a - b).abs().max().item()
        assert error <= allowed * (1 + b.abs().max().item()), f"the gradient of {what} is off by {error:.3g}"


@pytest.mark.parametrize(
    ("name", "storage"),
    [("path", "sparse"), *[(n, s) for n, s in MAKERS if n in ("directed", "heads_directed", "heads_symmetric")]],
)
def test_gradcheck(name: str, storage: str) -> None:
    make, weights, heads = _maker(name, storage)
    x = features(make(weights), 2).requires_grad_()

    def function(m: Tensor, x: Tensor, decay: Tensor) -> Tensor:
        return resolvent(make(m), x, decay, radius=1.0, tol=TOL)

    # On entries that are no edges the sparse form has gradient 0, and so do finite differences: they are not read.
    assert torch.autograd.gradcheck(function, (weights, x, _decay(heads)), fast_mode=True)


def test_gradcheck_of_heads_in_the_features_alone() -> None:
    make, weights, _ = _maker("directed", "sparse")
    x = features(make(weights), HEADS, 2).requires_grad_()
    decay = _decay(True)

    def function(m: Tensor, x: Tensor, decay: Tensor) -> Tensor:
        return resolvent(make(m), x, decay, radius=1.0, tol=TOL)

    assert torch.autograd.gradcheck(function, (weights, x, decay), fast_mode=True)


@pytest.mark.parametrize("storage", ["dense", "sparse", "implicit"])
def test_gradcheck_of_sums_and_pagerank(storage: str) -> None:
    make, weights, _ = _maker("directed", storage)
    x = features(make(weights), 2).requires_grad_()
    for function in (
        lambda m, x, d: neumann(make(m), x, d, 4, radius=1.0),
        lambda m, x, d: pagerank(make(m), x, d, 4),
    ):
        assert torch.autograd.gradcheck(function, (weights, x, _decay(False)), fast_mode=True)


def test_the_limit_of_pagerank_is_differentiable_in_teleport() -> None:
    make, weights, _ = _maker("directed", "dense")
    x, teleport = features(make(weights)).requires_grad_(), _decay(False)
    y = pagerank(make(weights), x, teleport, hops=float("inf"))
    found = torch.autograd.grad(y.square().sum(), teleport)
    matrix = torch.eye(15, dtype=torch.float64) - (1 - teleport) * weights
    expected = torch.autograd.grad((teleport * torch.linalg.solve(matrix, x)).square().sum(), teleport)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)  # pagerank solves to a residual of 1e-6


@pytest.mark.parametrize("storage", ["sparse", "dense", "implicit"])
def test_only_what_needs_a_gradient_gets_one(storage: str) -> None:
    make, weights, _ = _maker("directed", storage)
    A, x, decay = make(weights.detach()), features(make(weights)), _decay(False)
    y = resolvent(A, x, 0.5, radius=1.0)
    assert not y.requires_grad
    resolvent(A, x, decay, radius=1.0).sum().backward()
    assert decay.grad is not None
    with torch.no_grad():
        assert not resolvent(make(weights), x, decay, radius=1.0).requires_grad


@pytest.mark.parametrize("storage", ["sparse", "dense"])
def test_the_radius_is_a_constant(storage: str) -> None:
    make, weights, _ = _maker("directed", storage)
    x = features(make(weights))
    radius = make(weights).norm_bound()
    for function in (resolvent, neumann):
        a, b = (torch.autograd.grad(function(make(weights), x, radius=r).sum(), weights)[0] for r in (None, radius))
        assert torch.equal(a, b)
    given = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert not resolvent(make(weights.detach()), x, radius=given).requires_grad


@pytest.mark.parametrize("storage", ["sparse", "dense", "implicit"])
def test_differentiating_twice_is_refused(storage: str) -> None:
    make, weights, _ = _maker("directed", storage)
    x = features(make(weights)).requires_grad_()
    for leaf in (x, weights):
        y = resolvent(make(weights), x, 0.5, radius=1.0)
        (first,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=r"resolvent has no double backward; neumann\(A, x, decay, hops\)"):
            first.sum().backward()


def test_an_implicit_affinity_without_transpose_says_so_in_the_forward() -> None:
    matrix = CASES["directed"]().to_dense().matrix
    A = ImplicitAffinity(lambda v: matrix @ v, (15, 15), dtype=torch.float64)
    x = features(A)
    assert not resolvent(A, x, radius=given_radius(A)).requires_grad
    with pytest.raises(ValueError, match="rmatvec is None; a transposed product needs it"):
        resolvent(A, x.requires_grad_(), radius=given_radius(A))


# Memory ##############################################################################################################


def _kept(function: Callable[[], Tensor]) -> int:
    """Elements that a forward keeps for its backward, each storage counted once."""
    kept: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        y = function()
    assert y.requires_grad
    return sum(x.untyped_storage().size() // x.element_size() for x in kept.values())


@pytest.mark.parametrize("name", ["path", "directed_cycle"])
@pytest.mark.parametrize("storage", ["sparse", "dense"])
def test_memory_does_not_grow_with_the_hops(name: str, storage: str) -> None:
    make, weights, _ = _maker(name, storage)
    A = make(weights)
    n, channels = A.shape[0], 64
    x = features(A, channels).requires_grad_()
    sums = [_kept(lambda hops=hops: neumann(A, x, 0.9, hops, radius=1.0)) for hops in (5, 10)]
    solved = [_kept(lambda decay=decay: resolvent(A, x, decay, radius=1.0)) for decay in (0.1, 0.99)]
    assert sums[1] - sums[0] >= 5 * n * channels
    assert solved[0] == solved[1] < sums[0]
    # The result, the weights and their pattern.
    assert n * channels <= solved[0] <= n * channels + 8 * (weights.numel() + n + channels)


@pytest.mark.parametrize("name", ["path", "directed_cycle"])
def test_an_implicit_affinity_keeps_one_product(name: str) -> None:
    make, weights, _ = _maker(name, "implicit")
    A = make(weights)
    x = features(A, 64).requires_grad_()
    solved = [_kept(lambda decay=decay: resolvent(A, x, decay, radius=1.0)) for decay in (0.1, 0.99)]
    assert solved[0] == solved[1] < _kept(lambda: neumann(A, x, 0.9, 5, radius=1.0))


# Mutations: what is known to be wrong must not pass ###################################################################


def _mutate_transpose(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operators, "_transposed_product", lambda *args: operators.stored_product(*args[:3]))


def _mutate_decay(patch: pytest.MonkeyPatch) -> None:
    solve = operators.solve_columns
    patch.setattr(
        operators, "solve_columns", lambda product, b, factor, *rest: solve(product, b, torch.ones_like(factor), *rest)
    )


@pytest.mark.parametrize("storage", ["sparse", "dense"])
@pytest.mark.parametrize("mutate", [_mutate_transpose, _mutate_decay])
def test_mutations_are_noticed(mutate: Any, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _assert_gradients("directed", storage)
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        _assert_gradients("directed", storage)
