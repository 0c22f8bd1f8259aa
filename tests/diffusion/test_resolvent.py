"""resolvent and solve against the dense inverse."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from graphattn.affinity import Affinity, DenseAffinity, ImplicitAffinity, SparseAffinity
from graphattn.diffusion import ConvergenceWarning, neumann, resolvent, solve, solvers
from tests.diffusion.cases import (
    CASES,
    CHANNELS,
    HEADS,
    STORAGES,
    assert_solves,
    dense_truth,
    features,
    given_radius,
    pairs,
    permuted,
    stored,
    system,
)

TOL = 1e-10


@pytest.mark.parametrize("decay", [0.1, 0.9, 0.99])
@pytest.mark.parametrize(("name", "storage"), pairs())
def test_equals_the_dense_inverse(name: str, storage: str, decay: float) -> None:
    A = stored(CASES[name](), storage)
    x, radius = features(A), given_radius(A)
    # An implicit affinity estimates its radius from above, and only for non-negative weights.
    options = {"radius": radius} if storage == "implicit" else {}
    y = resolvent(A, x, decay, tol=TOL, max_iter=400, **options)
    assert_solves(y, system(A, decay, radius), x, TOL)
    found = solve(A, x, decay, tol=TOL, max_iter=400, **options)
    assert torch.equal(found.value, y)
    assert found.converged
    assert found.residual <= TOL


@pytest.mark.parametrize("method", ["cg", "bicgstab", "gmres"])
@pytest.mark.parametrize("name", ["signed_symmetric", "path", "bipartite", "heads_symmetric"])
def test_every_solver_and_a_long_sum_agree(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    A = CASES[name]()
    radius = given_radius(A)
    if method != "cg":
        A = DenseAffinity(A.to_dense().matrix)  # not marked symmetric
    _only(method, monkeypatch)
    x = features(A)
    y = resolvent(A, x, 0.9, radius=radius, tol=TOL)
    assert_solves(y, system(A, 0.9, radius), x, TOL)
    assert_solves(neumann(A, x, 0.9, 400, radius=radius), system(A, 0.9, radius), x, 0.9**400 / 0.1)


@pytest.mark.parametrize("method", ["bicgstab", "gmres"])
@pytest.mark.parametrize("name", ["directed", "acyclic", "isolated", "duplicates", "heads_directed"])
def test_both_solvers_of_directed_affinities(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _only(method, monkeypatch)
    A = CASES[name]()
    x = features(A)
    assert_solves(resolvent(A, x, 0.95, tol=TOL), system(A, 0.95, given_radius(A)), x, TOL)


def _only(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave one solver able to work."""
    for other in {"cg", "bicgstab", "gmres"} - {method}:
        monkeypatch.setattr(solvers, f"_{other}", lambda *_: 0)


def test_gmres_takes_over_where_bicgstab_breaks_down() -> None:
    # b^T (I - F A) b is exactly 0 for this acyclic pair, whose radius of 0 divides by 1.
    A = Affinity.from_dense(torch.tensor([[0.0, 4.0], [0.0, 0.0]], dtype=torch.float64))
    found = solve(A, torch.ones(2, dtype=torch.float64), 0.5, radius="estimate", tol=1e-14)
    assert found.converged
    torch.testing.assert_close(found.value, torch.tensor([3.0, 1.0], dtype=torch.float64), rtol=1e-14, atol=0)


def test_gmres_in_several_groups_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    A = CASES["heads_directed"]()
    x = features(A, 7)
    _only("gmres", monkeypatch)
    together = resolvent(A, x, tol=TOL)
    monkeypatch.setattr(solvers, "_BASIS_BYTES", 31 * HEADS * A.shape[0] * 8 * 3)
    apart = resolvent(A, x, tol=TOL)
    for y in (together, apart):
        assert_solves(y, system(A, 0.9, given_radius(A)), x, TOL)


@pytest.mark.parametrize("storage", ["sparse", "dense"])
@pytest.mark.parametrize("name", ["heads_symmetric", "heads_directed"])
def test_each_head_has_its_own_decay_and_radius(name: str, storage: str) -> None:
    A = stored(CASES[name](), storage)
    decay = torch.tensor([0.1, 0.7, 0.95], dtype=torch.float64)
    x = features(A, HEADS, CHANNELS)
    radius = given_radius(A) * torch.tensor([1.0, 2.0, 1.5], dtype=torch.float64)
    y = resolvent(A, x, decay, radius=radius, tol=TOL)
    assert_solves(y, system(A, decay, radius), x, TOL)
    for head in range(HEADS):
        single = DenseAffinity(A.to_dense().matrix[head], symmetric=A.symmetric)
        alone = resolvent(single, x[:, head], decay[head], radius=radius[head], tol=TOL)
        assert_solves(alone, system(single, decay[head], radius[head]), x[:, head], TOL)
        torch.testing.assert_close(y[:, head], alone, rtol=0, atol=1e3 * TOL)


