"""Eigenvector centrality against the dense eigensolver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from graphattn.affinity import Affinity
from graphattn.affinity.relevance import mutual_information
from graphattn.selection import ECFS, InfFSSupervised
from graphattn.selection.ecfs import centrality
from tests.selection import reference


@pytest.mark.parametrize("features", [2, 3, 30, 64, 65, 200])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("normalize", [False, True])
def test_scores_are_the_leading_eigenvector(features: int, classes: int, normalize: bool) -> None:
    X, y = reference.example(samples=30, features=features, classes=classes)
    f, m = reference.fisher(X, y), mutual_information(X, torch.from_numpy(y)).numpy()
    if normalize:
        f, m = reference.minmax(f), reference.minmax(m)
    A = reference.affinity_ec(X, np.abs(f + m) / 2, 0.3)
    values, vectors = np.linalg.eigh(A)
    found = ECFS(alpha=0.3, normalize_relevance=normalize).fit(X, y)
    assert_allclose(found.scores_, np.abs(vectors[:, -1]), rtol=0, atol=1e-9)
    assert_allclose(found.rho_, values[-1], rtol=1e-12)
    assert reference.inverted_pairs(found.scores_, np.abs(vectors[:, -1])) == 0
    assert found.rho_certified_
    assert (found.n_iter_ > 0) == (features > 64)
    assert found.residual_ < 1e-9
    one_hop = np.argsort(-A.sum(axis=1), kind="stable")[: features // 2]
    assert_allclose(found.hop_overlap_, np.isin(found.order_[: features // 2], one_hop).mean())


def test_it_is_the_limit_of_the_supervised_inf_fs_of_2015() -> None:
    X, y = reference.example(features=80)
    limit = ECFS(mi=np.zeros(80)).fit(X, y).scores_
    near = InfFSSupervised(formula="2015", decay=1 - 1e-5, tol=1e-9, rho_tol=1e-12, max_iter=1000).fit(X, y).scores_
    # The outer product of v = f / 2 is scaled to [0, 1] as that of f is.
    assert_allclose(near / np.linalg.norm(near), limit, rtol=1e-4)


def test_nearly_equal_eigenvalues_warn() -> None:
    for size in (3, 100):
        values = torch.linspace(0.1, 0.5, size, dtype=torch.float64)
        values[0], values[1] = 1.0, 1.0 - 1e-8
        with pytest.warns(UserWarning, match="are equal up to 1e-6: the ranking by their eigenvectors is arbitrary"):
            found = centrality(Affinity.from_dense(torch.diag(values), symmetric=True))
        assert_allclose(found.radius, 1.0, rtol=1e-7)
    values[1] = 1.0 - 1e-5
    assert centrality(Affinity.from_dense(torch.diag(values), symmetric=True)).scores.argmax() == 0


def test_an_affinity_of_zeros_gives_equal_scores() -> None:
    found = centrality(Affinity.from_dense(torch.zeros(4, 4), symmetric=True))
    assert found.scores.tolist() == [0.5] * 4
    assert found.radius == 0.0
