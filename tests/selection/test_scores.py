"""Scores and orders of the selectors against dense matrices, and what theory says about them."""

from __future__ import annotations

import math
import warnings
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kendalltau, spearmanr

from graphattn.affinity import Affinity, DenseAffinity
from graphattn.affinity.relevance import mutual_information
from graphattn.affinity.spectrum import perron_bound
from graphattn.diffusion import ConvergenceWarning, neumann
from graphattn.selection import ECFS, ILFS, InfFS, InfFSSupervised
from graphattn.selection.ecfs import centrality
from graphattn.selection.energy import path_energy
from tests.selection import reference

TIGHT = {"tol": 1e-13, "rho_tol": 1e-12}
DECAYS = [0.1, 0.5, 0.9, 0.99]


def information(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    return mutual_information(X, torch.from_numpy(np.unique(y, return_inverse=True)[1])).numpy()


def affinity(method: str, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The dense matrix that a selector with default options diffuses over."""
    f, m = reference.fisher(X, y), information(X, y)
    G = reference.affinity_s(X, f, m)
    return {
        "u": lambda: reference.affinity_u(X, 0.5),
        "s": lambda: (G + G.T) / 2,
        "directed": lambda: G,
        "u 2015": lambda: reference.affinity_u(X, 0.5),
        "s 2015": lambda: reference.affinity_ec(X, f),
    }[method]()


METHODS: dict[str, Any] = {
    "u": InfFS,
    "s": InfFSSupervised,
    "directed": lambda **options: InfFSSupervised(symmetrize=False, **options),
    "u 2015": lambda **options: InfFS(formula="2015", **options),
    "s 2015": lambda **options: InfFSSupervised(formula="2015", **options),
}
directed = pytest.mark.filterwarnings("ignore:the directed affinity:UserWarning")


@directed
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_those_of_the_dense_inverse(method: str, decay: float, classes: int) -> None:
    X, y = reference.example(classes=classes)
    A = affinity(method, X, y)
    expected = reference.katz(A, decay)
    found = METHODS[method](decay=decay, **TIGHT).fit(X, y)
    assert_allclose(found.rho_, reference.spectral_radius(A), rtol=1e-11)
    assert_allclose(found.scores_, expected, rtol=1e-10 / (1 - decay))
    assert reference.inverted_pairs(found.scores_, expected) == 0
    # Far steps: the sum over hops, and the textbook right-hand side, which keeps fewer digits.
    hops = METHODS[method](decay=decay, hops=math.ceil(math.log(1e-13) / math.log(decay)), **TIGHT).fit(X, y)
    assert_allclose(hops.scores_, expected, rtol=1e-10 / (1 - decay))
    assert reference.inverted_pairs(hops.scores_, expected + 1) == 0


@directed
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hops", [1, 2, 5])
def test_scores_of_finite_paths(method: str, hops: int) -> None:
    X, y = reference.example()
    A = affinity(method, X, y) * 0.9 / reference.spectral_radius(affinity(method, X, y))
    expected = sum(np.linalg.matrix_power(A, length).sum(axis=1) for length in range(1, hops + 1))
    found = METHODS[method](hops=hops, **TIGHT).fit(X, y)
    assert_allclose(found.scores_, expected, rtol=1e-10)
    assert (found.n_iter_, found.residual_) == (hops, 0.0)
    if hops == 1:
        assert found.hop_overlap_ == 1


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_alpha_changes_sides_between_the_formulas(alpha: float) -> None:
    X, _ = reference.example()
    new, old = InfFS(alpha=alpha, **TIGHT).fit(X), InfFS(alpha=1 - alpha, formula="2015", **TIGHT).fit(X)
    assert_allclose(new.scores_, old.scores_, rtol=1e-12)
    assert_allclose(new.scores_, reference.katz(reference.affinity_u(X, alpha), 0.9), rtol=1e-9)


def test_supervised_weights() -> None:
    X, y = reference.example()
    f, m = reference.fisher(X, y), information(X, y)
    G = reference.affinity_s(X, f, m, (0.2, 0.3, 0.5))
    for alpha in ((0.2, 0.3, 0.5), (2, 3, 5)):  # only ratios count
        assert_allclose(InfFSSupervised(alpha=alpha, **TIGHT).fit(X, y).scores_, reference.katz((G + G.T) / 2, 0.9))
    A = reference.affinity_ec(X, f, 0.8)
    assert_allclose(InfFSSupervised(alpha=0.8, formula="2015", **TIGHT).fit(X, y).scores_, reference.katz(A, 0.9))
    # With this weight the directed graph ranks by the Fisher score.
    with pytest.warns(UserWarning, match="does not affect the ranking; use symmetrize=True"):
        found = InfFSSupervised(alpha=(1, 0, 0), symmetrize=False, **TIGHT).fit(X, y)
    assert reference.inverted_pairs(found.scores_, f + 1) == 0


@directed
def test_mutual_information_counts_in_the_symmetric_form_only() -> None:
    X, y = reference.example(features=60)
    m = information(X, y)
    other = np.random.default_rng(0).permutation(m)
    one_hop = [InfFSSupervised(mi=v, symmetrize=False, hops=1, **TIGHT).fit(X, y) for v in (m, other)]
    assert_allclose(*(s.scores_ / s.scores_.max() for s in one_hop), rtol=1e-12)
    far = [InfFSSupervised(mi=v, symmetrize=False, **TIGHT).fit(X, y).scores_ for v in (m, other)]
    assert spearmanr(*far).statistic > 0.999
    symmetric = [InfFSSupervised(mi=v, **TIGHT).fit(X, y).scores_ for v in (m, other)]
    assert spearmanr(*symmetric).statistic < 0.99
    assert_array_equal(symmetric[0], InfFSSupervised(**TIGHT).fit(X, y).scores_)


def test_nearest_neighbour_information_is_scikit_learns() -> None:
    from sklearn.feature_selection import mutual_info_classif

    X, y = reference.example()
    expected = mutual_info_classif(X, y, discrete_features=False, random_state=3)
    for selector in (InfFSSupervised, ECFS):
        found = selector(mi="knn", random_state=3).fit(X, y).scores_
        assert_array_equal(found, selector(mi=expected).fit(X, y).scores_)
        assert_array_equal(found, selector(mi="knn", random_state=3).fit(X, y).scores_)


@pytest.mark.parametrize("n_neighbors", [1, 3, 40])
def test_sparse_graphs(n_neighbors: int) -> None:
    X, y = reference.example(samples=100)
    for method, selector in (("u", InfFS), ("s", InfFSSupervised)):
        A = reference.nearest(affinity(method, X, y), n_neighbors)
        expected = reference.katz(A, 0.9)
        found = selector(n_neighbors=n_neighbors, tol=1e-13, rho_tol=1e-9, max_iter=2000).fit(X, y)
        assert_allclose(found.rho_, reference.spectral_radius(A), rtol=1e-8)
        assert_allclose(found.scores_, expected, rtol=1e-6)


def test_the_best_half_of_two_hops_differs_on_a_sparse_graph() -> None:
    X, _ = reference.example(samples=40, features=200)
    A, k = InfFS(n_neighbors=3).fit(X), 100
    assert A.n_features_selected_ == k
    graph = reference.nearest(reference.affinity_u(X, 0.5), 3)
    one_hop = np.argsort(-graph.sum(axis=1), kind="stable")[:k]
    assert_allclose(A.hop_overlap_, np.isin(A.order_[:k], one_hop).mean(), atol=1.5 / k)
    assert A.hop_overlap_ < 0.95
    assert InfFS().fit(X).hop_overlap_ > 0.97


# Theory ###############################################################################################################


def test_rank_one_affinities_rank_by_their_factor() -> None:
    z = torch.rand(40, dtype=torch.float64)
    A = DenseAffinity(torch.outer(z, z), symmetric=True)
    for decay in DECAYS:
        found = path_energy(A, decay, tol=1e-13, rho_tol=1e-14).scores
        closed = z * z.sum() * decay / (z.square().sum() * (1 - decay))
        assert_allclose(found.numpy(), closed.numpy(), rtol=1e-11)
        assert_array_equal(found.argsort().numpy(), z.argsort().numpy())


def test_small_decays_rank_by_row_sums_and_large_ones_by_centrality() -> None:
    X, y = reference.example(features=80)
    A = affinity("s 2015", X, y)
    near = InfFSSupervised(formula="2015", decay=1e-9, **TIGHT).fit(X, y)
    assert reference.inverted_pairs(near.scores_, A.sum(axis=1), 1e-8) == 0
    far = InfFSSupervised(formula="2015", decay=1 - 1e-9, tol=1e-13, rho_tol=1e-14, max_iter=1000)
    vectors = np.linalg.eigh(A)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # this close to the limit digits run out
        far.fit(X, y)
    assert reference.inverted_pairs(far.scores_, np.abs(vectors[:, -1])) == 0
    assert reference.inverted_pairs(centrality(DenseAffinity(torch.from_numpy(A), symmetric=True)).scores.numpy(),
                                    np.abs(vectors[:, -1]), 1e-8) == 0  # fmt: skip


@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e9])
def test_scores_do_not_depend_on_the_scale_of_the_affinity(scale: float) -> None:
    X, y = reference.example()
    A = torch.from_numpy(affinity("s", X, y))
    scores = [path_energy(DenseAffinity(k * A, symmetric=True), 0.9, tol=1e-13).scores for k in (1, scale)]
    assert_allclose(*(s.numpy() for s in scores), rtol=1e-10)


@directed
@pytest.mark.parametrize("method", [*METHODS, "ilfs", "ecfs"])
def test_invariances(method: str) -> None:
    options = {"ilfs": {"tol": 1e-15, "max_iter": 200}, "ecfs": {"tol": 1e-13}}.get(method, TIGHT)
    selector = {"ilfs": ILFS, "ecfs": ECFS}.get(method) or METHODS[method]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ILFS is stopped after equally many steps
        X, y = reference.example(samples=40)
        expected = selector(**options).fit(X, y).scores_
        rng = np.random.default_rng(1)
        features, samples = rng.permutation(X.shape[1]), rng.permutation(len(X))
        assert_allclose(selector(**options).fit(X[:, features], y).scores_, expected[features], rtol=1e-8)
        assert_allclose(selector(**options).fit(X[samples], y[samples]).scores_, expected, rtol=1e-8)
        assert_allclose(selector(**options).fit(4 * X + 8, y).scores_, expected, rtol=1e-8)
        assert_allclose(selector(**options).fit(X, np.array(["b", "a"])[y % 2]).scores_, expected, rtol=1e-8)


def test_monotone_maps_change_dispersion_only() -> None:
    X, _ = reference.example()
    assert_allclose(reference.redundancy(X**3), reference.redundancy(X), atol=1e-14)
    found = [InfFS(alpha=0, **TIGHT).fit(Z).scores_ for Z in (X, X**3)]
    assert_allclose(*found, rtol=1e-9)
    found = [InfFS(**TIGHT).fit(Z).scores_ for Z in (X, X**3)]
    assert np.abs(found[0] - found[1]).max() > 0.01


@pytest.mark.parametrize("hops", range(1, 21))
def test_truncated_sums_stay_within_the_bound(hops: int) -> None:
    X, y = reference.example()
    A = affinity("s", X, y)
    n, c = len(A), 0.9
    rho = reference.spectral_radius(A)
    graph = DenseAffinity(torch.from_numpy(A), symmetric=True)
    start = graph.row_sums() * (c / rho)
    truncated = neumann(graph, start, c, hops=hops - 1, radius=rho).numpy()
    gap = np.linalg.norm(truncated - reference.katz(A, c))
    assert gap <= c ** (hops + 1) / (1 - c) * math.sqrt(n) * (1 + 1e-9)


def test_the_bound_of_the_radius_keeps_the_sum_convergent() -> None:
    ring = torch.roll(torch.eye(8, dtype=torch.float64), 1, 0)
    star = torch.zeros(9, 9, dtype=torch.float64)
    star[0, 1:] = star[1:, 0] = 1
    split = torch.block_diag(torch.ones(3, 3), torch.zeros(2, 2), torch.ones(4, 4)).double()
    dense = torch.rand(12, 12, dtype=torch.float64)
    for matrix in (ring + ring.T, star, split, dense + dense.T, dense):
        symmetric = bool((matrix == matrix.T).all())
        truth = reference.spectral_radius(matrix.numpy())
        A = Affinity.from_dense(matrix, symmetric=symmetric)
        for steps in range(1, 12):
            bound = perron_bound(A.matmul, len(matrix), symmetric, max_iter=steps)
            assert bound.upper >= truth * (1 - 1e-14)
        found = path_energy(A, 0.99, tol=1e-10)
        assert found.radius >= truth * (1 - 1e-14)
        assert_allclose(found.scores.numpy(), reference.katz(matrix.numpy(), 0.99, found.radius), rtol=1e-7)
        assert (found.scores >= 0).all()


def test_the_solver_does_few_products() -> None:
    X, _ = reference.load("lung_small")
    found = InfFS().fit(X)
    assert found.rho_certified_
    assert found.n_iter_ <= 6
    assert found.residual_ <= 1e-6
    loose = InfFS(rho_tol=1e-14, max_iter=3)
    with pytest.warns(ConvergenceWarning):
        loose.set_params(tol=1e-14).fit(X)
    assert not loose.rho_certified_
    assert loose.rho_ >= reference.spectral_radius(reference.affinity_u(X, 0.5))


# Orders (every clear pair, and the whole at the default tolerances) ###################################################


def check_orders(name: str, decays: list[float]) -> None:
    X, y = reference.load(name)
    X = X[:, np.ptp(X, axis=0) > 0]
    f, m = reference.fisher(X, y), information(X, y)
    G = reference.affinity_s(X, f, m)
    for selector, A in (
        (InfFS, reference.affinity_u(X, 0.5)),
        (InfFSSupervised, (G + G.T) / 2),
    ):
        values, vectors = np.linalg.eigh(A)
        weights = vectors.sum(axis=0)
        for decay in decays:
            c = decay * values / values[-1]
            truth = vectors @ (weights * c / (1 - c))
            close = selector(decay=decay, tol=1e-10, rho_tol=1e-8).fit(X, y).scores_
            assert reference.inverted_pairs(close, truth) == 0
            default = selector(decay=decay).fit(X, y).scores_
            # Where the data hold exact ties, whose order is that of the rounding errors, one of them stands for all.
            order = np.argsort(-truth)
            order = order[np.r_[True, -np.diff(truth[order]) > 1e-10 * truth[order[:-1]]]]
            assert len(order) > 0.7 * len(truth)
            assert kendalltau(default[order], truth[order]).statistic >= 0.9999


@pytest.mark.parametrize("name", ["lung_small", "colon"])
def test_orders(name: str) -> None:
    check_orders(name, [0.9])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lung_small", "madelon", "Isolet", "ORL", "colon", "warpAR10P"])
def test_all_orders(name: str) -> None:
    check_orders(name, DECAYS)


def test_clear_inversions_are_counted() -> None:
    truth = np.array([3.0, 2.0, 2.0 * (1 + 1e-9), 1.0])
    assert reference.inverted_pairs(np.array([3.0, 2.0, 1.9, 1.0]), truth) == 0
    assert reference.inverted_pairs(np.array([3.0, 2.0, 2.0, 2.5]), truth) == 1
    for found in product([1.0, 2.0], repeat=3):
        values = np.array(found)
        scores = np.array([1.0, 2.0, 2.5])
        pairs = any(values[i] >= values[j] for i, j in ((0, 1), (0, 2), (1, 2)))
        assert (reference.inverted_pairs(values, scores) > 0) == pairs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_and_float64_data_agree_in_clear_pairs(dtype: Any) -> None:
    X, y = reference.load("lung_small")
    X = X.astype(np.float32)
    for selector in (InfFS, InfFSSupervised):
        truth = selector(**TIGHT).fit(X.astype(np.float64), y).scores_
        found = selector(tol=1e-10, rho_tol=1e-8).fit(X.astype(dtype), y).scores_
        assert reference.inverted_pairs(found, truth) == 0


def test_verbose_shows_the_progress(capsys: pytest.CaptureFixture[str]) -> None:
    X, _ = reference.example()
    InfFS().fit(X)
    assert capsys.readouterr().err == ""
    InfFS(verbose=True, n_neighbors=2).fit(X)
    shown = capsys.readouterr().err
    assert "feature affinity" in shown
    assert "nearest features" in shown