@pytest.mark.parametrize("storage", STORAGES)
def test_heads_of_the_features_alone(storage: str) -> None:
    A = stored(CASES["directed"](), storage)
    x = features(A, HEADS, CHANNELS)
    decay, radius = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), given_radius(A)
    y = resolvent(A, x, decay, radius=radius, tol=TOL)
    for head in range(HEADS):
        assert_solves(y[:, head], system(A, float(decay[head]), radius), x[:, head], TOL)


@pytest.mark.parametrize("function", [resolvent, neumann])
@pytest.mark.parametrize("storage", ["sparse", "dense"])
def test_shapes_are_those_of_one_product(function: object, storage: str) -> None:
    for name, heads in (("directed", None), ("heads_directed", HEADS)):
        A = stored(CASES[name](), storage)
        for shape in ((), (CHANNELS,), (HEADS, CHANNELS)):
            x = torch.randn(A.shape[0], *shape, dtype=torch.float64)
            y = function(A, x, 0.5)  # type: ignore[operator]
            assert y.shape == (A @ x).shape
            # A vector is a matrix of one column, and features without heads go to every head.
            wide = x.unsqueeze(-1) if x.dim() == 1 else x
            wide = wide if heads is None or wide.dim() == 3 else wide.unsqueeze(1).expand(-1, heads, -1)
            again = function(A, wide, 0.5)  # type: ignore[operator]
            assert torch.equal(y, again.squeeze(-1) if x.dim() == 1 else again)


def test_a_single_head_axis_is_kept() -> None:
    A = DenseAffinity(CASES["directed"]().to_dense().matrix.unsqueeze(0))
    for B in (A, A.to_sparse()):
        x = features(B)
        assert resolvent(B, x).shape == neumann(B, x).shape == (15, 1, CHANNELS)
        assert resolvent(B, x[:, 0]).shape == neumann(B, x[:, 0]).shape == (15, 1)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", ["signed_symmetric", "directed"])
def test_relabelled_nodes_get_relabelled_results(name: str, storage: str) -> None:
    A = CASES[name]().to_sparse()
    order = torch.randperm(A.shape[0])
    x, radius = features(A), given_radius(A)
    turned = torch.empty_like(x).index_copy(0, order, x)
    y = resolvent(stored(permuted(A, order), storage), turned, radius=radius, tol=TOL)
    assert_solves(y[order], system(A, 0.9, radius), x, TOL)


def test_heads_as_a_batch_equal_single_graphs() -> None:
    batch = CASES["heads_symmetric"]().to_dense()
    x = features(batch, HEADS, CHANNELS)
    y = resolvent(batch, x, tol=TOL)
    for head in range(HEADS):
        single = DenseAffinity(batch.matrix[head], symmetric=True)
        matrix = system(single, 0.9, given_radius(single))
        assert_solves(y[:, head], matrix, x[:, head], TOL)
        assert_solves(resolvent(single, x[:, head], tol=TOL), matrix, x[:, head], TOL)


@pytest.mark.parametrize("storage", STORAGES)
def test_nothing_to_do(storage: str) -> None:
    A = stored(CASES["no_edges"](), storage)
    x = features(A)
    assert torch.equal(resolvent(A, x), x)
    assert solve(A, torch.zeros_like(x)).iterations == 0
    empty = stored(Affinity.from_edge_index(torch.empty(2, 0, dtype=torch.int64), num_nodes=0), storage)
    assert resolvent(empty, torch.empty(0, 2)).shape == (0, 2)
    assert solve(empty, torch.empty(0, 2)).converged


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", ["path", "directed"])
def test_zero_columns_stay_zero_and_disturb_nobody(name: str, storage: str) -> None:
    A = stored(CASES[name](), storage)
    x, radius = features(A), given_radius(A)
    x[:, 1] = 0.0
    y = resolvent(A, x, radius=radius, tol=TOL)
    assert torch.equal(y[:, 1], torch.zeros_like(y[:, 1]))
    assert_solves(y[:, [0, 2, 3]], system(A, 0.9, radius), x[:, [0, 2, 3]], TOL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["path", "directed"])
