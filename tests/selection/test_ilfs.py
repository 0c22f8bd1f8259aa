"""The latent variable of ILFS: tokens, expectation maximization, and the closed form of the scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr

from graphattn.diffusion import ConvergenceWarning
from graphattn.selection import ILFS
from graphattn.selection.latent import latent_relevance, tokens
from tests.selection import reference


def shares(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the own class mean over the sum of distances to all, sample by sample."""
    labels = np.unique(y)
    p = np.empty(X.shape)
    for t, row in enumerate(X):
        distances = np.array([(row - X[y == c].mean(axis=0)) ** 2 for c in labels])
        total = distances.sum(axis=0)
        own = distances[list(labels).index(y[t])]
        p[t] = np.where(total > 0, own / np.where(total > 0, total, 1), 1 / len(labels))
    return p


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_tokens(classes: int) -> None:
    X, y = reference.example(samples=60, classes=classes)
    X[:, 3] = 7.0  # 0 / 0
    half, chance = 3, 1 / classes
    edges = np.r_[np.linspace(0, chance, half + 1), np.linspace(chance, 1, half + 1)[1:]]
    p = shares(X, y)
    found = tokens(X, torch.from_numpy(y), torch.from_numpy(edges[1:-1]))
    expected = np.array([np.histogram(column, edges)[0] for column in p.T])
    assert_array_equal(found.counts.numpy(), expected)
    skipped = tokens(X, torch.from_numpy(y), torch.from_numpy(edges[1:-1]), skip_undefined=True).counts
    assert_array_equal(skipped[3].numpy(), np.zeros(6))
    assert_array_equal(skipped[1].numpy(), expected[1])
    assert_allclose(found.good.numpy(), (p < chance).mean(axis=0))
    assert_allclose(found.mean.numpy(), p.mean(axis=0), rtol=1e-12)


def test_expectation_maximization_step_by_step() -> None:
    counts = torch.randint(0, 9, (30, 6)).double()
    prior = torch.rand(30, dtype=torch.float64)
    with pytest.warns(ConvergenceWarning, match="after 12 steps, above tol=1.0e-15; raise max_iter"):
        found = latent_relevance(counts, prior, tol=1e-15, max_iter=12)
    N = counts.numpy()
    z = prior.numpy().clip(0.01, 0.99)
    R = np.linspace(5000, 1, 6)
    R = R / R.sum()
    I = R[::-1]  # noqa: E741 - the name in the formula
    objectives = []
    for _ in range(12):
        mixture = z[:, None] * R + (1 - z)[:, None] * I
        penalty = np.log(z * (1 - z)).sum() + 1e-3 * np.log(R * I).sum()
        objectives.append((N * np.log(mixture)).sum() + penalty)
        relevant = N * z[:, None] * R / mixture
        z = (relevant.sum(axis=1) + 1) / (N.sum(axis=1) + 2)
        R = (relevant.sum(axis=0) + 1e-3) / (relevant.sum() + 6e-3)
        I = ((N - relevant).sum(axis=0) + 1e-3) / ((N - relevant).sum() + 6e-3)  # noqa: E741
    assert_allclose(found.relevance.numpy(), z, rtol=1e-10)
    assert (np.diff(objectives) > 0).all()  # every step improves the penalised objective
    assert_allclose(found.change, (objectives[-1] - objectives[-2]) / abs(objectives[-1]), rtol=1e-5)


@pytest.mark.parametrize(("name", "agreement"), [("colon", 0.79), ("madelon", 0.92)])
def test_agreement_with_the_fisher_score_on_public_data(name: str, agreement: float) -> None:
    X, y = reference.load(name)
    found = ILFS().fit(X, y)
    assert_allclose(spearmanr(reference.fisher(X, y), found.scores_).statistic, agreement, atol=0.005)
    z = found.scores_ / np.linalg.norm(found.scores_) * found.rho_**0.5
    assert z.min() > 0
    assert z.max() < 1


@pytest.mark.parametrize("decay", [0.1, 0.9, 0.99])
def test_closed_form(decay: float) -> None:
    X, y = reference.example(classes=3)
    found = ILFS("auto", auto_rule="ilfs", decay=decay).fit(X, y)
    z = found.scores_ / np.linalg.norm(found.scores_) * found.rho_**0.5
    A = np.outer(z, z)
    assert_allclose(found.scores_, reference.katz(A, decay), rtol=1e-10)
    paths = np.linalg.inv(np.eye(30) - decay / found.rho_ * A) - np.eye(30)
    assert found.n_features_selected_ == int(np.ceil(np.round(reference.minmax(paths).sum(axis=1).max(), 9)))
    assert_array_equal(found.order_, ILFS(decay=0.5).fit(X, y).order_)
    assert found.hop_overlap_ == 1


def test_equal_scores_are_ordered_by_the_mean_share() -> None:
    # The same tokens, but the second feature fits its classes better within them.
    y = np.array([0] * 4 + [1] * 4)
    one = np.array([-1, 0.0, 0.0, 1, 9, 10, 10, 11])
    X = np.c_[1.5 * one + np.where(y == 1, -5, 0), one, one[::-1] * 0.3]
    found = ILFS().fit(X, y)
    assert found.scores_[0] == found.scores_[1]
    assert found.ranking_[1] < found.ranking_[0]


def test_classes_of_three_kinds_of_data() -> None:
    X, y = reference.example(classes=3, samples=60)
    X[:, 7] = y * 5.0
    for labels in (y, y.astype(float), np.array(["c", "a", "b"])[y], y.astype(np.uint8)):
        found = ILFS(3).fit(X, labels)
        assert found.ranking_[7] == 1
    assert_array_equal(ILFS(n_tokens=2).fit(X, y).order_[:1], [7])
    with pytest.raises(ValueError, match="n_tokens is 5; expected an even number"):
        ILFS(n_tokens=5).fit(X, y)
