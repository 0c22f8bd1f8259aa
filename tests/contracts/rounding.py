"""The error budget of a computation in a narrow dtype, which rounding every step sets.

The reference is the same computation in float64, in which the result of every operation is rounded to the dtype: what
plain torch would give if each of its kernels were exact. A layer may be at most twice as wrong.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from tests.budget import assert_within_budget
from tests.contracts.cases import CASES, cast, run

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


def rounded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with parameters that both dtypes hold."""
    return copy.deepcopy(module).to(dtype).to(torch.float64)


def assert_within_rounding(name: str, mode: Any, device: str = "cpu") -> None:
    """Check outputs in every draw; gradients in most, as a rounding may carry a ReLU over its kink.

    Args:
        name: The case.
        mode: A dtype, or ``"autocast"``, under which the parameters are float32, and the backward runs outside of the
            region, as training loops have it.
        device: Where the case is run; what it is compared with is computed on the host.
    """
    case = CASES[name]
    dtype = torch.bfloat16 if mode == "autocast" else mode
    exact = rounded(case.build(), dtype)
    narrow = copy.deepcopy(exact).to(device, torch.float32 if mode == "autocast" else dtype)
    plain = copy.deepcopy(exact).to(dtype)
    runs: list[list[dict[str, Tensor]]] = [[], [], []]
    for _ in range(DRAWS):
        inputs = cast(case.draw(NODES, EDGES), dtype)
        wide = cast(inputs, torch.float64)
        there = {key: x.to(device) if isinstance(x, Tensor) else x for key, x in inputs.items()}
        if mode == "autocast":
            found = run(narrow, cast(there, torch.float32), torch.autocast(device, dtype=dtype))
        else:
            found = run(narrow, there)
        assert {x.device.type for x in found.values()} == {device}
        runs[0].append({key: x.cpu() for key, x in found.items()})
        if dtype == torch.float32:  # which the host computes in itself
            runs[1].append(run(plain, inputs))
        else:
            with Rounded(dtype):
                runs[1].append(run(exact, wide))
        runs[2].append(run(exact, wide))
    for key in runs[2][0]:
        result, reference, truth = (torch.stack([draw[key] for draw in draws]) for draws in runs)
        assert torch.isfinite(result).all(), key
        if name in ROUNDED_ONCE and key.startswith("output"):
            reference = truth.to(dtype)
        if key.startswith("gradient"):
            result, reference, truth = _most(result, reference, truth)
        assert_within_budget(result.to(dtype), reference.to(dtype), truth, name=key)


def _most(found: Tensor, reference: Tensor, truth: Tensor) -> list[Tensor]:
    """The draws in which a result is no further off than in the median."""
    off = (found.double() - truth).reshape(DRAWS, -1).abs().amax(1)
    kept = off.argsort()[: DRAWS // 2 + 1]
    return [x[kept] for x in (found, reference, truth)]
