"""Cosines with learned frequencies and phases: the time encoding of TGAT and TGN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphattn.nn.encodings.time.base import TimeEncoding, assign, log_grid, phases


class TGATEncoding(TimeEncoding):
    r"""Encode times by cosines of learned frequencies and phases.

    .. math:: \Phi_i(t) = \cos(\omega_i t + \varphi_i)

    Frequencies start at :math:`10^{-9 i/(C - 1)}` and phases at 0. Its kernel depends on more than the difference.

    Args:
        channels: Width of an encoding :math:`C`.
        compat: ``"pyg"`` for the first values of PyG's ``TimeEncoder``, those of a ``Linear``: frequencies and phases
            uniform between -1 and 1.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If ``channels`` is below 1 or ``compat`` unknown.

    Example:
        >>> torch.allclose(TGATEncoding(1)(torch.tensor([0, 5])), torch.tensor([[0.0], [5.0]]).cos())
        True

    Reference:
        Xu et al., "Inductive Representation Learning on Temporal Graphs", 2020.
    """

    def __init__(self, channels: int, *, compat: str | None = None) -> None:
        super().__init__(channels)
        if compat not in (None, "pyg"):
            raise ValueError(f"compat is {compat!r}; expected None or 'pyg'")
        self.compat = compat
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set frequencies to a geometric grid and phases to 0, or draw both as PyG does."""
        if self.compat == "pyg":
            nn.init.uniform_(self.weight, -1, 1)
            nn.init.uniform_(self.bias, -1, 1)
        else:
            assign(self.weight, 10 ** -log_grid(0, 9, self.channels))
            assign(self.bias, 0.0)

    def frequencies(self) -> Tensor:
        return self.weight.double()

    def forward(self, t: Tensor) -> Tensor:
        angle = phases(t, self.frequencies(), self._dtype, self.bias.double())
        return _Cosine.apply(angle).to(self._dtype)


class _Cosine(torch.autograd.Function):
    """A cosine whose gradient is written into the sines: torch's own makes two more tensors of that size."""

    @staticmethod
    def forward(angle: Tensor) -> Tensor:
        return angle.cos()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (angle,) = ctx.saved_tensors
        return angle.sin().neg_().mul_(grad)
