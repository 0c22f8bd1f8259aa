"""Affinities to diffuse over, their dense truth, and how far from it a solver may end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphattn.affinity import Affinity, ImplicitAffinity, SparseAffinity

HEADS = 3
CHANNELS = 4


def _random(n: int, seed: int, heads: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(n, n, generator=generator) < 0.3
    shape = (n, n) if heads is None else (heads, n, n)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * keep


def _signed(n: int = 17, heads: int | None = None) -> Affinity:
    matrix = _random(n, 1, heads)
    return Affinity.from_dense(matrix + matrix.transpose(-1, -2), symmetric=True)


def _edges(pairs: list[tuple[int, int]], n: int, symmetric: bool = False) -> Affinity:
    if symmetric:
        pairs = [*pairs, *[(b, a) for a, b in pairs if a != b]]
    edge_index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t()
    weight = torch.ones(len(pairs), dtype=torch.float64)
    if not symmetric:
        weight = weight + torch.arange(len(pairs), dtype=torch.float64) / 4
    return Affinity.from_edge_index(edge_index, weight, n, symmetric=symmetric)


def _isolated() -> Affinity:
    matrix = _random(12, 4).abs()
    matrix[[0, 5]] = 0.0
    matrix[:, [0, 5, 7]] = 0.0
    return Affinity.from_dense(matrix)


# All hold float64 weights; every entry is made anew, since an affinity caches its radius.
CASES: dict[str, Callable[[], Affinity]] = {
    "signed_symmetric": _signed,
    "bipartite": lambda: _edges([(0, j) for j in range(1, 9)], 9, symmetric=True),
    "path": lambda: _edges([(i, i + 1) for i in range(40)], 41, symmetric=True),
    "two_components": lambda: _edges([(0, 1), (1, 2), (2, 0), (3, 4)], 6, symmetric=True),
    "directed": lambda: Affinity.from_dense(_random(15, 2)),
    "directed_cycle": lambda: _edges([(i, (i + 1) % 40) for i in range(40)], 40),
    "acyclic": lambda: _edges([(i, j) for i in range(9) for j in range(i + 1, 9) if (i + j) % 2], 9),
    "duplicates": lambda: _edges([(0, 1), (0, 1), (1, 2), (2, 0), (2, 0), (2, 2)], 3),
    "isolated": _isolated,
    "no_edges": lambda: _edges([], 5),
    "one_node": lambda: _edges([], 1),
    "one_loop": lambda: _edges([(0, 0)], 1, symmetric=True),
    "heads_symmetric": lambda: _signed(heads=HEADS),
    "heads_directed": lambda: Affinity.from_dense(_random(11, 3, HEADS)),
}
STORAGES = ("sparse", "dense", "implicit")


def stored(A: Affinity, storage: str) -> Affinity:
    """The same affinity in another storage; implicit ones have no heads."""
    if storage == "sparse":
        return A.to_sparse()
    if storage == "dense":
        return A.to_dense()
    matrix = A.to_dense().matrix
    return ImplicitAffinity.from_rows(
        lambda start, stop: matrix[start:stop], A.shape, symmetric=A.symmetric, block_size=4, dtype=matrix.dtype
    )


def pairs() -> list[tuple[str, str]]:
    return [(name, storage) for name in CASES for storage in STORAGES if storage != "implicit" or "heads" not in name]


def features(A: Affinity, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(A.shape[0], *(shape or (CHANNELS,)), dtype=dtype)


def given_radius(A: Affinity) -> Tensor:
    """What an affinity is divided by, from its dense matrix."""
    matrix = A.to_dense().matrix.double()
    if A.symmetric:
        radius = torch.linalg.eigvalsh(matrix).abs().amax(-1)
    else:
        size = matrix.abs()
        radius = torch.minimum(size.sum(-1).amax(-1), size.sum(-2).amax(-1))
    return torch.where(radius == 0, 1.0, radius)


def system(A: Affinity, decay: float | Tensor, radius: Tensor) -> Tensor:
    """The dense matrix I - (decay / radius) A, float64, one a head."""
    factor = torch.as_tensor(decay / radius).double()
    matrix = A.to_dense().matrix.double()
    return torch.eye(matrix.size(-1), dtype=torch.float64) - factor.reshape(*factor.shape, 1, 1) * matrix


def dense_truth(matrix: Tensor, x: Tensor) -> Tensor:
    """Solve the dense system; ``x [N, C]`` or ``[N, H, C]``."""
    if matrix.dim() == 2:
        return torch.linalg.solve(matrix, x.double().flatten(1)).reshape(x.shape)
    x = x.double().transpose(0, 1) if x.dim() == 3 else x.double()
    return torch.linalg.solve(matrix, x.expand(matrix.size(0), *x.shape[-2:])).transpose(0, 1)


def assert_solves(y: Tensor, matrix: Tensor, x: Tensor, tol: float, name: str = "the solution") -> None:
    """Assert that ``y`` is as near to the truth as a relative residual of ``tol`` and rounding allow.

    The error is the inverse applied to the residual: at most ``|inverse| (tol + rounding) |x|`` in each column.
    """
    truth = dense_truth(matrix, x)
    assert y.shape == truth.shape, f"{name} has shape {tuple(y.shape)}, the truth {tuple(truth.shape)}"
    assert torch.isfinite(y).all(), f"{name} is not finite"
    inverse = torch.linalg.matrix_norm(torch.linalg.inv(matrix), 2)
    rounding = matrix.size(-1) * torch.finfo(y.dtype).eps * torch.linalg.matrix_norm(matrix, 2) * inverse
    allowed = inverse * (tol + rounding)
    if matrix.dim() == 3:
        allowed = allowed.unsqueeze(1)
    error = (y.double() - truth).norm(dim=0)
    size = x.double().norm(dim=0)
    excess = (error / (allowed * size.expand_as(error)).clamp_min(1e-300)).max().item()
    assert excess <= 1, f"{name} is {excess:.3g} times further from the truth than its residual allows"


def permuted(A: SparseAffinity, order: Tensor) -> SparseAffinity:
    """Relabel nodes: node i becomes ``order[i]``."""
    return SparseAffinity(order[A.edge_index], A.weight, A.shape, symmetric=A.symmetric)
