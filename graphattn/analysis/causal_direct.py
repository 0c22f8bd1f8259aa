"""Direct causes among tokens whose order is known, read from causal attention by one triangular inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from graphattn.analysis._arrays import read_array


def direct_weights(attention: Any) -> np.ndarray:
    r"""Read the weights of direct causes from causal attention, whose order of tokens is known.

    .. math:: \mathbf{G} = \mathbf{I} - (\mathbf{D}^{-1}\mathbf{A})^{-1}, \quad
        \mathbf{D} = \operatorname{diag}(\mathbf{A})

    It is exact if the attention is :math:`(\mathbf{I} - \mathbf{G})^{-1}` with its rows scaled. It is a definition of
    this library.

    Args:
        attention: Lower-triangular attention with a positive diagonal, an array or a tensor.

    Shapes:
        - **input:** ``attention`` :math:`(..., N, N)`
        - **output:** :math:`(..., N, N)`

    Returns:
        Entry :math:`(i, j)` is the weight with which token j causes token i; zero unless j is earlier. In float64.

    Raises:
        ValueError: If the attention is not square, not finite, not lower-triangular, or has a zero on its diagonal.

    Example:
        >>> direct_weights(np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])).tolist()
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.0]]
    """
    A = read_array("attention", attention)
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"attention has shape {A.shape}; expected [..., N, N]")
    if np.triu(A, 1).any():
        raise ValueError("attention draws on later tokens; expected that of a causal mask")
    diagonal = np.diagonal(A, axis1=-2, axis2=-1)
    if (diagonal <= 0).any():
        tokens = sorted({int(token) for token in np.argwhere(diagonal <= 0)[:, -1]})
        raise ValueError(
            f"tokens {tokens} do not attend to themselves, without which direct weights are not determined; leave them "
            "out, or choose another head"
        )
    scaled = (A / diagonal[..., None]).reshape(-1, *A.shape[-2:])
    unit = np.eye(A.shape[-1])
    inverse = [solve_triangular(matrix, unit, lower=True, unit_diagonal=True) for matrix in scaled]
    return np.tril(unit - np.reshape(inverse, A.shape), -1)
