"""Causal structure from attention: is it that of the learner on exact covariances, and is it the truth?

    python benchmarks/causal.py --data FOLDER --out benchmarks/results

``--data`` is a folder with the sets asia, cancer and Sachs as causal-learn's tests hold them. Two parts:

- ``models``: random linear structural models of six variables, whose attention is ``(I - G)^-1`` with rows that sum to
  1. The graph learned from it is compared with what the learner finds on the exact covariance (for FCI and PC that is
  causal-learn by its own Fisher test, on data with this covariance), and its skeleton with the truth;
- ``sets``: correlations of real and simulated data, taken through attention that has them. Structural Hamming distance
  to the known graph, beside that of causal-learn's Fisher test on the data themselves.
"""

from __future__ import annotations

import argparse
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from _results import HERE, environment, headline, installed, save, start, use_threads
from causallearn.search.ConstraintBased.FCI import fci
from causallearn.search.ConstraintBased.PC import pc

from graphattn.analysis.causal import causal_graph
from graphattn.analysis.causal_correlation import surrogate_data
from graphattn.analysis.causal_direct import direct_weights
from graphattn.analysis.causal_learners import learn_pag
from graphattn.analysis.causal_pag import Pag
from graphattn.analysis.causal_tests import PartialCorrelationTest
from graphattn.analysis.maps import AttentionMaps

SIZE, PROBABILITY, WEIGHTS = 6, 0.4, (0.3, 0.9)
SETTINGS = [(100_000, 1e-4), (768, 0.01)]  # samples and level
LEARNERS = ("fci", "pc", "skeleton")
SETS = {
    "asia": ("asia.txt.gz", "asia.graph.txt"),
    "cancer": ("cancer.txt.gz", "cancer.graph.txt"),
    "Sachs": ("sachs.2005.continuous.txt.gz", "sachs.2005.ground.truth.graph.txt"),
}
LEVEL = 0.01  # of the sets
_CODES = {0: 0, -1: 1, 1: 2, 2: 3}  # from causal-learn's marks to ours


def random_weights(seed: int) -> np.ndarray:
    """Return the weights G of a model x = Gx + u, whose order is that of the variables."""
    rng = np.random.default_rng(seed)
    present = np.tril(rng.random((SIZE, SIZE)) < PROBABILITY, -1)
    return np.where(present, rng.uniform(*WEIGHTS, (SIZE, SIZE)), 0.0)


def edges(pag: Pag) -> set[frozenset[int]]:
    """Return the pairs that have an edge."""
    return {frozenset((i, j)) for i, _, j in pag.edges()}


def read_pag(graph: np.ndarray, learner: str) -> Pag:
    """Read causal-learn's matrix; an edge of PC without a direction has circles."""
    if learner == "pc":
        graph = np.where((graph == -1) & (graph.T == -1), 2, graph)
    return Pag(tuple(range(len(graph))), np.vectorize(_CODES.get)(graph.T))


def on_data(X: np.ndarray, learner: str, alpha: float) -> Pag:
    """Return what causal-learn finds in data by its own Fisher test."""
    if learner == "fci":
        with redirect_stdout(io.StringIO()):
            return read_pag(fci(X, "fisherz", alpha, show_progress=False)[0].graph, learner)
    return read_pag(pc(X, alpha, "fisherz", show_progress=False).G.graph, learner)


def on_covariance(correlation: np.ndarray, learner: str, n_samples: int, alpha: float) -> Pag:
    """Return what a learner finds on exact correlations, without attention."""
    if learner == "skeleton":
        return learn_pag(PartialCorrelationTest(correlation, n_samples, alpha), learner)
    return on_data(surrogate_data(correlation, n_samples), learner, alpha)


def measure_models(count: int) -> dict[str, Any]:
    """Learn the graphs of random models from their attention, and count what is as it should be."""
    found: dict[str, Any] = {"count": count, "weights error": 0.0, "learned": []}
    for n_samples, alpha in SETTINGS:
        for learner in LEARNERS:
            entry: dict[str, Any] = {"learner": learner, "n_samples": n_samples, "alpha": alpha}
            entry |= dict.fromkeys(("same skeleton", "same graph", "true skeleton", "missing", "extra", "edges"), 0)
            entry["wrong models"] = []
            for seed in range(count):
                G = random_weights(seed)
                total = np.linalg.inv(np.eye(SIZE) - G)
                A = total / total.sum(axis=1, keepdims=True)
                scale = np.sqrt((total**2).sum(axis=1))
                exact = on_covariance(total @ total.T / np.outer(scale, scale), learner, n_samples, alpha)
                pag = causal_graph(A, n_samples, alpha=alpha, learner=learner).pag
                truth = {frozenset((int(i), int(j))) for i, j in np.argwhere(G)}
                entry["same skeleton"] += edges(pag) == edges(exact)
                entry["same graph"] += pag.hamming_distance(exact) == 0
                entry["true skeleton"] += edges(pag) == truth
                entry["missing"] += len(truth - edges(pag))
                entry["extra"] += len(edges(pag) - truth)
                entry["edges"] += len(truth)
                if edges(pag) != truth:
                    entry["wrong models"].append(seed)
                found["weights error"] = max(found["weights error"], float(np.abs(direct_weights(A) - G).max()))
            found["learned"].append(entry)
    return found


