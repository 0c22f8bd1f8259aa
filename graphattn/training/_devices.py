"""Where a network is trained: one device, or several that Lightning Fabric runs a process each for."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from graphattn._optional import require

_STRATEGIES = ("auto", "ddp")


def make_fabric(device: str, devices: int, strategy: str, num_nodes: int, precision: str) -> Any:
    """Return a launched ``Fabric``; its processes sum their gradients themselves (:func:`~graphattn.engine.train`).

    Args:
        device: Kind of the devices, ``"auto"`` for an accelerator if there is one; or a single one, as ``"cuda:1"``.
        devices: How many devices of a machine train together.
        strategy: ``"ddp"``, one process for each device; ``"auto"`` is that where there are several.
        num_nodes: How many machines there are.
        precision: Precision of Lightning.

    Raises:
        ValueError: If a value is out of range, or does not go with the others or the processes that there are.
        ImportError: If Lightning Fabric is not installed.
    """
    fabric = require("lightning_fabric", "train").Fabric
    for name, count in (("devices", devices), ("num_nodes", num_nodes)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} is {count!r}; expected an integer, at least 1")
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; expected {' or '.join(map(repr, _STRATEGIES))}")
    if precision in ("16", "16-mixed") and (device == "cpu" or not torch.accelerator.is_available()):
        raise ValueError(f"precision is {precision!r}, which needs an accelerator; on a CPU take 'bf16-mixed'")
    kind, _, number = device.partition(":")
    started = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else devices * num_nodes
    if started != devices * num_nodes:
        raise ValueError(
            f"torchrun has started {started} processes, but devices is {devices} and num_nodes is {num_nodes}; "
            "pass as many devices as it starts on each machine"
        )
    if devices * num_nodes == 1:
        return fabric(accelerator=kind, devices=[int(number)] if number else 1, precision=precision)
    if number:
        raise ValueError(f"device is {device!r}, a single one, but devices is {devices}; pass device={kind!r}")
    several = fabric(
        accelerator=kind, devices=devices, num_nodes=num_nodes, strategy=_make_strategy(), precision=precision
    )
    several.launch()
    return several


def launched() -> tuple[int, int] | None:
    """Return how many processes torchrun has started on each machine, and on how many; ``None`` without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return here, int(os.environ["WORLD_SIZE"]) // here


def _make_strategy() -> Any:
    class Unwrapped(require("lightning_fabric.strategies", "train").DDPStrategy):  # type: ignore[misc]
        """Processes that hold the same network; torch's wrapper would take unequal parts of a batch for equal."""

        def setup_module(self, module: nn.Module) -> nn.Module:
            return module

    return Unwrapped()
