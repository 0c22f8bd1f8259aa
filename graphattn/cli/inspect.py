"""Report what the attention of a model does, in one page with pictures.

MODEL is a checkpoint of this library (seed-N.pt of a training run), a folder of a Hugging Face model, or saved
attention maps (.npz). The output folder gets report.html, which loads nothing and runs no script, and report.json
with the numbers.

What is read beside it:
  a Hugging Face folder   texts: --text, or --texts with one a line; a tab in a text makes it a pair of two. It needs
                          transformers (pip install 'graphattn[inspect]')
  a checkpoint            a graph, or graphs: --data. Networks of events and of sequences are refused; of those of
                          events graphattn.analysis.capture gets the attention of a call
  attention maps          the names of their nodes, if wanted: --texts with one line an input, words apart

What a .npz may hold: what AttentionMaps.save writes; an array attention [L, H, N, N], with tokens and mask; the same
for a batch, [B, L, H, N, N]; or attention_0, attention_1, ... for inputs of any lengths. An array parts beside them,
which names the part of the input that each node is of, such as image and words, adds the flow between parts.

How broken input is treated:
  NaN, infinite weights   refused
  rows not summing to 1   refused in saved maps; --unnormalized reads them, and leaves out what needs shares
  no tokens               the input is left out and named; refused if none remains
  large graphs            summarized: the largest singular values, the surroundings of a node, the first of each list

Every attribution comes with a check whether the model agrees, unless --no-check. Two models: --compare A B.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphattn import __version__
from graphattn.cli._checks import UserError, usable_device
from graphattn.cli._files import make_folder, whole
from graphattn.cli._inspect_maps import read_maps
from graphattn.cli._inspect_measures import measure
from graphattn.cli._inspect_network import read_network
from graphattn.cli._inspect_page import page
from graphattn.cli._inspect_subject import Subject
from graphattn.cli._inspect_transformer import read_transformer

FILES = ("report.html", "report.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``graphattn inspect``."""
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="checkpoint, folder or .npz")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="two models side by side")
    parser.add_argument("--text", action="append", default=[], metavar="TEXT", help="a text; may be repeated")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="texts, one a line")
    parser.add_argument("--data", metavar="NAME|local:PATH", help="graphs, as graphattn predict reads them")
    parser.add_argument("--split", help="split of the data whose training labels a network may see")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the sets (%(default)s)")
    parser.add_argument("--node", type=int, help="number of the node to explain (one of many neighbours)")
    parser.add_argument("--n-samples", type=int, metavar="N", help="samples of the causal tests (width of the model)")
    parser.add_argument("--max-inputs", type=int, default=20, metavar="N", help="inputs that are read (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="tokens of a text (%(default)s)")
    parser.add_argument("--unnormalized", action="store_true", help="read maps whose rows do not sum to 1")
    parser.add_argument("--no-check", action="store_true", help="leave out the checks of faithfulness")
    parser.add_argument("--seed", type=int, default=0, help="for random orders, weights and tokens (%(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("graphattn-inspect"), help="folder for results (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Measure one or two models, write the page and its numbers, and return 0."""
    started = time.perf_counter()
    if (args.model is None) == (args.compare is None):
        raise UserError("expected one MODEL, or --compare with two")
    for name, least in (("max_inputs", 1), ("max_tokens", 1), ("n_samples", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected at least {least}")
    device = usable_device(args.device)
    texts = _texts(args)
    paths = [args.model] if args.compare is None else args.compare
    models = []
    for path in paths:
        subject = _read(args, path, texts, device)
        models.append(measure(subject, args.n_samples, args.seed, check=not args.no_check))
        for note in models[-1]["notes"]:
            print(f"note: {note}", file=sys.stderr)
    if len(models) > 1 and models[0]["name"] == models[1]["name"]:
        for model, path in zip(models, paths, strict=True):
            model["name"] = str(path)
    report = _finite(
        {
            "models": models,
            "options": {
                name: str(value) if isinstance(value, Path) else value for name, value in _options(args).items()
            },
            "versions": {
                "graphattn": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        }
    )
    make_folder(args.out)
    with ExitStack() as files:
        shown, numbers = (files.enter_context(whole(args.out / name)) for name in FILES)
        shown.write_text(page(report), encoding="utf-8")
        numbers.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for model in models:
        print(f"{model['name']}: {model['layers']} layers, {sum(model['heads'])} heads, {len(model['inputs'])} inputs")
    written = ", ".join(str(args.out / name) for name in FILES)
    print(f"wrote {written} in {time.perf_counter() - started:.0f} s")
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("data", "split", "node", "n_samples", "max_inputs", "max_tokens", "unnormalized", "no_check", "seed")
    return {name: getattr(args, name) for name in names}


def _texts(args: argparse.Namespace) -> list[str]:
    """Read the texts of the command line, then those of the file; empty lines are none."""
    texts = list(args.text)
    if args.texts is not None:
        try:
            lines = args.texts.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"{args.texts} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{args.texts} is no text in UTF-8: {error}") from error
        found = [line for line in lines if line.strip()]
        if not found:
            raise UserError(f"{args.texts} holds no text; expected one a line")
        texts += found
    return texts


def _read(args: argparse.Namespace, path: Path, texts: list[str], device: torch.device) -> Subject:
    """Read what a path is."""
    if path.is_dir():
        _check(args, path, "texts", needed=("text", "texts"), useless=("data", "split", "node", "unnormalized"))
        generator = torch.Generator().manual_seed(args.seed)
        try:
            subject = read_transformer(path, texts[: args.max_inputs], args.max_tokens, device, generator)
        except ImportError as error:
            raise UserError(str(error)) from error
    elif not path.exists():
        raise UserError(f"{path} is not there; expected a checkpoint, a folder or a .npz file")
    elif path.suffix == ".npz":
        _check(args, path, "maps", useless=("data", "split"))
        subject = read_maps(
            path, [text.split() for text in texts], args.node, args.max_inputs, validate=not args.unnormalized
        )
    else:
        _check(args, path, "graphs", useless=("text", "texts", "unnormalized"))
        subject = read_network(path, args.data, args.root, args.split, args.node, args.max_inputs, device)
    return subject


def _check(
    args: argparse.Namespace, path: Path, what: str, needed: tuple[str, ...] = (), useless: tuple[str, ...] = ()
) -> None:
    """Refuse what is missing and, unless another model may need it, what has no meaning."""
    if needed and not any(getattr(args, name) for name in needed):
        raise UserError(f"{path} needs {what}; pass {' or '.join('--' + name for name in needed)}")
    given = [f"--{name}" for name in useless if getattr(args, name) not in (None, False, [])]
    if given and args.compare is None:
        raise UserError(f"{', '.join(given)} has no meaning for {path}")


def _finite(value: Any) -> Any:
    """Write what JSON does not know, NaN, as null, and infinity as the largest number."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return math.copysign(sys.float_info.max, value) if math.isinf(value) else value
    return value
