"""The files that a training run leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graphattn._files import whole


class RunFiles:
    """The files of the run with a seed, where it has a folder.

    Args:
        out: The folder; ``None`` writes nothing.
        seed: The seed.
    """

    def __init__(self, out: str | Path | None, seed: int) -> None:
        self.folder = None if out is None else Path(out)
        self.checkpoint, self.metrics, self.result = (
            None if self.folder is None else self.folder / f"seed-{seed}.{end}" for end in ("pt", "jsonl", "json")
        )
        self.tensorboard = None if self.folder is None else self.folder / "tensorboard" / f"seed-{seed}"

    def check(self, resume: bool) -> None:
        """Make the folder, unless there is a run that is not to be gone on with."""
        if self.folder is None or self.checkpoint is None:
            if resume:
                raise ValueError("resume is True, but there is no out; pass the folder of the run that was stopped")
            return
        if self.checkpoint.exists() and not resume:
            raise FileExistsError(f"{self.checkpoint} exists; pass resume=True to go on with it, or another out")
        self.folder.mkdir(parents=True, exist_ok=True)

    def kept(self) -> str:
        """Say what a run that failed has left."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return ""
        return f"; finished epochs and seeds are kept in {self.folder}; changed settings need another out"

    def write(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write a result, whole or not at all, and return it.

        One that is there stays if the two differ in nothing but what was measured: a run that was over has measured
        nothing this time.
        """
        if self.result is None:
            return result
        if self.result.exists():
            before = json.loads(self.result.read_text())
            if before == {**result, "measured": before.get("measured")}:
                return before
        with whole(self.result) as file:
            file.write_text(json.dumps(result, indent=2) + "\n")
        return result
