"""The one error budget of the test suite: a result may be at most twice as wrong as plain torch in the same dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def error(result: Tensor, truth: Tensor) -> float:
    """Largest absolute difference from the truth, computed in float64."""
    return (result.double() - truth.double()).abs().max().item() if truth.numel() else 0.0


def assert_within_budget(
    result: Tensor, reference_same_dtype: Tensor, truth: Tensor, *, longest_row: int = 1, name: str = "result"
) -> None:
    """Assert ``err(result) <= 2 * (err(reference in the same dtype) + eps * max|truth|)`` and that all is finite.

    Args:
        result: What is tested; its dtype sets ``eps``.
        reference_same_dtype: The same quantity from a trusted implementation in the dtype of the result.
        truth: The same quantity in float64.
        longest_row: Terms of the longest sum. Counts for float64 results only, whose truth is no more precise than
            they are.
        name: What the message calls the result.
    """
    assert truth.dtype == torch.float64, f"the truth of {name} must be float64, not {truth.dtype}"
    assert result.dtype == reference_same_dtype.dtype, f"{name}: {result.dtype} against {reference_same_dtype.dtype}"
    assert result.shape == truth.shape == reference_same_dtype.shape, (
        f"{name} has shape {tuple(result.shape)}, the reference {tuple(reference_same_dtype.shape)}, "
        f"the truth {tuple(truth.shape)}"
    )
    assert torch.isfinite(result).all(), f"{name} is not finite"
    eps = torch.finfo(result.dtype).eps * (longest_row if result.dtype == torch.float64 else 1)
    scale = truth.abs().max().item() if truth.numel() else 0.0
    budget = 2 * (error(reference_same_dtype, truth) + eps * scale)
    found = error(result, truth)
    assert found <= budget, f"{name} is off by {found:.3g}, its budget is {budget:.3g} (largest true value {scale:.3g})"
