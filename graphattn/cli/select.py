"""Rank the columns of a table by Infinite Feature Selection and keep the best.

DATA is a CSV or TSV file (also with .gz), Parquet, MATLAB (.mat), .npz or .npy: rows are samples, columns are
features. The output folder gets ranking.csv, ranking.json (with every option and version) and selection.png.

How the table is read:
  first row        names the columns if it holds text above numbers, or no number at all (--header yes or no decides)
  missing values   empty, NA, N/A, NaN, null, None or ?: an error that counts them, unless --missing says what to do
  text columns     left out and named; True and False are read as 1 and 0
  row names        a first column without a name, or the index that pandas stores, is left out
  constant columns ranked last, with score 0
  target           numbers or texts, each value a class; measurements on a scale are refused
  refused          infinite values, equal column names, rows of unequal length, a cell that is no number among numbers
"""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import math
import platform
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
import torch

from graphattn import __version__
from graphattn.cli._checks import UserError, usable_device
from graphattn.cli._files import make_folder, whole
from graphattn.cli._select_affinity import Selector, affinity_among
from graphattn.cli._select_read import read_table
from graphattn.cli._select_table import Table, listed, prepare
from graphattn.selection import ECFS, ILFS, InfFS, InfFSSupervised

METHODS = {"inf-fs": InfFS, "inf-fs-s": InfFSSupervised, "ilfs": ILFS, "ec-fs": ECFS}
UNSUPERVISED = "inf-fs"
PRINTED = 10
DRAWN = 40
FILES = ("ranking.csv", "ranking.json", "selection.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``graphattn select``."""
    parser.add_argument("data", type=Path, metavar="DATA", help="the table")
    parser.add_argument("--target", metavar="NAME", help="column, or array of a .mat or .npz, that holds the classes")
    parser.add_argument("--array", metavar="NAME", help="array of a .mat or .npz that holds the features (X)")
    parser.add_argument("--header", choices=("auto", "yes", "no"), default="auto", help="first row of a text file")
    parser.add_argument(
        "--missing", choices=("error", "median", "drop-rows", "drop-columns"), default="error", help="missing values"
    )
    parser.add_argument("--method", choices=METHODS, help="inf-fs-s with a target, inf-fs without")
    parser.add_argument(
        "--k", type=_size, default="auto", metavar="N|FRACTION|auto", help="how many to keep (auto: where scores split)"
    )
    parser.add_argument("--decay", type=float, help="how much of the score comes from far: in (0, 1) (0.9)")
    parser.add_argument("--hops", type=_hops, metavar="N|inf", help="longest path that counts (inf)")
    parser.add_argument(
        "--neighbors", type=int, metavar="N", help="keep this many strongest affinities a feature (all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="for methods that draw at random (%(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("graphattn-select"), help="folder for results (%(default)s)")


def _size(text: str) -> int | float | str:
    number: int | float
    try:
        number = int(text)
        valid = number >= 1
    except ValueError:
        number = _number(text)
        valid = 0 < number <= 1
    if text != "auto" and not valid:
        raise argparse.ArgumentTypeError(f"{text} is neither auto, nor an integer from 1, nor a fraction up to 1.0")
    return text if text == "auto" else number


def _hops(text: str) -> float:
    if text != "inf" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is neither inf nor an integer from 1")
    return math.inf if text == "inf" else int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def run(args: argparse.Namespace) -> int:
    """Rank a table, write the three files and return 0."""
    started = time.perf_counter()
    device = usable_device(args.device)
    table = prepare(read_table(args.data, args.target, args.array, args.header), args.target, args.missing)
    method = args.method or (UNSUPERVISED if args.target is None else "inf-fs-s")
    selector = _selector(args, method, device, table)
    make_folder(args.out)
    print(f"{args.data}: {len(table.values)} rows, {len(table.names)} features, ranked by {method}")
    notes = [*table.notes, *_fit(selector, table)]
    if method == UNSUPERVISED and args.target is not None:
        notes.append(f"{method} does not read the target: {args.target} is only left out of the features")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    report = _report(args, method, selector, table, notes)
    _write(args.out, report, selector, table)
    _print(report)
    print(f"wrote {', '.join(str(args.out / name) for name in FILES)} in {time.perf_counter() - started:.0f} s")
    return 0


def _selector(args: argparse.Namespace, method: str, device: torch.device, table: Table) -> Selector:
    """The estimator with the options of the command line; refuse those it does not have."""
    if method != UNSUPERVISED and args.target is None:
        raise UserError(f"--method {method} ranks by class; choose a --target among {listed(table.targets)}")
    if isinstance(args.k, int) and args.k > len(table.names):
        raise UserError(f"--k {args.k} is more than the {len(table.names)} features of the table")
    arguments = {name: inspect.signature(estimator).parameters for name, estimator in METHODS.items()}
    chosen = {
        "--decay": ("decay", args.decay),
        "--hops": ("hops", args.hops),
        "--neighbors": ("n_neighbors", args.neighbors),
    }
    for flag, (argument, value) in chosen.items():
        if value is not None and argument not in arguments[method]:
            able = [name for name in METHODS if argument in arguments[name]]
            raise UserError(f"{flag} has no meaning for --method {method}; it is for {listed(able)}")
    options = {argument: value for argument, value in chosen.values() if value is not None}
    common = {"n_features_to_select": args.k, "device": str(device), "random_state": args.seed, "verbose": True}
    options |= {name: value for name, value in common.items() if name in arguments[method]}
    return METHODS[method](**options)


def _fit(selector: Selector, table: Table) -> list[str]:
    """Fit the selector; returns its warnings, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            selector.fit(table.values, table.target)
        except ValueError as error:
            raise UserError(str(error)) from error
    return list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))


def _report(
    args: argparse.Namespace, method: str, selector: Selector, table: Table, notes: list[str]
) -> dict[str, Any]:
    count = selector.n_features_selected_
    options = {name: vars(args)[name] for name in ("target", "array", "header", "missing")} | selector.get_params()
    return {
        "data": str(args.data),
        "method": method,
        # JSON knows no infinity.
        "options": {name: "inf" if value == math.inf else value for name, value in options.items()},
        "rows": len(table.values),
        "features": len(table.names),
        "selected": count,
        "hop_overlap": selector.hop_overlap_,
        "rho": selector.rho_,
        "iterations": selector.n_iter_,
        "residual": selector.residual_,
        "notes": notes,
        "versions": {
            "graphattn": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "ranking": [
            {"rank": rank, "feature": table.names[j], "score": float(selector.scores_[j]), "selected": rank <= count}
            for rank, j in enumerate(selector.order_.tolist(), start=1)
        ],
    }


def _write(out: Path, report: dict[str, Any], selector: Selector, table: Table) -> None:
    """Write all three files before the first gets its name, so that they always belong together."""
    from graphattn.cli._select_figure import draw, save  # matplotlib takes a second to import

    best = selector.order_[:DRAWN]
    affinity = affinity_among(selector, table.values, table.target, best)
    scores = selector.scores_[selector.order_]
    figure = draw(report["method"], [table.names[j] for j in best], scores, report["selected"], affinity)
    with ExitStack() as files:
        ranked, full, picture = (files.enter_context(whole(out / name)) for name in FILES)
        with ranked.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["rank", "feature", "score", "selected"])
            writer.writeheader()
            writer.writerows(report["ranking"])
        full.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        save(figure, picture)


def _print(report: dict[str, Any]) -> None:
    print("  rank       score  feature")
    for row in report["ranking"][:PRINTED]:
        left_out = "" if row["selected"] else "  (left out)"
        print(f"{row['rank']:>6}  {row['score']:>10.4g}  {row['feature']}{left_out}")
    print(
        f"selected {report['selected']} of {report['features']} features; one hop alone would keep "
        f"{report['hop_overlap']:.0%} of them"
    )
