"""The options of ``graphattn bench``, from the command line and from YAML files, and the settings they come to."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from graphattn._optional import require
from graphattn.cli._checks import UserError
from graphattn.training._devices import launched
from graphattn.training.networks import ALL_MODELS

_PRECISION = Literal["32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true"]
# In the words of argparse and of several versions of jsonargparse.
_UNKNOWN = re.compile(r"(?:unrecognized arguments: |Option '|Key ')(?:--)?([^\s'=]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Options:
    """What a call of ``graphattn bench`` asks for; the names are those of its options."""

    dataset: list[str]
    model: list[str]
    seeds: int
    split: str | None
    network: dict[str, Any]
    recipe: dict[str, Any]
    transform: dict[str, Any] | None
    training: dict[str, Any]
    settings: dict[str, dict[str, dict[str, Any]]]
    per_dataset: dict[str, dict[str, Any]]
    budget: float | None
    max_parameters: int | None
    search: int | None
    root: str
    out: str
    resume: bool
    device: str
    devices: int
    strategy: str
    precision: str
    dry_run: bool
    config: list[Any] | None

    @property
    def num_nodes(self) -> int:
        """On how many machines torchrun has started this."""
        return (launched() or (1, 1))[1]

    def groups(self) -> dict[str, dict[str, Any]]:
        """Return the settings that hold for all models."""
        budget = {} if self.budget is None else {"max_minutes": self.budget}
        groups = {"network": self.network, "recipe": self.recipe, "training": {**self.training, **budget}}
        given = {name: dict(options) for name, options in groups.items() if options}
        return given if self.transform is None else {**given, "transform": dict(self.transform)}


def read_options(words: Sequence[str], manual: str) -> Options:
    """Read the words of a command and the files they name.

    Raises:
        UserError: If an option is unknown, missing or unsound.
    """
    parser = _make_parser(manual)
    try:
        found = parser.parse_args(list(words)).as_dict()
    except argparse.ArgumentError as error:
        raise UserError(f"{_one_line(error)}{_near_option(error)}") from error
    for name in ("dataset", "model"):
        if not found[name]:
            raise UserError(f"--{name} is missing; name at least one, or several")
        found[name] = [found[name]] if isinstance(found[name], str) else list(map(str, found[name]))
        repeated = {value for value in found[name] if found[name].count(value) > 1}
        if repeated:
            raise UserError(f"--{name} names {', '.join(sorted(repeated))} more than once")
    for name in ("seeds", "devices", "budget", "max_parameters", "search"):
        if found[name] is not None and not found[name] > 0:
            raise UserError(f"{_flag(name)} is {found[name]}; expected more than 0")
    devices, num_nodes = launched() or (found["devices"] or 1, 1)
    if found["devices"] not in (None, devices):
        raise UserError(f"--devices is {found['devices']}, but torchrun starts {devices} on each machine; leave it out")
    if found["search"] is not None and devices * num_nodes > 1:
        raise UserError("--search works on one device; search first, then give what it found to the others by --config")
    return Options(**{**found, "devices": devices})


def _make_parser(manual: str) -> Any:
    jsonargparse = require("jsonargparse", "train")
    parser = jsonargparse.ArgumentParser(
        prog="graphattn bench",
        description=manual,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
    )
    mapping = dict[str, Any]
    parser.add_argument("--dataset", nargs="+", metavar="NAME", help="sets by name, or local:PATH")
    parser.add_argument("--model", nargs="+", metavar="NAME", help=f"networks: {', '.join(ALL_MODELS)}")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many seeds, counted from 0 (10)")
    parser.add_argument("--split", type=str | None, help="name of the split; {seed} stands for the seed")
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML with any of these options")
    parser.add_argument("--network", type=mapping, default={}, metavar="VALUES", help="arguments of the networks")
    parser.add_argument("--recipe", type=mapping, default={}, metavar="VALUES", help="arguments of Recipe")
    parser.add_argument(
        "--transform", type=mapping | None, metavar="VALUES", help="transforms of the data, {} for none"
    )
    parser.add_argument("--training", type=mapping, default={}, metavar="VALUES", help="arguments of fit")
    parser.add_argument(
        "--settings", type=dict[str, dict[str, mapping]], default={}, metavar="VALUES", help="these four for each model"
    )
    parser.add_argument(
        "--per-dataset", type=dict[str, mapping], default={}, metavar="VALUES", help="split and settings for each set"
    )
    parser.add_argument("--budget", type=float | None, metavar="MINUTES", help="training time of a run")
    parser.add_argument("--max-parameters", type=int | None, metavar="N", help="larger networks are not trained")
    parser.add_argument("--search", type=int | None, metavar="N", help="settings to try before, judged by validation")
    parser.add_argument("--root", type=str, default="data", metavar="FOLDER", help="folder of the data (data)")
    parser.add_argument("--out", type=str, default="runs", metavar="FOLDER", help="folder of the results (runs)")
    parser.add_argument("--resume", action="store_true", help="go on with what is in the folder of the results")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1 and the like (auto)")
    parser.add_argument(
        "--devices", type=int | None, metavar="N", help="how many work on a run together (1, or those of torchrun)"
    )
    parser.add_argument("--strategy", type=str, default="auto", help="how they do, such as ddp (auto)")
    parser.add_argument("--precision", type=_PRECISION, default="32-true", help="precision of Lightning (32-true)")
    parser.add_argument("--dry-run", action="store_true", help="print what would run as a file for --config")
    return parser


def read_defaults(path: Path) -> dict[str, Any]:
    """Read the file of default settings of a set: ``split``, and ``settings`` of each model.

    Raises:
        UserError: If it holds anything else.
    """
    jsonargparse = require("jsonargparse", "train")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--split", type=str | None)
    parser.add_argument("--settings", type=dict[str, dict[str, dict[str, Any]]], default={})
    try:
        return dict(parser.parse_path(str(path)).as_dict())
    except argparse.ArgumentError as error:
        raise UserError(f"{path}: {_one_line(error)}") from error


def dump(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML."""
    return str(require("yaml", "train").safe_dump(dict(values), sort_keys=False, allow_unicode=True))


def near(name: str, known: Iterable[str]) -> str:
    """Return what a name may have meant, in words that follow an error."""
    known = list(known)
    spelt = {option.lower(): option for option in known}
    close = get_close_matches(name.lower(), spelt, n=1)
    return f"; did you mean {spelt[close[0]]}?" if close else f"; expected one of {', '.join(known)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _near_option(error: Exception) -> str:
    unknown = _UNKNOWN.search(str(error))
    if unknown is None:
        return ""
    return near(_flag(unknown.group(1)), [_flag(item.name) for item in fields(Options)])


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
