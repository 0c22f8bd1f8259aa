"""Dropout against its definition, and against PyTorch's where the two share their numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from graphattn.nn.dropout import drop


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_entries_are_zeroed_or_scaled(p: float, dtype: torch.dtype) -> None:
    x = (torch.rand(200, 100) + 1).to(dtype).requires_grad_()
    y = drop(x, p)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == dtype
    # One factor for all that stay, in values and gradients alike.
    factor = torch.ones((), dtype=dtype).div(1.0 - p)
    kept = y != 0
    assert torch.equal(grad, torch.where(kept, factor, 0.0))
    assert torch.equal(y, torch.where(kept, x * factor, 0.0))
    assert kept.double().mean().item() == pytest.approx(1 - p, abs=5 * math.sqrt(p * (1 - p) / 20_000))


def test_nothing_is_lost_without_need() -> None:
    x = torch.rand(5)
    assert drop(x, 0.7, training=False) is x
    assert torch.equal(drop(x, 0.0), x)
    assert torch.equal(drop(x, 1.0), torch.zeros(5))
    for p in (-0.1, 1.5):
        with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
            drop(x, p)


def test_a_seed_gives_the_same_again() -> None:
    x = torch.ones(1000)
    torch.manual_seed(2)
    first = drop(x, 0.5)
    again = drop(x, 0.5)
    torch.manual_seed(2)
    assert torch.equal(drop(x, 0.5), first)
    assert not torch.equal(again, first)


def test_compiled_and_on_other_devices_it_is_pytorchs() -> None:
    x = torch.rand(64, 3)
    compiled = torch.compile(drop, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    found = compiled(x, 0.3)
    torch.manual_seed(1)
    assert torch.equal(found, F.dropout(x, 0.3))
    with FakeTensorMode():
        assert drop(torch.empty(4, device="cuda"), 0.5).device.type == "cuda"
