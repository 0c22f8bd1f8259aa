"""Bochner's time encoding with frequencies from normal distributions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphattn.nn.encodings.time.base import assign, log_grid
from graphattn.nn.encodings.time.pairs import RandomPairEncoding


class NormalBochnerEncoding(RandomPairEncoding):
    r"""Encode times by cosines and sines of frequencies from learned normal distributions.

    .. math:: \omega_i = \mu_i + \sigma_i\,\varepsilon_i, \quad \varepsilon_i \sim \mathcal{N}(0, 1)

    Means and logarithms of standard deviations are learned. In training every call draws anew; in evaluation
    :math:`\varepsilon_i` are the middle quantiles of the normal distribution, so that two calls agree.

    Args:
        channels: Width of an encoding :math:`C = 2d`, even.
        compat: ``"xu2019"`` for the released code: standard deviations fixed at 1, all sines before all cosines
            without :math:`\sqrt{1/d}`, new draws in evaluation too.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If ``channels`` is odd or below 2, or ``compat`` is unknown.

    Example:
        >>> encoding = NormalBochnerEncoding(2).eval()  # the middle quantile of one is the median
        >>> encoding(torch.tensor([math.pi]).double()).allclose(torch.tensor([[-1.0, 0.0]]), atol=1e-6)
        True

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    def __init__(self, channels: int, *, compat: str | None = None) -> None:
        super().__init__(channels, compat=compat)
        self.mu = nn.Parameter(torch.empty(channels // 2))
        self.log_sigma = None if compat == "xu2019" else nn.Parameter(torch.empty(channels // 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the means to a geometric grid and the standard deviations to 1."""
        assign(self.mu, 10 ** (-log_grid(0, 8, self.channels // 2) / (2 * math.pi)))
        if self.log_sigma is not None:
            assign(self.log_sigma, 0.0)

    def quantiles(self, u: Tensor) -> Tensor:
        epsilon = torch.special.ndtri(u)
        return self.mu.double() + (epsilon if self.log_sigma is None else self.log_sigma.double().exp() * epsilon)
