"""Train the learned re-ranker on faces of some people, and re-rank faces of others.

    python benchmarks/train_contextual.py --data ../shared/data --out benchmarks/results

The people of ORL are split into halves: one trains, with a fifth of its people held out to choose the epoch by the mean
average precision of their re-ranked lists, the other is searched, each face for the other faces of its person. Nothing
of a person that is searched is seen in training. Descriptors are pixels and, where they can be made or are cached,
features of EfficientNet-lite0. Results are written after each step: a run that was stopped goes on with ``--resume``,
a training from its last epoch. The re-ranker of the first split, trained on all descriptors, is kept beside the
descriptors as ``contextual_reranker.pt``; it has seen half of the people.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _reranking_data import MissingSet, RetrievalSet, load_set, quick_set
from _results import HERE, environment, headline, load_results, recording_failure, save, start, use_threads
from tqdm import tqdm

from graphattn.engine import Recipe
from graphattn.retrieval import AffinityFeatures, ContextualReranker, Reranker

Array = np.ndarray

PIXELS, NETWORK = "ORL-pixels", "ORL-lite0"
# Descriptors that each re-ranker is trained on, and options that differ from ENCODER.
TRAINED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "ContextualReranker, pixels": ((PIXELS,), {}),
    "ContextualReranker, both": ((PIXELS, NETWORK), {}),
    "ContextualReranker, both, not standardized": ((PIXELS, NETWORK), {"standardize": False}),
}
KEPT = "ContextualReranker, both"
ENCODER: dict[str, Any] = {"num_anchors": 100, "width": 48, "depth": 1, "heads": 4}
RECIPE = {"epochs": 16, "batch_size": 32, "lr": 0.008, "optimizer": "adamw"}
VALIDATION = 0.2
FIRST, RAW = "first stage", "AffinityFeatures"


def split_people(data: RetrievalSet, seed: int) -> tuple[Array, Array, Array]:
    """Return the person of each item, and the items that train and those that are searched."""
    same = data.relevance.astype(bool)
    np.fill_diagonal(same, True)
    _, people = np.unique(same.argmax(axis=1), return_inverse=True)
    order = np.random.default_rng(seed).permutation(people.max() + 1)
    trains = np.isin(people, order[: len(order) // 2])
    return people, trains.nonzero()[0], (~trains).nonzero()[0]


def train_reranker(views: list[Array], people: Array, options: dict[str, Any], seed: int, path: Path) -> dict[str, Any]:
    """Train, or go on with the training that stopped; return the re-ranker and what there is to say about it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    recipe = Recipe(**RECIPE, seed=seed)
    reranker = ContextualReranker(**ENCODER, **options).fit(
        views, labels=people, recipe=recipe, validation=VALIDATION, checkpoint=path
    )
    path.unlink()
    log = reranker.log_
    return {
        "reranker": reranker,
        "seconds": time.perf_counter() - begin,
        "best_epoch": log.best_epoch,
        "validation_map": [epoch["score"] for epoch in log.epochs],
        "loss": [epoch["loss"] for epoch in log.epochs],
    }


def judge(x: Array, people: Array, reranker: Reranker | None) -> dict[str, Any]:
    """Return quality by query of leave-one-out search, re-ranked or not."""
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    lists = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
    begin = time.perf_counter()
    if reranker is not None:
        lists = reranker.rerank(x, x, lists).indices
    seconds = time.perf_counter() - begin
    hit = people[lists] == people[:, None]
    precision = hit.cumsum(axis=1) / np.arange(1, hit.shape[1] + 1)
    return {
        "ap": (hit * precision).sum(axis=1) / hit.sum(axis=1),
        "P_1": hit[:, 0],
        "P_5": hit[:, :5].mean(axis=1),
        "seconds_per_query": seconds / len(x),
        "K": lists.shape[1],
    }


