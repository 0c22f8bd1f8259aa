"""Rotations of channel pairs by a position, so that products of queries and keys see relative positions alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphattn.nn.encodings.sinusoidal import angles, check_base, check_positions, exponents

_LAYOUTS = ("interleaved", "half")


class RotaryEncoding(nn.Module):
    r"""Rotate pairs of channels by angles proportional to a position.

    .. math::
        \mathbf{R}_p\,\mathbf{x} = \bigoplus_i
        \begin{pmatrix} \cos \omega_i p & -\sin \omega_i p \\ \sin \omega_i p & \cos \omega_i p \end{pmatrix}
        \begin{pmatrix} x_{2i} \\ x_{2i+1} \end{pmatrix}, \quad \omega_i = b^{-2i/C}

    Queries and keys rotated so have products
    :math:`\langle\mathbf{R}_p\,\mathbf{q}, \mathbf{R}_r\,\mathbf{k}\rangle` that depend on :math:`p - r` alone; norms
    stay. Positions are any numbers: places in a sequence, distances from a landmark, times. Several coordinates share
    the channels out among them, an equal block of consecutive channels each (axial), and relative positions are then
    differences in every coordinate. Values are not rotated.

    Args:
        channels: Channels of a head :math:`C`, a multiple of twice ``coordinates``.
        base: The base :math:`b` of the frequencies.
        layout: ``"interleaved"`` pairs neighbours :math:`(2i, 2i + 1)`, as the paper does; ``"half"`` pairs
            :math:`(i, i + C/2)`, as the Llama models of ``transformers`` do, another function of the same weights.
        coordinates: Coordinates of a position :math:`P`.

    Shapes:
        - **input:** ``x`` :math:`(*, C)`, ``pos`` of a shape that broadcasts to :math:`(*)`, followed by :math:`P` if
          there are several coordinates: :math:`(N, 1)` or :math:`(N, 1, P)` for ``x`` :math:`(N, H, C)`
        - **output:** :math:`(*, C)`

    Raises:
        ValueError: If an argument is out of range or unknown.

    Example:
        >>> rotary = RotaryEncoding(2)
        >>> rotary(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
        tensor([[1.0000, 0.0000],
                [0.5403, 0.8415]])

    Reference:
        Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
    """

    def __init__(
        self, channels: int, *, base: float = 10000.0, layout: str = "interleaved", coordinates: int = 1
    ) -> None:
        super().__init__()
        if coordinates < 1:
            raise ValueError(f"coordinates is {coordinates}; expected at least 1")
        if channels < 1 or channels % (2 * coordinates):
            raise ValueError(
                f"channels is {channels}; expected a multiple of {2 * coordinates}: pairs of channels for "
                f"{'each coordinate' if coordinates > 1 else 'the position'}"
            )
        check_base(base)
        if layout not in _LAYOUTS:
            raise ValueError(f"layout is {layout!r}; expected one of {', '.join(map(repr, _LAYOUTS))}")
        self.channels = channels
        self.base = base
        self.layout = layout
        self.coordinates = coordinates

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """Rotate queries or keys.

        Args:
            x: Queries or keys.
            pos: Their positions, integers or real numbers.

        Returns:
            The rotated ``x``, in its dtype, computed in at least float32.

        Raises:
            ValueError: If a shape does not fit.
            TypeError: If ``x`` is not a floating-point tensor or ``pos`` not one of real numbers.
        """
        check_positions(pos)
        if not isinstance(x, Tensor) or not x.is_floating_point():
            found = f"has dtype {x.dtype}" if isinstance(x, Tensor) else f"is a {type(x).__name__}"
            raise TypeError(f"x {found}; expected a floating-point Tensor")
        if x.dim() < 1 or x.size(-1) != self.channels:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected {self.channels} channels last")
        if self.coordinates > 1 and (pos.dim() < 1 or pos.size(-1) != self.coordinates):
            raise ValueError(f"pos has shape {tuple(pos.shape)}; expected {self.coordinates} coordinates last")
        where = pos.shape[:-1] if self.coordinates > 1 else pos.shape
        if len(where) >= x.dim() or any(
            found not in (1, size) for found, size in zip(reversed(where), reversed(x.shape[:-1]), strict=False)
        ):
            raise ValueError(f"pos has shape {tuple(pos.shape)}; it does not broadcast over x {tuple(x.shape)}")

        width = self.channels // self.coordinates
        angle = angles(pos, exponents(width, pos.device), self.base, x.dtype)
        if self.coordinates == 1:
            angle = angle.unsqueeze(-2)
        wide = x.to(angle.dtype)
        if self.layout == "interleaved":
            pairs = wide.unflatten(-1, (self.coordinates, width // 2, 2))
        else:
            pairs = wide.unflatten(-1, (self.coordinates, 2, width // 2)).transpose(-1, -2)
        first, second = pairs.unbind(-1)
        cos, sin = angle.cos(), angle.sin()
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
        if self.layout == "half":
            turned = turned.transpose(-1, -2)
        return turned.flatten(-3).to(x.dtype)

    def extra_repr(self) -> str:
        coordinates = f", coordinates={self.coordinates}" if self.coordinates > 1 else ""
        return f"{self.channels}, base={self.base}, layout={self.layout!r}{coordinates}"
