"""Mistakes that the user of a command can mend."""

from __future__ import annotations

import torch


class UserError(Exception):
    """Say what is wrong with a command's input; it is printed without a traceback and the exit status is 2."""


def usable_device(name: str) -> torch.device:
    """Find the device of ``--device``, which may be misspelt or absent from this machine."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used: {error}") from error
    return device
