"""Sines and cosines of a position at geometrically spaced frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SinusoidalEncoding(nn.Module):
    r"""Encode positions by sines and cosines of geometrically spaced frequencies.

    .. math::
        \mathrm{PE}(p)_{2i} = \sin(\omega_i\,p), \quad \mathrm{PE}(p)_{2i + 1} = \cos(\omega_i\,p), \quad
        \omega_i = b^{-2i/C}, \quad i = 0, \dots, C/2 - 1

    The product of two encodings is a function of the distance alone,
    :math:`\langle\mathrm{PE}(p), \mathrm{PE}(q)\rangle = \sum_i \cos(\omega_i\,(p - q))`. Positions are any numbers:
    places in a sequence, graph distances, times. The angles are computed in float64, so that large positions lose
    nothing.

    Args:
        channels: Width of an encoding :math:`C`, even.
        base: The base :math:`b` of the frequencies.
        compat: ``"pyg"`` for the encoding of PyG's ``PositionalEncoding(channels, base_freq=1 / base)``: all sines
            before all cosines, and frequencies :math:`b^{-i/(C/2 - 1)}`, which reach :math:`1/b`.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If an argument is out of range or unknown.

    Example:
        >>> SinusoidalEncoding(4)(torch.tensor([0, 1]))
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.8415, 0.5403, 0.0100, 0.9999]])

    Reference:
        Vaswani et al., "Attention Is All You Need", 2017.
    """

    def __init__(self, channels: int, *, base: float = 10000.0, compat: str | None = None) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels is {channels}; expected an even number of at least 2, a sine and a cosine each")
        check_base(base)
        if compat not in (None, "pyg"):
            raise ValueError(f"compat is {compat!r}; expected None or 'pyg'")
        self.channels = channels
        self.base = base
        self.compat = compat

    def forward(self, pos: Tensor) -> Tensor:
        """Encode positions.

        Args:
            pos: Positions, integers or real numbers.

        Returns:
            The encodings, in the dtype of ``pos``; in torch's default dtype for integers.

        Raises:
            TypeError: If ``pos`` is not a tensor of real numbers.
        """
        dtype = check_positions(pos)
        dtype = dtype if pos.is_floating_point() else torch.get_default_dtype()
        if self.compat == "pyg":
            half = self.channels // 2
            angle = angles(pos, torch.linspace(0, 1, half, dtype=torch.float64, device=pos.device), self.base, dtype)
            return torch.cat([angle.sin(), angle.cos()], dim=-1).to(dtype)
        angle = angles(pos, exponents(self.channels, pos.device), self.base, dtype)
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2).to(dtype)

    def extra_repr(self) -> str:
        return f"{self.channels}, base={self.base}"


def exponents(channels: int, device: torch.device) -> Tensor:
    """The exponents 2i/C of the frequencies of so many channels, two of each."""
    return torch.arange(0, channels, 2, dtype=torch.float64, device=device) / channels


def angles(pos: Tensor, exponent: Tensor, base: float, dtype: torch.dtype) -> Tensor:
    """Angles ``pos * base^-exponent`` in [0, 2 pi), in at least float32.

    Their whole turns are taken off in float64: sines of float32 are then as good for the millionth position as for
    the first, at a fraction of the time that sines of float64 take.
    """
    angle = pos.unsqueeze(-1).double() * base**-exponent
    return angle.remainder(2 * math.pi).to(torch.promote_types(dtype, torch.float32))


def check_base(base: float) -> None:
    """Raise unless the frequencies are finite and do not grow."""
    if not 1 <= base < math.inf:
        raise ValueError(f"base is {base!r}; expected a finite number of at least 1")


def check_positions(pos: Tensor) -> torch.dtype:
    """Raise unless ``pos`` is a tensor of real numbers; return its dtype."""
    if not isinstance(pos, Tensor):
        raise TypeError(f"pos is a {type(pos).__name__}; expected a Tensor of positions")
    if pos.dtype == torch.bool or pos.is_complex():
        raise TypeError(f"pos has dtype {pos.dtype}; expected integers or real numbers")
    return pos.dtype
