"""Sums of sines and cosines, all of whose periods are free."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphattn.nn.encodings.time.base import assign, log_grid
from graphattn.nn.encodings.time.mercer_sum import MercerSumEncoding


class MercerFlexEncoding(MercerSumEncoding):
    r"""Encode times by sums of sines and cosines, each of a learned period of its own.

    .. math::
        \Phi_i(t) = b_i + \sum_{j=1}^{J} \left(a_{ij} \sin \tfrac{t}{p_{ij}} + a_{ij}' \cos \tfrac{t}{p_{ij}}\right),
        \quad p_{ij} = 2 \pi\,10^{8 i / (C - 1)} / j \text{ at first}, \quad i = 0, \dots, C - 1

    Args:
        channels: Width of an encoding :math:`C`.
        harmonics: Terms :math:`J` of each channel.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If an argument is below 1.

    Example:
        >>> encoding = MercerFlexEncoding(2, harmonics=3)
        >>> (2 * math.pi * encoding.frequencies()[:3]).round().tolist()
        [1.0, 2.0, 3.0]

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    def frequencies(self) -> Tensor:
        """Return the angular frequencies in use, in float64: those of the first channel, then of the next."""
        return 1 / self.period.double().flatten()

    def _add_periods(self) -> None:
        self.period = nn.Parameter(torch.empty(self.channels, self.harmonics))

    def _reset_periods(self) -> None:
        longest = 2 * math.pi * 10 ** log_grid(0, 8, self.channels).unsqueeze(1)
        assign(self.period, longest / torch.arange(1, self.harmonics + 1))
