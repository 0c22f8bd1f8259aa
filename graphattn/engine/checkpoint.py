"""Checkpoints: one file that is either whole or not there, read without running code from it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from graphattn._files import unread, whole

_VERSION = 1


def save_checkpoint(path: str | Path, config: dict[str, Any], **state: Any) -> None:
    """Write a checkpoint; a file that is there is replaced once the new one is complete.

    Args:
        path: The file.
        config: What the run was asked to do, of numbers, strings, booleans, ``None``, lists and dictionaries.
        state: What is needed to go on: state dictionaries, tensors, and what a ``config`` may hold.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(Path(folder) / "run.pt", {"width": 4}, weight=torch.ones(2))
        ...     load_checkpoint(Path(folder) / "run.pt")["weight"]
        tensor([1., 1.])
    """
    with whole(path) as file:
        torch.save({"version": _VERSION, "config": config, **state}, file)


def load_checkpoint(
    path: str | Path, config: dict[str, Any] | None = None, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Read a checkpoint that :func:`save_checkpoint` has written.

    Nothing but tensors and plain values is read (``weights_only=True``), so that a file from elsewhere runs no code.

    Args:
        path: The file.
        config: What the run is asked to do now; without it any config is taken.
        device: Where the tensors go.

    Returns:
        The state, with its ``"config"``.

    Raises:
        ValueError: If the file is no checkpoint, is of another version, or its config is not ``config``.
        FileNotFoundError: If there is no file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(Path(folder) / "run.pt", {"width": 4})
        ...     try:
        ...         load_checkpoint(Path(folder) / "run.pt", {"width": 8})
        ...     except ValueError as error:
        ...         print(str(error).split("; ")[1])
        width is 8 but was 4
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is no checkpoint ({unread(error)}); expected what save_checkpoint wrote") from error
    if not isinstance(state, dict) or not {"version", "config"} <= state.keys():
        raise ValueError(f"{path} is no checkpoint of this library; expected a file that save_checkpoint wrote")
    if state["version"] != _VERSION:
        raise ValueError(f"{path} has version {state['version']}, this library reads version {_VERSION}")
    if config is not None and config != state["config"]:
        before = state["config"]
        names = sorted(name for name in config.keys() | before.keys() if config.get(name) != before.get(name))
        changes = ", ".join(f"{name} is {config.get(name)!r} but was {before.get(name)!r}" for name in names)
        raise ValueError(f"{path} belongs to another run; {changes}; use another file, or delete this one")
    return state
