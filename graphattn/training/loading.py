"""Which task a seed is about, and loading it once for all networks and seeds that share it."""

from __future__ import annotations

from pathlib import Path

from graphattn.datasets import EventTask, load
from graphattn.datasets.tasks import Task


def split_of(split: str | None, seed: int) -> str | None:
    """Return the split of a seed: ``"{seed}"`` in its name stands for the number.

    Example:
        >>> split_of("official:{seed}", 3)
        'official:3'
    """
    return None if split is None else split.replace("{seed}", str(seed))


class Tasks:
    """Load tasks, and keep the last one for those who ask for it again.

    Experiments leave a task as it is and move copies to devices, so that they can share one. More than one is not kept:
    it may fill the memory.

    Args:
        root: Folder of the data.

    Example:
        >>> tasks = Tasks()
        >>> karate = tasks.load("karate")
        >>> tasks.load("karate", seed=1) is karate, tasks.load("karate", "one-per-class:{seed}", seed=1).split_name
        (True, 'one-per-class:1')
    """

    def __init__(self, root: str | Path = "data") -> None:
        self.root = root
        self._asked: tuple[str, str | None] | None = None
        self._task: Task | EventTask | None = None

    def load(self, dataset: str, split: str | None = None, seed: int = 0) -> Task | EventTask:
        """Return the task of a seed.

        Args:
            dataset: Name of the set, or ``"local:PATH"``.
            split: Name of the split, in which ``"{seed}"`` stands for the seed; ``None`` for that of the set.
            seed: The seed.

        Raises:
            ValueError, FileNotFoundError, ImportError: As :func:`~graphattn.datasets.load` does.
        """
        asked = dataset, split_of(split, seed)
        if self._task is None or asked != self._asked:
            self._task = None  # it makes room before the next one is read
            self._task, self._asked = load(dataset, self.root, asked[1]), asked
        return self._task
