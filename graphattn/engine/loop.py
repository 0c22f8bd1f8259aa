"""The training loop that knows no task: batches and losses come from outside, and every epoch can be the last."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.engine.average import WeightAverage
from graphattn.engine.checkpoint import load_checkpoint, save_checkpoint
from graphattn.engine.processes import Processes
from graphattn.engine.recipe import Recipe
from graphattn.engine.report import Report
from graphattn.engine.seeds import seeded


@dataclass
class TrainingLog:
    """What a training run has seen.

    Args:
        epochs: For each epoch the means of its losses, and ``"score"`` if there was an evaluation.
        best_epoch: Number of the epoch with the best score, the last one if nothing was evaluated.
        stopped: What training ended by: ``"epochs"``, ``"patience"`` or ``"time"``.
        seconds: How long each epoch took; two logs are equal whatever they are.

    Example:
        >>> log = TrainingLog([{"loss": 2.0, "score": 0.5}, {"loss": 1.0, "score": 0.4}], best_epoch=0)
        >>> log.epochs[log.best_epoch]["score"]
        0.5
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    stopped: str = "epochs"
    seconds: list[float] = field(default_factory=list, compare=False)


def train(
    model: nn.Module,
    num_samples: int,
    losses: Callable[[Tensor], dict[str, Tensor]],
    recipe: Recipe,
    *,
    evaluate: Callable[[], float | Mapping[str, float]] | None = None,
    maximize: bool = True,
    max_minutes: float | None = None,
    checkpoint: str | Path | None = None,
    config: dict[str, Any] | None = None,
    metrics: str | Path | None = None,
    tensorboard: str | Path | None = None,
    weight: Callable[[Tensor], float] = len,
    shuffle: bool = True,
    fabric: Any = None,
    progress: bool = False,
) -> TrainingLog:
    """Minimize a loss over samples, and keep the weights of the epoch that evaluates best.

    Random numbers of an epoch and of its evaluation depend on ``recipe.seed`` and the number of the epoch alone. A run
    that was stopped and goes on from its checkpoint therefore ends with the same bits as one that was not, at the same
    number of threads.

    Args:
        model: The network, trained in place, on the device of its first parameter.
        num_samples: Samples are numbered from 0.
        losses: Takes the numbers ``[B]`` of some samples and returns losses by name; ``"loss"`` is minimized, the
            others are only logged.
        recipe: Epochs, batches, optimizer, schedule and seed.
        evaluate: Returns a score after each epoch, with the model in evaluation mode; or a dictionary with the
            ``"score"`` and what else is to be logged. Of equal scores the one with the lower ``"val_loss"`` counts, if
            there is one, and then the earlier one. Without it the last epoch is kept.
        maximize: Whether a larger score is better.
        max_minutes: Time after which no further epoch begins, with that of the run before it was stopped.
        checkpoint: File that is written after each epoch, and that the run goes on from if it is there.
        config: What else the run depends on; a checkpoint with another config or recipe is refused.
        metrics: File of JSON lines that gets the losses and the score of each epoch.
        tensorboard: Folder that gets the same for TensorBoard, if that is installed.
        weight: Returns how many targets the losses of some samples are means of, by which those of several processes
            are averaged; as many as samples by default.
        shuffle: Whether batches are of samples in random order, drawn anew in each epoch; otherwise samples come in
            theirs.
        fabric: A ``Fabric`` of Lightning, where it makes the steps because the losses come from a model that it has set
            up in another precision, or because several processes share the samples of each batch. ``model`` is that
            model as it was before, and must not do that by itself. The first process evaluates and writes the files.
        progress: Whether a progress bar is shown.

    Returns:
        The losses and scores of all epochs. The model has the weights of the best one and is in evaluation mode.

    Raises:
        ValueError: If there are no samples, the recipe has patience and nothing is evaluated, the time is not positive,
            or the checkpoint belongs to another run.
        FloatingPointError: If the loss is not finite.

    Example:
        >>> with seeded(0):
        ...     model = nn.Linear(1, 1)
        >>> x = torch.linspace(-1, 1, 8).unsqueeze(1)
        >>> recipe = Recipe(epochs=100, batch_size=8, lr=8.0)
        >>> log = train(model, 8, lambda rows: {"loss": (model(x[rows]) - 3 * x[rows]).square().mean()}, recipe)
        >>> len(log.epochs), log.epochs[-1]["loss"] < 0.01
        (100, True)
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least one sample to train on")
    if recipe.patience is not None and evaluate is None:
        raise ValueError(f"patience is {recipe.patience}, but nothing is evaluated; pass evaluate, or patience=None")
    if max_minutes is not None and not max_minutes > 0:
        raise ValueError(f"max_minutes is {max_minutes}; expected a positive number, or None")
    device, processes = next(model.parameters()).device, Processes(fabric)
    stepper = _Stepper(model, recipe, processes)
    log, best, state = TrainingLog(), None, None
    asked = {"recipe": asdict(recipe), **(config or {})}
    if checkpoint is not None:
        state = processes.first(
            lambda: load_checkpoint(checkpoint, asked, device) if Path(checkpoint).exists() else None
        )
    if state is not None:
        model.load_state_dict(state["model"])
        stepper.load_state_dict(state["optimizer"])
        log, best = TrainingLog(state["epochs"], state["best_epoch"], seconds=state["seconds"]), state["best"]
    report = None
    if processes.rank == 0:
        options: dict[str, Any] = {"metrics": metrics, "tensorboard": tensorboard, "progress": progress}
        report = Report(log.epochs, recipe.epochs, **options)
    with nullcontext() if report is None else report:
        while (end := _end(log, recipe, max_minutes)) is None:
            epoch, start = len(log.epochs), time.perf_counter()
            with seeded(recipe.seed, 1 + epoch, device=device):
                batches = _batches(num_samples, recipe.batch_size or num_samples, shuffle)
                with processes.apart(recipe.seed, 1 + epoch, device=device):
                    means = _train_epoch(stepper, batches, losses, weight, epoch)
            processes.share_buffers(model)
            model.eval()
            with stepper.averaged():
                if evaluate is not None:
                    with torch.no_grad(), seeded(recipe.seed, 1 + epoch, 1, device=device):
                        found = processes.first(evaluate)
                    means |= found if isinstance(found, Mapping) else {"score": float(found)}
                log.epochs.append(means)
                if evaluate is None or log.best_epoch < 0 or _better(means, log.epochs[log.best_epoch], maximize):
                    log.best_epoch = epoch
                    best = copy.deepcopy(model.state_dict())
            log.seconds.append(processes.agreed(time.perf_counter() - start))
            if report is None:
                continue
            report.add(epoch, means)
            if checkpoint is not None:
                save_checkpoint(
                    checkpoint,
                    asked,
                    model=model.state_dict(),
                    optimizer=stepper.state_dict(),
                    epochs=log.epochs,
                    best_epoch=log.best_epoch,
                    best=best,
                    seconds=log.seconds,
                )
    log.stopped = end
    best = processes.agreed(best)
    if best is not None:
        model.load_state_dict(best)
    model.eval()
    return log


class _Stepper:
    """What moves the weights: an optimizer, in torch alone or in the precision of a Fabric, and their average."""

    def __init__(self, model: nn.Module, recipe: Recipe, processes: Processes) -> None:
        self.model, self.recipe, self.processes = model, recipe, processes
        self.fabric = processes.fabric
        self.optimizer = recipe.make_optimizer(model)
        self.average = None if recipe.ema is None else WeightAverage(model, recipe.ema)

    def step(self, loss: Tensor, rate: float) -> None:
        """Make a step down the gradient of a loss, summed over the processes."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        clip = self.recipe.clip
        if self.fabric is None:
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            self.optimizer.step()
        else:
            self.fabric.backward(loss)
            self.processes.sum_gradients(self.model.parameters())
            if clip is not None:
                # Steps whose scaled gradients overflow in half precision are left out, and the scale is lowered.
                self.fabric.clip_gradients(self.model, self.optimizer, max_norm=clip, error_if_nonfinite=False)
            self.fabric.strategy.optimizer_step(self.optimizer)
        if self.average is not None:
            self.average.update()

    def averaged(self) -> AbstractContextManager[None]:
        """Give the model for a while the weights that it is judged by."""
        return nullcontext() if self.average is None else self.average.applied()

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "precision": {} if self.fabric is None else self.fabric.strategy.precision.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` has returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.fabric is not None:
            self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def _batches(num_samples: int, size: int, shuffle: bool) -> Sequence[Tensor]:
    """Split all samples into batches."""
    return (torch.randperm(num_samples) if shuffle else torch.arange(num_samples)).split(size)


def _train_epoch(
    stepper: _Stepper,
    batches: Sequence[Tensor],
    losses: Callable[[Tensor], dict[str, Tensor]],
    weight: Callable[[Tensor], float],
    epoch: int,
) -> dict[str, float]:
    """Make one step for each batch; return the mean of each loss over the samples."""
    stepper.model.train()
    sums: dict[str, float] = {}
    for step, batch in enumerate(batches):
        rows = stepper.processes.part(batch)
        values = losses(rows)
        means, share = stepper.processes.mean(values, partial(weight, rows))
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the loss is {means['loss']} in epoch {epoch}, step {step}; lower lr, or look for broken samples"
            )
        stepper.step(values["loss"] * share, stepper.recipe.rate(epoch + step / len(batches)))
        for name, value in means.items():
            sums[name] = sums.get(name, 0.0) + value * batch.numel()
    num_samples = sum(batch.numel() for batch in batches)
    return {name: value / num_samples for name, value in sums.items()}


def _end(log: TrainingLog, recipe: Recipe, max_minutes: float | None) -> str | None:
    """Return what training ends by before the next epoch, ``None`` if it goes on."""
    done = len(log.epochs)
    if done >= recipe.epochs:
        return "epochs"
    if recipe.patience is not None and done - 1 - log.best_epoch >= recipe.patience:
        return "patience"
    if max_minutes is not None and sum(log.seconds) >= 60 * max_minutes:
        return "time"
    return None


def _better(means: dict[str, float], best: dict[str, float], maximize: bool) -> bool:
    if means["score"] != best["score"]:
        return (means["score"] > best["score"]) == maximize
    return means.get("val_loss", math.inf) < best.get("val_loss", math.inf)
