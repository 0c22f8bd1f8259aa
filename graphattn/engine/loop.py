"""The training loop that knows no task: batches and losses come from outside, and every epoch can be the last."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

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
    checkpoint: str | Path | None = None,
    config: dict[str, Any] | None = None,
    progress: bool = False,
) -> TrainingLog:
    """Minimize a loss over samples, and keep the weights of the epoch that evaluates best.

    Random numbers of an epoch depend on ``recipe.seed`` and the number of the epoch alone. A run that was stopped and
    goes on from its checkpoint therefore ends with the same bits as one that was not, at the same number of threads.

    Args:
        model: The network, trained in place, on the device of its first parameter.
        num_samples: Samples are numbered from 0.
        losses: Takes the numbers ``[B]`` of some samples and returns losses by name; ``"loss"`` is minimized, the
            others are only logged.
        recipe: Epochs, batches, optimizer, schedule and seed.
        evaluate: Returns a score after each epoch, larger is better, with the model in evaluation mode. Of equal
            scores the earlier epoch counts. Without it the last epoch is kept.
        checkpoint: File that is written after each epoch, and that the run goes on from if it is there.
        config: What else the run depends on; a checkpoint with another config or recipe is refused.
        progress: Whether a progress bar is shown.

    Returns:
        The losses and scores of all epochs. The model has the weights of the best one and is in evaluation mode.

    Raises:
        ValueError: If there are no samples, or the checkpoint belongs to another run.
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
    device = next(model.parameters()).device
    optimizer = recipe.make_optimizer(model)
    log, best = TrainingLog(), None
    asked = {"recipe": asdict(recipe), **(config or {})}
    if checkpoint is not None and Path(checkpoint).exists():
        state = load_checkpoint(checkpoint, asked, device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        log, best = TrainingLog(state["epochs"], state["best_epoch"]), state["best"]
    bar = tqdm(total=recipe.epochs, initial=len(log.epochs), desc="epochs", disable=not progress)
    with bar:
        for epoch in range(len(log.epochs), recipe.epochs):
            with seeded(recipe.seed, 1 + epoch, device=device):
                means = _train_epoch(model, optimizer, _batches(num_samples, recipe.batch_size), losses, recipe, epoch)
            model.eval()
            if evaluate is not None:
                with torch.no_grad():
                    means["score"] = float(evaluate())
            log.epochs.append(means)
            if evaluate is None or log.best_epoch < 0 or means["score"] > log.epochs[log.best_epoch]["score"]:
                log.best_epoch = epoch
                best = copy.deepcopy(model.state_dict()) if evaluate is not None else None
            if checkpoint is not None:
                save_checkpoint(
                    checkpoint,
                    asked,
                    model=model.state_dict(),
                    optimizer=optimizer.state_dict(),
                    epochs=log.epochs,
                    best_epoch=log.best_epoch,
                    best=best,
                )
            bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()}, refresh=False)
            bar.update()
    if best is not None:
        model.load_state_dict(best)
    model.eval()
    return log


def _batches(num_samples: int, size: int) -> Sequence[Tensor]:
    """Split all samples, in random order, into batches."""
    return torch.randperm(num_samples).split(size)


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Tensor],
    losses: Callable[[Tensor], dict[str, Tensor]],
    recipe: Recipe,
    epoch: int,
) -> dict[str, float]:
    """Make one step for each batch; return the mean of each loss over the samples."""
    model.train()
    sums: dict[str, float] = {}
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(epoch + step / len(batches))
        values = losses(batch)
        loss = values["loss"]
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                f"the loss is {loss.item()} in epoch {epoch}, step {step}; lower lr, or look for broken samples"
            )
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.item() * batch.numel()
    num_samples = sum(batch.numel() for batch in batches)
    return {name: value / num_samples for name, value in sums.items()}
