"""Sums of harmonics, one channel a period: the released code's form of Mercer's time encoding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphattn.nn.encodings.time.base import TimeEncoding, assign, log_grid, phases


class MercerSumEncoding(TimeEncoding):
    r"""Encode times by one sum of harmonics for each learned period.

    .. math::
        \Phi_i(t) = b_i + \sum_{j=1}^{J} \left(a_{ij} \sin \tfrac{j t}{p_i} + a_{ij}' \cos \tfrac{j t}{p_i}\right),
        \quad p_i = 10^{\theta_i}

    It is what the authors' own runs use (``--time_basis``). Unlike :class:`MercerEncoding` it has no kernel of the
    difference alone. Periods start evenly spaced between :math:`\theta` = 0 and 8.

    Args:
        channels: Width of an encoding :math:`C`, the number of periods.
        harmonics: Harmonics :math:`J` of each period.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If an argument is below 1.

    Example:
        >>> encoding = MercerSumEncoding(1, harmonics=1)
        >>> _ = encoding.weight.data.copy_(torch.tensor([[0.0, 1.0]]))
        >>> torch.allclose(encoding(torch.tensor([0, 2])), torch.tensor([[0.0], [2.0]]).cos())
        True

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    def __init__(self, channels: int, *, harmonics: int = 5) -> None:
        super().__init__(channels)
        if harmonics < 1:
            raise ValueError(f"harmonics is {harmonics}; expected at least 1")
        self.harmonics = harmonics
        self._add_periods()
        self.weight = nn.Parameter(torch.empty(channels, 2 * harmonics))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the periods to a geometric grid and the bias to 0, and draw the weights by Glorot's rule."""
        self._reset_periods()
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def frequencies(self) -> Tensor:
        """Return the angular frequencies in use, in float64: the harmonics of the first period, then of the next."""
        multiples = torch.arange(1, self.harmonics + 1, dtype=torch.float64, device=self.theta.device)
        return (10 ** -self.theta.double().unsqueeze(1) * multiples).flatten()

    def forward(self, t: Tensor) -> Tensor:
        angle = phases(t, self.frequencies(), self._dtype).unflatten(-1, (self.channels, self.harmonics))
        sines, cosines = self.weight.chunk(2, dim=1)
        return ((angle.sin() * sines + angle.cos() * cosines).sum(dim=-1) + self.bias).to(self._dtype)

    def extra_repr(self) -> str:
        return f"{self.channels}, harmonics={self.harmonics}"

    def _add_periods(self) -> None:
        self.theta = nn.Parameter(torch.empty(self.channels))

    def _reset_periods(self) -> None:
        assign(self.theta, log_grid(0, 8, self.channels))
