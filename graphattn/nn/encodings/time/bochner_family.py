"""Bochner's time encoding for kernels that have a name."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphattn.nn.encodings.time.base import assign, elapsed
from graphattn.nn.encodings.time.pairs import RandomPairEncoding

_FAMILIES = ("normal", "cauchy", "laplace", "uniform")


class FamilyBochnerEncoding(RandomPairEncoding):
    r"""Encode times by cosines and sines of frequencies from a known distribution of scale :math:`a`.

    ============  ==========================================
    ``family``    kernel of infinitely many frequencies
    ============  ==========================================
    ``normal``    :math:`\exp(-a^2 \tau^2 / 2)`
    ``cauchy``    :math:`\exp(-a |\tau|)`
    ``laplace``   :math:`1 / (1 + a^2 \tau^2)`
    ``uniform``   :math:`\sin(a \tau) / (a \tau)`
    ============  ==========================================

    In training every call draws anew; in evaluation the frequencies are the middle quantiles, so that two calls agree.

    Args:
        channels: Width of an encoding :math:`C = 2d`, even.
        family: ``"normal"``, ``"cauchy"``, ``"laplace"`` or ``"uniform"``, which lies between :math:`-a` and :math:`a`.
        scale: The scale :math:`a`, the reciprocal of the length of the kernel.
        learn_scale: Whether the scale is learned, from ``scale`` on.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If ``channels`` is odd or below 2, the family is unknown, or the scale is not a positive number.

    Example:
        >>> encoding = FamilyBochnerEncoding(4096, family="laplace", scale=0.5).eval()
        >>> t, s = torch.tensor([3.0, 7.0]).double(), torch.tensor([1.0, 7.0]).double()
        >>> encoding.limit(t, s).tolist()
        [0.5, 1.0]
        >>> torch.allclose(encoding.kernel(t, s), encoding.limit(t, s), atol=1e-3)
        True

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019; Rahimi and Recht, "Random
        Features for Large-Scale Kernel Machines", 2007.
    """

    log_scale: Tensor

    def __init__(self, channels: int, *, family: str = "normal", scale: float = 1.0, learn_scale: bool = False) -> None:
        super().__init__(channels)
        if family not in _FAMILIES:
            raise ValueError(f"family is {family!r}; expected one of {', '.join(map(repr, _FAMILIES))}")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale is {scale!r}; expected a positive number")
        self.family = family
        self.scale = scale
        if learn_scale:
            self.log_scale = nn.Parameter(torch.empty(()))
        else:
            self.register_buffer("log_scale", torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scale to its first value."""
        assign(self.log_scale, math.log(self.scale))

    def quantiles(self, u: Tensor) -> Tensor:
        centered = u - 0.5
        if self.family == "normal":
            unit = torch.special.ndtri(u)
        elif self.family == "cauchy":
            unit = (math.pi * centered).tan()
        elif self.family == "laplace":
            unit = -centered.sign() * (-2 * centered.abs()).log1p()
        else:
            unit = 2 * centered
        return self.log_scale.double().exp() * unit

    def limit(self, t: Tensor, s: Tensor) -> Tensor:
        """Return the kernel of infinitely many frequencies.

        Args:
            t: Times, int64 or float64.
            s: Times that broadcast with ``t``.

        Returns:
            One number for each pair, in the dtype of the module.

        Raises:
            TypeError: If a time is not of int64 or float64.
            ValueError: If a time is NaN or infinite (on the CPU).
        """
        tau = self.log_scale.double().exp() * elapsed(t, s)
        if self.family == "normal":
            value = (-0.5 * tau.square()).exp()
        elif self.family == "cauchy":
            value = (-tau.abs()).exp()
        elif self.family == "laplace":
            value = 1 / (1 + tau.square())
        else:
            value = torch.sinc(tau / math.pi)
        return value.to(self._dtype)

    def extra_repr(self) -> str:
        return f"{self.channels}, family={self.family!r}"
