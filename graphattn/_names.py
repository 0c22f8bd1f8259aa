"""Names that a user may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the known name that is most like another.

    Example:
        >>> nearest("preformer", ["linear", "performer"])
        'performer'
    """
    return get_close_matches(str(name), list(known), n=1, cutoff=0.0)[0]
