"""Checks of arguments that both storages share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn.affinity.normalize import NORMALIZATIONS

# Normalizations that keep a symmetric affinity symmetric: they treat rows and columns alike.
KEEP_SYMMETRY = frozenset({"symmetric", "spectral", "relu_frobenius", "sigmoid", "none"})


def check_weights(name: str, x: Any) -> None:
    """Raise if ``x`` is not a floating-point tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a floating-point Tensor")
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}; expected a floating-point dtype")


def check_count(k: Any) -> None:
    """Raise if ``k`` is not a positive integer."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k is {k!r}; expected a positive integer")


def check_kind(kind: str) -> None:
    """Raise if ``kind`` is no normalization of an affinity."""
    if kind not in NORMALIZATIONS:
        raise ValueError(f"kind is {kind!r}; expected one of " + ", ".join(map(repr, [*NORMALIZATIONS, "spectral"])))


def target_options(
    dtype: torch.dtype, device: torch.device, args: Any, kwargs: Any
) -> tuple[torch.device, torch.dtype]:
    """Device and dtype that the arguments of ``Tensor.to`` ask for."""
    probe = torch.empty(0, dtype=dtype, device=device).to(*args, **kwargs)
    if not probe.is_floating_point():
        raise TypeError(f"dtype is {probe.dtype}; an affinity needs a floating-point dtype")
    return probe.device, probe.dtype
