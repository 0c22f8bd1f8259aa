"""What does not go together when a network is fitted to a task."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from graphattn.datasets import EventTask, GraphTask, NodeTask
from graphattn.datasets.tasks import Task
from graphattn.engine import Recipe
from graphattn.models import EventNetwork
from graphattn.training._caller import takes_labels
from graphattn.training.consistency import Consistency


def kind_of(task: Task | EventTask) -> str:
    """Return what a task is about: ``"node"``, ``"graph"``, ``"link"`` or ``"event"``.

    Example:
        >>> from graphattn.datasets import load
        >>> kind_of(load("karate"))
        'node'
    """
    kinds = {NodeTask: "node", GraphTask: "graph", EventTask: "event"}
    return next((kind for cls, kind in kinds.items() if isinstance(task, cls)), "link")


def check_sampling(
    task: Task | EventTask,
    model: nn.Module,
    recipe: Recipe,
    num_neighbors: Sequence[int] | None,
    eval_neighbors: Sequence[int] | None,
    processes: int,
) -> None:
    """Raise unless batches, sampled neighbourhoods and processes go with each other and with the task."""
    kind = kind_of(task)
    if (kind == "event") != isinstance(model, EventNetwork):
        needed = "an EventHead over a network of events" if kind == "event" else f"a network for {kind}s"
        raise TypeError(f"model is a {type(model).__name__}, but {task.name} is about {kind}s; pass {needed}")
    if isinstance(model, EventNetwork):
        _check_events(task, model, recipe, num_neighbors, eval_neighbors, processes)
        return
    for name, numbers in (("num_neighbors", num_neighbors), ("eval_neighbors", eval_neighbors)):
        if numbers is None:
            continue
        if kind == "graph":
            raise ValueError(f"{name} is {list(numbers)}, but {task.name} is about graphs; leave it out")
        if takes_labels(model):
            raise ValueError(f"{name} is {list(numbers)}, but model has label_input; leave one of them out")
    if num_neighbors is not None or kind == "graph":
        return
    if eval_neighbors is not None:
        raise ValueError(
            f"eval_neighbors is {list(eval_neighbors)}, but training is over the whole graph; pass num_neighbors too"
        )
    if kind == "node" and recipe.batch_size is not None:
        raise ValueError(
            f"batch_size is {recipe.batch_size}, but all nodes of {task.name} are trained on at once; pass "
            "Recipe(batch_size=None), or num_neighbors to train on batches of nodes"
        )
    if processes > 1:
        raise ValueError(
            f"{processes} devices are asked for, but each step is over the whole graph of {task.name}, which they "
            "cannot share; pass num_neighbors, or devices=1"
        )


def _check_events(
    task: Task | EventTask,
    model: EventNetwork,
    recipe: Recipe,
    num_neighbors: Sequence[int] | None,
    eval_neighbors: Sequence[int] | None,
    processes: int,
) -> None:
    """Raise unless events can be given to a network batch after batch."""
    if recipe.batch_size is None:
        raise ValueError(f"batch_size is None, but events of {task.name} come in batches; pass one, such as 200")
    if eval_neighbors is not None:
        raise ValueError(
            f"eval_neighbors is {list(eval_neighbors)}, but events are predicted as they are learned; leave it out"
        )
    if processes > 1:
        raise ValueError(
            f"{processes} devices are asked for, but each batch of events needs what the one before has left; pass "
            "devices=1"
        )
    if num_neighbors is None:
        return
    if model.past == "graph":
        raise ValueError(
            f"num_neighbors is {list(num_neighbors)}, but model sees the whole graph of the training; leave it out"
        )
    if len(num_neighbors) != model.num_layers:
        raise ValueError(
            f"num_neighbors is {list(num_neighbors)}, but model has {model.num_layers} layers; expected a number for "
            "each"
        )
    if model.past == "last" and num_neighbors[0] < 1:
        raise ValueError(f"num_neighbors is {list(num_neighbors)}, but model sees the last events; expected 1 or more")


def check_consistency(
    task: Task | EventTask, num_neighbors: Sequence[int] | None, consistency: Consistency | None
) -> None:
    """Raise unless a network can be asked for consistency."""
    if consistency is None:
        return
    if not isinstance(task, NodeTask) or task.num_classes is None or task.target("train").dim() != 1:
        raise ValueError(f"consistency is given, but {task.name} is not about one class of each node; leave it out")
    if num_neighbors is not None:
        raise ValueError(f"consistency is given, and num_neighbors is {list(num_neighbors)}; leave one of them out")