def compare(found: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """Return the means, and how many queries got better or worse than by the first stage."""
    means = {"map": found["ap"], "P_1": found["P_1"], "P_5": found["P_5"]}
    return {
        **{name: float(np.mean(values)) for name, values in means.items()},
        "better": int((found["ap"] > first["ap"]).sum()),
        "worse": int((found["ap"] < first["ap"]).sum()),
        "queries": len(found["ap"]),
        "K": found["K"],
        "seconds_per_query": found["seconds_per_query"],
    }


def measure_split(sets: dict[str, RetrievalSet], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train on half of the people and search the other half."""
    people, trains, searched = split_people(next(iter(sets.values())), seed)
    entry: dict[str, Any] = {"training": {}, "sets": {}}
    rerankers: dict[str, Reranker | None] = {FIRST: None, RAW: AffinityFeatures()}
    for name, (wanted, options) in tqdm(TRAINED.items(), desc=f"split {seed}", leave=False):
        # --quick has descriptors of its own.
        used = list(sets) if args.quick else [view for view in wanted if view in sets]
        if not args.quick and len(used) < len(wanted):
            entry["training"][name] = {"status": "skipped", "reason": "its descriptors are not all there"}
            continue
        views = [sets[view].gallery[trains] for view in used]
        record = entry["training"][name] = {"status": "ok", "items": len(trains), "descriptors": len(views)}
        with recording_failure(record):
            path = args.cache / f"contextual_training_{seed}_{len(entry['training'])}.pt"
            trained = train_reranker(views, people[trains], options, seed, path)
            rerankers[name] = trained.pop("reranker")
            record |= trained
            if seed == 0 and name == KEPT:
                rerankers[name].save(args.cache / "contextual_reranker.pt")
    for name, data in sets.items():
        found = {row: judge(data.gallery[searched], people[searched], r) for row, r in rerankers.items()}
        entry["sets"][name] = {row: compare(values, found[FIRST]) for row, values in found.items()}
    return entry


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write ``train_contextual.md``; return the Markdown."""
    splits = results["splits"]
    quick = " **Tiny sets (`--quick`): these numbers mean nothing.**" if results["settings"]["quick"] else ""
    parts = [
        f"# Training of the learned re-ranker\n\n{headline(results)}{quick}",
        "Leave-one-out search among people that no training has seen; scope candidates, not transductive, the whole "
        f"list re-ranked. Means over {len(splits)} splits of the people into halves, with the standard deviation over "
        "splits; *better* and *worse*: queries whose average precision rose or fell, of all splits. Times are those of "
        "a batch of all queries.",
    ]
    for name, reason in results["missing"].items():
        parts.append(f"{name} is missing: {reason}.")
    for name in dict.fromkeys(name for split in splits.values() for name in split["sets"]):
        rows: dict[str, list[dict[str, Any]]] = {}
        for split in splits.values():
            for row, values in split["sets"][name].items():
                rows.setdefault(row, []).append(values)
        lines = [
            f"## {name}",
            "",
            "| method | mAP | gain | P@1 | P@5 | better | worse | K | ms per query |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        base = {id(split): split["sets"][name][FIRST]["map"] for split in splits.values()}
        for row, values in rows.items():
            gains = [s["sets"][name][row]["map"] - base[id(s)] for s in splits.values() if row in s["sets"][name]]
            means = {key: statistics.mean(v[key] for v in values) for key in ("map", "P_1", "P_5", "seconds_per_query")}
            lines.append(
                f"| {row} | {means['map']:.4f} ± {statistics.pstdev(v['map'] for v in values):.4f} "
                f"| {statistics.mean(gains):+.4f} ± {statistics.pstdev(gains):.4f} | {means['P_1']:.4f} "
                f"| {means['P_5']:.4f} | {sum(v['better'] for v in values)} | {sum(v['worse'] for v in values)} "
                f"| {values[0]['K']} | {1e3 * means['seconds_per_query']:.2f} |"
            )
        parts.append("\n".join(lines))
    lines = [
        "## Trainings",
        "",
        "| split | re-ranker | best epoch | validation mAP | seconds |",
        "|---|---|--:|--:|--:|",
    ]
    for seed, split in splits.items():
        for row, record in split["training"].items():
            if record["status"] != "ok":
                lines.append(f"| {seed} | {row} | {record['status']}: {record['reason']} | | |")
                continue
            best = record["best_epoch"]
            lines.append(
                f"| {seed} | {row} | {best + 1} of {len(record['loss'])} | {record['validation_map'][best]:.4f} "
                f"| {record['seconds']:.0f} |"
            )
    parts.append("\n".join(lines))
    text = "\n\n".join(parts) + "\n"
    (folder / "train_contextual.md").write_text(text)
    return text


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train and search every split that is not in the results; write ``train_contextual.json`` and ``.md``."""
    path = args.out / "train_contextual.json"
    recipe = {key: value for key, value in asdict(Recipe(**RECIPE)).items() if key != "seed"}
    settings = {"threads": args.threads, "quick": args.quick, "encoder": ENCODER, "recipe": recipe}
    results = environment({**settings, "validation": VALIDATION})
    results = load_results(path, results) if args.resume and path.exists() else results
    loaded = [quick_set()] if args.quick else [load_set(name, args.data, args.cache) for name in (PIXELS, NETWORK)]
    sets = {data.name: data for data in loaded if isinstance(data, RetrievalSet)}
    results["missing"] = {data.name: data.reason for data in loaded if isinstance(data, MissingSet)}
    if not sets:
        raise SystemExit(f"there is nothing to train on: {results['missing']}")
    splits = results.setdefault("splits", {})
    with use_threads(args.threads):
        for seed in tqdm(range(args.splits), desc="splits"):
            if str(seed) not in splits:
                splits[str(seed)] = measure_split(sets, seed, args)
                save(path, results)
    print(write_report(results, args.out))
    return results


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=HERE.parents[1] / "shared" / "data",
        help="folder of the sets (default ../shared/data)",
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--cache", type=Path, help="folder of the descriptors (default: reranking_cache in --out)")
    parser.add_argument("--splits", type=int, default=4, help="splits of the people (default 4)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--quick", action="store_true", help="tiny clusters: tells whether everything runs")
    parser.add_argument("--resume", action="store_true", help="keep what the results in --out already hold")
    args = parser.parse_args(argv)
    if min(args.splits, args.threads) < 1:
        parser.error("--splits and --threads must be at least 1")
    args.cache = args.cache or args.out / "reranking_cache"
    return args


def main(argv: Sequence[str] | None = None) -> None:
    start(parse(argv), run)


if __name__ == "__main__":
    main()
