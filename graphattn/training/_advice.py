"""What to change when training fails for a reason that settings can remove."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from graphattn.datasets import EventTask, GraphTask, NodeTask
from graphattn.datasets.tasks import Task
from graphattn.engine import Recipe
from graphattn.training._files import RunFiles


@contextmanager
def advice(precision: str, smaller: str, files: RunFiles) -> Iterator[None]:
    """Let the errors that settings lead to say which to change, and what is kept.

    Args:
        precision: Precision of the run.
        smaller: What to do if memory runs out.
        files: Files of the run.
    """
    try:
        yield
    except FloatingPointError as error:
        half = f"; precision is {precision!r}, try 'bf16-mixed' or '32-true'" if precision.startswith("16") else ""
        raise FloatingPointError(f"{error}{half}{files.kept()}") from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise MemoryError(f"memory ran out; {smaller}{files.kept()}") from error


def how_to_shrink(
    task: Task | EventTask,
    recipe: Recipe,
    num_neighbors: Sequence[int] | None,
    eval_neighbors: Sequence[int] | None,
    takes_labels: bool,
) -> str:
    """Say what makes steps or predictions smaller."""
    ways = []
    whole = num_neighbors is None and not isinstance(task, (GraphTask, EventTask))
    if whole and not takes_labels:
        ways.append("pass num_neighbors, such as [10, 10], and a batch_size")
    if not (whole and isinstance(task, NodeTask)):
        batch = recipe.batch_size
        ways.append("set a batch_size in the recipe" if batch is None else f"lower batch_size, which is {batch}")
    if num_neighbors is not None:
        ways.append(f"lower num_neighbors, which is {list(num_neighbors)}")
        if eval_neighbors is None and not isinstance(task, EventTask):
            ways.append("pass eval_neighbors, if it ran out in a prediction")
    return ", or ".join([*ways, "take a narrower network or precision='bf16-mixed'"])


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
