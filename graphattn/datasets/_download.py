"""Files of a set: found where they are, or downloaded whole and checked, or named in the error."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

_SECONDS = 30
_CHUNK = 1 << 20


def find(folders: Sequence[Path], files: Sequence[str]) -> Path | None:
    """Return the first folder that holds all the files."""
    return next((folder for folder in folders if all((folder / file).is_file() for file in files)), None)


def obtain(
    name: str,
    folders: Sequence[Path],
    files: Sequence[str],
    urls: Sequence[str],
    check: Callable[[Path], object],
    digests: Mapping[str, str] | None = None,
) -> Path:
    """Return the first folder that holds all the files; download them into the first of ``folders`` if none does.

    Files take their place once all are there, their digests are right and ``check`` has read them. A download that
    fails leaves nothing behind.

    Args:
        name: Name of the set.
        folders: Where to look.
        files: What must be there.
        urls: Where the files come from. A ``.zip`` is unpacked without its top folder, if it has one.
        check: Reads the files of a folder and raises ``ValueError`` if they are not the set.
        digests: First 16 hexadecimal digits of SHA-256 of the files for which they are known.

    Raises:
        FileNotFoundError: If the files are nowhere and cannot be downloaded; it says which files belong where.
        ValueError: If what was downloaded is not the set.
    """
    found = find(folders, files)
    if found is not None:
        return found
    target = folders[0]
    home = next(folder for folder in (target, *target.parents) if folder.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=home, prefix=".download-") as temporary:
            new = Path(temporary) / "files"
            new.mkdir()
            for url in urls:
                _fetch(url, new, name)
            missing = [file for file in files if not (new / file).is_file()]
            if missing:
                raise ValueError(f"{', '.join(missing)} is missing in what {urls[0]} gives for {name}")
            for file, digest in (digests or {}).items():
                if hashlib.sha256((new / file).read_bytes()).hexdigest()[:16] != digest:
                    raise ValueError(f"{file} of {name} was downloaded but is not the file that it should be")
            check(new)
            _place(new, target)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile) as error:
        looked = ", ".join(map(str, folders))
        raise FileNotFoundError(
            f"{name} was not found in {looked} and could not be downloaded ({type(error).__name__}: {error}); "
            f"put these files into {target}: {', '.join(files)}. They come from {', '.join(_shortened(urls))}"
        ) from error
    return target


def _fetch(url: str, folder: Path, name: str) -> None:
    """Write what a URL gives into a folder."""
    file = folder / Path(urlsplit(url).path).name
    request = urllib.request.Request(url, headers={"User-Agent": "graphattn"})
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer, open(file, "wb") as copy:
        size = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=name, disable=None, leave=False) as bar:
            while chunk := answer.read(_CHUNK):
                copy.write(chunk)
                bar.update(len(chunk))
        if size and copy.tell() != size:
            raise OSError(f"{url} gave {copy.tell()} of {size} bytes")
    if file.suffix == ".zip":
        unpack(file, folder)
        file.unlink()


def _place(new: Path, target: Path) -> None:
    """Move a folder to its place, or the files that are missing there."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(new, target)
        return
    for path in sorted(new.rglob("*")):
        goal = target / path.relative_to(new)
        if path.is_file() and not goal.exists():
            goal.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, goal)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip without its top folder, if it has one, and nothing outside of ``folder``."""
    with zipfile.ZipFile(archive) as files:
        members = [member for member in files.infolist() if not member.filename.startswith("__MACOSX/")]
        top = int(any("/" in member.filename for member in members))
        for member in members:
            parts = Path(member.filename).parts
            if member.is_dir() or len(parts) <= top or ".." in parts:
                continue
            path = folder.joinpath(*parts[top:])
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.open(member) as source, open(path, "wb") as copy:
                shutil.copyfileobj(source, copy)


def _shortened(urls: Sequence[str]) -> list[str]:
    """Name the folder of files that come from one place, instead of all of them."""
    return [urls[0]] if len(urls) == 1 else sorted({url.rpartition("/")[0] + "/" for url in urls})
