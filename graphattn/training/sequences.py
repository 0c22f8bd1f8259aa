"""Train a network of event sequences: what comes next and when, early stopping, and one look at the test set."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.datasets.sequences import EventWindows, SequenceTask
from graphattn.engine import Processes, Recipe, reset_peak_memory, seeded, train
from graphattn.models.event_losses import log_normal_loss, median_gap, ranking_loss
from graphattn.models.event_sequence_model import EventSequenceModel
from graphattn.training._advice import advice
from graphattn.training._devices import make_fabric
from graphattn.training._files import RunFiles
from graphattn.training._run import draw_weights, summary
from graphattn.training.fit import Result

_EVALUATED = 256  # windows that are predicted at a time, if the recipe has no batches


@dataclass(frozen=True)
class SequenceResult(Result):
    """What training on event sequences has come to.

    Args:
        config: What the run was asked to do.
        epochs: For each epoch ``"loss"`` and its parts ``"type_loss"`` and ``"time_loss"``, and of the validation set
            the metric as ``"score"``, ``"val_loss"`` and ``"val_time_error"``.
        best_epoch: Number of the epoch with the best validation score, whose weights the network has.
        val: Its validation score.
        test: Its test score.
        parameters: Number of weights of the network.
        stopped: What training ended by: ``"epochs"``, ``"patience"`` or ``"time"``.
        measured: What two runs with the same bits differ in, see :class:`~graphattn.training.Result`.
        test_time_error: Median absolute error of the time until the next event on the test set.

    Example:
        >>> result = SequenceResult({}, [], best_epoch=0, val=0.5, test=0.4, parameters=8, stopped="epochs",
        ...                         test_time_error=2.5)
        >>> result.test_time_error
        2.5
    """

    test_time_error: float | None = None


def fit_sequences(
    model: EventSequenceModel,
    task: SequenceTask,
    recipe: Recipe,
    *,
    length: int | None = None,
    time_weight: float = 0.1,
    max_minutes: float | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: str = "32-true",
    progress: bool = True,
) -> SequenceResult:
    r"""Train a network to tell the next event of sequences, and score that of the best epoch on the test set.

    .. math:: \operatorname{mean}_i \bigl[\ell(k_{i+1}) - w \log p(t_{i+1} - t_i)\bigr]

    with the cross entropy of the type, or for ``head="ranking"`` that of the type against one drawn from the others.
    Samples are windows of sequences; every event behind the first of its sequence is a target, once an epoch. The
    weights are drawn anew, from the seed; predicted times start from the mean and spread of the training set. The
    validation set alone decides about the epoch that is kept and about stopping early. A run that was stopped and is
    resumed ends with the same bits as one that was not, at the same number of threads.

    Args:
        model: The network, trained in place.
        task: Sequences, with their split.
        recipe: Epochs, batches of windows, optimizer, schedule, clipping and patience.
        length: Events that a prediction may see, see :meth:`~graphattn.datasets.sequences.SequenceTask.windows`; by
            default all of the sequence.
        time_weight: Weight :math:`w` of the times; 0 for none.
        max_minutes: Training ends after the epoch in which this much time was used up, that before a stop included.
        seed: Seed of weights, batches, dropout and what is drawn to rank; that of the recipe by default.
        out: Folder of the files of the run, as in :func:`~graphattn.training.fit`. By default nothing is written.
        resume: Whether to go on with what is in ``out``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` and the like; ``"auto"`` takes an accelerator if there is one.
        precision: As in Lightning: ``"32-true"``, ``"bf16-mixed"``, ``"16-mixed"``, ``"64-true"`` ...
        progress: Whether a progress bar is shown.

    Returns:
        The scores. The network has the weights of the best epoch and is in evaluation mode.

    Raises:
        ValueError: If the network has another number of types than the task, ``time_weight`` is negative, ranking has
            one type, or ``out`` has a run with other settings.
        TypeError: If the task or the network is of another kind.
        FileExistsError: If ``out`` has a run with this seed and ``resume`` is false.
        FloatingPointError: If the loss or a validation score is not finite.
        MemoryError: If memory runs out; the message says what to change.
        ImportError: If Lightning Fabric is not installed; the extra ``train`` brings it.

    Example:
        >>> from graphattn.datasets.sequences import periodic_events
        >>> task = periodic_events(num_sequences=20, length=8)
        >>> model = EventSequenceModel(task.num_types, dim=8)
        >>> result = fit_sequences(model, task, Recipe(epochs=2, batch_size=8), progress=False)
        >>> sorted(result.epochs[0])
        ['loss', 'score', 'time_loss', 'type_loss', 'val_loss', 'val_time_error']
    """
    _check(model, task, time_weight)
    recipe = recipe if seed is None else replace(recipe, seed=seed)
    files = RunFiles(out, recipe.seed)
    files.check(resume)
    fabric = make_fabric(device, 1, "auto", 1, precision)
    config: dict[str, Any] = {
        "task": task.name,
        "kind": "sequence",
        "classes": task.classes,
        "transform": task.transform,
        "split": task.split_name,
        "metric": task.metric,
        "model": model.config,
        "precision": precision,
        "length": length,
        "time_weight": time_weight,
    }
    config = json.loads(json.dumps(config))  # as it will be read from a file
    draw_weights(model, recipe.seed)
    model.center_gaps(task.elapsed("train"))
    reset_peak_memory(fabric.device)
    smaller = "lower batch_size or pass a smaller length, or take a narrower network or precision='bf16-mixed'"
    with advice(precision, smaller, files):
        windows = _Windows(model, task, fabric.device, length)
        run = _Run(task, fabric.setup_module(windows), windows, time_weight, recipe.batch_size or _EVALUATED)
        log = train(
            model,
            windows.count("train"),
            run.losses,
            recipe,
            evaluate=lambda: run.evaluate("val"),
            maximize=task.higher_is_better,
            max_minutes=max_minutes,
            checkpoint=files.checkpoint,
            config=config,
            metrics=files.metrics,
            tensorboard=files.tensorboard,
            fabric=fabric,
            progress=progress,
        )
        with torch.no_grad(), seeded(recipe.seed, 0, 1, device=fabric.device):
            test = Processes(fabric).first(lambda: run.evaluate("test"))
    common = summary(model, log, config, recipe, max_minutes, test["score"], fabric.device)
    result = SequenceResult(**common, test_time_error=test["val_time_error"])
    return SequenceResult(**files.write(asdict(result)))


class _Windows(nn.Module):
    """A network that is called with numbers of windows: times that passed through a ``Fabric`` would be rounded."""

    def __init__(self, model: EventSequenceModel, task: SequenceTask, device: torch.device, length: int | None) -> None:
        super().__init__()
        self.model = model
        self.parts = {
            which: EventWindows(*(column.to(device) for column in task.windows(which, length)))
            for which in ("train", "val", "test")
        }

    def count(self, which: str) -> int:
        return len(self.parts[which].event_type)

    def forward(self, which: str, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores of types, and means and deviations of times, for the targets of some windows."""
        event_type, t, scored = (column[rows] for column in self.parts[which])
        x = self.model(event_type[:, :-1], t[:, :-1])[scored[:, 1:]]
        mean, std = self.model.gap_distribution(x)
        return self.model.type_scores(x), mean, std

    def targets(self, which: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the types of the targets of some windows, from 0, and the times until them."""
        event_type, t, scored = (column[rows] for column in self.parts[which])
        at = scored[:, 1:]
        return event_type[:, 1:][at] - 1, t.diff(dim=1)[at]


class _Run:
    """Losses and scores of a network on windows."""

    def __init__(
        self, task: SequenceTask, module: nn.Module, windows: _Windows, time_weight: float, batch_size: int
    ) -> None:
        self.task, self.module, self.windows = task, module, windows
        self.time_weight, self.batch_size = time_weight, batch_size
        self.ranks = windows.model.lin_type is None

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Return what is minimized for some windows of the training set, and its parts."""
        rows = rows.to(self.windows.parts["train"].t.device)
        return self._losses(self.module("train", rows), self.windows.targets("train", rows))

    def evaluate(self, which: str) -> dict[str, float]:
        """Return the metric of the types, the loss and the median error of the times of a part."""
        device = self.windows.parts[which].t.device
        batches = torch.arange(self.windows.count(which), device=device).split(self.batch_size)
        outputs = [self.module(which, rows) for rows in batches]
        scores, mean, std = (torch.cat(column) for column in zip(*outputs, strict=True))
        for output in (scores, mean, std):
            if not bool(output.isfinite().all()):
                raise FloatingPointError(f"the output for {which!r} of {self.task.name} is not finite; lower lr")
        targets = self.windows.targets(which, torch.cat(batches))
        return {
            "score": self.task.evaluate(scores.argmax(dim=1) + 1, which),
            "val_loss": self._losses((scores, mean, std), targets)["loss"].item(),
            "val_time_error": self.task.time_error(median_gap(mean), which),
        }

    def _losses(self, outputs: tuple[Tensor, Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        (scores, mean, std), (kind, gap) = outputs, targets
        if self.ranks:
            other = (kind + torch.randint_like(kind, 1, scores.size(1))) % scores.size(1)
            positive, negative = (scores.gather(1, row.unsqueeze(1)).squeeze(1) for row in (kind, other))
            type_loss = ranking_loss(positive, negative)
        else:
            type_loss = F.cross_entropy(scores, kind)
        time_loss = log_normal_loss(mean, std, gap)
        return {"loss": type_loss + self.time_weight * time_loss, "type_loss": type_loss, "time_loss": time_loss}


def _check(model: Any, task: Any, time_weight: float) -> None:
    """Raise unless the network and the task go together."""
    if not isinstance(task, SequenceTask):
        raise TypeError(f"task is a {type(task).__name__}; expected a SequenceTask")
    if not isinstance(model, EventSequenceModel):
        raise TypeError(f"model is a {type(model).__name__}; expected an EventSequenceModel")
    if model.num_types != task.num_types:
        raise ValueError(f"model has {model.num_types} types, but {task.name} has {task.num_types}; make it with those")
    if model.num_types < 2 and model.lin_type is None:
        raise ValueError(f"{task.name} has one type, which there is nothing to rank against; pass head='class'")
    if not 0 <= time_weight < float("inf"):
        raise ValueError(f"time_weight is {time_weight}; expected a number of at least 0")
