"""The attention family: accuracy on three tasks, time and memory by number of nodes, and singular values.

    pip install --no-deps aeon
    python benchmarks/attention_family.py --out benchmarks/results

Long range: the value of the one leaf of a tree that its root asks for. Vowels: JapaneseVowels, whose files are inside
the package ``aeon``, against the published accuracies. Digits: images cut into patches. Scaling: a training step from
256 to 65,536 nodes, in a fresh process each, beside the other libraries that are installed. Spectrum: singular values
of the attention of trained networks. Every network is that of its last epoch; no test sample is looked at before.
Results are written after each run: a benchmark that was stopped goes on with ``--resume``, and more ``--seeds`` add to
those it has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import _family_scaling as scaling
import torch
from _family_networks import CANDIDATES, QUICK, SETTINGS, Setting, fit
from _family_report import write_report
from _family_spectrum import spectra
from _family_tasks import TASKS, make_digits
from _results import HERE, measure_parts, recording_failure, save, start, use_threads
from tqdm import tqdm

PARTS = (*TASKS, "scaling", "spectrum")
PACKAGES = ("aeon", "performer-pytorch", "nystrom-attention", "linear-attention-transformer")
SPECTRUM_GRAPHS = 64


def measure_accuracy(part: str, results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Train every network with every seed that is not in the results yet."""
    task, setting = TASKS[part](args.quick), _setting(part, results, args.quick)
    networks = results[part].setdefault("networks", {})
    for name, candidate in tqdm(CANDIDATES[part].items(), desc=part):
        runs = networks.setdefault(name, {})
        for seed in range(args.seeds):
            record = runs.setdefault(str(seed), {})
            if record.get("status") != "ok":
                record.clear()
                record["status"] = "ok"
                with recording_failure(record):
                    record |= fit(task, candidate, setting, seed)[1]
                save(path, results)


def measure_scaling(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Measure every attention at every size, up to the first that is too large for it."""
    records = results["scaling"].setdefault("attentions", {})
    for name in tqdm(scaling.CANDIDATES, desc="scaling"):
        sizes = records.setdefault(name, {})
        failed = None
        for nodes in scaling.QUICK_SIZES if args.quick else scaling.SIZES:
            if sizes.get(str(nodes), {}).get("status") == "ok":
                continue
            if failed is None:
                sizes[str(nodes)] = scaling.measure(name, nodes, args.repeats, args.threads, args.quick)
                failed = None if sizes[str(nodes)]["status"] == "ok" else nodes
            else:
                sizes[str(nodes)] = {"status": "skipped", "reason": f"failed at {failed:,} nodes"}
            save(path, results)
    results["scaling"]["exponents"] = {name: scaling.exponents(sizes) for name, sizes in records.items()}
    save(path, results)


def measure_spectrum(results: dict[str, Any], path: Path, args: argparse.Namespace) -> None:
    """Train a network with softmax and one with primal attention on digits, a node a pixel, and decompose both."""
    task, setting = make_digits(args.quick, patch_size=1), _setting("spectrum", results, args.quick)
    networks = results["spectrum"].setdefault("networks", {})
    for name, candidate in tqdm(CANDIDATES["spectrum"].items(), desc="spectrum"):
        record = networks.setdefault(name, {})
        if record.get("status") == "ok":
            continue
        record.clear()
        record["status"] = "ok"
        with recording_failure(record):
            network, trained = fit(task, candidate, setting, seed=0)
            graphs = task.graphs(task.test, candidate.pattern)[:SPECTRUM_GRAPHS]
            record |= {**trained, "layers": spectra(network, graphs)}
        save(path, results)


def _setting(part: str, results: dict[str, Any], quick: bool) -> Setting:
    """Return how the networks of a part are trained; refuse to go on with results of other training."""
    setting = QUICK if quick else SETTINGS[part]
    described = asdict(setting)
    del described["recipe"]["seed"]
    if results[part].setdefault("setting", described) != described:
        raise SystemExit(f"the networks of {part} were trained otherwise; run without --resume to start anew")
    return setting


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for and write ``attention_family.json``, ``.md`` and ``.png``."""
    measures = {
        **{part: partial(measure_accuracy, part) for part in TASKS},
        "scaling": measure_scaling,
        "spectrum": measure_spectrum,
    }
    return measure_parts(args, args.out / "attention_family.json", PACKAGES, measures, write_report)


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """Measure one attention at one size."""
    scaling.limit_memory()
    with use_threads(spec["threads"]):
        return scaling.step(spec)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind (default 5)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the timing (default 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument("--quick", action="store_true", help="tiny graphs: tells whether everything runs")
    parser.add_argument("--resume", action="store_true", help="keep what the results in --out already hold")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.seeds, args.repeats, args.threads) < 1:
        parser.error("--seeds, --repeats and --threads must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    start(parse(argv), run, worker)


if __name__ == "__main__":
    main()
