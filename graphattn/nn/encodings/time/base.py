"""What every encoding of continuous time shares: checked times, exact differences, and the kernel it stands for."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

_PART = 1 << 15  # angles in float64 that fit in a core's cache


class TimeEncoding(nn.Module):
    r"""Map times to vectors whose products are a kernel; the base class of all time encodings.

    .. math:: K(t, s) = \langle \Phi(t), \Phi(s) \rangle

    Times are int64 or float64: between neighbouring numbers of float32 lie 128 seconds today. Differences of int64 are
    exact, and so are kernels of the difference; an encoding rounds nanoseconds since 1970 to 256 of them, so that a
    near time is better subtracted first. A subclass defines :meth:`frequencies`, :meth:`reset_parameters` and
    :meth:`forward`.

    Args:
        channels: Width of an encoding :math:`C`.

    Raises:
        ValueError: If ``channels`` is below 1.

    Example:
        >>> class Cosine(TimeEncoding):
        ...     def frequencies(self):
        ...         return torch.ones(1, dtype=torch.float64)
        ...     def forward(self, t):
        ...         return phases(t, self.frequencies(), torch.float32).cos()
        >>> Cosine(1).kernel(torch.tensor([0]), torch.tensor([3]))
        tensor([-0.9900])

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels is {channels}; expected at least 1")
        self.channels = channels

    def reset_parameters(self) -> None:
        """Set all parameters anew."""

    def frequencies(self) -> Tensor:
        """Return the angular frequencies in use, in float64."""
        raise NotImplementedError(f"{type(self).__name__} does not define frequencies()")

    def forward(self, t: Tensor) -> Tensor:
        """Encode times.

        Args:
            t: Times, int64 or float64.

        Shapes:
            - **input:** any shape
            - **output:** that shape and :math:`C`

        Returns:
            The encodings, in the dtype of the module.

        Raises:
            TypeError: If ``t`` is not a tensor of int64 or float64.
            ValueError: If a time is NaN or infinite (on the CPU).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward(t)")

    def kernel(self, t: Tensor, s: Tensor) -> Tensor:
        """Return the products of the encodings of two times.

        Args:
            t: Times, int64 or float64.
            s: Times that broadcast with ``t``.

        Returns:
            One number for each pair, in the dtype of the module.

        Raises:
            TypeError: If a time is not of int64 or float64.
            ValueError: If a time is NaN or infinite (on the CPU).
        """
        t, s = torch.broadcast_tensors(check_times("t", t), check_times("s", s))
        encoded = self(torch.stack([t, s]))  # one call, so that drawn frequencies serve both
        return (encoded[0] * encoded[1]).sum(dim=-1)

    def diagnose(self, t: Tensor) -> float:
        """Return the fraction of channels that are all but constant over some times: a variance below 1e-6.

        Args:
            t: Times, int64 or float64, two at least.

        Raises:
            ValueError: If there are fewer than two times.

        Example:
            >>> from graphattn.nn.encodings.time import BochnerEncoding
            >>> BochnerEncoding(4).diagnose(torch.arange(60))  # a minute: one pair of frequencies is far too low
            0.5
        """
        if t.numel() < 2:
            raise ValueError(f"t has {t.numel()} times; expected at least 2")
        variance = self(t).detach().double().reshape(-1, self.channels).var(dim=0)
        return float((variance < 1e-6).double().mean())

    def extra_repr(self) -> str:
        return f"{self.channels}"

    @property
    def _dtype(self) -> torch.dtype:
        """The dtype of the encodings: that of the module's first parameter or buffer."""
        return next(itertools.chain(self.parameters(), self.buffers())).dtype


def check_times(name: str, t: Tensor) -> Tensor:
    """Return times, or raise unless they are finite numbers of int64 or float64."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} is a {type(t).__name__}; expected a Tensor of times, int64 or float64")
    if t.dtype not in (torch.int64, torch.float64):
        raise TypeError(
            f"{name} has dtype {t.dtype}; expected int64 or float64, which do not round seconds away: convert times "
            "before they are subtracted"
        )
    readable = t.device.type == "cpu" and not torch.compiler.is_compiling()
    if readable and t.is_floating_point() and not bool(t.isfinite().all()):
        raise ValueError(f"{name} contains NaN or infinity; expected finite times")
    return t


def elapsed(t: Tensor, s: Tensor) -> Tensor:
    """Return t - s in float64; integers are subtracted as integers, so that nanoseconds of an epoch survive."""
    return (check_times("t", t) - check_times("s", s)).double()


def phases(t: Tensor, frequencies: Tensor, dtype: torch.dtype, shift: Tensor | None = None) -> Tensor:
    """Angles ``t * frequencies + shift`` in (-2 pi, 2 pi), in at least float32.

    Whole turns are taken off in float64: sines of float32 then lose nothing at large times.
    """
    times = check_times("t", t).double().flatten()
    shift = torch.zeros_like(frequencies) if shift is None else shift
    # torch.compile cannot trace the function with a gradient of its own in a network of several layers.
    find = _angles if torch.compiler.is_compiling() else _Phases.apply
    angle = find(times, frequencies, shift, torch.promote_types(dtype, torch.float32))
    return angle.view(*t.shape, frequencies.numel())


def _angles(t: Tensor, frequencies: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """Count angles in turns, for a fraction is far faster than a remainder."""
    turns = torch.addr(shift / (2 * math.pi), t, frequencies / (2 * math.pi))
    return turns.frac_().mul_(2 * math.pi).to(dtype)


def _angles_in_parts(t: Tensor, frequencies: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """Take some times after the other, so that the float64 of all is never made: it would leave the cache."""
    angles = t.new_empty(t.numel(), frequencies.numel(), dtype=dtype)
    rows = max(1, _PART // max(frequencies.numel(), 1))
    for part, times in zip(angles.split(rows), t.split(rows), strict=True):
        part.copy_(_angles(times, frequencies, shift, t.dtype))
    return angles


class _Phases(torch.autograd.Function):
    """Angles whose gradients stay in their dtype."""

    @staticmethod
    def forward(t: Tensor, frequencies: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
        find = _angles_in_parts if t.device.type == "cpu" else _angles
        return find(t, frequencies, shift, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_t, of_frequencies, of_shift, _ = ctx.needs_input_grad
        t, frequencies = (values.to(grad.dtype) for values in ctx.saved_tensors)
        found = grad @ frequencies if of_t else None, t @ grad if of_frequencies else None
        return *found, grad.sum(dim=0) if of_shift else None, None


def log_grid(low: float, high: float, steps: int) -> Tensor:
    """Exponents of 10 of initial frequencies and periods."""
    return torch.linspace(low, high, steps, dtype=torch.float64)


def assign(parameter: Tensor, values: Tensor | float) -> None:
    """Set a parameter in place, whatever the dtype of the values."""
    with torch.no_grad():
        parameter.copy_(values) if isinstance(values, Tensor) else parameter.fill_(values)
