"""Train a network on a task: seeds, early stopping, checkpoints, and one look at the test set at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphattn._files import whole
from graphattn._optional import require
from graphattn.datasets import GraphTask, LinkTask, NodeTask
from graphattn.datasets.tasks import Task
from graphattn.engine import Recipe, load_checkpoint, seeded, train
from graphattn.models import from_config
from graphattn.models.network import Network
from graphattn.training._batches import (
    GraphBatches,
    KnownLabels,
    Links,
    SampledNodes,
    WholeGraph,
    takes_labels,
)

_EVALUATED_GRAPHS = 256


@dataclass(frozen=True)
class Result:
    """What a training run has come to.

    Args:
        config: What the run was asked to do: task, split, metric, network, recipe, precision and sampling.
        epochs: For each epoch the ``"loss"`` and, as ``"score"``, the metric on the validation set.
        best_epoch: Number of the epoch with the best validation score, whose weights the network has.
        val: Its validation score.
        test: Its test score.

    Example:
        >>> result = Result({}, [{"loss": 1.0, "score": 0.5}], best_epoch=0, val=0.5, test=0.4)
        >>> result.epochs[result.best_epoch]["score"] == result.val
        True
    """

    config: dict[str, Any]
    epochs: list[dict[str, float]]
    best_epoch: int
    val: float
    test: float


def fit(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    num_neighbors: Sequence[int] | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: str = "32-true",
    progress: bool = True,
) -> Result:
    """Train a network, keep the epoch that validates best, and score that one on the test set.

    The weights are drawn anew, from the seed: one seed is one result, whatever the network has seen before. The
    validation set alone decides about the epoch that is kept and about stopping early; the test set is looked at once,
    when training is over. A run that was stopped and is resumed ends with the same bits as one that was not, at the
    same number of threads.

    Nodes are trained on all at once, each step over the whole graph, or with ``num_neighbors`` in batches of sampled
    neighbourhoods; validation and test are over the whole graph in either case. A network with ``label_input`` sees
    half of the training labels in each step and learns the others; for predictions it sees them all. Graphs are trained
    on in batches, and so are links, over the whole graph and beside as many random pairs of nodes.

    Classes are learned by cross entropy, rows of several targets by that of each where it is known, links by that of
    being one, and numbers by the squared error, or by the absolute error if that is the metric.

    Args:
        model: A network that takes ``x``, ``edge_index`` and what else the graphs have of ``edge_attr``, ``pe`` and
            ``batch``, and ``pairs`` for links; edges with weights come as an :class:`~graphattn.affinity.Affinity`. It
            is trained in place.
        task: Nodes, graphs or links, with their split.
        recipe: Epochs, batches, optimizer, schedule, clipping and patience. Nodes that are trained on all at once
            need ``batch_size=None``.
        num_neighbors: Neighbours that a node draws in each hop, -1 for all, to train on batches of nodes.
        seed: Seed of weights, batches and dropout; that of the recipe by default.
        out: Folder that gets ``seed-N.pt`` with weights and all that is needed to go on, ``seed-N.jsonl`` with the
            losses and scores of each epoch, and ``seed-N.json`` with the result. By default nothing is written.
        resume: Whether to go on with what is in ``out``. A run that is over is read, so that a loop over seeds which
            was stopped repeats nothing.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` and the like; ``"auto"`` takes an accelerator if there is one.
        precision: As in Lightning: ``"32-true"``, ``"bf16-mixed"``, ``"16-mixed"``, ``"64-true"`` ...
        progress: Whether a progress bar is shown.

    Returns:
        The scores. The network has the weights of the best epoch and is in evaluation mode.

    Raises:
        ValueError: If the recipe does not fit the task, the network has another output than the task, or ``out`` has
            a run with other settings.
        TypeError: If the task is of another kind or the network cannot draw its weights.
        FileExistsError: If ``out`` has a run with this seed and ``resume`` is false.
        FloatingPointError: If the loss or a validation score is not finite.
        MemoryError: If memory runs out; the message says what to change.
        ImportError: If Lightning Fabric is not installed; the extra ``train`` brings it.

    Example:
        >>> from graphattn.datasets import load
        >>> from graphattn.models import AttentionNet
        >>> task = load("sbm")
        >>> net = AttentionNet(task.num_features, 16, task.out_channels)
        >>> recipe = Recipe(epochs=50, batch_size=None, lr=0.05, optimizer="adamw")
        >>> result = fit(net, task, recipe, progress=False)
        >>> len(result.epochs), result.test > 0.8
        (50, True)
    """
    if not isinstance(task, Task):
        raise TypeError(f"task is a {type(task).__name__}; expected a NodeTask, a GraphTask or a LinkTask")
    _check_batches(task, recipe, num_neighbors)
    recipe = recipe if seed is None else replace(recipe, seed=seed)
    files = _Files(out, recipe.seed)
    files.check(resume)
    fabric = _make_fabric(device, precision)
    config = {
        "task": task.name,
        "split": task.split_name,
        "metric": task.metric,
        "model": model.config if isinstance(model, Network) else str(model),
        "precision": precision,
        "num_neighbors": None if num_neighbors is None else list(num_neighbors),
    }
    _draw_weights(model, recipe.seed)
    with _advice(task, recipe, num_neighbors, precision, files):
        batches = _make_batches(task, fabric.setup_module(model), fabric.device, recipe, num_neighbors)

        def score(part: str) -> float:
            prediction: Any = batches.predict(part)
            for scores in prediction if isinstance(prediction, tuple) else (prediction,):
                if not bool(scores.isfinite().all()):
                    raise FloatingPointError(f"the output for {part!r} of {task.name} is not finite; lower lr")
            return task.evaluate(prediction, part)

        log = train(
            model,
            batches.num_samples,
            batches.losses,
            recipe,
            evaluate=lambda: score("val"),
            maximize=task.higher_is_better,
            checkpoint=files.checkpoint,
            config=config,
            metrics=files.metrics,
            fabric=fabric,
            progress=progress,
        )
        with torch.no_grad(), seeded(recipe.seed, 0, 1, device=fabric.device):
            test = score("test")
    best = log.epochs[log.best_epoch]
    result = Result({**config, "recipe": asdict(recipe)}, log.epochs, log.best_epoch, best["score"], test)
    files.write(result)
    return result


def load_model(path: str | Path) -> Network:
    """Build the network of a run again, with the weights of its best epoch.

    Args:
        path: The file ``seed-N.pt`` that :func:`fit` has written.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        ValueError: If the file is no checkpoint, or of a network that cannot be built from a ``config``.
        FileNotFoundError: If there is no file.

    Example:
        >>> import tempfile
        >>> from graphattn.datasets import load
        >>> from graphattn.models import AttentionNet
        >>> task, recipe = load("karate"), Recipe(epochs=2, batch_size=None, lr=0.01)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     net = AttentionNet(task.num_features, 8, task.out_channels)
        ...     result = fit(net, task, recipe, out=folder, progress=False)
        ...     same = load_model(Path(folder) / "seed-0.pt")
        >>> torch.equal(same(task.data.x, task.data.edge_index), net(task.data.x, task.data.edge_index))
        True
    """
    state = load_checkpoint(path)
    config = state["config"].get("model")
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds the weights of {config}; expected a network of graphattn.models")
    model = from_config(config)
    model.load_state_dict(state["best"])
    return model.eval()


class _Files:
    """The files of a run."""

    def __init__(self, out: str | Path | None, seed: int) -> None:
        self.folder = None if out is None else Path(out)
        self.checkpoint, self.metrics, self.result = (
            None if self.folder is None else self.folder / f"seed-{seed}.{end}" for end in ("pt", "jsonl", "json")
        )

    def check(self, resume: bool) -> None:
        """Make the folder, unless there is a run that is not to be gone on with."""
        if self.folder is None or self.checkpoint is None:
            if resume:
                raise ValueError("resume is True, but there is no out; pass the folder of the run that was stopped")
            return
        if self.checkpoint.exists() and not resume:
            raise FileExistsError(f"{self.checkpoint} exists; pass resume=True to go on with it, or another out")
        self.folder.mkdir(parents=True, exist_ok=True)

    def kept(self) -> str:
        """Say what a run that failed has left."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return ""
        return f"; finished epochs and seeds are kept in {self.folder}; changed settings need another out"

    def write(self, result: Result) -> None:
        """Write the result, whole or not at all."""
        if self.result is not None:
            with whole(self.result) as file:
                file.write_text(json.dumps(asdict(result), indent=2) + "\n")


def _check_batches(task: Task, recipe: Recipe, num_neighbors: Sequence[int] | None) -> None:
    if not isinstance(task, NodeTask):
        if num_neighbors is not None:
            what = "graphs" if isinstance(task, GraphTask) else "links"
            raise ValueError(f"num_neighbors is {list(num_neighbors)}, but {task.name} is about {what}; leave it out")
    elif num_neighbors is None and recipe.batch_size is not None:
        raise ValueError(
            f"batch_size is {recipe.batch_size}, but all nodes of {task.name} are trained on at once; pass "
            "Recipe(batch_size=None), or num_neighbors to train on batches of nodes"
        )


def _make_batches(
    task: Task, model: nn.Module, device: torch.device, recipe: Recipe, num_neighbors: Sequence[int] | None
) -> GraphBatches | Links | WholeGraph:
    if isinstance(task, GraphTask):
        return GraphBatches(task, model, device, recipe.batch_size or _EVALUATED_GRAPHS)
    if isinstance(task, LinkTask):
        return Links(task, model, device)
    if takes_labels(model):
        if num_neighbors is not None:
            raise ValueError(
                f"num_neighbors is {list(num_neighbors)}, but model has label_input; leave one of them out"
            )
        return KnownLabels(task, model, device)
    if num_neighbors is None:
        return WholeGraph(task, model, device)
    return SampledNodes(task, model, device, num_neighbors)


def _make_fabric(device: str, precision: str) -> Any:
    fabric = require("lightning_fabric", "train").Fabric
    if precision in ("16", "16-mixed") and (device == "cpu" or not torch.accelerator.is_available()):
        raise ValueError(f"precision is {precision!r}, which needs an accelerator; on a CPU take 'bf16-mixed'")
    if device in ("auto", "cpu"):
        return fabric(accelerator=device, devices=1, precision=precision)
    kind, _, number = device.partition(":")
    return fabric(accelerator=kind, devices=[int(number)] if number else 1, precision=precision)


def _draw_weights(model: nn.Module, seed: int) -> None:
    """Draw the weights on the CPU and in single precision, wherever and in what precision they were before."""
    reset = getattr(model, "reset_parameters", None)
    if reset is None:
        raise TypeError(f"model is a {type(model).__name__} without reset_parameters(), which draws the weights anew")
    model.to("cpu", torch.float32)
    with seeded(seed, 0):
        reset()


@contextmanager
def _advice(
    task: Task, recipe: Recipe, num_neighbors: Sequence[int] | None, precision: str, files: _Files
) -> Iterator[None]:
    """Let the errors that settings lead to say which to change, and what is kept."""
    try:
        yield
    except FloatingPointError as error:
        half = f"; precision is {precision!r}, try 'bf16-mixed' or '32-true'" if precision.startswith("16") else ""
        raise FloatingPointError(f"{error}{half}{files.kept()}") from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise MemoryError(f"memory ran out; {_smaller(task, recipe, num_neighbors)}{files.kept()}") from error


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def _smaller(task: Task, recipe: Recipe, num_neighbors: Sequence[int] | None) -> str:
    """Say what makes a step smaller."""
    narrow = "a narrower network, or precision='bf16-mixed'"
    if isinstance(task, NodeTask) and num_neighbors is None:
        return f"pass num_neighbors, such as [10, 10], and a batch_size, or take {narrow}"
    if recipe.batch_size is None:
        return f"set a batch_size in the recipe, or take {narrow}"
    fewer = "" if num_neighbors is None else f", or num_neighbors {list(num_neighbors)}"
    return f"lower batch_size, which is {recipe.batch_size}{fewer}, or take {narrow}"