def read_set(folder: Path, name: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return the data of a set, and the edges (cause, effect) of its graph."""
    data, truth = (folder / file for file in SETS[name])
    lines = truth.read_text().splitlines()
    names = lines[1].split(";")
    arrows = [line.split(".", 1)[1].split("-->") for line in lines if "-->" in line]
    return np.loadtxt(data, skiprows=1), [(names.index(a.strip()), names.index(b.strip())) for a, b in arrows]


def measure_sets(folder: Path, names: list[str]) -> dict[str, Any]:
    """Learn the graphs of data through attention that has their correlations, and on the data themselves."""
    found: dict[str, Any] = {}
    for name in names:
        X, arrows = read_set(folder, name)
        size = X.shape[1]
        # Rows of a Cholesky factor have these correlations; its entries need be neither positive nor sum to 1.
        factor = np.linalg.cholesky(np.corrcoef(X.T))
        maps = AttentionMaps.from_arrays(factor[None, None], validate=False)
        truth = Pag.from_edges(range(size), [(cause, "-->", effect) for cause, effect in arrows])
        found[name] = {"variables": size, "samples": len(X), "edges": len(arrows), "learned": {}}
        for learner in ("fci", "pc"):
            ours = causal_graph(maps, len(X), alpha=LEVEL, learner=learner, max_cond=size).pag
            theirs = on_data(X, learner, LEVEL)
            found[name]["learned"][learner] = {
                "graphattn": ours.hamming_distance(truth),
                "causal-learn": theirs.hamming_distance(truth),
                "between": ours.hamming_distance(theirs),
                "missing": len(edges(truth) - edges(ours)),
                "extra": len(edges(ours) - edges(truth)),
            }
    return found


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write the tables in Markdown, and return them."""
    models = results["models"]
    count = models["count"]
    lines = [
        "# Causal structure from attention",
        "",
        headline(results),
        "",
        "## Random linear models",
        "",
        f"{count} models of {SIZE} variables (seeds 0 to {count - 1}, edge probability {PROBABILITY}, weights "
        f"{WEIGHTS[0]} to {WEIGHTS[1]}). Their attention is (I - G)^-1 with rows that sum to 1. *Same* compares with "
        "the learner on the exact covariance, without attention: for FCI and PC causal-learn by its own Fisher test, "
        "on data with this covariance. *True* compares with the edges of the model.",
        "",
        "| samples | alpha | learner | same skeleton | same graph | true skeleton | edges missing | edges too many |",
        "|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for entry in models["learned"]:
        lines.append(
            f"| {entry['n_samples']:,} | {entry['alpha']:g} | {entry['learner']} | {entry['same skeleton']} of {count} "
            f"| {entry['same graph']} of {count} | {entry['true skeleton']} of {count} | "
            f"{entry['missing']} of {entry['edges']} | {entry['extra']} |"
        )
    lines += [
        "",
        f"Direct weights read from the same attention, whose order is known, are off by at most "
        f"{models['weights error']:.1e}.",
    ]
    if results.get("sets"):
        lines += [
            "",
            "## Sets with a known graph",
            "",
            f"Structural Hamming distance to the known graph (alpha {LEVEL}), with the correlations taken through "
            "attention, and of causal-learn's Fisher test on the data themselves. An end that a learner leaves open "
            "differs from the known one, so that the distance is no mark for the learner.",
            "",
            "| set | variables | samples | edges | learner | graphattn | causal-learn | between | missing | too many |",
            "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|",
        ]
        for name, entry in results["sets"].items():
            for learner, found in entry["learned"].items():
                lines.append(
                    f"| {name} | {entry['variables']} | {entry['samples']:,} | {entry['edges']} | {learner} | "
                    f"{found['graphattn']} | {found['causal-learn']} | {found['between']} | {found['missing']} | "
                    f"{found['extra']} |"
                )
    text = "\n".join(lines) + "\n"
    (folder / "causal.md").write_text(text)
    return text


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the sets; without it only the models are measured")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the results")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="five models and the smallest set, to see that it runs")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and write the results."""
    settings = {"threads": args.threads, "quick": args.quick, "level": LEVEL}
    results = environment(settings, installed("causal-learn", "scipy", "networkx"))
    with use_threads(args.threads):
        results["models"] = measure_models(5 if args.quick else 100)
        if args.data:
            results["sets"] = measure_sets(args.data, ["cancer"] if args.quick else list(SETS))
    save(args.out / "causal.json", results)
    print(write_report(results, args.out))
    return results


if __name__ == "__main__":
    start(parse(), run)
