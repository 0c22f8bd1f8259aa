"""The command line as such, and the files it leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from graphattn import __version__
from graphattn.cli import main
from graphattn.cli._checks import UserError
from graphattn.cli._files import whole, write_text


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().out
    assert "demo" in said
    assert "Rank the columns of a table" in said


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"graphattn {__version__}\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("demo", ["--out", "--seeds", "interrupted"]),
        ("rerank", ["corrupt lines", "interruption", "--skip-missing", "--top-k", "--batch-size", "--engine"]),
        ("select", ["missing values", "text columns", "constant columns", "row names", "--neighbors", "drop-rows"]),
    ],
)
def test_help_is_the_manual(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert [word for word in words if word not in said] == []


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "graphattn", "rerank", "--method", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"

    def fail(text: str) -> None:
        with whole(path) as part:
            part.write_text(text)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail("half")
    assert list(tmp_path.iterdir()) == []
    write_text(path, "è")
    with pytest.raises(KeyboardInterrupt):
        fail("half")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text(encoding="utf-8") == "è"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken cannot be written: Is a directory"):
        write_text(tmp_path / "taken", "text")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]
