"""Bochner's time encoding with random periods: what learning has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from graphattn.nn.encodings.time.pairs import RandomPairEncoding

_LONGEST = 1e8


class RandomBochnerEncoding(RandomPairEncoding):
    r"""Encode times by cosines and sines of frequencies with random periods, in ascending order.

    .. math:: \omega_i = 1/p_i, \quad p_i \sim \mathcal{U}(1, 10^8)

    Nothing is learned: it is the ablation of the paper. In training every call draws anew; in evaluation the
    periods are the middle quantiles, so that two calls agree.

    Args:
        channels: Width of an encoding :math:`C = 2d`, even.
        compat: ``"xu2019"`` for the released code: all sines before all cosines without :math:`\sqrt{1/d}`, new draws
            in evaluation too.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If ``channels`` is odd or below 2, or ``compat`` is unknown.

    Example:
        >>> (1 / RandomBochnerEncoding(4).eval().frequencies()).tolist()
        [75000000.25, 25000000.75]

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    longest: Tensor

    def __init__(self, channels: int, *, compat: str | None = None) -> None:
        super().__init__(channels, compat=compat)
        self.register_buffer("longest", torch.tensor(_LONGEST))

    def quantiles(self, u: Tensor) -> Tensor:
        return (1 / (1 + (self.longest.double() - 1) * u)).sort().values
