"""Files that are either whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphattn import _files
from graphattn.cli._checks import UserError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary name that is renamed at the end; what cannot be written is the user's to mend."""
    try:
        with _files.whole(path) as part:
            yield part
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file that is either whole or not there."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> None:
    """Make the folder of ``--out``, which may stand where a file is or where nobody may write."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path} cannot be made: {error.strerror}") from error
