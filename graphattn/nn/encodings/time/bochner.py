"""Bochner's time encoding with learned frequencies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphattn.nn.encodings.time.base import TimeEncoding, assign, log_grid, phases
from graphattn.nn.encodings.time.pairs import PairEncoding


class BochnerEncoding(PairEncoding):
    r"""Encode times by cosines and sines of learned frequencies.

    .. math::
        \Phi(t) = \sqrt{1/d}\,[\cos \omega_1 t, \sin \omega_1 t, \dots, \cos \omega_d t, \sin \omega_d t], \quad
        \omega_i = 10^{-\theta_i}

    The kernel :math:`K(t, s) = \tfrac{1}{d} \sum_i \cos \omega_i (t - s)` depends on the difference alone and is 1 at
    0. The exponents :math:`\theta` are learned and start evenly spaced between 0 and 8: periods from 6 seconds to 20
    years, if times are seconds.

    Args:
        channels: Width of an encoding :math:`C = 2d`, even.
        compat: ``"xu2019"`` for the released code: exponents of the sines and of the cosines of their own, all sines
            before all cosines, and a learned factor for each channel in place of :math:`\sqrt{1/d}`. Its kernel
            depends on more than the difference as soon as the exponents part.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If ``channels`` is odd or below 2, or ``compat`` is unknown.

    Example:
        >>> encoding = BochnerEncoding(4)
        >>> pair = torch.tensor([3.0]).cos(), torch.tensor([3.0]).sin()  # the first frequency is 1
        >>> torch.allclose(encoding(torch.tensor(3))[:2], torch.cat(pair) / 2**0.5)
        True
        >>> encoding.kernel(torch.tensor(5), torch.tensor(5)).item()
        1.0

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    def __init__(self, channels: int, *, compat: str | None = None) -> None:
        super().__init__(channels, compat=compat)
        count = channels // 2 if compat is None else channels
        self.theta = nn.Parameter(torch.empty(count))
        self.beta = None if compat is None else nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the exponents to an even grid between 0 and 8."""
        grid = log_grid(0, 8, self.channels // 2)
        assign(self.theta, grid if self.beta is None else torch.cat([grid, grid]))
        if self.beta is not None:
            assign(self.beta, 1.0)

    def frequencies(self) -> Tensor:
        """Return the angular frequencies in float64; with ``compat`` those of the sines, then those of the cosines."""
        return 10 ** -self.theta.double()

    def forward(self, t: Tensor) -> Tensor:
        if self.beta is None:
            return super().forward(t)
        sines, cosines = phases(t, self.frequencies(), self._dtype).chunk(2, dim=-1)
        return torch.cat([sines.sin(), cosines.cos()], dim=-1).to(self._dtype) * self.beta

    def kernel(self, t: Tensor, s: Tensor) -> Tensor:
        return super().kernel(t, s) if self.beta is None else TimeEncoding.kernel(self, t, s)
