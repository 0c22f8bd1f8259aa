"""The registered operators, torch.compile, and what can be said about CUDA without a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from graphattn.affinity import Affinity, DenseAffinity, SparseAffinity
from graphattn.diffusion import ConvergenceWarning, heat, neumann, pagerank, resolvent
from graphattn.diffusion.operators import stored_tensors
from graphattn.ops import scatter
from tests.diffusion.cases import CASES, features

_NAMES = ("resolvent", "resolvent_backward")


# Registered operators ################################################################################################


def _samples(name: str, case: str, storage: str, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    A = CASES[case]()
    A = (A.to_sparse() if storage == "sparse" else A.to_dense()).to(dtype)
    values, rowptr, col, *_ = stored_tensors(A, ())
    csc = A.layout.csc() if isinstance(A, SparseAffinity) else (None, None, None)
    b = torch.randn(values.size(0), A.shape[0], 3, dtype=dtype)
    factor = torch.full((values.size(0), 3), 0.05, dtype=dtype)
    solved = (A.symmetric, 1e-4, 100, False)
    if name == "resolvent":
        leaves = [x.clone().requires_grad_() for x in (values, b, factor)]
        return [
            (leaves[0], rowptr, col, *transpose, leaves[1], leaves[2], *solved)
            for transpose in ((None, None, None), csc)
        ]
    return [
        (values, rowptr, col, *csc, b, torch.randn_like(b), factor, *solved, *wanted)
        for wanted in ((True, True), (False, False))
    ]


# opcheck itself looks at .grad of the copies that it made of the arguments.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor is being:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("storage", ["sparse", "dense"])
@pytest.mark.parametrize("case", ["path", "directed", "heads_directed", "no_edges"])
@pytest.mark.parametrize("name", _NAMES)
def test_opcheck(name: str, case: str, storage: str, dtype: torch.dtype) -> None:
    op = getattr(torch.ops.graphattn_diffusion, name).default
    for args in _samples(name, case, storage, dtype):
        torch.library.opcheck(op, args)


def test_every_operator_is_checked() -> None:
    names = {n.split("::")[1] for n in torch._C._dispatch_get_all_op_names() if n.startswith("graphattn_diffusion::")}
    assert names == set(_NAMES)


# torch.compile #######################################################################################################

Inputs = dict[str, Tensor]
SIZES = [(7, 3), (11, 5), (13, 2)]


def _sparse(symmetric: bool, heads: int) -> Callable[[int], tuple[Any, Inputs]]:
    def make(n: int) -> tuple[Any, Inputs]:
        ring = torch.arange(n)
        edge_index = torch.stack([ring, ring.roll(1)])
        edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
        A = SparseAffinity(edge_index, None, (n, n))
        A.layout.csr(), A.layout.csc()
        weight = torch.rand(n, heads).repeat(2, 1) / 2
        weight = weight if symmetric else weight * torch.rand_like(weight)
        return A, {"weight": weight if heads > 1 else weight.squeeze(1)}

    return make


def _dense(symmetric: bool, heads: int) -> Callable[[int], tuple[Any, Inputs]]:
    def make(n: int) -> tuple[Any, Inputs]:
        matrix = torch.rand(heads, n, n) / n
        matrix = (matrix + matrix.transpose(1, 2)) / 2 if symmetric else matrix
        return None, {"weight": matrix if heads > 1 else matrix[0]}

    return make


def _affinity(A: SparseAffinity | None, weight: Tensor, symmetric: bool) -> Affinity:
    return DenseAffinity(weight, symmetric=symmetric) if A is None else A.with_weight(weight, symmetric=symmetric)


RULES: dict[str, Callable[..., Tensor]] = {
    "resolvent": lambda A, x, decay: resolvent(A, x, decay, radius=1.0),
    "neumann": lambda A, x, decay: neumann(A, x, decay, 3, radius=1.0),
    "pagerank": lambda A, x, decay: pagerank(A, x, decay, 3),
    "pagerank_inf": lambda A, x, decay: pagerank(A, x, decay, math.inf),
}


def _with_gradients(function: Callable[..., Tensor], A: Any, inputs: Inputs) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs.values()]
    y = function(A, *leaves)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    return [y.detach(), *torch.autograd.grad(y, leaves, cotangent)]


@pytest.mark.parametrize(
    ("rule", "make", "symmetric", "heads"),
    [
        ("resolvent", _sparse, False, 3),
        ("pagerank", _dense, False, 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("resolvent", _sparse, True, 1),
                ("resolvent", _dense, True, 3),
                ("resolvent", _dense, False, 1),
                ("neumann", _sparse, False, 3),
                ("pagerank_inf", _sparse, True, 3),
            ]
        ),
    ],
)
def test_compiled_equals_eager_without_recompiling(
    rule: str, make: Any, symmetric: bool, heads: int, reset_dynamo: None
) -> None:
    def function(A: Any, weight: Tensor, x: Tensor, decay: Tensor) -> Tensor:
        return RULES[rule](_affinity(A, weight, symmetric), x, decay)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for step, (n, channels) in enumerate(SIZES):
        A, inputs = make(symmetric, heads)(n)
        inputs |= {"x": torch.randn(n, channels), "decay": torch.tensor([0.3, 0.5, 0.7] if heads > 1 else 0.6)}
        with torch._dynamo.config.patch(error_on_recompile=step >= 2):
            found = _with_gradients(compiled, A, inputs)
        for a, b in zip(found, _with_gradients(function, A, inputs), strict=True):
            assert torch.equal(a, b)


def test_an_affinity_from_outside_keeps_its_radius(reset_dynamo: None) -> None:
    A = CASES["path"]().to(torch.float32)
    A.layout.csr()
    A.spectral_radius()
    x = features(A, dtype=torch.float32)
    compiled = torch.compile(lambda x: resolvent(A, x), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), resolvent(A, x))


def test_compiled_code_warns_and_raises(reset_dynamo: None) -> None:
    A = CASES["path"]()
    A.layout.csr()
    x = features(A)
    for strict in (False, True):
        compiled = torch.compile(
            lambda x, strict=strict: resolvent(A, x, 0.99, radius=2.0, max_iter=3, strict=strict),
            fullgraph=True,
            backend="aot_eager",
        )
        if strict:
            with pytest.raises(RuntimeError, match="resolvent did not converge"):
                compiled(x)
        else:
            with pytest.warns(ConvergenceWarning, match="resolvent did not converge"):
                compiled(x)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["resolvent", "neumann"])
def test_inductor_equals_eager(rule: str, reset_dynamo: None) -> None:
    def function(A: Any, weight: Tensor, x: Tensor, decay: Tensor) -> Tensor:
        return RULES[rule](_affinity(A, weight, False), x, decay)

    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for n, channels in SIZES:
        A, inputs = _sparse(False, 3)(n)
        inputs |= {"x": torch.randn(n, channels), "decay": torch.tensor([0.3, 0.5, 0.7])}
        for a, b in zip(_with_gradients(compiled, A, inputs), _with_gradients(function, A, inputs), strict=True):
            # Fused loops round differently, and the solver ends within 1e-6 of where it would have.
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * b.abs().max().item())


# CUDA without a GPU ##################################################################################################


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("storage", ["sparse", "dense"])
@pytest.mark.parametrize("heads", [None, 3])
@pytest.mark.parametrize("rule", [*RULES, "heat"])
def test_forward_on_fake_cuda(
    rule: str, heads: int | None, storage: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch-scatter's operators have no fake versions; without it products are those of the reference.
    monkeypatch.setattr(scatter, "serves_cuda", lambda: False)
    with FakeTensorMode():
        if storage == "sparse":
            edges = torch.empty(2, 9, dtype=torch.long, device="cuda")
            weight = torch.empty((9,) if heads is None else (9, heads), dtype=dtype, device="cuda")
            A: Affinity = SparseAffinity(edges, weight, (5, 5))
        else:
            A = DenseAffinity(torch.empty((5, 5) if heads is None else (heads, 5, 5), dtype=dtype, device="cuda"))
        x = torch.empty(5, 2, dtype=dtype, device="cuda")
        if rule == "heat":
            A = DenseAffinity(A.matrix, symmetric=True) if storage == "dense" else A.with_weight(weight, symmetric=True)
            y = heat(A, x, radius=1.0)
        else:
            y = RULES[rule](A, x, 0.5)
        assert (y.shape, y.dtype, y.device.type) == ((A @ x).shape, dtype, "cuda")


@pytest.mark.parametrize("name", _NAMES)
def test_every_operator_has_a_kernel_for_cuda(name: str) -> None:
    assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"graphattn_diffusion::{name}", "CUDA")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"graphattn_diffusion::{name}", "Meta")
