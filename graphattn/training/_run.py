"""What every run does before it trains and after, whatever it trains on."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from graphattn.engine import Recipe, TrainingLog, environment, peak_memory, seeded


def draw_weights(model: nn.Module, seed: int) -> None:
    """Draw the weights on the CPU and in single precision, wherever and in what precision they were before."""
    reset = getattr(model, "reset_parameters", None)
    if reset is None:
        raise TypeError(f"model is a {type(model).__name__} without reset_parameters(), which draws the weights anew")
    model.to("cpu", torch.float32)
    with seeded(seed, 0):
        reset()


def summary(
    model: nn.Module,
    log: TrainingLog,
    config: dict[str, Any],
    recipe: Recipe,
    max_minutes: float | None,
    test: float,
    device: torch.device,
) -> dict[str, Any]:
    """Return what the result of every run holds, by the names of :class:`~graphattn.training.Result`."""
    return {
        "config": {**config, "recipe": asdict(recipe), "max_minutes": max_minutes},
        "epochs": log.epochs,
        "best_epoch": log.best_epoch,
        "val": log.epochs[log.best_epoch]["score"],
        "test": test,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "stopped": log.stopped,
        "measured": {
            "seconds": sum(log.seconds),
            "seconds_per_epoch": statistics.median(log.seconds),
            "peak_memory_mib": peak_memory(device),
            **environment(device),
        },
    }
