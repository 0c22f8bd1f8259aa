"""Random numbers that depend on named integers alone, and leave those of everyone else as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(*key: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run a block with torch's global generators seeded by some integers, and put them back afterwards.

    Keys that differ in one number give unrelated streams: ``seeded(seed, epoch)`` makes the random numbers of an epoch
    the same whether the epochs before it ran in this process or not. Zeros at the end of a key count for nothing.

    Args:
        key: Integers of at least 0, such as a seed and the number of an epoch.
        device: Where, besides the CPU, random numbers are drawn.

    Yields:
        Nothing.

    Raises:
        ValueError: If there is no key, or a number below 0.

    Example:
        >>> with seeded(0, 3):
        ...     first = torch.rand(2)
        >>> with seeded(0, 3):
        ...     print(torch.equal(first, torch.rand(2)))
        True
    """
    if not key or min(key) < 0:
        raise ValueError(f"key is {key}; expected integers of at least 0, such as a seed and the number of an epoch")
    device = torch.device(device)
    others = [] if device.type == "cpu" else [torch.empty(0, device=device).device.index or 0]
    with torch.random.fork_rng(others, device_type=device.type if others else "cuda"):
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1)
        yield
