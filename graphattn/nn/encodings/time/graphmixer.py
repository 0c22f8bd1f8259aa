"""Cosines of fixed frequencies: the time encoding of GraphMixer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphattn.nn.encodings.time.base import TimeEncoding, phases


class GraphMixerEncoding(TimeEncoding):
    r"""Encode times by cosines of fixed frequencies.

    .. math:: \Phi_i(t) = \cos\left(t\,\sqrt{C}^{-i \sqrt{C}/(C - 1)}\right), \quad i = 0, \dots, C - 1

    The grid is that of PyG's ``TemporalEncoding``, whose documented exponent :math:`(i - 1)/\sqrt{C}` is another one.

    Args:
        channels: Width of an encoding :math:`C`.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If ``channels`` is below 1.

    Example:
        >>> GraphMixerEncoding(4).frequencies().tolist()[::3]
        [1.0, 0.25]

    Reference:
        Cong et al., "Do We Really Need Complicated Model Architectures for Temporal Networks?", 2023.
    """

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        root = math.sqrt(channels)
        self.register_buffer("weight", (1 / root ** torch.linspace(0, root, channels)))

    def frequencies(self) -> Tensor:
        return self.weight.double()

    def forward(self, t: Tensor) -> Tensor:
        return phases(t, self.frequencies(), self._dtype).cos().to(self._dtype)
