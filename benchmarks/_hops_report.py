"""Turn the results of ``hops.py`` into a Markdown table and a plot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from _results import headline


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write ``hops.md`` and ``hops.png``; return the Markdown."""
    settings = results["settings"]
    quick = " **A tiny graph (`--quick`): these numbers mean nothing.**" if settings["quick"] else ""
    models = results["models"]
    seeds = list(next(iter(models.values()))["seeds"])
    lines = [
        "# All hops against one hop on Cora",
        "",
        f"{headline(results)}{quick}",
        "",
        f"Test accuracy (%) on the public split, {len(seeds)} seeds. Every model was tuned over "
        f"{len(next(iter(models.values()))['tuning'])} configurations on the validation nodes of seed 0 and trained "
        f"for at most {settings['epochs']} epochs (patience {settings['patience']}); the epoch is that of the best "
        "validation accuracy.",
        "",
        "| model | mean ± std | validation | chosen | parameters | seconds a run | "
        + " | ".join(f"seed {seed}" for seed in seeds)
        + " |",
        "|---|--:|--:|---|--:|--:|" + "--:|" * len(seeds),
    ]
    for name, entry in models.items():
        runs = [entry["seeds"][seed] for seed in seeds]
        chosen = ", ".join(f"{option} {value:g}" for option, value in entry["config"].items())
        cells = [
            name,
            _spread([run["test_accuracy"] for run in runs]),
            _spread([run["val_accuracy"] for run in runs]),
            chosen,
            f"{runs[0]['parameters']:,}",
            f"{statistics.median(run['seconds'] for run in runs):.1f}",
            *(f"{100 * run['test_accuracy']:.1f}" for run in runs),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for name, pairs in results["paired"].items():
        lines.append(
            f"- *{name}* minus the same with one hop, seed by seed: {_spread(pairs['differences'])} points, better in "
            f"{pairs['wins']} of {len(pairs['differences'])} seeds and worse in {pairs['losses']}."
        )
    text = "\n".join(lines) + "\n"
    (folder / "hops.md").write_text(text)
    _plot(models, seeds, folder / "hops.png")
    return text


def _spread(values: list[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}"


def _plot(models: dict[str, Any], seeds: list[str], path: Path) -> None:
    """Draw every seed's accuracy, joined from model to model, and the means."""
    matplotlib.use("Agg")
    fig, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    places = range(len(models))
    for seed in seeds:
        values = [100 * entry["seeds"][seed]["test_accuracy"] for entry in models.values()]
        axis.plot(places, values, color="#9ecae1", linewidth=0.8, marker="o", markersize=3)
    means = [
        statistics.mean(100 * entry["seeds"][seed]["test_accuracy"] for seed in seeds) for entry in models.values()
    ]
    axis.plot(places, means, color="#08519c", linestyle="none", marker="_", markersize=28, markeredgewidth=2)
    axis.set_xticks(places, list(models))
    axis.set_ylabel("test accuracy (%)")
    axis.set_title(f"Cora, {len(seeds)} seeds (lines), means (bars)", fontsize=10)
    axis.grid(axis="y", color="#dddddd")
    fig.savefig(path, dpi=140, metadata={"Software": None})
    plt.close(fig)
