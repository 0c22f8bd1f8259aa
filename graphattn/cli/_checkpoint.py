"""Checkpoints of networks on graphs, as commands read them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from graphattn.cli._checks import UserError
from graphattn.engine import load_checkpoint
from graphattn.models.network import Network
from graphattn.training import load_model


def read_checkpoint(path: Path) -> tuple[Network, dict[str, Any]]:
    """Read a network and its config; a file may be no checkpoint, hold no network, or one that reads no graph."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's, about pickles that it then refuses
            model, config = load_model(path), load_checkpoint(path)["config"]
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(reason if str(path) in reason else f"{path} cannot be used: {reason}") from error
    kind = config.get("kind")
    if kind in ("event", "sequence"):
        raise UserError(
            f"{path} is about {kind}s, and only networks of nodes, graphs and links are read here; use "
            "graphattn.training.load_model in Python"
        )
    missing = [key for key in ("task", "kind", "classes", "transform", "split", "metric") if key not in config]
    if missing:
        raise UserError(f"{path} does not tell the {', '.join(missing)} of its training; train it anew")
    return model, config
