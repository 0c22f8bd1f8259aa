"""Turn the results of ``attention_family.py`` into Markdown tables and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from _family_scaling import CANDIDATES, CHANNELS, FIT_FROM, HEADS, MEMORY_LIMIT, PATTERNS, TIME_LIMIT
from _results import headline

PUBLISHED = {"softmax": 98.7, "primal": 98.4, "primal, last layer": 98.9}  # JapaneseVowels
_TASKS = {
    "long_range": (
        "Long range: a match in a tree",
        "Every leaf of a complete binary tree has a key and a value, the root the key of one leaf; the class is the "
        "value there. Attention between all nodes sees no edges; *edges* attends along those of the tree, over which "
        "all keys meet in the root; *expander* along about six random edges a node too; *window* to two nodes on "
        "either side, so that most leaves are out of reach.",
    ),
    "vowels": (
        "Sequences: JapaneseVowels",
        "270 utterances to train on, 370 to test on, from 7 to 29 steps. Published: Chen et al. (2023), a network of "
        "width 512 where these have 128. *Primal, last layer*: softmax before.",
    ),
    "digits": (
        "Images: digits in patches",
        "The 8 x 8 digits of scikit-learn as 16 patches, a quarter of them to test on.",
    ),
}
_COLORS = dict(zip(CANDIDATES, [*plt.get_cmap("tab10").colors, *plt.get_cmap("Dark2").colors], strict=False))


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write ``attention_family.md`` and ``attention_family.png``; return the Markdown."""
    quick = " **Tiny graphs (`--quick`): these numbers mean nothing.**" if results["settings"]["quick"] else ""
    parts = [f"# The attention family\n\n{headline(results)}{quick}"]
    parts += [_accuracy_table(part, results[part]) for part in _TASKS if results.get(part)]
    if results.get("scaling"):
        parts.append(_scaling_tables(results["scaling"]))
    if results.get("spectrum"):
        parts.append(_spectrum_table(results["spectrum"]["networks"]))
    text = "\n\n".join(parts) + "\n"
    (folder / "attention_family.md").write_text(text)
    if results.get("scaling") or results.get("spectrum"):
        _plot(results, folder / "attention_family.png")
    return text


