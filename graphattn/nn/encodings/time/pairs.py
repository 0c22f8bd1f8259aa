"""Pairs of a cosine and a sine for each frequency: Bochner's form of a translation-invariant kernel."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from graphattn.nn.encodings.time.base import TimeEncoding, elapsed, phases

COMPAT = (None, "xu2019")


class PairEncoding(TimeEncoding):
    r"""Encode times by a cosine and a sine of each frequency; the base class of the Bochner family.

    .. math::
        \Phi(t) = \sqrt{1/d}\,[\cos \omega_1 t, \sin \omega_1 t, \dots, \cos \omega_d t, \sin \omega_d t], \quad
        K(t, s) = \tfrac{1}{d} \sum_i \cos \omega_i (t - s)

    A subclass defines :meth:`frequencies` and :meth:`reset_parameters`, and has a parameter or buffer, whose dtype is
    that of the encodings. :meth:`kernel` computes the difference of the times first, so that it depends on nothing
    else however large they are.

    Args:
        channels: Width of an encoding :math:`C = 2d`, even.
        compat: ``"xu2019"`` for the order and scale of the released code: all sines before all cosines, without
            :math:`\sqrt{1/d}`.

    Raises:
        ValueError: If ``channels`` is odd or below 2, or ``compat`` is unknown.

    Example:
        >>> class Unit(PairEncoding):
        ...     def __init__(self):
        ...         super().__init__(2)
        ...         self.register_buffer("one", torch.ones(1))
        ...     def frequencies(self):
        ...         return self.one.double()
        >>> Unit()(torch.tensor([0, 1]))
        tensor([[1.0000, 0.0000],
                [0.5403, 0.8415]])

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    def __init__(self, channels: int, *, compat: str | None = None) -> None:
        super().__init__(channels)
        if channels % 2:
            raise ValueError(f"channels is {channels}; expected an even number, a cosine and a sine for each frequency")
        if compat not in COMPAT:
            raise ValueError(f"compat is {compat!r}; expected None or 'xu2019'")
        self.compat = compat

    def forward(self, t: Tensor) -> Tensor:
        return self._encode(t, self.frequencies())

    def kernel(self, t: Tensor, s: Tensor) -> Tensor:
        return self._product(t, s, self.frequencies())

    def _encode(self, t: Tensor, frequencies: Tensor) -> Tensor:
        dtype = self._dtype
        angle = phases(t, frequencies, dtype)
        if self.compat == "xu2019":
            return torch.cat([angle.sin(), angle.cos()], dim=-1).to(dtype)
        scale = (self.channels // 2) ** -0.5
        return torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(-2).mul(scale).to(dtype)

    def _product(self, t: Tensor, s: Tensor, frequencies: Tensor) -> Tensor:
        cosines = phases(elapsed(t, s), frequencies, self._dtype).cos()
        return (cosines.sum(dim=-1) if self.compat == "xu2019" else cosines.mean(dim=-1)).to(self._dtype)


class RandomPairEncoding(PairEncoding):
    r"""Draw the frequencies of the pairs; the base class of the random members of the Bochner family.

    .. math:: \omega_i = G_i(u_i), \quad u_i \sim \mathcal{U}(0, 1) \text{ in training}, \quad
        u_i = (i - \tfrac{1}{2})/d \text{ in evaluation}

    In training every call draws anew; in evaluation the frequencies are the middle quantiles, so that two calls agree.
    ``compat="xu2019"`` draws in evaluation too, as the released code does. A subclass defines :meth:`quantiles`.

    Args:
        channels: Width of an encoding :math:`C = 2d`, even.
        compat: ``"xu2019"`` for the released form.

    Raises:
        ValueError: If ``channels`` is odd or below 2, or ``compat`` is unknown.

    Example:
        >>> class Uniform(RandomPairEncoding):
        ...     def __init__(self, channels):
        ...         super().__init__(channels)
        ...         self.register_buffer("width", torch.ones(1))
        ...     def quantiles(self, u):
        ...         return self.width.double() * u
        >>> Uniform(4).eval().frequencies().tolist()
        [0.25, 0.75]

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    def quantiles(self, u: Tensor) -> Tensor:
        """Return the frequencies that belong to some numbers between 0 and 1, both in float64."""
        raise NotImplementedError(f"{type(self).__name__} does not define quantiles(u)")

    def frequencies(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the angular frequencies in use, in float64: a draw, or the middle quantiles in evaluation.

        Args:
            generator: Source of randomness, on the device of the module; torch's own by default.
        """
        count, device = self.channels // 2, next(itertools.chain(self.parameters(), self.buffers())).device
        if self.training or self.compat == "xu2019":
            u = torch.rand(count, dtype=torch.float64, device=device, generator=generator)
            return self.quantiles(u.clamp(min=2.0**-54))  # the quantile of 0 may be infinite
        return self.quantiles((torch.arange(count, dtype=torch.float64, device=device) + 0.5) / count)

    def forward(self, t: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Encode times.

        Args:
            t: Times, int64 or float64.
            generator: Source of randomness, on the device of the module; torch's own by default.

        Returns:
            The encodings, in the dtype of the module.

        Raises:
            TypeError: If ``t`` is not a tensor of int64 or float64.
            ValueError: If a time is NaN or infinite (on the CPU).
        """
        return self._encode(t, self.frequencies(generator=generator))

    def kernel(self, t: Tensor, s: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the products of the encodings of two times, with the same frequencies for both.

        Args:
            t: Times, int64 or float64.
            s: Times that broadcast with ``t``.
            generator: Source of randomness, on the device of the module; torch's own by default.

        Returns:
            One number for each pair, in the dtype of the module.

        Raises:
            TypeError: If a time is not of int64 or float64.
            ValueError: If a time is NaN or infinite (on the CPU).
        """
        return self._product(t, s, self.frequencies(generator=generator))
