"""What the numbers of a run depend on besides its settings: versions, hardware, revision; and what memory it took."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch-geometric", "lightning-fabric", "numpy", "scipy")


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what the numbers of a run depend on; nothing that names the machine or its folders.

    Args:
        device: Where the run computes.

    Returns:
        ``"versions"`` of this library and of those below it, ``"hardware"``, ``"threads"`` of torch, ``"revision"`` of
        a working copy of this library, ``None`` if it was installed as a package, and ``"date"`` in UTC.

    Example:
        >>> found = environment()
        >>> found["versions"]["torch"] == torch.__version__, found["threads"] == torch.get_num_threads()
        (True, True)
    """
    device = torch.device(device)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    return {
        "versions": _versions(),
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_gib": None if memory is None else round(memory / 2**30, 1),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
        "threads": torch.get_num_threads(),
        "revision": _revision(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def reset_peak_memory(device: torch.device) -> None:
    """Let the peak of :func:`peak_memory` start anew, where the system can do so.

    Args:
        device: Where memory is taken.

    Example:
        >>> reset_peak_memory(torch.device("cpu"))
    """
    if device.type == "cuda":
        torch.cuda.init()  # before the first tensor there, the next call knows of no device
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory(device: torch.device) -> float | None:
    """Return the most memory in MiB since :func:`reset_peak_memory`.

    Args:
        device: Where memory is taken.

    Returns:
        What torch took of a CUDA device, or the process of the memory of a Linux; ``None`` where the system does not
        tell.

    Example:
        >>> peak = peak_memory(torch.device("cpu"))
        >>> peak is None or peak > 10
        True
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def _versions() -> dict[str, str | None]:
    # The library may run from a working copy that no package manager knows.
    versions: dict[str, str | None] = {
        "graphattn": sys.modules["graphattn"].__version__,
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
    }
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown"


@cache
def _revision() -> str | None:
    """Revision of the working copy; a folder above that is under version control belongs to somebody else."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
