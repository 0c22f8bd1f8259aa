"""The bandwidth benchmark runs, counts the bytes it says, and takes its shares from the times it kept."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_quick_run(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "bandwidth.py"), "--quick", "--repeats", "2", "--threads", "1"]
    path = os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [*command, "--out", str(tmp_path)], check=True, capture_output=True, env={**os.environ, "PYTHONPATH": path}
    )
    measured = json.loads((tmp_path / "bandwidth.json").read_text())["measured"]
    row = 4 * 32 * 4
    assert {name: item["bytes"] for name, item in measured.items() if name != "copy"} == {
        "gather": 2 * 5_000 * row,
        "forward": 2 * 5_000 * row,
        "with backward": 6 * 5_000 * row,
    }
    rate = {name: item["bytes"] / statistics.median(item["seconds"]) for name, item in measured.items()}
    cells = next(line for line in (tmp_path / "bandwidth.md").read_text().splitlines() if line.startswith("| forward"))
    assert cells.split("|")[5].strip() == f"{rate['forward'] / rate['copy']:.2f}"
