"""The methods as dense float64 matrices, straight from their formulas, and the steps of the releases, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat
from scipy.stats import rankdata

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "feature_selection"


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    path = DATA / f"{name}.mat"
    if not path.exists():
        pytest.skip(f"the data set {name} is not at hand")
    file = loadmat(path)
    return file["X"].astype(np.float64), file["Y"].ravel()


def example(samples: int = 20, features: int = 30, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Data of unequal spread with ties; some features are related to each other, some to unbalanced classes."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    least = np.repeat(np.arange(classes), 2)
    y = rng.permutation(np.concatenate([least, rng.choice(classes, samples - least.size, p=share)]))
    X = rng.normal(size=(samples, features)) + rng.normal(size=(samples, 1)) * rng.uniform(0, 1.5, features)
    X += y[:, None] * rng.uniform(-1, 2, features) * (rng.uniform(size=features) < 0.5)
    X *= rng.uniform(0.5, 3, features)
    X[:, ::4] = np.round(X[:, ::4])
    return X, y


def minmax(values: np.ndarray) -> np.ndarray:
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def sigma(X: np.ndarray) -> np.ndarray:
    deviation = X.std(axis=0, ddof=1)
    return minmax(np.maximum(deviation[:, None], deviation[None, :]))


def redundancy(X: np.ndarray) -> np.ndarray:
    """1 - |Spearman|; a constant feature correlates with nothing, not even itself."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = np.nan_to_num(np.corrcoef(rankdata(X, axis=0), rowvar=False))
    return 1 - np.abs(rho)


def nearest(A: np.ndarray, n_neighbors: int) -> np.ndarray:
    """The largest entries of each row off the diagonal, the lowest columns of equal ones, made symmetric by maxima."""
    kept = np.zeros_like(A)
    for i, row in enumerate(A):
        row = np.where(np.arange(len(A)) == i, -1, row)
        best = np.argsort(-row, kind="stable")[: min(n_neighbors, len(A) - 1)]
        kept[i, best] = row[best]
    return np.maximum(kept, kept.T)


def fisher(X: np.ndarray, y: np.ndarray, zero: float | None = None) -> np.ndarray:
    """The binary formula, or its mean over pairs of classes."""
    labels = np.unique(y)
    pairs = []
    for i, c in enumerate(labels):
        for d in labels[i + 1 :]:
            a, b = X[y == c], X[y == d]
            numerator = (a.mean(axis=0) - b.mean(axis=0)) ** 2
            denominator = sum(z.var(axis=0, ddof=1) if len(z) > 1 else np.zeros(X.shape[1]) for z in (a, b))
            if zero is not None:
                denominator = np.where(denominator == 0, zero, denominator)
            pairs.append((numerator, denominator))
    ratio = np.array([np.where(q > 0, p / np.where(q > 0, q, 1), np.where(p > 0, np.inf, 0)) for p, q in pairs])
    finite = ratio[np.isfinite(ratio)]
    largest = finite.max() if finite.size and finite.max() > 0 else 1.0
    return np.where(np.isfinite(ratio), ratio, largest).mean(axis=0)


def spectral_radius(A: np.ndarray) -> float:
    eigenvalues = np.linalg.eigvalsh if np.array_equal(A, A.T) else np.linalg.eigvals
    return float(np.abs(eigenvalues(A)).max())


def katz(A: np.ndarray, decay: float, rho: float | None = None) -> np.ndarray:
    """(Id - r A)^-1 1 - 1, as the papers write it."""
    n = len(A)
    r = decay / (spectral_radius(A) if rho is None else rho)
    return np.linalg.inv(np.eye(n) - r * A).sum(axis=1) - 1


def affinity_u(X: np.ndarray, alpha: float) -> np.ndarray:
    return alpha * sigma(X) + (1 - alpha) * redundancy(X)


def affinity_s(X: np.ndarray, f: np.ndarray, m: np.ndarray, alpha: Any = (1 / 3, 1 / 3, 1 / 3)) -> np.ndarray:
    """The directed G of Inf-FS_S."""
    f, m, spread = minmax(f)[:, None], minmax(m)[None, :], sigma(X)
    return alpha[0] * (m + f) / 2 + alpha[1] * (m + spread) / 2 + alpha[2] * (spread + f) / 2


def affinity_ec(X: np.ndarray, v: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    return alpha * minmax(np.outer(v, v)) + (1 - alpha) * sigma(X)


def released_2020(A: np.ndarray) -> np.ndarray:
    """The double normalisation: WEIGHT."""
    n = len(A)
    rho = A.sum(axis=1).max()
    eps = 5e-6 * n
    scaled = A / (rho + eps)
    factor = (1 - eps) / rho
    return np.linalg.inv(np.eye(n) - factor * scaled).sum(axis=1)


def released_2017(X: np.ndarray, y: np.ndarray, TT: int = 4) -> tuple[np.ndarray, np.ndarray, int]:
    """ILFS step by step: z, S 1 and the size."""
    T, n = X.shape
    labels = np.unique(y)[::-1]  # renamed 1..C in descending order
    z, counts, total = np.zeros(n), np.zeros((n, TT)), np.zeros(n)
    edges = np.linspace(0, 1, TT)
    for i in range(n):
        mu = [X[y == c, i].mean() for c in labels]
        var = [X[y == c, i].var(ddof=1) for c in labels]
        for t in range(T):
            d = [(X[t, i] - m) ** 2 / sum(v**2 for v in var) for m in mu]
            if sum(d) == 0:  # histc passes over NaN
                continue
            p = d[list(labels).index(y[t])] / sum(d)
            token = TT - 1 if p == 1 else np.searchsorted(edges, p, side="right") - 1  # histc
            counts[i, token] += 1
        total[i] = counts[i].sum()
        z[i] = counts[i, TT - 3 :].sum() / total[i]
    relevant = np.linspace(5000, 1, TT) / np.linspace(5000, 1, TT).sum()
    irrelevant = relevant[::-1]
    before = -np.inf
    for _ in range(1000):
        likely, unlikely = z[:, None] * relevant, (1 - z)[:, None] * irrelevant
        z = (counts * likely / (likely + unlikely)).sum(axis=1) / total
        likelihood = (counts * np.log(z[:, None] * relevant + (1 - z)[:, None] * irrelevant)).sum()
        if abs(likelihood - before) < 1e-6:
            break
        before = likelihood
    A = np.outer(z, z)
    factor = np.ceil(A.sum(axis=1).max()) / n
    S = np.linalg.inv(np.eye(n) - (factor if factor < 1 else 0.99) / spectral_radius(A) * A) - np.eye(n)
    scaled = minmax(S)
    return z, S.sum(axis=1), int(np.ceil(np.round(scaled.sum(axis=1).max(), 9)))


def inverted_pairs(found: np.ndarray, truth: np.ndarray, tolerance: float = 1e-6) -> int:
    """Pairs whose true scores differ by more than the tolerance, relative to the larger, but come in another order.

    In the order of the true scores the best earlier pair of an item is the one with the lowest score found, among those
    clearly better: it suffices to compare with the lowest of all of them.
    """
    order = np.argsort(-truth, kind="stable")
    truth, found = truth[order], found[order]
    lowest = np.minimum.accumulate(found)
    clearly = np.searchsorted(-truth, -truth / (1 - tolerance), side="left")
    return int(sum(found[i] >= lowest[k - 1] for i, k in enumerate(clearly) if k > 0))
