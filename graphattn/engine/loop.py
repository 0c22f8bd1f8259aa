"""The training loop that knows no task: batches and losses come from outside, and every epoch can be the last."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from graphattn.engine.average import WeightAverage
from graphattn.engine.checkpoint import load_checkpoint, save_checkpoint
from graphattn.engine.recipe import Recipe
from graphattn.engine.seeds import seeded


@dataclass
class TrainingLog:
    """What a training run has seen.

    Args:
        epochs: For each epoch the means of its losses, and ``"score"`` if there was an evaluation.
        best_epoch: Number of the epoch with the best score, the last one if nothing was evaluated.

    Example:
        >>> log = TrainingLog([{"loss": 2.0, "score": 0.5}, {"loss": 1.0, "score": 0.4}], best_epoch=0)
        >>> log.epochs[log.best_epoch]["score"]
        0.5
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1


def train(
    model: nn.Module,
    num_samples: int,
    losses: Callable[[Tensor], dict[str, Tensor]],
    recipe: Recipe,
    *,
    evaluate: Callable[[], float] | None = None,
    maximize: bool = True,
    checkpoint: str | Path | None = None,
    config: dict[str, Any] | None = None,
    metrics: str | Path | None = None,
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
        evaluate: Returns a score after each epoch, with the model in evaluation mode. Of equal scores the earlier epoch
            counts. Without it the last epoch is kept.
        maximize: Whether a larger score is better.
        checkpoint: File that is written after each epoch, and that the run goes on from if it is there.
        config: What else the run depends on; a checkpoint with another config or recipe is refused.
        metrics: File of JSON lines that gets the losses and the score of each epoch.
        fabric: A ``Fabric`` of Lightning, where it makes the steps because the losses come from a model that it has set
            up in another precision. ``model`` is that model as it was before.
        progress: Whether a progress bar is shown.

    Returns:
        The losses and scores of all epochs. The model has the weights of the best one and is in evaluation mode.

    Raises:
        ValueError: If there are no samples, the recipe has patience and nothing is evaluated, or the checkpoint
            belongs to another run.
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
    device = next(model.parameters()).device
    stepper = _Stepper(model, recipe, fabric)
    log, best = TrainingLog(), None
    asked = {"recipe": asdict(recipe), **(config or {})}
    if checkpoint is not None and Path(checkpoint).exists():
        state = load_checkpoint(checkpoint, asked, device)
        model.load_state_dict(state["model"])
        stepper.load_state_dict(state["optimizer"])
        log, best = TrainingLog(state["epochs"], state["best_epoch"]), state["best"]
    if metrics is not None:
        Path(metrics).write_text("".join(map(_line, range(len(log.epochs)), log.epochs)))
    bar = tqdm(total=recipe.epochs, initial=len(log.epochs), desc="epochs", disable=not progress)
    with bar:
        for epoch in range(len(log.epochs), recipe.epochs):
            if recipe.patience is not None and epoch - 1 - log.best_epoch >= recipe.patience:
                break
            with seeded(recipe.seed, 1 + epoch, device=device):
                batches = _batches(num_samples, recipe.batch_size or num_samples)
                means = _train_epoch(model, stepper, batches, losses, recipe, epoch)
            model.eval()
            with stepper.averaged():
                if evaluate is not None:
                    with torch.no_grad(), seeded(recipe.seed, 1 + epoch, 1, device=device):
                        means["score"] = float(evaluate())
                log.epochs.append(means)
                if evaluate is None or log.best_epoch < 0 or _better(means, log.epochs[log.best_epoch], maximize):
                    log.best_epoch = epoch
                    best = copy.deepcopy(model.state_dict())
            if checkpoint is not None:
                save_checkpoint(
                    checkpoint,
                    asked,
                    model=model.state_dict(),
                    optimizer=stepper.state_dict(),
                    epochs=log.epochs,
                    best_epoch=log.best_epoch,
                    best=best,
                )
            if metrics is not None:
                with Path(metrics).open("a") as lines:
                    lines.write(_line(epoch, means))
            bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()}, refresh=False)
            bar.update()
    if best is not None:
        model.load_state_dict(best)
    model.eval()
    return log


class _Stepper:
    """What moves the weights: an optimizer, in torch alone or in the precision of a Fabric, and their average."""

    def __init__(self, model: nn.Module, recipe: Recipe, fabric: Any) -> None:
        self.model, self.recipe, self.fabric = model, recipe, fabric
        self.optimizer = recipe.make_optimizer(model)
        self.average = None if recipe.ema is None else WeightAverage(model, recipe.ema)

    def step(self, loss: Tensor, rate: float) -> None:
        """Make a step down the gradient of a loss."""
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


def _batches(num_samples: int, size: int) -> Sequence[Tensor]:
    """Split all samples, in random order, into batches."""
    return torch.randperm(num_samples).split(size)


def _train_epoch(
    model: nn.Module,
    stepper: _Stepper,
    batches: Sequence[Tensor],
    losses: Callable[[Tensor], dict[str, Tensor]],
    recipe: Recipe,
    epoch: int,
) -> dict[str, float]:
    """Make one step for each batch; return the mean of each loss over the samples."""
    model.train()
    sums: dict[str, float] = {}
    for step, batch in enumerate(batches):
        values = losses(batch)
        loss = values["loss"]
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                f"the loss is {loss.item()} in epoch {epoch}, step {step}; lower lr, or look for broken samples"
            )
        stepper.step(loss, recipe.rate(epoch + step / len(batches)))
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.item() * batch.numel()
    num_samples = sum(batch.numel() for batch in batches)
    return {name: value / num_samples for name, value in sums.items()}


def _better(means: dict[str, float], best: dict[str, float], maximize: bool) -> bool:
    return means["score"] > best["score"] if maximize else means["score"] < best["score"]


def _line(epoch: int, means: dict[str, float]) -> str:
    return json.dumps({"epoch": epoch, **means}) + "\n"
