"""Lines of TREC files: read, checked and named when they are corrupt; and written."""

from __future__ import annotations

import codecs
import gzip
import math
import zlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from graphattn._files import whole

_GZIP = b"\x1f\x8b"
_MAGNITUDE = 0x7FFFFFFF
_LARGEST = 0x7F7FFFFF  # the bits of the largest float32
_RUN, _JUDGEMENT = "query Q0 document rank score tag", "query iteration document relevance"


def corrupt(path: Path, number: int, reason: str) -> ValueError:
    """Return the error that names a line of a file."""
    return ValueError(f"{path}, line {number}: {reason}")


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the text of every line that is not blank, of a file that gzip may have compressed."""
    number = 0
    with open(path, "rb") as raw:
        # Its first bytes tell, whatever its name.
        file: IO[bytes] = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == _GZIP else raw  # type: ignore[assignment]
        try:
            for number, line in enumerate(file, start=1):
                text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if not text.isspace():
                    yield number, text
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise corrupt(path, number + 1, f"the compressed file is damaged: {error}") from error


def parse_run_line(path: Path, number: int, line: bytes) -> tuple[str, str, float]:
    """Return the query, the document and the score of a line; the tag may be several words."""
    fields = line.split(None, 5)
    if len(fields) < 6:
        raise corrupt(path, number, f"{len(fields)} fields; expected 6: {_RUN}")
    score = _number(path, number, "score", fields[4])
    if not score < math.inf:
        raise corrupt(path, number, f"score is {score}; expected a finite number, or -inf for what is ranked last")
    try:
        int(fields[3])
    except ValueError:  # what a document with a space in its name looks like
        raise corrupt(path, number, f"rank is {_shown(fields[3])}; expected an integer, as in {_RUN}") from None
    return _name(path, number, fields[0]), _name(path, number, fields[2]), score


def parse_judgement_line(path: Path, number: int, line: bytes) -> tuple[str, str, int]:
    """Return the query, the document and the relevance of a line."""
    fields = line.split()
    if len(fields) != 4:
        raise corrupt(path, number, f"{len(fields)} fields; expected 4: {_JUDGEMENT}")
    try:
        relevance = int(fields[3])
    except ValueError:
        raise corrupt(path, number, f"relevance is {_shown(fields[3])}; expected an integer") from None
    return _name(path, number, fields[0]), _name(path, number, fields[2]), relevance


def run_lines(query_id: Hashable, doc_ids: Sequence[Hashable], scores: np.ndarray, tag: str) -> bytes:
    """Write a list, best first, as the lines of a run."""
    query = word("query_ids", query_id)
    docs = [word("doc_ids", doc) for doc in doc_ids]
    if len(set(docs)) < len(docs):
        twice = next(doc for doc in docs if docs.count(doc) > 1)
        raise ValueError(f"doc_ids holds {twice!r} twice for query {query!r}; a run names a document once per query")
    values = strictly_decreasing(scores, query).astype(str)
    lines = [
        f"{query} Q0 {doc} {rank} {value} {tag}\n"
        for rank, (doc, value) in enumerate(zip(docs, values, strict=True), 1)
    ]
    return "".join(lines).encode()


def strictly_decreasing(scores: np.ndarray, query: Hashable) -> np.ndarray:
    """Round scores that never increase to float32 and move equal ones apart by its least step, downwards."""
    with np.errstate(over="ignore"):
        values = scores.astype(np.float32)
    unscored = np.isneginf(scores)
    if unscored.any():
        ranked = values[~unscored]
        values[unscored] = ranked[-1] - np.float32(1.0) if len(ranked) else 0.0
    # Neighbours in float32 are neighbours as integers, once those below 0 are mirrored.
    bits = values.view(np.int32).astype(np.int64)
    place = np.arange(len(bits))
    step = np.minimum.accumulate(np.where(bits < 0, -(bits & _MAGNITUDE), bits) + place) - place
    if len(step) and max(step[0], -step[-1]) > _LARGEST:
        raise ValueError(f"scores of query {query!r} reach {scores[0]} and {scores[-1]}; expected numbers of float32")
    return np.where(step < 0, -step | ~_MAGNITUDE, step).astype(np.int32).view(np.float32)


def word(name: str, value: Hashable) -> str:
    """Return a name as text, which white space, in the sense of C, would cut in two."""
    text = str(value)
    if text.encode().split() != [text.encode()]:
        raise ValueError(f"{name} contains {text!r}; expected names without white space")
    return text


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Give a file that takes its place once it is complete, compressed where its name ends in ``.gz``."""
    with whole(path) as temporary, open(temporary, "wb") as raw:
        if path.suffix == ".gz":
            # Without name and time, equal runs are equal files.
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
                yield file  # type: ignore[misc]
        else:
            yield raw


def _number(path: Path, number: int, name: str, field: bytes) -> float:
    try:
        return float(field)
    except ValueError:
        raise corrupt(path, number, f"{name} is {_shown(field)}; expected a number") from None


def _name(path: Path, number: int, field: bytes) -> str:
    try:
        return field.decode()
    except UnicodeDecodeError:
        raise corrupt(path, number, f"{field!r} is not UTF-8; convert the file") from None


def _shown(field: bytes) -> str:
    return repr(field.decode(errors="backslashreplace"))
