"""Mercer's time encoding: the Fourier basis of periodic kernels with learned coefficients and periods."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.nn.encodings.time.base import TimeEncoding, assign, elapsed, log_grid, phases


class MercerEncoding(TimeEncoding):
    r"""Encode times in the eigenfunctions of periodic kernels, whose eigenvalues and periods are learned.

    .. math::
        \Phi_w(t) = \left[\sqrt{c_0}, \dots, \sqrt{c_j} \cos \tfrac{j \pi t}{w}, \sqrt{c_j'} \sin \tfrac{j \pi t}{w},
        \dots\right], \quad j = 1, \dots, J

    is concatenated over :math:`k` half-periods :math:`w = 10^\theta`, which start evenly spaced between
    :math:`\theta` = 0 and 8 and stay between -6 and 12. With :math:`c_j = c_j'` the kernel is a function of the
    difference alone,

    .. math:: K(t, s) = \sum_w \left[c_0 + \sum_j c_j \cos \tfrac{j \pi (t - s)}{w}\right],

    and it is computed so, exactly for however large times. Coefficients are positive and start equal, with
    :math:`K(t, t) = 1` where they are tied.

    Args:
        channels: Width of an encoding :math:`C = k (2J + 1)`.
        harmonics: Harmonics :math:`J` of each period.
        tie: Whether :math:`c_j = c_j'`; otherwise both are free, the literal form of the paper.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If ``harmonics`` is negative, or ``channels`` no multiple of :math:`2J + 1`.

    Example:
        >>> encoding = MercerEncoding(6, harmonics=1)
        >>> encoding(torch.tensor([0, 1])).shape
        torch.Size([2, 6])
        >>> t = torch.tensor([0, 1, 2])  # the first half-period is 1, the second 10^8
        >>> torch.allclose(encoding.kernel(t, torch.tensor(0)), torch.tensor([1.0, 0.5, 1.0]))
        True

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    def __init__(self, channels: int, *, harmonics: int = 5, tie: bool = True) -> None:
        super().__init__(channels)
        if harmonics < 0:
            raise ValueError(f"harmonics is {harmonics}; expected at least 0")
        width = 2 * harmonics + 1
        if channels % width:
            nearest = max(1, round(channels / width)) * width
            raise ValueError(
                f"channels is {channels} and harmonics is {harmonics}; expected a multiple of {width} channels, the "
                f"nearest is {nearest}"
            )
        self.harmonics = harmonics
        self.tie = tie
        self.theta = nn.Parameter(torch.empty(channels // width))
        self.raw = nn.Parameter(torch.empty(channels // width, harmonics + 1 if tie else width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the half-periods to a geometric grid, and all coefficients to the same number."""
        count = self.theta.size(0)
        assign(self.theta, log_grid(0, 8, count))
        coefficient = 1 / (count * (self.harmonics + 1))
        assign(self.raw, math.log(math.expm1(coefficient)))

    @property
    def coefficients(self) -> Tensor:
        """The coefficients of the constant, then of each harmonic's cosine and sine, :math:`(k, 2J + 1)`."""
        positive = F.softplus(self.raw)
        if not self.tie:
            return positive
        return torch.cat([positive[:, :1], positive[:, 1:].repeat_interleave(2, dim=1)], dim=1)

    def frequencies(self) -> Tensor:
        """Return the angular frequencies in use, in float64: the harmonics of the first period, then of the next."""
        multiples = torch.arange(1, self.harmonics + 1, dtype=torch.float64, device=self.theta.device)
        slowest = math.pi * 10 ** -self.theta.double().clamp(-6, 12)
        return (slowest.unsqueeze(1) * multiples).flatten()

    def forward(self, t: Tensor) -> Tensor:
        angle = phases(t, self.frequencies(), self._dtype)
        waves = torch.stack([angle.cos(), angle.sin()], dim=-1)
        waves = waves.reshape(*t.shape, self.theta.size(0), 2 * self.harmonics)
        basis = torch.cat([waves.new_ones(*waves.shape[:-1], 1), waves], dim=-1)
        return (basis * self.coefficients.sqrt()).flatten(-2).to(self._dtype)

    def kernel(self, t: Tensor, s: Tensor) -> Tensor:
        if not self.tie:
            return super().kernel(t, s)
        cosines = phases(elapsed(t, s), self.frequencies(), self._dtype).cos()
        positive = F.softplus(self.raw)
        return (positive[:, 0].sum() + (cosines * positive[:, 1:].flatten()).sum(dim=-1)).to(self._dtype)

    def extra_repr(self) -> str:
        return f"{self.channels}, harmonics={self.harmonics}, tie={self.tie}"
