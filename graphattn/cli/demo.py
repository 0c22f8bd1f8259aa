"""Handwritten digits: read by attention and from few selected pixels, searched for and re-ranked.

Nothing is downloaded: scikit-learn ships the 1,797 images. First an attention network, an MLP without a graph and
label propagation without features get the same 20 labels a class. Then Infinite Feature Selection and simpler
rankings choose pixels, and a linear SVM reads the digits from those alone. Last, the images most like some of them are
re-ranked by what they have in common. Results are written after every seed, so an interrupted run keeps the seeds it
has finished.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import sklearn
import torch
import torch_geometric
from tqdm import tqdm

from graphattn import __version__
from graphattn._optional import require
from graphattn.cli import _demo_attention, _demo_features, _demo_rerank
from graphattn.cli._checks import UserError, usable_device
from graphattn.cli._files import make_folder, whole, write_text

_PARTS = (_demo_attention, _demo_features, _demo_rerank)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``graphattn demo``."""
    parser.add_argument("--out", type=Path, default=Path("graphattn-demo"), help="folder for results (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="first seed (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (%(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the demo and return the exit status: 0, or 130 if it was interrupted."""
    device = usable_device(args.device)
    if args.seeds < 1:
        raise UserError(f"--seeds is {args.seeds}; expected at least 1")
    try:
        require("lightning_fabric", "train")
    except ImportError as error:
        raise UserError(str(error)) from error
    make_folder(args.out)
    results = Results(args)
    seeds = range(args.seed, args.seed + args.seeds)
    return 0 if all(_run_part(part, results, device, seeds) for part in _PARTS) else 130


class Results:
    """What the demo has found so far; the file is written anew after every seed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.out: Path = args.out
        self.started = time.perf_counter()
        self.parts: dict[str, Any] = {}
        self.device = args.device

    def write(self, **parts: Any) -> None:
        self.parts |= parts
        results = {
            **self.parts,
            "seconds": round(time.perf_counter() - self.started, 1),
            "device": self.device,
            "versions": {
                "graphattn": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torch_geometric": torch_geometric.__version__,
                "scikit-learn": sklearn.__version__,
            },
        }
        write_text(self.out / "results.json", json.dumps(results, indent=2) + "\n")

    def announce(self, figure: Path) -> None:
        """Say where the results are and how long it took to get there."""
        print(f"wrote {self.out / 'results.json'} and {figure} in {time.perf_counter() - self.started:.0f} s")


def _run_part(part: ModuleType, results: Results, device: torch.device, seeds: range) -> bool:
    """Run the seeds of a part, draw and print what they found; returns whether all of them were finished."""
    print(f"{part.heading()}, on {device}")
    finished = _run_seeds(part, results, device, seeds)
    if part.NAME in results.parts:
        summary, picture = results.parts[part.NAME], results.out / part.PICTURE
        with whole(picture) as file:
            part.draw(file, summary)
        for name, found in part.findings(summary).items():
            print(f"{name:>18}: {found}")
        results.announce(picture)
    return finished


def _run_seeds(part: ModuleType, results: Results, device: torch.device, seeds: range) -> bool:
    """Run every seed of a part and keep its summary; returns whether all of them were finished."""
    runs: list[dict[str, Any]] = []
    try:
        for seed in tqdm(seeds, desc=part.NAME, unit="seed"):
            runs.append(part.run_seed(seed, device))
            results.write(**{part.NAME: part.summary(runs)})
    except KeyboardInterrupt:
        print(f"interrupted: {len(runs)} of {len(seeds)} seeds are finished and kept", file=sys.stderr)
        return False
    return True
