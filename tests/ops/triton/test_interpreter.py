"""Triton's interpreter cannot share a process with its compiler, so what the kernels compute is tested in another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_kernels_in_the_interpreter(which: str) -> None:
    root = Path(__file__).parents[3]
    tests = str(Path(__file__).parent / "in_interpreter.py")
    command = [sys.executable, "-m", "pytest", "--tb=short", "-m", which, tests]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
