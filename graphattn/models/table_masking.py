"""The objective of the non-parametric transformer: hide cells of a table, and score what is predicted for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_SHOWN_WRONG = 0.1  # of the selected features: a random value in place of none
COMPATS = (None, "npt")


class MaskedTable(NamedTuple):
    """A table to be filled in.

    Args:
        x: Cells ``[n, d]``, some of them replaced by random values.
        hidden: Which cells are hidden ``[n, d]``.
        scored: Which cells enter the loss ``[n, d]``.
    """

    x: Tensor
    hidden: Tensor
    scored: Tensor


def mask_table(
    x: Tensor,
    hidden: Tensor,
    categories: Sequence[int],
    num_targets: int = 1,
    *,
    p: float = 0.15,
    p_target: float = 1.0,
    compat: str | None = None,
    generator: torch.Generator | None = None,
) -> MaskedTable:
    """Select cells to be predicted: hide the targets among them and most features, and show the others wrong.

    Each known feature is selected with probability ``p``. Of those selected 90 % are hidden and 10 % get a random
    category, or a standard normal number. Each known target is selected, and hidden, with probability ``p_target``.

    Args:
        x: Numbers of continuous columns, codes of categories; the last ``num_targets`` columns are targets.
        hidden: Cells that are not known; they stay hidden and are never selected, nor are codes of -1.
        categories: For each column its number of categories, 0 for a continuous one.
        num_targets: Target columns.
        p: Probability of a feature.
        p_target: Probability of a target; 1 selects all of them.
        compat: ``"npt"`` for the counts of the authors' code: of :math:`N` cells as many as a rounded normal number of
            the binomial's mean and variance, and of :math:`M` selected ones :math:`M - \\lfloor 0.9 M \\rfloor + 1`
            are shown wrong.
        generator: Source of randomness; torch's global one by default.

    Shapes:
        - **input:** ``x`` :math:`(n, d)`, ``hidden`` :math:`(n, d)`
        - **output:** :math:`(n, d)` each

    Returns:
        The cells to be given to the network, which of them are hidden, and which enter the loss.

    Raises:
        ValueError: If a probability lies outside [0, 1], or ``compat`` is unknown.

    Example:
        >>> x = torch.tensor([[0.3, 1.0], [0.7, 0.0]])
        >>> masked = mask_table(x, torch.zeros(2, 2, dtype=torch.bool), [0, 2], p=0.0)
        >>> masked.hidden
        tensor([[False,  True],
                [False,  True]])

    Reference:
        Kossen et al., "Self-Attention Between Datapoints", 2021.
    """
    for name, value in (("p", p), ("p_target", p_target)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; expected a probability in [0, 1]")
    if compat not in COMPATS:
        raise ValueError(f"compat is {compat!r}; expected one of {', '.join(map(repr, COMPATS))}")
    number = torch.tensor(categories, device=x.device)
    known = ~hidden & ~((number > 0) & (x < 0))
    is_target = torch.arange(x.size(1), device=x.device) >= x.size(1) - num_targets
    select = _count_exactly if compat == "npt" else _each
    features = select(known & ~is_target, p, generator)
    targets = select(known & is_target, p_target, generator)
    wrong = _shown_wrong(features, generator) if compat == "npt" else _each(features, _SHOWN_WRONG, generator)
    noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    share = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    category = torch.minimum((share * number).floor(), number - 1)  # the product may round up to the number
    x = torch.where(wrong, torch.where(number > 0, category.to(x.dtype), noise), x)
    selected = features | targets
    return MaskedTable(x, hidden | (selected & ~wrong), selected)


def table_loss(
    outputs: Sequence[Tensor],
    x: Tensor,
    scored: Tensor,
    categories: Sequence[int],
    num_targets: int = 1,
    feature_weight: float = 0.0,
) -> dict[str, Tensor]:
    r"""Score predictions of selected cells: cross entropy of categories, squared error of numbers.

    .. math:: (1 - \lambda) L_{targets} + \lambda L_{features}

    where each part is a mean over the selected cells of its columns, 0 where none is selected.

    Args:
        outputs: What the network predicts for each column, numbers ``[n, 1]`` or logits ``[n, c]``.
        x: The true cells.
        scored: Which cells are selected.
        categories: For each column its number of categories, 0 for a continuous one.
        num_targets: Target columns, the last ones.
        feature_weight: The weight :math:`\lambda`.

    Shapes:
        - **input:** ``x`` :math:`(n, d)`, ``scored`` :math:`(n, d)`

    Returns:
        The weighted sum as ``"loss"``, and its parts as ``"target_loss"`` and ``"feature_loss"``.

    Example:
        >>> x, scored = torch.tensor([[1.0, 2.0]]), torch.tensor([[True, True]])
        >>> outputs = [torch.zeros(1, 1), torch.zeros(1, 1)]
        >>> {name: part.item() for name, part in table_loss(outputs, x, scored, [0, 0], 1, 0.5).items()}
        {'loss': 2.5, 'target_loss': 4.0, 'feature_loss': 1.0}
    """
    sums = []
    for column, (output, number) in enumerate(zip(outputs, categories, strict=True)):
        chosen = scored[:, column]
        predicted, true = output[chosen], x[chosen, column]
        if number:
            sums.append(F.cross_entropy(predicted, true.long(), reduction="sum"))
        else:
            sums.append((predicted[:, 0] - true).square().sum())
    count = scored.sum(0)
    first = len(sums) - num_targets
    target_loss = torch.stack(sums[first:]).sum() / count[first:].sum().clamp(min=1)
    feature_loss = x.new_zeros(())
    if first:
        feature_loss = torch.stack(sums[:first]).sum() / count[:first].sum().clamp(min=1)
    loss = (1 - feature_weight) * target_loss + feature_weight * feature_loss
    return {"loss": loss, "target_loss": target_loss, "feature_loss": feature_loss}


def annealed(progress: float, start: float = 1.0) -> float:
    r"""Return the weight of the features in the loss, which falls as a cosine from ``start`` to 0.

    .. math:: \lambda(t) = \tfrac12 \lambda_0 (1 + \cos \pi t)

    Args:
        progress: Part :math:`t` of the training that is done, in [0, 1].
        start: The weight :math:`\lambda_0` at the start.

    Example:
        >>> [round(annealed(progress), 3) for progress in (0.0, 0.5, 1.0)]
        [1.0, 0.5, 0.0]
    """
    return 0.5 * start * (1 + math.cos(math.pi * progress))


def _each(candidates: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Select every candidate on its own."""
    return candidates & (torch.rand(candidates.shape, device=candidates.device, generator=generator) < p)


def _count_exactly(candidates: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Select a rounded normal number of the candidates; all of them if p is 1."""
    total = int(candidates.sum())
    spread = math.sqrt(total * p * (1 - p))
    wobble = float(torch.randn((), device=candidates.device, generator=generator))
    return _choose(candidates, int(total * p + spread * wobble), generator)


def _shown_wrong(selected: Tensor, generator: torch.Generator | None) -> Tensor:
    total = int(selected.sum())
    return _choose(selected, total - int((1 - _SHOWN_WRONG) * total) + 1, generator)


def _choose(candidates: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Select that many candidates, at most all."""
    place = candidates.flatten().nonzero().flatten()
    order = torch.randperm(place.numel(), device=place.device, generator=generator)
    chosen = torch.zeros(candidates.numel(), dtype=torch.bool, device=candidates.device)
    chosen[place[order[: max(0, count)]]] = True
    return chosen.view(candidates.shape)
