"""What training does with few labels: hide some that are an input, and learn from nodes that have none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mask_labels(
    labels: Tensor, train: Tensor, rate: float = 0.5, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Split the training nodes at random into those whose labels are shown and those that the loss is about.

    Call it in every epoch; for predictions show all of them, ``mask_labels(labels, train, 0.0)[0]``.

    Args:
        labels: Class of each node.
        train: Ids of the training nodes.
        rate: Probability of hiding a label.
        generator: Source of randomness.

    Shapes:
        - **input:** ``labels`` :math:`(N,)`, ``train`` :math:`(T,)`
        - **output:** :math:`(N,)` and at most :math:`(T,)`

    Returns:
        The labels that are shown, -1 for all others, and the ids of the training nodes that are hidden.

    Raises:
        ValueError: If the rate is no probability.

    Example:
        >>> shown, hidden = mask_labels(torch.tensor([2, 0, 1]), torch.tensor([0, 2]), 1.0)
        >>> shown.tolist(), hidden.tolist()
        ([-1, -1, -1], [0, 2])

    Reference:
        Shi et al., "Masked Label Prediction: Unified Message Passing Model for Semi-Supervised Classification", 2021.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate is {rate}; expected a probability in [0, 1]")
    hide = torch.rand(len(train), device=train.device, generator=generator) < rate
    visible = train[~hide]
    shown = torch.full_like(labels, -1).index_copy(0, visible, labels.index_select(0, visible))
    return shown, train[hide]


def consistency_loss(outputs: Sequence[Tensor], temperature: float = 0.5) -> Tensor:
    r"""Measure how much several runs of a network with dropout disagree on the classes of all nodes.

    .. math::
        \bar{\mathbf{P}} = \tfrac{1}{S} \textstyle\sum_s \operatorname{softmax}(\mathbf{Z}_s), \quad
        \mathbf{T}_{ic} \propto \bar{P}_{ic}^{1/\tau}, \quad
        \mathcal{L} = \tfrac{1}{S N} \textstyle\sum_s \lVert \operatorname{softmax}(\mathbf{Z}_s) - \mathbf{T} \rVert^2

    The mean, sharpened, is the target; no gradient flows through it. Add the loss to that of the labels.

    Args:
        outputs: Logits of each run.
        temperature: How much the mean is sharpened, :math:`\tau`; 1 leaves it.

    Shapes:
        - **input:** :math:`(N, C)` each
        - **output:** scalar

    Raises:
        ValueError: If there are fewer than two runs, or the temperature is not positive.

    Example:
        >>> sure = torch.tensor([[50.0, -50.0]])
        >>> consistency_loss([sure, sure]).item(), round(consistency_loss([sure, -sure]).item(), 3)
        (0.0, 0.5)

    Reference:
        Feng et al., "Graph Random Neural Networks for Semi-Supervised Learning on Graphs", 2020.
    """
    if len(outputs) < 2:
        raise ValueError(f"outputs holds {len(outputs)} runs; expected at least two to compare")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number")
    wide = torch.promote_types(outputs[0].dtype, torch.float32)
    runs = torch.stack([output.to(wide).softmax(dim=1) for output in outputs])
    with torch.no_grad():
        target = (runs.mean(dim=0).log() / temperature).softmax(dim=1)
    return (runs - target).square().sum(dim=2).mean()
