"""Files: written whole or not at all, and why one cannot be read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary name to write to and rename it at the end, so that an interruption never leaves half a file."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def unread(error: Exception) -> str:
    """Return the reason that ``torch.load`` gives, without its advice to let files run code."""
    reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error) or type(error).__name__
    return reason.strip().splitlines()[0]
