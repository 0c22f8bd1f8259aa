"""Turn the results of ``diffusion.py`` into Markdown tables and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from _diffusion_cases import BACKWARD_HOPS, PAGERANK, PYG, PYG_SPARSE, RESOLVENT
from _diffusion_gdc import OURS, THEIRS, TOP
from _results import headline

_COLORS = {PYG: "#cb181d", PYG_SPARSE: "#fb6a4a", PAGERANK: "#6baed6", RESOLVENT: "#08519c"}


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write ``diffusion.md`` and ``diffusion.png``; return the Markdown."""
    quick = " **A tiny graph (`--quick`): these numbers mean nothing.**" if results["settings"]["quick"] else ""
    parts = [f"# Diffusion over many hops\n\n{headline(results)}{quick}"]
    if "forward" in results:
        parts.append(_forward_tables(results["forward"], results["settings"]["repeats"]))
    if results.get("backward"):
        parts.append(_backward_table(results["backward"]))
    if results.get("gdc"):
        parts.append(_gdc_table(results["gdc"]))
    text = "\n\n".join(parts) + "\n"
    (folder / "diffusion.md").write_text(text)
    if "forward" in results:
        _plot(results, folder / "diffusion.png")
    return text


def _forward_tables(forward: dict[str, Any], repeats: int) -> str:
    candidates = forward["candidates"]
    lines = [
        "## Forward, at equal or smaller error",
        "",
        f"Personalized PageRank (teleport {forward['teleport']:g}) of {forward['channels']} float32 channels over "
        f"{forward['nodes']:,} nodes and {forward['edges']:,} edges, loops included. The error is the Frobenius norm "
        "of the difference to the exact solution over that of the solution. Ours is at the loosest tolerance whose "
        f"error, and whose largest error, is not above that of APPNP. Medians of {repeats} interleaved rounds. The "
        "edges are normalized beforehand for everyone; *sorted*: as a CSR matrix.",
        "",
        f"| APPNP | its error | ours | its error | times faster than {PYG} | than {PYG_SPARSE} |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for theirs, ours in forward["matches"].items():
        if ours is None or not all(candidates[name]["status"] == "ok" for name in (theirs, ours)):
            lines.append(f"| {theirs} | – | – | – | – | – |")
            continue
        ratios = [_ratio(candidates, theirs.replace(PYG, who), ours) for who in (PYG, PYG_SPARSE)]
        errors = [f"{candidates[name]['error']:.2g}" for name in (theirs, ours)]
        lines.append(f"| {theirs} | {errors[0]} | {ours} | {errors[1]} | {' | '.join(ratios)} |")
    lines += ["", "| candidate | milliseconds | error | largest error | note |", "|---|--:|--:|--:|---|"]
    for name, record in candidates.items():
        times = record.get("forward")
        cells = [name, "–"]
        if times:
            cells[1] = f"{times['median'] * 1e3:.4g} ({times['min'] * 1e3:.4g}-{times['max'] * 1e3:.4g})"
        cells += [f"{record[key]:.2g}" if key in record else "–" for key in ("error", "largest_error")]
        cells.append("" if record["status"] == "ok" else f"{record['status']}: {record['reason']}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(candidates: dict[str, Any], theirs: str, ours: str) -> str:
    times = [candidates[name].get("forward") for name in (theirs, ours)]
    return "–" if None in times else f"{times[0]['median'] / times[1]['median']:.1f}x"


def _backward_table(records: dict[str, Any]) -> str:
    lines = [
        "## Memory of a training step by number of hops",
        "",
        "Forward and backward with gradients of features and edge weights, PubMed, the same channels; peak that the "
        "step adds in a fresh process.",
        "",
        "| candidate | peak MiB | milliseconds | note |",
        "|---|--:|--:|---|",
    ]
    for name, record in records.items():
        if record["status"] == "ok":
            cells = [f"{record['peak_extra_bytes'] / 2**20:.0f}", f"{record['training']['median'] * 1e3:.4g}", ""]
        else:
            cells = ["–", "–", f"{record['status']}: {record['reason']}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _gdc_table(graphs: dict[str, Any]) -> str:
    lines = [
        "## Diffused graphs (GDC)",
        "",
        f"Personalized PageRank between all nodes, the {TOP} largest of each column kept. {THEIRS} inverts a dense "
        f"matrix, {OURS} solves for blocks of columns. Once each, in a fresh process.",
        "",
        "| graph | candidate | seconds | peak MiB | edges | largest difference | note |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for graph, records in graphs.items():
        for who, record in records.items():
            cells = [
                graph,
                who,
                f"{record['seconds']:.3g}" if "seconds" in record else "–",
                f"{record['peak_extra_bytes'] / 2**20:.0f}" if "peak_extra_bytes" in record else "–",
                f"{record['edges']:,}" if "edges" in record else "–",
                f"{record['difference']:.1g}" if "difference" in record else "–",
                "" if record["status"] == "ok" else f"{record['status']}: {record['reason']}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _plot(results: dict[str, Any], path: Path) -> None:
    """Draw error against time, and peak memory of a training step against hops."""
    matplotlib.use("Agg")
    backward = {name: record for name, record in results.get("backward", {}).items() if record["status"] == "ok"}
    fig, axes = plt.subplots(1, 1 + bool(backward), figsize=(5 + 4 * bool(backward), 3.6), layout="constrained")
    time, *memory = (axes,) if not backward else axes
    for who, color in _COLORS.items():
        points = sorted(
            (record["forward"]["median"] * 1e3, record["error"])
            for record in results["forward"]["candidates"].values()
            if record.get("who") == who and "forward" in record
        )
        if points:
            time.loglog(*zip(*points, strict=True), marker="o", markersize=4, color=color, label=who)
    time.set_xlabel("milliseconds")
    time.set_title("relative error of personalized PageRank", fontsize=10)
    for axis in memory:
        _plot_memory(axis, backward)
    for axis in (time, *memory):
        axis.grid(color="#dddddd")
        axis.legend(fontsize=8, frameon=False)
    fig.savefig(path, dpi=140, metadata={"Software": None})
    plt.close(fig)


def _plot_memory(axis: plt.Axes, backward: dict[str, Any]) -> None:
    for who, color in ((PYG, "#cb181d"), ("graphattn neumann", "#6baed6")):
        points = [(r["hops"], r["peak_extra_bytes"] / 2**20) for r in backward.values() if r["who"] == who]
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", markersize=4, color=color, label=who)
    if RESOLVENT in backward:
        peak = backward[RESOLVENT]["peak_extra_bytes"] / 2**20
        axis.plot([0, BACKWARD_HOPS[-1]], [peak, peak], color="#08519c", label=f"{RESOLVENT}, all hops")
    axis.set_xlabel("hops")
    axis.set_title("peak MiB of a training step", fontsize=10)
    axis.set_ylim(bottom=0)
