"""bfloat16, float16 and autocast, forward and backward, within an error budget that is set by rounding every step.

The reference is the same computation in float64, in which the result of every operation is rounded to the dtype: what
plain torch would give if each of its kernels were exact. A layer may be at most twice as wrong.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from tests.budget import assert_within_budget
from tests.contracts.cases import CASES, cast, run

LOW = [torch.bfloat16, torch.float16]
DRAWS, NODES, EDGES = 8, 8, 17
# Computed in at least float32 and rounded once, whatever the dtype: no step counts but the last.
ROUNDED_ONCE = {"rotary", "sinusoidal", "learned", *(name for name in CASES if name.startswith("time-"))}
EXCEPTIONS = {"peer-sgformer": "PyG's attention of this network takes float32 alone"}


class Rounded(TorchDispatchMode):
    """Round what every operation returns to a narrower dtype, and go on in the wide one."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        if func._schema.is_mutable:
            return tree_map(lambda x: x.copy_(self._round(x)) if isinstance(x, Tensor) else x, out)
        return tree_map(self._round, out)

    def _round(self, x: Any) -> Any:
        return x.to(self.dtype).to(x.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def _rounded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with parameters that both dtypes hold."""
    return copy.deepcopy(module).to(dtype).to(torch.float64)


@pytest.mark.parametrize("mode", [*LOW, "autocast"], ids=str)
@pytest.mark.parametrize("name", [name for name in CASES if name not in EXCEPTIONS])
def test_within_budget(name: str, mode: Any) -> None:
    """Outputs in every draw; gradients in most, as a rounding may carry a ReLU over its kink.

    Under autocast the parameters are float32, and the backward runs outside of the region, as training loops have it.
    """
    case = CASES[name]
    dtype = torch.bfloat16 if mode == "autocast" else mode
    exact = _rounded(case.build(), dtype)
    narrow = copy.deepcopy(exact).to(torch.float32 if mode == "autocast" else dtype)
    runs: list[list[dict[str, Tensor]]] = [[], [], []]
    for _ in range(DRAWS):
        inputs = cast(case.draw(NODES, EDGES), dtype)
        wide = cast(inputs, torch.float64)
        if mode == "autocast":
            runs[0].append(run(narrow, cast(inputs, torch.float32), torch.autocast("cpu", dtype=dtype)))
        else:
            runs[0].append(run(narrow, inputs))
        with Rounded(dtype):
            runs[1].append(run(exact, wide))
        runs[2].append(run(exact, wide))
    for key in runs[2][0]:
        found, reference, truth = (torch.stack([draw[key] for draw in draws]) for draws in runs)
        assert torch.isfinite(found).all(), key
        if name in ROUNDED_ONCE and key.startswith("output"):
            reference = truth.to(dtype)
        if key.startswith("gradient"):
            found, reference, truth = _most(found, reference, truth)
        assert_within_budget(found.to(dtype), reference.to(dtype), truth, name=key)


def _most(found: Tensor, reference: Tensor, truth: Tensor) -> list[Tensor]:
    """The draws in which a result is no further off than in the median."""
    off = (found.double() - truth).reshape(DRAWS, -1).abs().amax(1)
    kept = off.argsort()[: DRAWS // 2 + 1]
    return [x[kept] for x in (found, reference, truth)]


# Whose sums over many alike neighbours stay in the range of float16; the scores have a test in tests/nn.
_OVER_HUBS = (
    "conv-row",
    "conv-symmetric",
    "conv-sinkhorn",
    "conv-relu_frobenius",
    "conv-hops",
    "diffusion-sgc",
    "diffusion-katz",
    "attention-net-hops",
)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", _OVER_HUBS)
def test_a_hub(name: str, dtype: torch.dtype) -> None:
    """70,000 equal logits overflow a sum of float16 and stall one of bfloat16; sixteen roundings are allowed."""
    n = 70_000
    exact = _rounded(CASES[name].build(), dtype)
    x = CASES[name].draw(1, 5)["x"].to(dtype).expand(n, -1)
    star = torch.stack([torch.arange(n), torch.zeros(n, dtype=torch.long)])
    with torch.no_grad():
        found = copy.deepcopy(exact).to(dtype)(x=x, edge_index=star)[0]
        truth = exact(x=x.double(), edge_index=star)[0]
    assert torch.isfinite(found).all()
    assert (found.double() - truth).abs().max() <= 16 * torch.finfo(dtype).eps * truth.abs().max()
