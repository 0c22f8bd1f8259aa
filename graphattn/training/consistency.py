"""Consistency: nodes without labels are learned from too, by what several runs with dropout say of them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Consistency:
    r"""Ask in each step for outputs that several runs of the network with dropout agree on, for all nodes.

    .. math:: \mathcal{L} = \tfrac{1}{S} \textstyle\sum_s \mathcal{L}_{\text{labels}}(\mathbf{Z}_s)
              + \lambda\, \mathcal{L}_{\text{consistency}}(\mathbf{Z}_1, \dots, \mathbf{Z}_S)

    The last term is :func:`~graphattn.models.consistency_loss`.

    Args:
        runs: How often the network runs in a step, :math:`S`.
        weight: Weight of the consistency, :math:`\lambda`.
        temperature: How much the mean of the runs is sharpened; 1 leaves it.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> Consistency(runs=4).temperature
        0.5

    Reference:
        Feng et al., "Graph Random Neural Networks for Semi-Supervised Learning on Graphs", 2020.
    """

    runs: int = 2
    weight: float = 1.0
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.runs, int) or self.runs < 2:
            raise ValueError(f"runs is {self.runs!r}; expected an integer, at least 2")
        for name in ("weight", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number")
