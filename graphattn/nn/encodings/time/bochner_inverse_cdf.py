"""Bochner's time encoding with a learned distribution of frequencies."""

from __future__ import annotations

import itertools
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.nn.encodings.time.pairs import RandomPairEncoding

_HIDDEN = 32


class InverseCDFBochnerEncoding(RandomPairEncoding):
    r"""Encode times by cosines and sines of frequencies from a distribution that a network describes.

    .. math:: \omega_i = G(u_i), \quad G(u) = \operatorname{softplus}(\mathbf{w}_3^{\top} \tanh(\mathbf{W}_2
        \tanh(\mathbf{w}_1 u + \mathbf{b}_1) + \mathbf{b}_2) + b_3), \quad \mathbf{W} > 0

    :math:`G` grows with :math:`u`, so that it is the inverse of a cumulative distribution; its weights are the
    softplus of what is learned, divided by their number a unit, and each hidden layer has 32 units. In training
    :math:`u` is drawn uniformly at every call; in evaluation it runs over the middle quantiles, so that two calls
    agree.

    Args:
        channels: Width of an encoding :math:`C = 2d`, even.
        compat: ``"xu2019"`` for the method ``mlp_res`` of the released code, which is no inverse of a distribution: it
            mixes the draws, :math:`\boldsymbol{\omega} = \exp(\mathbf{A}_3 (\mathbf{A}_2
            \operatorname{relu}(\mathbf{A}_1 \mathbf{a}) + \mathbf{a}))` with :math:`\mathbf{a} = 10^{-\mathbf{u}}` and
            affine maps :math:`\mathbf{A}`. All sines before all cosines without :math:`\sqrt{1/d}`, new draws in
            evaluation too.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If ``channels`` is odd or below 2, or ``compat`` is unknown.

    Example:
        >>> frequencies = InverseCDFBochnerEncoding(16).eval().frequencies()
        >>> bool((frequencies.diff() > 0).all() and (frequencies > 0).all())
        True

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    def __init__(self, channels: int, *, compat: str | None = None) -> None:
        super().__init__(channels, compat=compat)
        count = channels // 2
        widths = (1, _HIDDEN, _HIDDEN, 1) if compat is None else (count, count, count, count)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights of the network by Glorot's rule; biases are 0."""
        for name, parameter in self.layers.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def quantiles(self, u: Tensor) -> Tensor:
        first, second, third = self.layers
        if self.compat == "xu2019":
            a = 10**-u
            hidden = _affine(first, a).relu()
            return _affine(third, _affine(second, hidden) + a).exp()
        hidden = _affine(first, u.unsqueeze(1), positive=True).tanh()
        hidden = _affine(second, hidden, positive=True).tanh()
        return F.softplus(_affine(third, hidden, positive=True)).squeeze(1)


def _affine(layer: Any, x: Tensor, positive: bool = False) -> Tensor:
    """Apply a layer in float64; ``positive`` takes the softplus of its weights, divided by their number a row."""
    weight, bias = layer.weight.double(), layer.bias.double()
    return F.linear(x, F.softplus(weight) / weight.size(1) if positive else weight, bias)
