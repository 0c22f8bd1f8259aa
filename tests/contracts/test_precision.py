"""bfloat16, float16 and autocast, forward and backward, within the error budget of rounding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.contracts.cases import CASES
from tests.contracts.rounding import EXCEPTIONS, assert_within_rounding, rounded

LOW = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("mode", [*LOW, "autocast"], ids=str)
@pytest.mark.parametrize("name", [name for name in CASES if name not in EXCEPTIONS])
def test_within_budget(name: str, mode: Any) -> None:
    assert_within_rounding(name, mode)


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
    exact = rounded(CASES[name].build(), dtype)
    x = CASES[name].draw(1, 5)["x"].to(dtype).expand(n, -1)
    star = torch.stack([torch.arange(n), torch.zeros(n, dtype=torch.long)])
    with torch.no_grad():
        found = copy.deepcopy(exact).to(dtype)(x=x, edge_index=star)[0]
        truth = exact(x=x.double(), edge_index=star)[0]
    assert torch.isfinite(found).all()
    assert (found.double() - truth).abs().max() <= 16 * torch.finfo(dtype).eps * truth.abs().max()
