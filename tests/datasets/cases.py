"""Where the shared data lie, and small sets in the original layouts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def shared(*parts: str) -> Path:
    """Path of shared data; skip the test where it is absent."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


def copied(source: Path, goal: Path, pattern: str = "*") -> Path:
    """Copy the files of a folder that match a pattern."""
    goal.mkdir(parents=True, exist_ok=True)
    for path in source.glob(pattern):
        shutil.copy(path, goal / path.name)
    return goal