def test_columns_of_any_size(name: str, dtype: torch.dtype) -> None:
    A = CASES[name]().to(dtype)
    tiny, huge = (1e-42, 1e35) if dtype == torch.float32 else (1e-310, 1e300)
    # Even the subnormal column is a power of two times an ordinary one, up to its own rounding.
    x = torch.stack([features(A, 1, dtype=dtype).squeeze(1).mul(s) for s in (tiny, 1.0, huge)], dim=1)
    y = resolvent(A, x, 0.9, tol=1e-5)
    one = resolvent(A, x[:, 1], 0.9, tol=1e-5)
    assert_solves(y[:, 1:2], system(A, 0.9, given_radius(A)), x[:, 1:2], 1e-5)
    assert torch.isfinite(y).all()
    assert torch.equal(one, resolvent(A, x[:, 1:2], 0.9, tol=1e-5).squeeze(1))
    scaled = y[:, 2].double() / huge
    assert_solves(scaled.unsqueeze(1), system(A, 0.9, given_radius(A)), x[:, 2:].double() / huge, 1e-5)
    step = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    truth = dense_truth(system(A, 0.9, given_radius(A)), (x[:, :1].double() / step)).squeeze(1)
    assert (y[:, 0].double() / step - truth).abs().max() <= 1 + 1e-4 * truth.abs().max()


@pytest.mark.parametrize("storage", STORAGES)
def test_estimates_of_the_radius(storage: str) -> None:
    A = stored(Affinity.from_dense(CASES["directed"]().to_dense().matrix.abs()), storage)
    x = features(A)
    rho = torch.linalg.eigvals(A.to_dense().matrix).abs().max()
    y = resolvent(A, x, 0.9, radius="estimate", tol=TOL)
    if storage == "implicit":
        assert rho * (1 - 1e-12) <= A.spectral_radius() <= rho * (1 + 1e-4)
        rho = A.spectral_radius()
    assert_solves(y, system(A, 0.9, rho), x, TOL)


