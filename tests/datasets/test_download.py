"""Files that are found, downloaded whole and checked, or named in the error."""

from __future__ import annotations

import hashlib
import io
import urllib.request
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from graphattn.datasets import load
from graphattn.datasets._download import find, obtain, unpack


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def server(tmp_path: Path) -> Path:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").write_text("b")
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("set/a.txt", "a")
        archive.writestr("set/raw/b.txt", "b")
        archive.writestr("README", "no part of the set")
        archive.writestr("set/../../../escaped.txt", "no part of it either")
    return folder


def urls(server: Path, *names: str) -> list[str]:
    return [(server / name).as_uri() for name in names]


def accept(folder: Path) -> None:
    assert (folder / "a.txt").read_text() == "a"


def test_files_are_found_before_anything_is_asked_for(tmp_path: Path, server: Path, offline: list[str]) -> None:
    names = ["a.txt", "b.txt"]
    assert find([tmp_path / "none", server], names) == server
    assert find([tmp_path, server], [*names, "c.txt"]) is None
    assert obtain("S", [tmp_path / "none", server], names, ["https://nowhere/a.txt"], accept) == server
    assert offline == []


def test_download_into_a_new_folder(tmp_path: Path, server: Path) -> None:
    goal = tmp_path / "root" / "S" / "raw"
    digest = {"a.txt": hashlib.sha256(b"a").hexdigest()[:16]}
    assert obtain("S", [goal], ["a.txt", "b.txt"], urls(server, "a.txt", "b.txt"), accept, digest) == goal
    assert everything(tmp_path / "root") == ["S", "S/raw", "S/raw/a.txt", "S/raw/b.txt"]
    assert (goal / "b.txt").read_text() == "b"


def test_download_keeps_the_files_that_are_there(tmp_path: Path, server: Path) -> None:
    goal = tmp_path / "S"
    goal.mkdir()
    (goal / "b.txt").write_text("mine")
    obtain("S", [goal], ["a.txt", "b.txt"], urls(server, "a.txt", "b.txt"), accept)
    assert {path.name: path.read_text() for path in goal.iterdir()} == {"a.txt": "a", "b.txt": "mine"}


def test_archives_are_unpacked_without_their_top_folder(tmp_path: Path, server: Path) -> None:
    goal = tmp_path / "root" / "S"
    obtain("S", [goal], ["a.txt", "raw/b.txt"], urls(server, "set.zip"), accept)
    assert everything(tmp_path / "root") == ["S", "S/a.txt", "S/raw", "S/raw/b.txt"]
    unpack(server / "set.zip", tmp_path / "here")
    assert everything(tmp_path / "here") == ["a.txt", "raw", "raw/b.txt"]
    assert not list(tmp_path.rglob("escaped.txt"))


def refuse(folder: Path) -> None:
    raise ValueError("this is another set")


@pytest.mark.parametrize(
    ("names", "files", "check", "digests", "error", "message"),
    [
        (["a.txt", "c.txt"], ["a.txt", "c.txt"], accept, None, FileNotFoundError, "put these files into"),
        (["a.txt"], ["a.txt"], refuse, None, ValueError, "this is another set"),
        (["a.txt"], ["a.txt"], accept, {"a.txt": "0" * 16}, ValueError, r"a\.txt of S was downloaded but is not"),
        (["set.zip"], ["a.txt", "b.txt"], accept, None, ValueError, r"b\.txt is missing in what file:.*set\.zip gives"),
        (["broken.zip"], ["a.txt"], accept, None, FileNotFoundError, "BadZipFile"),
    ],
)
def test_what_fails_leaves_nothing(
    tmp_path: Path, server: Path, names: Any, files: Any, check: Any, digests: Any, error: Any, message: str
) -> None:
    (server / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(error, match=message):
        obtain("S", [root / "S" / "raw"], files, urls(server, *names), check, digests)
    assert everything(root) == []


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(io.BytesIO):
        headers = Message()

    Answer.headers["Content-Length"] = "10"
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: Answer(b"12345"))
    with pytest.raises(FileNotFoundError, match=r"https://x/a\.txt gave 5 of 10 bytes"):
        obtain("S", [tmp_path / "S"], ["a.txt"], ["https://x/a.txt"], accept)
    assert everything(tmp_path) == []


def test_the_error_says_which_files_belong_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load("Cora", root=tmp_path / "data")
    message = str(caught.value)
    assert f"Cora was not found in {tmp_path}/data/Cora/raw, {tmp_path}/data/Cora, {tmp_path}/data" in message
    assert f"put these files into {tmp_path}/data/Cora/raw: ind.cora.x, ind.cora.tx, ind.cora.allx" in message
    assert "this test is offline" in message
    assert "They come from https://raw.githubusercontent.com/kimiyoung/planetoid/" in message
    assert everything(tmp_path) == []
