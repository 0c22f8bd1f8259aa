"""Fixtures of the command line: what it draws, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures that are saved, by the name of their file without its ending."""
    figures: dict[str, Figure] = {}
    savefig = Figure.savefig

    def save(figure: Figure, path: Path, **options: Any) -> None:
        figures[Path(path).name.split(".")[0]] = figure
        savefig(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", save)
    return figures
