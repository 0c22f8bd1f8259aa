"""What a run depends on, and the memory that it took."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

import graphattn
from graphattn.engine import environment, peak_memory, reset_peak_memory

CPU = torch.device("cpu")


def test_environment() -> None:
    found = environment()
    assert found["versions"]["graphattn"] == graphattn.__version__
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["hardware"]["cores"] == os.cpu_count()
    assert found["hardware"]["accelerator"] is None
    assert datetime.fromisoformat(found["date"]).utcoffset() is not None
    assert json.loads(json.dumps(found)) == found


def test_nothing_names_the_machine_or_its_folders() -> None:
    text = json.dumps(environment())
    assert socket.gethostname() not in text
    assert str(Path(graphattn.__file__).parent) not in text


def test_revision_of_somebody_else_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is installed below another project's repository has no revision."""
    module = sys.modules["graphattn.engine.environment"]
    (tmp_path / ".git").mkdir()
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(module, "_ROOT", tmp_path / "site-packages")
    assert module._revision.__wrapped__() is None


PEAKS = """
import torch
from graphattn.engine import peak_memory, reset_peak_memory

cpu = torch.device("cpu")
reset_peak_memory(cpu)
peaks = [peak_memory(cpu)]
block = torch.ones(2**26, dtype=torch.uint8)
peaks.append(peak_memory(cpu))
del block
peaks.append(peak_memory(cpu))
reset_peak_memory(cpu)
peaks.append(peak_memory(cpu))
print(*peaks)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak")
def test_peak_memory_starts_anew() -> None:
    """In a fresh process: in one that has run many tests, garbage may be freed at any moment."""
    run = [sys.executable, "-W", "ignore", "-c", PEAKS]
    before, high, past, anew = map(
        float, subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    )
    assert high >= before + 60
    # The system counts pages in bundles, a few of which are late.
    assert past == pytest.approx(high, abs=4), "it is that of the past"
    assert anew <= before + 30


def test_peak_memory_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    reset_peak_memory(CPU)
    assert peak_memory(CPU) is None