def _accuracy_table(part: str, task: dict[str, Any]) -> str:
    title, what = _TASKS[part]
    setting, recipe = task["setting"], task["setting"]["recipe"]
    published = PUBLISHED if part == "vowels" else {}
    lines = [
        f"## {title}",
        "",
        f"{what} Networks of {setting['num_layers']} layers of width {setting['channels']} with {setting['heads']} "
        f"heads, trained for {recipe['epochs']} epochs; the last one is kept. Seconds are elapsed time, "
        "beside whatever else the machine did.",
        "",
        "| attention | test accuracy, % | published | difference | seeds | training loss | parameters | seconds |",
        "|---|--:|--:|--:|---|--:|--:|--:|",
    ]
    for name, runs in task["networks"].items():
        done = [run for run in runs.values() if run["status"] == "ok"]
        if not done:
            lines.append(f"| {name} | – | – | – | {_reason(next(iter(runs.values())))} | – | – | – |")
            continue
        accuracies = [100 * run["accuracy"] for run in done]
        mean = statistics.mean(accuracies)
        cells = [
            name,
            f"{mean:.1f} ± {statistics.stdev(accuracies):.1f}" if len(done) > 1 else f"{mean:.1f}",
            f"{published[name]:.1f}" if name in published else "–",
            f"{mean - published[name]:+.1f}" if name in published else "–",
            " ".join(f"{accuracy:.1f}" for accuracy in accuracies),
            f"{statistics.mean(run['cross_entropy'] for run in done):.2g}",
            f"{done[0]['parameters']:,}",
            f"{statistics.median(run['seconds'] for run in done):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _scaling_tables(scaling: dict[str, Any]) -> str:
    attentions = scaling["attentions"]
    sizes = sorted({int(nodes) for records in attentions.values() for nodes in records})
    lines = [
        "## Time and memory of a training step",
        "",
        f"Forward and backward of one attention of {HEADS} heads of {CHANNELS // HEADS} channels over one graph, its "
        "projections included, in a fresh process each, which keeps the memory that a step has freed for the next; "
        "medians of processor time. The exponent is that of the power of N, fitted by least squares in logarithms from "
        f"{FIT_FROM:,} nodes on. *Window* (33 nodes), *expander* (about 10) and *bigbird* (window, a global node, 3 "
        f"random nodes) go along edges that are made beforehand. A process has {TIME_LIMIT:g} s and {MEMORY_LIMIT:g} "
        "GiB; – stands where those were too little, or a library is missing.",
    ]
    measures: tuple[tuple[str, str, Any], ...] = (
        ("processor milliseconds", "time", lambda record: f"{record['training']['median'] * 1e3:.3g}"),
        ("peak MiB", "memory", lambda record: f"{record['peak_extra_bytes'] / 2**20:.3g}"),
    )
    for unit, key, read in measures:
        lines += ["", f"| {unit} at N = | {' | '.join(f'{n:,}' for n in sizes)} | exponent |"]
        lines.append("|---|" + "--:|" * (len(sizes) + 1))
        for name, records in attentions.items():
            cells = [_cell(records.get(str(nodes)), read) for nodes in sizes]
            fitted = scaling["exponents"].get(name, {})
            # Of a fit over fewer sizes the largest one is told.
            short = f" (to {fitted['to']:,})" if fitted and fitted["to"] < sizes[-1] else ""
            cells.append(f"{fitted[key]:.2f}{short}" if fitted else "–")
            lines.append(f"| {name} | {' | '.join(cells)} |")
    built = [
        f"*{name}* {records[str(sizes[-1])]['build_seconds']:.2g} s"
        for name, records in attentions.items()
        if name in PATTERNS and records.get(str(sizes[-1]), {}).get("status") == "ok"
    ]
    if built:
        lines += ["", f"To make the edges of {sizes[-1]:,} nodes takes {', '.join(built)}."]
    if ratio := _softmax_over_primal(attentions):
        lines += ["", ratio]
    failed = {
        f"{name}, {int(nodes):,} nodes: {record['reason']}"
        for name, records in attentions.items()
        for nodes, record in records.items()
        if record["status"] == "failed"
    }
    if failed:
        lines += ["", *(f"- {reason}" for reason in sorted(failed))]
    return "\n".join(lines)


def _softmax_over_primal(attentions: Mapping[str, Any]) -> str | None:
    """Say how softmax and primal attention compare at the largest size that both were measured at."""
    both = [attentions.get(name, {}) for name in ("softmax", "primal")]
    sizes = [n for n in both[0] if all(records.get(n, {}).get("status") == "ok" for records in both)]
    largest = max(sizes, key=int, default=None)
    if largest is None or not both[1][largest]["peak_extra_bytes"]:
        return None
    softmax, primal = (records[largest] for records in both)
    time = softmax["training"]["median"] / primal["training"]["median"]
    memory = softmax["peak_extra_bytes"] / primal["peak_extra_bytes"]
    return (
        f"At {int(largest):,} nodes softmax attention takes {time:.3g} times the time of primal attention and "
        f"{memory:.3g} times its memory; torch's fused kernel never stores the matrix."
    )


def _cell(record: dict[str, Any] | None, read: Any) -> str:
    return "–" if record is None or record["status"] != "ok" else read(record)


def _spectrum_table(networks: Mapping[str, Any]) -> str:
    lines = [
        "## Singular values of attention",
        "",
        "Networks on digits with a node for each of the 64 pixels. Directions: how many singular values make up so "
        "much of the sum of squares, mean over heads and test images. Of primal attention the matrix is the kernel "
        "that it implies, of rank 16 at most.",
        "",
        "| attention | layer | directions for 90% | for 99% | test accuracy, % |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, record in networks.items():
        if record["status"] != "ok":
            lines.append(f"| {name} | – | – | – | {_reason(record)} |")
            continue
        for number, layer in enumerate(record["layers"], start=1):
            directions = " | ".join(f"{layer['directions'][part]:.1f}" for part in ("0.9", "0.99"))
            lines.append(f"| {name} | {number} | {directions} | {100 * record['accuracy']:.1f} |")
    return "\n".join(lines)


def _reason(record: dict[str, Any]) -> str:
    return f"{record['status']}: {record['reason']}"


def _plot(results: dict[str, Any], path: Path) -> None:
    """Draw time and memory against nodes, and singular values."""
    matplotlib.use("Agg")
    scaling, spectrum = results.get("scaling"), results.get("spectrum")
    panels = 2 * bool(scaling) + bool(spectrum)
    fig, axes = plt.subplots(1, panels, figsize=(5 * panels, 4.2), layout="constrained", squeeze=False)
    panel = list(axes[0])
    if scaling:
        _plot_scaling(panel, scaling["attentions"])
        fig.legend(
            *panel[0].get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize=8, frameon=False
        )
    if spectrum:
        _plot_spectrum(panel[-1], spectrum["networks"])
    for axis in panel:
        axis.grid(color="#dddddd")
    fig.savefig(path, dpi=140, metadata={"Software": None})
    plt.close(fig)


def _plot_scaling(panel: list[plt.Axes], attentions: Mapping[str, Any]) -> None:
    for name, records in attentions.items():
        done = {int(nodes): record for nodes, record in records.items() if record["status"] == "ok"}
        if not done:
            continue
        dashed = "--" if " " in name or "-" in name else "-"
        style: dict[str, Any] = {"marker": "o", "markersize": 3, "color": _COLORS[name], "linestyle": dashed}
        panel[0].loglog(list(done), [r["training"]["median"] * 1e3 for r in done.values()], label=name, **style)
        pages = [max(r["peak_extra_bytes"], 4096) / 2**20 for r in done.values()]  # a step may fit into those there are
        panel[1].loglog(list(done), pages, **style)
    for axis, title in zip(
        panel, ("processor milliseconds of a training step", "peak MiB of a training step"), strict=False
    ):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("nodes")


def _plot_spectrum(axis: plt.Axes, networks: Mapping[str, Any]) -> None:
    for name, record in networks.items():
        for number, layer in enumerate(record.get("layers", []), start=1):
            values = layer["singular_values"]
            style = {"color": _COLORS[name], "linestyle": ":" if number == 1 else "-"}
            axis.semilogy(range(1, len(values) + 1), values, label=f"{name}, layer {number}", **style)
    axis.set_ylim(1e-6, 1.5)
    axis.set_xlabel("singular value")
    axis.set_title("singular values over the largest", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
