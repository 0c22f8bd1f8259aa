"""Correlations of tokens: read from attention, made partial, and turned into data that have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from torch import Tensor

_SINGULAR = 1e-12  # eigenvalues below this fraction of the largest are what rounding leaves of zero


def attention_correlation(
    attention: Any, nodes: Sequence[int] | None = None, on_zero: str = "raise"
) -> tuple[np.ndarray, tuple[int, ...]]:
    r"""Read correlations of tokens from the attention of one head.

    .. math:: \mathbf{C} = \mathbf{A}\mathbf{A}^\top, \qquad R_{ij} = C_{ij} / \sqrt{C_{ii} C_{jj}}

    These are the correlations of the tokens' outputs if their values were white noise. A row may be scaled by any
    positive number, as softmax does, without a change. Tokens that are no nodes are marginalised by leaving them out.

    Args:
        attention: Attention of one head, an array, a tensor or a SciPy sparse matrix; rows are targets.
        nodes: Tokens to correlate; all by default.
        on_zero: What to do with rows without any weight, which correlate with nothing: ``"raise"`` or ``"drop"``.

    Shapes:
        - **input:** ``attention`` :math:`(N, N)`
        - **output:** :math:`(m, m)`

    Returns:
        The correlations in float64, and the nodes that they are of.

    Raises:
        ValueError: If the attention is no finite square matrix, nodes are none of its tokens, or a row is zero.

    Example:
        >>> R, nodes = attention_correlation([[1.0, 0.0, 0.0], [0.6, 0.4, 0.0], [0.0, 0.0, 1.0]])
        >>> R.round(3).tolist(), nodes
        ([[1.0, 0.832, 0.0], [0.832, 1.0, 0.0], [0.0, 0.0, 1.0]], (0, 1, 2))

    Reference:
        Rohekar, Gurwicz and Nisimov, "Causal Interpretation of Self-Attention in Pre-Trained Transformers", NeurIPS
        2023.
    """
    if on_zero not in ("raise", "drop"):
        raise ValueError(f"on_zero is {on_zero!r}; expected 'raise' or 'drop'")
    matrix = _read_matrix(attention)
    chosen = tuple(range(matrix.shape[0])) if nodes is None else check_nodes(nodes, matrix.shape[0])
    rows = matrix[list(chosen)]
    rows = rows.toarray() if sparse.issparse(rows) else rows
    if not np.isfinite(rows).all():
        raise ValueError("attention has weights that are NaN or infinite; pass the attention after its softmax")
    peak = np.abs(rows).max(axis=1, initial=0.0)
    if (peak == 0).any():
        empty = [node for node, height in zip(chosen, peak, strict=True) if height == 0]
        if on_zero == "raise":
            raise ValueError(
                f"tokens {empty} attend to nothing, so that they correlate with nothing; leave them out of nodes, or "
                "pass on_zero='drop'"
            )
        chosen = tuple(node for node in chosen if node not in empty)
        rows, peak = rows[peak > 0], peak[peak > 0]
    rows = rows / peak[:, None]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    correlation = np.clip(rows @ rows.T, -1, 1)
    correlation = (correlation + correlation.T) / 2
    np.fill_diagonal(correlation, 1)
    return correlation, chosen


def partial_correlation(correlation: np.ndarray) -> tuple[float, bool]:
    r"""Return the correlation of the first two variables given all others.

    .. math:: \rho_{xy \cdot z} = \frac{r_{xy} - r_{xz} r_{yz}}{\sqrt{(1 - r_{xz}^2)(1 - r_{yz}^2)}}, \qquad
        \rho_{xy \cdot Z} = \frac{-P_{xy}}{\sqrt{P_{xx} P_{yy}}}, \quad \mathbf{P} = \mathbf{R}^{-1}

    Args:
        correlation: Correlations :math:`\mathbf{R}` of x, y and what is held fixed.

    Shapes:
        - **input:** ``correlation`` :math:`(2 + |Z|, 2 + |Z|)`

    Returns:
        The partial correlation, and whether the pseudo-inverse was taken because there is no inverse.

    Example:
        >>> partial_correlation(np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.8], [0.0, 0.8, 1.0]]))
        (0.8333333333333335, False)
    """
    if len(correlation) == 2:
        return float(correlation[0, 1]), False
    if len(correlation) == 3:
        xy, xz, yz = correlation[0, 1], correlation[0, 2], correlation[1, 2]
        left = (1 - xz * xz) * (1 - yz * yz)
        if left > _SINGULAR:
            return float((xy - xz * yz) / math.sqrt(left)), False
    eigenvalues, vectors = np.linalg.eigh(correlation)
    kept = eigenvalues > _SINGULAR * eigenvalues[-1]
    root = vectors[:2, kept] / np.sqrt(eigenvalues[kept])  # first rows of a root of the inverse
    scale = (root[0] @ root[0]) * (root[1] @ root[1])
    return (float(-root[0] @ root[1] / math.sqrt(scale)) if scale > 0 else 0.0), not kept.all()


def surrogate_data(correlation: Any, n_samples: int, random_state: int = 0) -> np.ndarray:
    r"""Make samples whose correlations are exactly the given ones, for learners and tests that want data.

    .. math:: \mathbf{X} = \sqrt{n}\, \mathbf{U} \mathbf{L}^\top, \quad \mathbf{R} = \mathbf{L}\mathbf{L}^\top, \quad
        \mathbf{U}^\top\mathbf{U} = \mathbf{I}, \quad \mathbf{U}^\top\mathbf{1} = \mathbf{0}

    Args:
        correlation: Correlations :math:`\mathbf{R}`.
        n_samples: Number :math:`n` of samples, more than variables.
        random_state: Seed of the random orthonormal columns.

    Shapes:
        - **input:** ``correlation`` :math:`(m, m)`
        - **output:** :math:`(n, m)`

    Raises:
        ValueError: If the correlations are none, or there are not more samples than variables.

    Example:
        >>> X = surrogate_data([[1.0, 0.3], [0.3, 1.0]], n_samples=50)
        >>> np.corrcoef(X.T).round(12).tolist()
        [[1.0, 0.3], [0.3, 1.0]]
    """
    matrix = check_correlation(correlation)
    if n_samples <= len(matrix):
        raise ValueError(
            f"n_samples is {n_samples}; expected more than {len(matrix)}, the variables, as fewer samples cannot have "
            "these correlations"
        )
    noise = np.random.default_rng(random_state).standard_normal((n_samples, len(matrix)))
    columns = np.linalg.qr(noise - noise.mean(axis=0))[0]
    eigenvalues, vectors = np.linalg.eigh(matrix)
    if eigenvalues[0] < -_SINGULAR * eigenvalues[-1]:
        raise ValueError(
            f"correlation has the eigenvalue {eigenvalues[0]:.3g}; expected none below 0, as correlations have"
        )
    # A root by eigenvectors is one by Cholesky up to a rotation, and exists for singular correlations too.
    return math.sqrt(n_samples) * columns @ (vectors * np.sqrt(eigenvalues.clip(min=0))).T


def check_nodes(nodes: Sequence[int], size: int) -> tuple[int, ...]:
    """Read numbers of tokens, each at most once."""
    chosen = tuple(int(node) for node in nodes)
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0 or max(chosen) >= size:
        raise ValueError(f"nodes is {list(chosen)}; expected different numbers of tokens, of 0 to {size - 1}")
    return chosen


def check_correlation(values: Any) -> np.ndarray:
    matrix = np.array(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"correlation has shape {matrix.shape}; expected a square matrix")
    slack = 1e-8  # data in single precision
    wrong = not np.isfinite(matrix).all() or np.abs(matrix).max() > 1 + slack
    if wrong or np.abs(matrix - matrix.T).max() > slack or np.abs(matrix.diagonal() - 1).max() > slack:
        raise ValueError(
            "correlation is no matrix of correlations; expected finite numbers of -1 to 1, symmetric, with a diagonal "
            "of 1"
        )
    return matrix


def _read_matrix(attention: Any) -> Any:
    """Read attention as a square matrix in float64, a sparse one if it was sparse."""
    if isinstance(attention, Tensor):
        attention = attention.detach().cpu().double().numpy()
    if sparse.issparse(attention):
        matrix = sparse.csr_array(attention, dtype=np.float64)
    else:
        matrix = np.asarray(attention, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        raise ValueError(f"attention has shape {matrix.shape}; expected a square matrix, that of one head")
    return matrix