def test_a_radius_of_zero_divides_by_one() -> None:
    A = CASES["acyclic"]()
    assert A.spectral_radius() == 0
    x = features(A)
    matrix = system(A, 0.9, torch.ones((), dtype=torch.float64))
    assert_solves(resolvent(A, x, 0.9, radius="estimate", tol=TOL), matrix, x, TOL)
    assert_solves(neumann(A, x, 0.9, 9, radius="estimate"), matrix, x, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("storage", STORAGES)
def test_half_precision_is_rounded_once(storage: str, dtype: torch.dtype) -> None:
    A = CASES["path"]().to(dtype)
    B = stored(A, storage)
    x = features(A, dtype=dtype)
    for y in (resolvent(B, x, radius=2.0), neumann(B, x, hops=200, radius=2.0)):
        truth = dense_truth(system(A, 0.9, torch.tensor(2.0)), x)
        assert y.dtype == dtype
        # Half a unit in the last place, and the much smaller errors of float32.
        assert (y.double() - truth).abs().max() <= (0.5 + 2**-6) * torch.finfo(dtype).eps * truth.abs().max()


@pytest.mark.parametrize("storage", STORAGES)
def test_mixed_dtypes(storage: str) -> None:
    A, x = stored(CASES["path"](), storage), features(CASES["path"](), dtype=torch.float32)
    for y in (resolvent(A, x, radius=2.0), neumann(A, x, radius=2.0), solve(A, x, radius=2.0).value):
        assert y.dtype == (A @ x).dtype


@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_ones_have_the_dtype_of_the_features(dtype: torch.dtype, default: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        A = Affinity.from_edge_index(torch.tensor([[0, 1], [1, 0]]), symmetric=True)
    finally:
        torch.set_default_dtype(before)
    x = torch.ones(2, dtype=dtype)
    for y, truth in ((resolvent(A, x, 0.5), 2.0), (solve(A, x, 0.5).value, 2.0), (neumann(A, x, 0.5, 2), 1.75)):
        assert y.dtype == dtype
        assert (y - truth).abs().max() <= 2e-6  # the residual times the norm of the inverse


@pytest.mark.parametrize("name", ["path", "directed"])
def test_autocast_does_not_narrow_the_solver(name: str) -> None:
    A = CASES[name]().to_dense().to(torch.float32)
    x = features(A, dtype=torch.float32)
    expected = resolvent(A, x, tol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resolvent(A, x, tol=1e-5), expected)


# Convergence #########################################################################################################


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", ["path", "directed_cycle"])
def test_too_few_products_warn_or_raise(name: str, storage: str) -> None:
    A = stored(CASES[name](), storage)
    options = {"decay": 0.99, "radius": given_radius(A), "max_iter": 4}
    message = (
        r"did not converge: the relative residual is .* after 5 products, above tol=1.0e-06; raise max_iter, lower"
    )
    with pytest.warns(ConvergenceWarning, match="^resolvent " + message):
        resolvent(A, features(A), **options)
    with pytest.warns(ConvergenceWarning, match="^solve " + message):
        found = solve(A, features(A), **options)
    assert not found.converged
    for function in (resolvent, solve):
        with pytest.raises(RuntimeError, match=message):
            function(A, features(A), strict=True, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = features(A)
        found = solve(A, x, **options)
    rest = x - system(A, 0.99, given_radius(A)) @ found.value
    assert found.residual == pytest.approx((rest.norm(dim=0) / x.norm(dim=0)).max().item(), rel=1e-10)


@pytest.mark.parametrize("storage", STORAGES)
def test_the_backward_warns_of_its_own_system(storage: str) -> None:
    A = stored(CASES["path"](), storage)
    x = torch.zeros(41, 1, dtype=torch.float64, requires_grad=True)
    y = resolvent(A, x, 0.99, radius=2.0, max_iter=3)  # the forward has nothing to do
    with pytest.warns(ConvergenceWarning, match="^the gradient of resolvent did not converge"):
        y.backward(torch.randn_like(y))


@pytest.mark.parametrize("name", ["path", "directed"])
def test_float32_stops_at_its_floor(name: str) -> None:
    A = CASES[name]().to(torch.float32)
    x = features(A, dtype=torch.float32)
    with pytest.warns(ConvergenceWarning, match="more products do not help: pass float64, lower decay"):
        found = solve(A, x, 0.99, tol=1e-12, max_iter=10_000)
    assert found.iterations < 300
    assert found.residual < 1e-5


def test_a_radius_that_is_too_small_is_not_called_solved() -> None:
    A = CASES["path"]()
    with pytest.warns(ConvergenceWarning, match="or correct a radius that is too small"):
        found = solve(A, features(A), 0.9, radius=0.5)
    assert found.iterations < 200


@pytest.mark.parametrize("name", ["path", "directed"])
def test_what_is_not_a_number_ends_at_once(name: str) -> None:
    A = CASES[name]()
    x = features(A)
    x[2, 1] = torch.nan
    with pytest.warns(ConvergenceWarning, match="residual is nan"):
        found = solve(A, x)
    assert math.isnan(found.residual)
    others = [0, 2, 3]
    assert_solves(found.value[:, others], system(A, 0.9, given_radius(A)), x[:, others], 1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("max_iter", [1, 2, 7, 200])
def test_products_are_counted(symmetric: bool, max_iter: int) -> None:
    matrix, count = CASES["path"]().to_dense().matrix, 0

    def matvec(v: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return matrix @ v

    A = ImplicitAffinity(matvec, (41, 41), symmetric=symmetric, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = solve(A, features(A), 0.9, radius=2.0, max_iter=max_iter)
    assert found.iterations == count
    assert count <= max_iter + 1


@pytest.mark.parametrize("name", ["signed_symmetric", "directed", "heads_directed"])
@pytest.mark.parametrize("method", [None, "gmres"])
def test_idle_steps_change_nothing(name: str, method: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerator is not asked after every step whether all is done."""
    monkeypatch.setattr(solvers, "_any", lambda active, step: step % 4 != 0 or bool(active.any()))
    if method and name != "signed_symmetric":
        _only(method, monkeypatch)
    A = CASES[name]()
    x = features(A)
    x[:, 0] = 0.0
    assert_solves(resolvent(A, x, tol=TOL), system(A, 0.9, given_radius(A)), x, TOL)
    lead = torch.linalg.eigh(A.to_dense().matrix).eigenvectors[:, -1:] if name == "signed_symmetric" else x[:, :1]
    found = solve(A, lead, tol=TOL)  # one step, or none, is exact
    assert found.converged


def test_a_product_that_returns_its_argument_is_not_overwritten() -> None:
    A = ImplicitAffinity(lambda v: v, (3, 3), symmetric=True, dtype=torch.float64)
    x = torch.randn(3, 2, dtype=torch.float64)
    kept = x.clone()
    torch.testing.assert_close(resolvent(A, x, 0.5, radius=1.0), 2 * x, rtol=1e-15, atol=0)
    assert torch.equal(x, kept)


def test_the_affinity_keeps_its_radius_where_the_dtype_is_widened() -> None:
    A = SparseAffinity(torch.tensor([[0, 1], [1, 0]]), torch.ones(2, dtype=torch.bfloat16), (2, 2), symmetric=True)
    resolvent(A, torch.ones(2))
    assert A._radius is not None
