"""Results of runs that were never made, for those who read what others have left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_result(folder: Path, model: str, seed: int, test: float, **changes: Any) -> None:
    config = {"task": "made", "split": "public", "metric": "accuracy", "recipe": {"seed": seed}}
    measured = {
        "seconds": 2.0 + seed,
        "seconds_per_epoch": 0.5,
        "peak_memory_mib": 100.0 + seed,
        "versions": {"torch": "2", "graphattn": "0"},
        "hardware": {"cpu": "abacus", "accelerator": None},
        "threads": 1,
        "revision": "abc",
    }
    config |= {name: changes.pop(name) for name in ("task", "split", "metric") if name in changes}
    measured |= {name: changes.pop(name) for name in ("hardware", "revision") if name in changes}
    result = {"config": config, "val": test + 0.1, "test": test, "parameters": 1234, "measured": measured, **changes}
    (folder / model).mkdir(parents=True, exist_ok=True)
    (folder / model / f"seed-{seed}.json").write_text(json.dumps(result))
