from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.contracts.cases import CASES, cast


class StaysThere(TorchDispatchMode):
    """Refuse copies between host and device, and tensors that are made on the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and made.dim() and made.device.type != "cuda":
                raise AssertionError(f"{func} makes a tensor of shape {tuple(made.shape)} on {made.device}")
        return out


@pytest.mark.parametrize("name", list(CASES))
def test_forward_on_fake_cuda(name: str) -> None:
    case = CASES[name]
    module, inputs = case.build().float(), cast(case.draw(7, 15), torch.float32)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with FakeTensorMode(), torch.no_grad():
        fake = {
            key: torch.empty(value.shape, dtype=value.dtype, device="cuda") if isinstance(value, Tensor) else value
            for key, value in {**state, **{f"input {k}": v for k, v in inputs.items()}}.items()
        }
        with StaysThere():
            out = functional_call(
                module, {key: fake[key] for key in state}, (), {key: fake[f"input {key}"] for key in inputs}
            )
    assert {x.device.type for x in tree_leaves(out) if isinstance(x, Tensor)} == {"cuda"}
