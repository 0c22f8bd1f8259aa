"""Personalized PageRank of node features: the exact solution, and who computes it how."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _diffusion_data import load_planetoid, random_graph
from _measure import Runner
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import cg
from torch import Tensor
from torch_geometric.nn import APPNP
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import to_torch_csr_tensor

from graphattn import Affinity, SparseAffinity
from graphattn.diffusion import neumann, pagerank, resolvent

TELEPORT = 0.1
DECAY = 1 - TELEPORT
CHANNELS = 64
HOPS = (10, 20, 40, 80)
BACKWARD_HOPS = (5, 10, 20, 40)
EXACT_RESIDUAL = 1e-13
# Rounding of the float32 features and of the result's own sums, of its norm.
ROUNDING = 10 * torch.finfo(torch.float32).eps / TELEPORT

Propagate = Callable[[], Tensor]


@dataclass(frozen=True)
class Problem:
    """Features over a normalized graph, and where propagation ends."""

    edge_index: Tensor
    weight: Tensor
    x: Tensor
    A: SparseAffinity
    matrix: csr_array
    exact: Tensor

    def error(self, result: Tensor) -> float:
        """Return the Frobenius norm of the difference to the exact solution, relative to its own."""
        return (torch.linalg.norm(result.double() - self.exact) / torch.linalg.norm(self.exact)).item()

    def largest_error(self, result: Tensor) -> float:
        """Return the largest difference to the exact solution, relative to its largest value."""
        return ((result.double() - self.exact).abs().max() / self.exact.abs().max()).item()

    def after(self, hops: int) -> Tensor:
        """Propagate as many hops in float64 with SciPy alone."""
        start = self.x.double().numpy()
        z = start
        for _ in range(hops):
            z = DECAY * (self.matrix @ z) + TELEPORT * start
        return torch.from_numpy(z)


def make_problem(data_folder: Path | None) -> Problem:
    """Take PubMed with its features brought to 64 channels by a random projection, or a small random graph."""
    data = random_graph() if data_folder is None else load_planetoid("PubMed", data_folder)
    generator = torch.Generator().manual_seed(0)
    x = data.x @ torch.randn(data.x.size(1), CHANNELS, generator=generator)
    edge_index, weight = gcn_norm(data.edge_index, num_nodes=data.num_nodes)
    A = Affinity.from_edge_index(edge_index, weight, num_nodes=data.num_nodes, symmetric=True)
    matrix = _normalized(data.edge_index, data.num_nodes)
    return Problem(edge_index, weight, x, A, matrix, _solve_exactly(matrix, x))


def _normalized(edge_index: Tensor, nodes: int) -> csr_array:
    """Return D^-1/2 (A + I) D^-1/2 in float64."""
    ones = np.ones(edge_index.size(1))
    A = csr_array((ones, tuple(edge_index.flip(0).numpy())), shape=(nodes, nodes)) + eye_array(nodes)
    scale = diags_array(A.sum(axis=1) ** -0.5)
    return csr_array(scale @ A @ scale)


def _solve_exactly(matrix: csr_array, x: Tensor) -> Tensor:
    """Solve for every channel with SciPy's conjugate gradients; the error is at most the residual over 0.1."""
    system = eye_array(matrix.shape[0]) - DECAY * matrix
    columns = []
    for column in x.double().numpy().T:
        solution, info = cg(system, TELEPORT * column, rtol=EXACT_RESIDUAL, atol=0.0)
        if info:
            raise RuntimeError("SciPy's conjugate gradients did not reach the exact solution")
        columns.append(solution)
    return torch.from_numpy(np.stack(columns, axis=1))


@dataclass(frozen=True)
class Candidate:
    """One way to propagate, with the hops it does or the tolerance it stops at."""

    who: str
    run: Propagate
    hops: float = math.inf
    tol: float | None = None

    def __str__(self) -> str:
        return f"{self.who}, {f'{self.hops:g} hops' if self.tol is None else f'tol {self.tol:.2g}'}"


PYG = "PyG APPNP"
PYG_SPARSE = "PyG APPNP, sorted"
PAGERANK = "graphattn pagerank"
RESOLVENT = "graphattn resolvent"


def finite_candidates(problem: Problem) -> list[Candidate]:
    """Return the candidates that stop after some hops, PyG's in its cached and in its sorted form."""
    found = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        adj_t = to_torch_csr_tensor(problem.edge_index, problem.weight, size=problem.A.shape)
    for hops in HOPS:
        plain = APPNP(hops, TELEPORT, normalize=False)
        found += [
            Candidate(PYG, partial(plain, problem.x, problem.edge_index, problem.weight), hops),
            Candidate(PYG_SPARSE, partial(plain, problem.x, adj_t), hops),
            Candidate(PAGERANK, partial(pagerank, problem.A, problem.x, TELEPORT, hops), hops),
        ]
    return found


def solver(problem: Problem, tol: float) -> Candidate:
    """Return our solver at a tolerance."""

    def run() -> Tensor:
        return TELEPORT * resolvent(problem.A, problem.x, DECAY, radius=1.0, tol=tol)

    return Candidate(RESOLVENT, run, tol=tol)


def as_accurate(problem: Problem, other: Tensor) -> Candidate | None:
    """Return our solver at the loosest tolerance whose error is not above the other's, in both norms.

    There may be none where the other's error is the rounding of float32 alone.
    """
    allowed = problem.error(other), problem.largest_error(other)
    for step in range(1, 49):  # down to 1e-6, about what float32 can reach
        candidate = solver(problem, 10 ** (-step / 8))
        result = candidate.run()
        if problem.error(result) <= allowed[0] and problem.largest_error(result) <= allowed[1]:
            return candidate
    return None


def check(problem: Problem, candidate: Candidate) -> dict[str, Any]:
    """Compare a candidate with what it must give; a record that says WRONG if it does not.

    After a number of hops that is the same recurrence in float64. At a tolerance it is the exact solution, from which
    a residual of tol times the features cannot be further away than as much in the result, for 1 / (1 - decay) is the
    norm of the inverse.
    """
    result = candidate.run().detach()
    if candidate.tol is None:
        truth, budget = problem.after(int(candidate.hops)), ROUNDING
    else:
        size = torch.linalg.norm(problem.x.double()) / torch.linalg.norm(problem.exact)
        truth, budget = problem.exact, ROUNDING + candidate.tol * size.item()
    difference = (torch.linalg.norm(result.double() - truth) / torch.linalg.norm(truth)).item()
    record: dict[str, Any] = {
        "who": candidate.who,
        "hops": None if candidate.hops == math.inf else candidate.hops,
        "tol": candidate.tol,
        "difference": difference,
        "budget": budget,
        "error": problem.error(result),
        "largest_error": problem.largest_error(result),
        "status": "ok",
    }
    if not difference <= budget:
        record |= {"status": "WRONG", "reason": "further from the truth than its hops or its tolerance allow"}
    return record


def backward_runner(problem: Problem, who: str, hops: int) -> Runner:
    """Return a training step with gradients of features and edge weights, as behind learned attention."""
    x, weight = problem.x.clone().requires_grad_(), problem.weight.clone().requires_grad_()

    def run() -> Tensor:
        if who == PYG:
            return APPNP(hops, TELEPORT, normalize=False)(x, problem.edge_index, weight)
        A = problem.A.with_weight(weight)
        if who == RESOLVENT:
            return TELEPORT * resolvent(A, x, DECAY, radius=1.0)
        return TELEPORT * neumann(A, x, DECAY, hops, radius=1.0)

    return Runner(run, {"x": x, "weight": weight}, cotangent=torch.ones_like(problem.x))
