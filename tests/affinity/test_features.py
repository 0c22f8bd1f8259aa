"""Affinities between features against dense float64 matrices written from the formulas."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.stats import rankdata
from sklearn.metrics import mutual_info_score
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from graphattn.affinity import ImplicitAffinity
from graphattn.affinity import columns as columns_module
from graphattn.affinity import features as features_module
from graphattn.affinity.dispersion import DispersionCollapsedWarning, MaxProduct, dispersion
from graphattn.affinity.features import ec_fs, ilfs, inf_fs_s, inf_fs_u, nearest_features
from graphattn.affinity.relevance import fisher_score, mutual_information
from graphattn.affinity.spearman import Redundancy, average_ranks
from tests.budget import assert_within_budget
from tests.selection import reference

EPS = np.finfo(np.float64).eps


def example(**kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
    X, y = reference.example(**kwargs)
    X[:, 3] = 5.0  # constant
    X[:, 8] = X[:, 6]  # repeated
    X[:, 9] = -np.exp(X[:, 6])  # perfectly correlated by rank
    return X, y


def classes(y: np.ndarray) -> Tensor:
    return torch.from_numpy(y.astype(np.int64))


def assert_is(A: ImplicitAffinity, dense: np.ndarray) -> None:
    """Rows, products and transposed products are those of the matrix."""
    n = len(dense)
    atol = 8 * n * EPS * np.abs(dense).max()
    assert A.shape == dense.shape
    assert_allclose(A.to_dense().matrix.numpy(), dense, rtol=0, atol=atol)
    assert_allclose(A.rows(1, 3).numpy(), dense[1:3], rtol=0, atol=atol)
    x = torch.randn(n, 3, dtype=torch.float64)
    for applied, matrix in ((A, dense), (A.T, dense.T)):
        assert_allclose((applied @ x).numpy(), matrix @ x.numpy(), rtol=0, atol=n * atol)
        assert_allclose((applied @ x[:, 0]).numpy(), matrix @ x[:, 0].numpy(), rtol=0, atol=n * atol)
        assert_allclose(applied.row_sums().numpy(), matrix.sum(axis=1), rtol=0, atol=n * atol)
    if A.symmetric:
        assert_allclose(dense, dense.T, rtol=0, atol=atol)


# Building blocks ######################################################################################################


def test_ranks_are_those_of_scipy() -> None:
    rows = torch.randint(0, 6, (7, 12)).double()
    rows[0], rows[1] = 2.0, torch.randn(12)
    rows[2, 0], rows[2, 1] = -0.0, 0.0
    assert_array_equal(average_ranks(rows).numpy(), rankdata(rows.numpy(), axis=1))
    assert_array_equal(average_ranks(rows[:, :1]).numpy(), np.ones((7, 1)))


@pytest.mark.parametrize("kind", ["numpy", "float32", "tensor", "sparse"])
def test_dispersion(kind: str) -> None:
    X, _ = example()
    data: Any = {
        "numpy": X,
        "float32": X.astype(np.float32),
        "tensor": torch.from_numpy(X),
        "sparse": sparse.csr_array(X),
    }[kind]
    expected = np.diag(reference.sigma(np.asarray(data if kind == "float32" else X, dtype=np.float64)))
    assert_allclose(dispersion(data).numpy(), expected, rtol=0, atol=64 * EPS)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_deviations_collapse(dtype: Any) -> None:
    X = np.random.default_rng(0).normal(size=(50, 8)).astype(dtype)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    with pytest.warns(DispersionCollapsedWarning, match="do not standardise"):
        assert_array_equal(dispersion(X).numpy(), np.zeros(8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_array_equal(dispersion(np.ones((4, 3))).numpy(), np.zeros(3))  # nothing collapsed: there is no spread
        assert dispersion(X[:, :1]).tolist() == [0.0]


def test_maxima_multiply_as_the_matrix_does() -> None:
    values = torch.rand(200, dtype=torch.float64)
    values[50:80] = values[:30]
    product = MaxProduct(values)
    dense = torch.maximum(values[:, None], values[None, :])
    x = torch.randn(200, 4, dtype=torch.float64)
    assert_within_budget(product(x), dense @ x, dense @ x, longest_row=200)
    assert_array_equal(product.rows(3, 9).numpy(), dense[3:9].numpy())
    # Equal values, equal results, to the last bit.
    assert_array_equal(product(x)[50:80].numpy(), product(x)[:30].numpy())
    assert MaxProduct(values[:0])(x[:0]).shape == (0, 4)


@pytest.mark.parametrize("store", ["stored", "blocked"])
@pytest.mark.parametrize("block_size", [1, 7, 15, 30, 100])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, sparse.csc_array, sparse.coo_array])
def test_redundancy_in_blocks_is_the_matrix(store: str, block_size: int, kind: Any) -> None:
    X, _ = example()
    X[np.random.default_rng(1).uniform(size=X.shape) < 0.3] = 0.0
    X[:, 3] = 5.0
    product = Redundancy(kind(X), dtype=torch.float64, store=store, block_size=block_size)
    A = ImplicitAffinity(product, (30, 30), rows=product.rows, symmetric=True, dtype=torch.float64)
    dense = reference.redundancy(X)
    assert_is(A, dense)
    assert_array_equal(np.diag(A.to_dense().matrix), np.diag(np.round(dense)))  # 0, or 1 for the constant feature
    assert dense[3].min() == 1
    assert A.to_dense().matrix.min() == 0


def test_float32_blocks_are_summed_in_float64() -> None:
    X, _ = example(features=50)
    X = X[:, np.ptp(X, axis=0) > 0]
    n = X.shape[1]
    dense = torch.from_numpy(reference.redundancy(X))
    x = torch.randn(n, 2, dtype=torch.float64)
    rounded = Redundancy(X, block_size=16)
    exact = rounded(torch.eye(n, dtype=torch.float64))
    assert 0 < (exact - dense).abs().max() < 4 * np.finfo(np.float32).eps
    assert (rounded.rows(0, n) - dense).abs().max() < 4 * np.finfo(np.float32).eps
    assert rounded(x.float()).dtype == torch.float64
    assert_within_budget(rounded(x), exact @ x, exact @ x, longest_row=n)


def test_products_of_perfectly_correlated_features_are_not_negative() -> None:
    column = np.random.default_rng(0).normal(size=(37, 1))
    for dtype in (torch.float32, torch.float64):
        product = Redundancy(np.exp(column) * np.arange(1, 41), dtype=dtype, block_size=16)
        assert (product(torch.rand(40, 3, dtype=torch.float64)) >= 0).all()


@pytest.mark.parametrize("store", ["stored", "blocked"])
def test_gradients_pass_through_products(store: str) -> None:
    X, _ = example(features=12)
    product = Redundancy(X, dtype=torch.float64, store=store, block_size=5)
    x = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(product, (x,))


def test_progress_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    X, _ = example()
    Redundancy(X)
    assert capsys.readouterr().err == ""
    A = inf_fs_u(X, store="blocked", block_size=8, progress=True)
    A.row_sums()
    nearest_features(A, 2, progress=True)
    shown = capsys.readouterr()
    assert "feature affinity" in shown.err
    assert "nearest features" in shown.err
    assert shown.out == ""


# Relevance ############################################################################################################


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, sparse.csr_array])
def test_fisher_is_the_mean_over_pairs(number: int, kind: Any) -> None:
    X, y = example(classes=number)
    expected = reference.fisher(X, y)
    assert_allclose(fisher_score(kind(X), classes(y)).numpy(), expected, rtol=1e-12)


def test_fisher_of_unbalanced_classes_and_single_samples() -> None:
    X, _ = example()
    for y in (np.r_[np.zeros(17), np.ones(3)], np.r_[np.zeros(19), 1], np.r_[np.zeros(18), 1, 2]):
        assert_allclose(fisher_score(X, classes(y)).numpy(), reference.fisher(X, y), rtol=1e-12)


def test_fisher_without_variance() -> None:
    y = np.array([0, 0, 1, 1])
    #              perfect   constant       ordinary            none
    X = np.array([[1, 1, 2, 2], [3, 3, 3, 3], [0, 2, 3, 5], [0, 1, 0, 1]], dtype=float).T
    assert_array_equal(fisher_score(X, classes(y)).numpy(), [2.25, 0, 2.25, 0])
    assert_allclose(fisher_score(X, classes(y), zero_denominator=10000.0).numpy(), [1e-4, 0, 2.25, 0], rtol=1e-15)
    assert_array_equal(fisher_score(X[:, [0, 1, 3]], classes(y)).numpy(), [1, 0, 0])  # better than nothing


def test_classical_fisher() -> None:
    X, y = example(classes=3)
    y[y == 2] = 1
    y[0] = 2  # one sample
    share = np.bincount(y) / len(y)
    means = np.array([X[y == c].mean(axis=0) for c in range(3)])
    between = (share[:, None] * (means - X.mean(axis=0)) ** 2).sum(axis=0)
    weight = np.bincount(y)[:2] / np.bincount(y)[:2].sum()
    within = sum(w * X[y == c].var(axis=0, ddof=1) for c, w in enumerate(weight))
    expected = np.where(within > 0, between / np.where(within > 0, within, 1), 0)
    found = fisher_score(X, classes(y), kind="classical").numpy()
    assert_allclose(found, expected, rtol=1e-10, atol=1e-15)
    many = np.arange(120) % 101
    large = np.random.default_rng(0).normal(size=(120, 4))
    assert_array_equal(fisher_score(large, classes(many)), fisher_score(large, classes(many), kind="classical"))


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, sparse.csr_array])
def test_mutual_information_of_equally_filled_bins(number: int, kind: Any) -> None:
    X, y = example(samples=83, classes=number)
    X[:, 5] = np.round(X[:, 5])
    bins = max(2, min(10, math.floor(math.sqrt(83 / 5))))
    assert bins == 4
    expected = [mutual_info_score(y, np.floor((rankdata(column) - 0.5) * bins / 83).astype(int)) for column in X.T]
    assert_allclose(mutual_information(kind(X), classes(y)).numpy(), expected, rtol=0, atol=32 * EPS)
    assert mutual_information(kind(X), classes(y))[3] == 0


def test_bins_of_mutual_information() -> None:
    # Without ties the bins are equally full, up to one sample, and a value is never split.
    y = torch.arange(60) % 2
    x = torch.arange(60.0).unsqueeze(1)
    for bins in (2, 7, 10):
        bin_of = (2 * torch.arange(60) + 1) * bins // 120
        assert bin_of.bincount().max() - bin_of.bincount().min() <= 1
        labels = bin_of % 2
        expected = mutual_info_score(bin_of.numpy(), labels.numpy())
        assert_allclose(mutual_information(x, labels, bins=bins).item(), expected, rtol=1e-14)
    assert mutual_information(torch.full((60, 1), 2.0), y, bins=10).item() == 0
    perfect = mutual_information(y.double().unsqueeze(1), y, bins=2)
    assert_allclose(perfect.item(), math.log(2), rtol=1e-14)


# Affinities ###########################################################################################################


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("store", ["auto", "blocked"])
def test_inf_fs_u(alpha: float, store: str) -> None:
    X, _ = example()
    A = inf_fs_u(X, alpha, dtype=torch.float64, store=store, block_size=8)
    assert A.symmetric
    assert_is(A, reference.affinity_u(X, alpha))


@pytest.mark.parametrize("alpha", [(1, 1, 1), (1, 0, 0), (0, 2, 0), (0.2, 0.5, 0.3)])
def test_inf_fs_s(alpha: tuple[float, float, float]) -> None:
    X, y = example()
    f, m = fisher_score(X, classes(y)), mutual_information(X, classes(y))
    G = reference.affinity_s(X, f.numpy(), m.numpy(), np.array(alpha) / sum(alpha))
    directed = inf_fs_s(f, m, dispersion(X), alpha, symmetrize=False)
    assert not directed.symmetric
    assert_is(directed, G)
    symmetric = inf_fs_s(f, m, dispersion(X), alpha)
    assert symmetric.symmetric
    assert_is(symmetric, (G + G.T) / 2)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_ec_fs(alpha: float) -> None:
    X, y = example()
    v = reference.fisher(X, y)
    assert_is(ec_fs(torch.from_numpy(v), dispersion(X), alpha), reference.affinity_ec(X, v, alpha))
    # Close relevances keep their digits: relative to the entries, not to the large common part.
    near = torch.tensor([1.0, 1.0 + 2**-30, 1.0 + 2**-29], dtype=torch.float64)
    matrix = ec_fs(near, torch.zeros(3), 1.0).to_dense().matrix
    assert_allclose(matrix[0].numpy(), [0.0, 0.25, 0.5], rtol=1e-8)
    assert_is(ec_fs(torch.full((3,), 2.0), torch.tensor([0.0, 0.5, 1.0]), 0.5), 0.5 * np.array(
        [[0, 0.5, 1], [0.5, 0.5, 1], [1, 1, 1]]
    ))  # fmt: skip
    huge = ec_fs(torch.tensor([0.0, 1e200, 2e200], dtype=torch.float64), torch.zeros(3), 1.0)
    assert_allclose(huge.to_dense().matrix[2].numpy(), [0, 0.5, 1.0], rtol=1e-15)


def test_ilfs() -> None:
    z = torch.rand(20, dtype=torch.float64)
    assert_is(ilfs(z), np.outer(z, z))


@pytest.mark.parametrize("k", [1, 4, 29, 60])
@pytest.mark.parametrize("block", [8 * 30, 8 * 30 * 7, 1 << 20])
def test_nearest_features(k: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "_BLOCK_BYTES", block)
    X, y = example()
    A = ec_fs(torch.from_numpy(reference.fisher(X, y)), dispersion(X))
    dense = A.to_dense().matrix.numpy()
    assert (np.diff(np.sort(dense, axis=1), axis=1) == 0).any()  # ties
    graph = nearest_features(A, k)
    assert graph.symmetric
    assert_array_equal(graph.to_dense().matrix.numpy(), reference.nearest(dense, k))
    assert_array_equal(A.to_dense().matrix.numpy(), dense)


def test_nearest_features_leaves_rows_of_others_alone() -> None:
    matrix = torch.rand(5, 5, dtype=torch.float64) + 1
    before = matrix.clone()
    shared = ImplicitAffinity(lambda x: matrix @ x, (5, 5), rows=lambda a, b: matrix[a:b], dtype=torch.float64)
    nearest_features(shared, 2)
    assert_array_equal(matrix.numpy(), before.numpy())
    assert nearest_features(ilfs(torch.empty(0)), 3).num_edges == 0


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(part, Tensor):
                self.elements = max(self.elements, part.numel())
        return result


def test_structured_affinities_are_never_matrices() -> None:
    n = 5000
    f, m, a = torch.rand(n), torch.rand(n), torch.rand(n)
    for make in (lambda: inf_fs_s(f, m, a), lambda: inf_fs_s(f, m, a, symmetrize=False), lambda: ec_fs(f, a),
                 lambda: ilfs(f)):  # fmt: skip
        with _Largest() as largest:
            A = make()
            A @ torch.rand(n, 2, dtype=torch.float64)
            A.row_sums()
        assert largest.elements <= 2 * (n + 1)


def test_blocked_correlations_are_never_a_matrix() -> None:
    X = np.random.default_rng(0).normal(size=(6, 900)) * np.arange(1, 901)
    with _Largest() as largest:
        A = inf_fs_u(X, store="blocked", block_size=64)
        A @ torch.rand(900, 2, dtype=torch.float64)
        nearest_features(A, 3)
    assert largest.elements == 900 * 900  # the sparsifier's blocks are larger than this affinity
    with _Largest() as largest:
        A = inf_fs_u(X, store="blocked", block_size=64)
        A @ torch.rand(900, 2, dtype=torch.float64)
    assert largest.elements <= max(64 * 64, 6 * 900)


def test_the_budget_decides_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    X, _ = example()
    monkeypatch.setattr("graphattn.affinity.spearman._BUDGET_BYTES", 4 * 30 * (30 + 8) // 2)
    assert Redundancy(X, block_size=8)._blocks is not None
    monkeypatch.setattr("graphattn.affinity.spearman._BUDGET_BYTES", 4 * 30 * (30 + 8) // 2 - 1)
    assert Redundancy(X, block_size=8)._blocks is None
    stored = Redundancy(X, store="stored", block_size=8)._blocks
    assert stored is not None
    assert sum(block.numel() for block in stored) <= 30 * (30 + 8) // 2


def test_statistics_go_through_the_columns_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = example()
    whole = [dispersion(X), fisher_score(X, classes(y)), mutual_information(X, classes(y)), average(X)]
    monkeypatch.setattr(columns_module, "_BLOCK_BYTES", 8 * 20 * 7)
    parts = [dispersion(X), fisher_score(X, classes(y)), mutual_information(X, classes(y)), average(X)]
    for one, other in zip(whole, parts, strict=True):
        assert_array_equal(one.numpy(), other.numpy())


def average(X: np.ndarray) -> Tensor:
    return Redundancy(X, dtype=torch.float64)(torch.ones(X.shape[1], 1, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_data_is_computed_in_float64(dtype: torch.dtype) -> None:
    X, _ = example()
    narrow = torch.from_numpy(X).to(dtype)
    A, expected = inf_fs_u(narrow, dtype=torch.float64), inf_fs_u(narrow.double(), dtype=torch.float64)
    assert_array_equal(A.row_sums().numpy(), expected.row_sums().numpy())


# Errors ###############################################################################################################


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda X, y: dispersion(X.tolist()), TypeError, "x is a list"),
        (lambda X, y: dispersion(X[0]), ValueError, r"x has shape \(30,\)"),
        (lambda X, y: dispersion(X[:1]), ValueError, "x has 1 samples; expected at least 2"),
        (lambda X, y: Redundancy(X, store="disk"), ValueError, "store is 'disk'; expected one of 'auto'"),
        (lambda X, y: Redundancy(X, block_size=0), ValueError, "block_size is 0"),
        (lambda X, y: inf_fs_u(X, 1.5), ValueError, r"alpha is 1.5; expected a number in \[0, 1\]"),
        (lambda X, y: fisher_score(X, y, kind="ratio"), ValueError, "kind is 'ratio'"),
        (lambda X, y: fisher_score(X, y.double()), TypeError, "y is a torch.float64 tensor"),
        (lambda X, y: fisher_score(X, y.numpy()), TypeError, "y is a ndarray"),
        (lambda X, y: fisher_score(X, y[:-1]), ValueError, r"y has shape \(19,\); expected \[20\]"),
        (lambda X, y: fisher_score(X, y - 1), ValueError, "y holds -1"),
        (lambda X, y: fisher_score(X, y * 0), ValueError, "y holds a single class"),
        (lambda X, y: fisher_score(X, y * 2), ValueError, "no sample of class 1"),
        (lambda X, y: mutual_information(X, y, bins=1), ValueError, "bins is 1"),
        (lambda X, y: inf_fs_s(torch.rand(3), torch.rand(4), torch.rand(3)), ValueError, r"information has .*\(4,\)"),
        (lambda X, y: inf_fs_s(*torch.rand(3, 3), alpha=(1, 1)), ValueError, r"alpha is \(1, 1\)"),
        (lambda X, y: inf_fs_s(*torch.rand(3, 3), alpha=(0, 0, 0)), ValueError, "not all 0"),
        (lambda X, y: inf_fs_s(*torch.rand(3, 3), alpha=(1, -1, 1)), ValueError, "not negative"),
        (lambda X, y: ec_fs(torch.rand(3, 1), torch.rand(3)), ValueError, r"relevance has shape \(3, 1\)"),
        (lambda X, y: ec_fs(-torch.ones(3), torch.rand(3)), ValueError, "relevance has the value -1"),
        (lambda X, y: ec_fs(torch.rand(3), torch.rand(3), 2.0), ValueError, "alpha is 2.0"),
        (lambda X, y: ilfs(torch.rand(2, 2)), ValueError, "one value per feature"),
        (lambda X, y: nearest_features(ilfs(torch.rand(3)), 0), ValueError, "n_neighbors is 0"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(call: Any, error: type[Exception], message: str) -> None:
    X, y = example()
    with pytest.raises(error, match=message):
        call(X, classes(y))
