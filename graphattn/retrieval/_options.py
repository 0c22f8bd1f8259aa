"""The options that every re-ranker has: their names, their defaults, and what they may be."""

from __future__ import annotations

from typing import Any, TypedDict

_CHOICES = {
    "tail": ("keep", "drop"),
    "scope": ("candidates", "gallery"),
    "duplicates": ("keep_first", "error"),
    "nan_policy": ("raise", "last"),
}
_LEAST = {"top_k": 1, "min_support": 0, "chunk": 1}

# "top_k" and "blend" are what a method has published, if it has.
DEFAULTS: dict[str, Any] = {
    "top_k": None,
    "blend": 0.0,
    "tail": "keep",
    "scope": "candidates",
    "transductive": False,
    "exclude_self": False,
    "duplicates": "keep_first",
    "min_support": 0,
    "chunk": "auto",
    "normalize": True,
    "nan_policy": "raise",
}


class Options(TypedDict, total=False):
    """The options of every method, which :class:`~graphattn.retrieval.Reranker` explains."""

    top_k: int | None
    blend: float | None
    tail: str
    scope: str
    transductive: bool
    exclude_self: bool
    duplicates: str
    min_support: int
    chunk: int | str
    normalize: bool
    nan_policy: str


def read_options(method: str, options: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Fill up options by defaults and check the range of each."""
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise TypeError(f"{method} has no option {', '.join(unknown)}; its options are {', '.join(defaults)}")
    given = {name: value for name, value in options.items() if value is not None or name not in ("top_k", "blend")}
    values = {**defaults, **given}
    for name, choices in _CHOICES.items():
        if values[name] not in choices:
            raise ValueError(f"{name} is {values[name]!r}; expected {' or '.join(map(repr, choices))}")
    for name, least in _LEAST.items():
        value = values[name]
        if value == DEFAULTS[name]:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} is {value!r}; expected an integer, at least {least}")
    if not 0.0 <= values["blend"] <= 1.0:
        raise ValueError(f"blend is {values['blend']}; expected a weight in [0, 1]")
    return values
