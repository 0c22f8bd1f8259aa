"""Train a network on a task: seeds, early stopping, checkpoints, and one look at the test set at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphattn.datasets import EventTask, GraphTask, LinkTask
from graphattn.datasets.tasks import Task
from graphattn.engine import (
    Processes,
    Recipe,
    load_checkpoint,
    reset_peak_memory,
    seeded,
    train,
)
from graphattn.models import EventNetwork, from_config
from graphattn.models.network import Network
from graphattn.training._advice import advice, how_to_shrink
from graphattn.training._batches import GraphBatches, KnownLabels, SampledNodes, WholeGraph
from graphattn.training._caller import takes_labels
from graphattn.training._checks import check_consistency, check_sampling, kind_of
from graphattn.training._devices import make_fabric
from graphattn.training._events import Events
from graphattn.training._files import RunFiles
from graphattn.training._links import Links, SampledLinks
from graphattn.training._run import draw_weights, summary
from graphattn.training._surroundings import Surroundings
from graphattn.training.consistency import Consistency

_EVALUATED = 256  # graphs, nodes or pairs that are predicted at a time, if the recipe has no batches
_LAST_EVENTS = 10  # of a node in each hop, where nothing else is asked for


@dataclass(frozen=True)
class Result:
    """What a training run has come to.

    Args:
        config: What the run was asked to do: task, split, metric, network, recipe, precision and sampling.
        epochs: For each epoch the ``"loss"``, the metric on the validation set as ``"score"``, and ``"val_loss"``.
        best_epoch: Number of the epoch with the best validation score, whose weights the network has.
        val: Its validation score.
        test: Its test score.
        parameters: Number of weights of the network.
        stopped: What training ended by: ``"epochs"``, ``"patience"`` or ``"time"``.
        measured: What two runs with the same bits differ in, which is no part of equality: ``"seconds"`` of all epochs,
            ``"seconds_per_epoch"`` (median), ``"peak_memory_mib"`` (of torch on CUDA, else of the first process;
            ``None`` if the system does not tell), versions, hardware, threads, revision and date.

    Example:
        >>> epochs = [{"loss": 1.0, "score": 0.5}]
        >>> result = Result({}, epochs, best_epoch=0, val=0.5, test=0.4, parameters=8, stopped="epochs")
        >>> result.epochs[result.best_epoch]["score"] == result.val
        True
    """

    config: dict[str, Any]
    epochs: list[dict[str, float]]
    best_epoch: int
    val: float
    test: float
    parameters: int
    stopped: str
    measured: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class EventResult(Result):
    """What a training run over a stream of events has come to.

    Args:
        inductive: The test score over events with a node that training has not seen; ``None`` if there are none, or if
            events are classified. That of the validation set is ``"inductive"`` of the epochs.

    Example:
        >>> result = EventResult({}, [], best_epoch=0, val=0.9, test=0.8, parameters=8, stopped="epochs", inductive=0.7)
        >>> result.test - result.inductive > 0
        True
    """

    inductive: float | None = None


def fit(
    model: nn.Module,
    task: Task | EventTask,
    recipe: Recipe,
    *,
    num_neighbors: Sequence[int] | None = None,
    eval_neighbors: Sequence[int] | None = None,
    consistency: Consistency | None = None,
    max_minutes: float | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    num_nodes: int = 1,
    precision: str = "32-true",
    progress: bool = True,
) -> Result:
    """Train a network, keep the epoch that validates best, and score that one on the test set.

    The weights are drawn anew, from the seed: one seed is one result, whatever the network has seen before. The
    validation set alone decides about the epoch that is kept and about stopping early; the test set is looked at once,
    when training is over. Of epochs with the same validation score the one with the lowest validation loss is kept. A
    run that was stopped and is resumed ends with the same bits as one that was not, at the same number of threads; it
    takes as many devices as before.

    Nodes are trained on all at once, each step over the whole graph, or with ``num_neighbors`` in batches of sampled
    neighbourhoods; validation and test are over the whole graph in either case, unless ``eval_neighbors`` samples for
    them too. A network with ``label_input`` sees half of the training labels in each step and learns the others; for
    predictions it sees them all. Graphs are trained on in batches. So are links, beside as many random pairs, over the
    whole graph or what ``num_neighbors`` draws around their ends; the links of a batch stay in the graph.

    Events are trained on in batches in the order of time, each beside the same source with a random destination. A
    network with a memory forgets all at the start of an epoch, and goes on with what it remembers in validation and
    test, which follow; the network that is returned remembers both. The training sees the events of its part alone,
    later parts all events before them.

    Classes are learned by cross entropy, rows of several targets by that of each where it is known, links by that of
    being one, and numbers by the squared error, or by the absolute error if that is the metric.

    Args:
        model: A network that takes ``x``, ``edge_index`` and what else the graphs have of ``edge_attr``, ``pe`` and
            ``batch``, and ``pairs`` for links; edges with weights come as an :class:`~graphattn.affinity.Affinity`. For
            events an :class:`~graphattn.models.EventHead`. It is trained in place.
        task: Nodes, graphs, links or events, with their split.
        recipe: Epochs, batches, optimizer, schedule, clipping and patience. Nodes that are trained on all at once
            need ``batch_size=None``.
        num_neighbors: Neighbours that a node draws in each hop, -1 for all, to train on batches of nodes or links. Of
            events a node sees the last ones, 10 in each hop by default.
        eval_neighbors: The same for validation and test, in batches of as many. Features that are mapped from a file
            then never come into memory as a whole. -1 gives what the whole graph gives, if there are as many hops as
            the network has.
        consistency: What several runs of the network with dropout are to agree on, to learn from nodes without labels
            too; for classes of nodes that are trained on all at once.
        max_minutes: Training ends after the epoch in which this much time was used up, that before a stop included.
        seed: Seed of weights, batches and dropout; that of the recipe by default.
        out: Folder that gets ``seed-N.pt`` with weights and all that is needed to go on, ``seed-N.jsonl`` with the
            losses and scores of each epoch, and ``seed-N.json`` with the result and what it depends on; and, if
            TensorBoard is installed, ``tensorboard/seed-N``. By default nothing is written.
        resume: Whether to go on with what is in ``out``. A run that is over is read, so that a loop over seeds which
            was stopped repeats nothing.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` and the like; ``"auto"`` takes an accelerator if there is one.
        devices: How many of them share the samples of each batch, with a process each. The script is started once more
            for each further one, unless ``torchrun`` has done so; all processes get the result, the first writes it. A
            batch normalization sees the part of its process.
        strategy: ``"ddp"``, or ``"auto"`` for the same where there are several devices.
        num_nodes: Number of machines, each with as many devices.
        precision: As in Lightning: ``"32-true"``, ``"bf16-mixed"``, ``"16-mixed"``, ``"64-true"`` ...
        progress: Whether a progress bar is shown.

    Returns:
        The scores; an :class:`EventResult` for events. The network has the weights of the best epoch and is in
        evaluation mode.

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
    if not isinstance(task, (Task, EventTask)):
        raise TypeError(
            f"task is a {type(task).__name__}; expected a NodeTask, a GraphTask, a LinkTask or an EventTask"
        )
    recipe = recipe if seed is None else replace(recipe, seed=seed)
    check_sampling(task, model, recipe, num_neighbors, eval_neighbors, devices * num_nodes)
    check_consistency(task, num_neighbors, consistency)
    if num_neighbors is None and isinstance(model, EventNetwork) and model.past != "graph":
        num_neighbors = [_LAST_EVENTS] * model.num_layers
    files = RunFiles(out, recipe.seed)
    files.check(resume)
    fabric = make_fabric(device, devices, strategy, num_nodes, precision)
    processes = Processes(fabric)
    config: dict[str, Any] = {
        "task": task.name,
        "kind": kind_of(task),
        "classes": getattr(task, "classes", None),
        "transform": task.transform,
        "split": task.split_name,
        "metric": task.metric,
        "model": model.config if isinstance(model, Network) else str(model),
        "precision": precision,
        "processes": processes.size,
        "num_neighbors": num_neighbors,
        "eval_neighbors": eval_neighbors,
        "consistency": None if consistency is None else asdict(consistency),
    }
    config = json.loads(json.dumps(config))  # as it will be read from a file
    draw_weights(model, recipe.seed)
    reset_peak_memory(fabric.device)
    smaller = how_to_shrink(task, recipe, num_neighbors, eval_neighbors, takes_labels(model))
    with advice(precision, smaller, files):
        module = fabric.setup_module(model)
        batches = _make_batches(task, module, fabric.device, recipe, num_neighbors, eval_neighbors, consistency)
        log = train(
            model,
            batches.num_samples,
            batches.losses,
            recipe,
            evaluate=lambda: _evaluate(batches, "val"),
            maximize=task.higher_is_better,
            max_minutes=max_minutes,
            checkpoint=files.checkpoint,
            config=config,
            metrics=files.metrics,
            tensorboard=files.tensorboard,
            weight=batches.weight,
            shuffle=not isinstance(batches, Events),
            fabric=fabric,
            progress=progress,
        )
        with torch.no_grad(), seeded(recipe.seed, 0, 1, device=fabric.device):
            test = processes.first(lambda: _evaluate(batches, "test"))
    common = summary(model, log, config, recipe, max_minutes, test["score"], fabric.device)
    result = EventResult(**common, inductive=test.get("inductive")) if isinstance(task, EventTask) else Result(**common)
    return type(result)(**processes.first(lambda: files.write(asdict(result))))


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


_Batches = Events | GraphBatches | Links | WholeGraph


def _make_batches(
    task: Task | EventTask,
    model: nn.Module,
    device: torch.device,
    recipe: Recipe,
    num_neighbors: Sequence[int] | None,
    eval_neighbors: Sequence[int] | None,
    consistency: Consistency | None,
) -> _Batches:
    size = recipe.batch_size or _EVALUATED
    if isinstance(task, EventTask):
        return Events(task, model, device, num_neighbors or (), size)
    if isinstance(task, GraphTask):
        return GraphBatches(task, model, device, size)
    if num_neighbors is not None:
        surroundings = Surroundings(task.data, num_neighbors, eval_neighbors, size)
        if isinstance(task, LinkTask):
            return SampledLinks(task, model, device, surroundings)
        return SampledNodes(task, model, device, surroundings)
    if isinstance(task, LinkTask):
        return Links(task, model, device)
    nodes = KnownLabels if takes_labels(model) else WholeGraph
    return nodes(task, model, device, consistency)


def _evaluate(batches: _Batches, part: str) -> dict[str, float]:
    """Return the score of the predictions for a part, and for ``"val"`` their loss, once they are finite."""
    if isinstance(batches, Events):
        return batches.evaluate(part)
    prediction: Any = batches.predict(part)
    for scores in prediction if isinstance(prediction, tuple) else (prediction,):
        if not bool(scores.isfinite().all()):
            raise FloatingPointError(f"the output for {part!r} of {batches.task.name} is not finite; lower lr")
    score = {"score": batches.task.evaluate(prediction, part)}
    return score | {"val_loss": batches.validation_loss(prediction)} if part == "val" else score
