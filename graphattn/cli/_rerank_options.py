"""The options of a method: what there are, and what the command line says of them."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import textwrap
from typing import Any

from graphattn.cli._checks import UserError
from graphattn.retrieval import Reranker
from graphattn.retrieval._methods import METHODS, NEEDS_CHECKPOINT
from graphattn.retrieval._options import DEFAULTS

# Options that have a place of their own on the command line.
_FLAGS = {"top_k": "--top-k", "blend": "--blend", "transductive": "--transductive", "chunk": "--batch-size"}
_COMMON = [name for name in DEFAULTS if name not in _FLAGS]
_WIDTH = 100


def explain_methods() -> str:
    """Describe every method: what it does, its source, its defaults, and what it sees and needs."""
    entries = [_entry(name, kind) for name, kind in METHODS.items()]
    common = ", ".join(f"{name}={json.dumps(DEFAULTS[name])}" for name in _COMMON)
    entries.append(_wrapped(f"All methods also have --option {common}; and {', '.join(_FLAGS.values())}.", ""))
    return "\n\n".join(entries)


def read_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the method's class that the command line gives, but for the size of batches."""
    kind = METHODS[args.method]
    valid = {**_arguments(kind), **{name: DEFAULTS[name] for name in _COMMON}}
    options: dict[str, Any] = {}
    for text in args.option:
        name, equals, value = text.partition("=")
        if name in _FLAGS:
            raise UserError(f"--option {text}: {name} is set by {_FLAGS[name]}")
        if not equals or name not in valid:
            raise UserError(f"--option {text}: expected NAME=VALUE; {args.method} has {', '.join(valid)}")
        if name in options:
            raise UserError(f"--option {text}: {name} is given twice")
        options[name] = _value(value)
        if not _is_like(options[name], valid[name]):
            raise UserError(f"--option {text}: expected a value like {json.dumps(valid[name])}")
    if args.transductive and not kind.can_be_transductive:
        able = ", ".join(name for name, other in METHODS.items() if other.can_be_transductive)
        raise UserError(f"--transductive has no meaning for --method {args.method}; it is for {able}")
    flags = {"top_k": args.top_k, "blend": args.blend, "transductive": args.transductive or None}
    return options | {name: value for name, value in flags.items() if value is not None}


def _entry(name: str, kind: type[Reranker]) -> str:
    manual = inspect.getdoc(kind) or ""
    reference = re.search(r"^Reference:\n((?:    .*\n?)+)", manual, re.MULTILINE)
    defaults = {**_arguments(kind), "top_k": kind.published_top_k, "blend": kind.published_blend}
    shown = [f"{key}={json.dumps(value)}" for key, value in defaults.items() if key not in _FLAGS or value is not None]
    sees = "the query and its list"
    if "gallery" in kind.scopes:
        sees += "; the gallery around them with --option scope=gallery"
    if kind.can_be_transductive:
        sees += "; the other queries with --transductive"
    facts = {
        "source": " ".join(reference[1].split()) if reference else "none: it is of this library",
        "defaults": ", ".join(shown),
        "sees": sees,
        "needs": "a checkpoint, --model FILE" if name in NEEDS_CHECKPOINT else "",
    }
    summary = " ".join(manual.split("\n\n", 1)[0].split())
    lines = [_wrapped(f"  {key:<9}{text}", " " * 11) for key, text in facts.items() if text]
    return "\n".join([name, _wrapped(f"  {summary}", "  "), *lines])


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _arguments(kind: type[Reranker]) -> dict[str, Any]:
    """The arguments of a class, and their defaults, that not all methods have."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {one.name: one.default for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD}


def _value(text: str) -> Any:
    """Read JSON; a word that is none is a text, so that it needs no quotation marks."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value is of the type of the default, where that tells it."""
    return default is None or type(value) is type(default) or (type(value) is int and type(default) is float)
