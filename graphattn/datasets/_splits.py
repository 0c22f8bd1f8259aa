"""Splits by name: ``"scheme"`` or ``"scheme:number"``, and the random ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# None: any number, a seed. Papers that call the random split by its classes "the" split of Cora draw it with seed 123.
RANDOM: dict[str, int | None] = {"random-20": None, "random-60-20-20": None}
_SEEDS = {"random-20": 123}


def parse_split(name: str, split: str | int | None, schemes: Mapping[str, int | None], default: str) -> tuple[str, int]:
    """Return the scheme and the number that ``split`` names.

    Args:
        name: Name of the set.
        split: ``None``, the default; a number, that of the default scheme; ``"scheme"`` or ``"scheme:number"``.
        schemes: How many splits each scheme has; ``None`` for those that take a seed.
        default: The default scheme.

    Raises:
        TypeError: If ``split`` is neither text nor an integer.
        ValueError: If there is no such scheme or number.

    Example:
        >>> parse_split("Cora", "random-20", {"public": 1, **RANDOM}, "public")
        ('random-20', 123)
    """
    if split is None:
        scheme, number = default, ""
    elif isinstance(split, int) and not isinstance(split, bool):
        scheme, number = default, str(split)
    elif isinstance(split, str):
        scheme, _, number = split.partition(":")
    else:
        raise TypeError(f"split is {split!r}; expected the name of a split, its number, or None")
    if scheme not in schemes:
        raise ValueError(f"split is {split!r}; {name} has {_listed(schemes)}")
    count = schemes[scheme]
    if not number:
        return scheme, _SEEDS.get(scheme, 0)
    if not number.isdecimal() or (count is not None and int(number) >= count):
        raise ValueError(f"split is {split!r}; {name} has {_listed(schemes)}")
    return scheme, int(number)


def split_name(scheme: str, number: int, schemes: Mapping[str, int | None]) -> str:
    """Write a split the way it is reported."""
    return scheme if schemes[scheme] == 1 else f"{scheme}:{number}"


def random_split(scheme: str, seed: int, y: Tensor) -> dict[str, Tensor]:
    """Split the labelled nodes at random.

    ``"random-20"`` takes 20 nodes of each class to train on, then 500 and 1,000 of the others. ``"random-60-20-20"``
    takes these percentages of all.

    Args:
        scheme: ``"random-20"`` or ``"random-60-20-20"``.
        seed: Seed of the generator.
        y: Labels, where those below 0 are unknown, or targets, where NaN is.

    Raises:
        ValueError: If a class has fewer than 20 nodes, or there are too few nodes for the scheme.
    """
    generator = torch.Generator().manual_seed(seed)

    def shuffled(ids: Tensor) -> Tensor:
        return ids[torch.randperm(len(ids), generator=generator)]

    labelled = torch.isfinite(y) if y.is_floating_point() else y >= 0
    known = labelled.reshape(len(y), -1).all(dim=1).nonzero().flatten()
    if scheme == "random-60-20-20":
        order = shuffled(known)
        train, val = int(0.6 * len(order)), int(0.2 * len(order))
        return {"train": order[:train], "val": order[train : train + val], "test": order[train + val :]}
    if y.is_floating_point() or y.dim() > 1:
        raise ValueError("split is 'random-20', which takes 20 of each class, but there are no classes")
    train_parts, others = [], []
    for label in y[known].unique():
        members = shuffled((y == label).nonzero().flatten())
        if len(members) < 20:
            raise ValueError(f"split is 'random-20', but class {int(label)} has only {len(members)} nodes")
        train_parts.append(members[:20])
        others.append(members[20:])
    rest = shuffled(torch.cat(others))
    if len(rest) < 1500:
        raise ValueError(
            f"split is 'random-20', which needs 1,500 nodes beside 20 of each class; there are {len(rest)}"
        )
    return {"train": torch.cat(train_parts), "val": rest[:500], "test": rest[500:1500]}


def _listed(schemes: Mapping[str, int | None]) -> str:
    """Name every split there is."""
    forms = []
    for scheme, count in schemes.items():
        if count is None:
            forms.append(f"'{scheme}:SEED'")
        else:
            forms.append(f"'{scheme}'" if count == 1 else f"'{scheme}:0' to '{scheme}:{count - 1}'")
    return ", ".join(forms)
