"""Turn the results of ``attention.py`` into a Markdown table and a plot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from _attention_cases import BASELINE, CACHED, DGL, PLAIN

# What we promise beside PyG at 50,000 nodes and 1,000,000 edges: forward, forward and backward.
_SPEED_TARGETS = {
    ("dot", CACHED): (6.0, 4.5),
    ("dot", PLAIN): (4.0, 3.5),
    ("gat", CACHED): (4.0, 3.5),
    ("gat", PLAIN): (4.0, 3.5),
    ("gatv2", CACHED): (4.0, 3.0),
    ("gatv2", PLAIN): (4.0, 3.0),
    ("edge_attention", CACHED): (10.0, 8.0),
    ("edge_attention", PLAIN): (10.0, 8.0),
}
_OTHER_SPEED_TARGET = (1.5, 1.5)
# Peak memory is promised where edges, not nodes, fill it.
_MEMORY_TARGETS = {"dot": 6.0, "gat": 6.0, "gatv2": 4.0}
_MEMORY_CASES = ("50k-1M", "170k-2.3M")
_PRODUCTS_GIB = 20.0
_KINDS = ("forward", "training")


def speedup(candidates: dict[str, Any], name: str, kind: str) -> float | None:
    """Return the median over the rounds of the baseline's time by the candidate's, taken in the same round."""
    baseline, ours = (candidates.get(who, {}).get(kind) for who in (BASELINE, name))
    if baseline is None or ours is None:
        return None
    return statistics.median(b / o for b, o in zip(baseline["seconds"], ours["seconds"], strict=True))


def memory_ratio(candidates: dict[str, Any], name: str) -> float | None:
    """Return how many times the candidate's peak extra memory the baseline needs."""
    baseline, ours = (candidates.get(who, {}).get("peak_extra_bytes") for who in (BASELINE, name))
    return baseline / ours if baseline and ours else None


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write ``attention.md`` and ``attention.png``; return the Markdown."""
    text = "\n\n".join([_headline(results), _speed_table(results), _detail_table(results)]) + "\n"
    (folder / "attention.md").write_text(text)
    _plot(results, folder / "attention.png")
    return text


def _headline(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    hardware, settings = results["hardware"], results["settings"]
    quick = " **Tiny graphs (`--quick`): these times mean nothing.**" if settings["quick"] else ""
    return (
        f"# Attention: speed and memory\n\n{hardware['cpu']}, {settings['threads']} threads of {hardware['cores']} "
        f"cores, {hardware['instructions']}, {hardware['memory_gib']} GiB; {settings['dtype']}; {versions}; "
        f"{results['date']}.{quick}\n\n"
        f"Ratios are PyG's figure over the candidate's: median of {settings['repeats']} interleaved rounds, forward "
        "(no autograd) and forward + backward. Memory is the peak that one training step adds in a fresh process, "
        "sorting of the edges included. *Cached*: the edges are an `Affinity`, sorted once; *plain*: an `edge_index` "
        "tensor, sorted in every call. DGL and *PyG sorted* get their graph sorted beforehand. The layers' inputs "
        "are heads x channels wide (100 for products), and linear maps are timed too."
    )


def _rows(results: dict[str, Any]) -> list[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    return [
        (case_name, subject, case, measured["candidates"])
        for case_name, case in results["cases"].items()
        for subject, measured in case["subjects"].items()
    ]


def _speed_table(results: dict[str, Any]) -> str:
    lines = [
        "## Against PyG",
        "",
        "| graph | score | candidate | forward | target | fwd + bwd | target | memory | target |",
        "|---|---|---|--:|---|--:|---|--:|---|",
    ]
    for case_name, subject, case, candidates in _rows(results):
        for name in (CACHED, PLAIN, DGL):
            if name not in candidates or case["full_step"]:
                continue
            at_anchor = case_name == "50k-1M"
            targets = _SPEED_TARGETS.get((subject, name), _OTHER_SPEED_TARGET) if at_anchor else _OTHER_SPEED_TARGET
            cells = [case_name, subject, name]
            for kind, target in zip(_KINDS, targets, strict=True):
                cells += _against(speedup(candidates, name, kind), None if name == DGL else target)
            promised = _MEMORY_TARGETS.get(subject) if case_name in _MEMORY_CASES and name != DGL else None
            cells += _against(memory_ratio(candidates, name), promised)
            lines.append(f"| {' | '.join(cells)} |")
    products = results["cases"].get("products")
    if products is not None and products["full_step"]:
        lines += ["", _products_line(products)]
    return "\n".join(lines)


def _against(ratio: float | None, target: float | None) -> list[str]:
    """Return the cells of a ratio and of its target."""
    if ratio is None:
        return ["–", ""]
    verdict = "" if target is None else f"{target:g}x {'met' if ratio >= target else '**not met**'}"
    return [f"{ratio:.1f}x", verdict]


def _products_line(case: dict[str, Any]) -> str:
    parts = [f"One training step on {case['nodes']:,} nodes and {case['edges']:,} edges (dot, SGD):"]
    for name, record in case["subjects"]["dot"]["candidates"].items():
        if record["status"] != "ok":
            parts.append(f"{name}: {record['status']}, {record['reason']};")
            continue
        if "peak_extra_bytes" not in record:
            continue
        peak = record["peak_extra_bytes"] / 2**30
        verdict = ""
        if name in (CACHED, PLAIN):
            verdict = f" ({_PRODUCTS_GIB:g} GiB {'met' if peak <= _PRODUCTS_GIB else '**not met**'})"
        parts.append(f"{name}: {record['training']['median']:.1f} s, {peak:.1f} GiB{verdict};")
    return " ".join(parts).rstrip(";") + "."


def _detail_table(results: dict[str, Any]) -> str:
    lines = [
        "## All candidates",
        "",
        "Milliseconds: median (min-max). *First*: the first training step, which may sort the edges. *Error*: of the "
        "output against the float64 oracle, over the largest true value.",
        "",
        "| graph | score | candidate | forward | fwd + bwd | first | peak MiB | error | note |",
        "|---|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for case_name, subject, _, candidates in _rows(results):
        for name, record in candidates.items():
            cells = [case_name, subject, name, *_detail_cells(record)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _detail_cells(record: dict[str, Any]) -> list[str]:
    cells = [_milliseconds(record.get(kind)) for kind in _KINDS]
    first, peak = record.get("first_training_seconds"), record.get("peak_extra_bytes")
    cells.append("–" if first is None else f"{first * 1e3:.4g}")
    cells.append("–" if peak is None else f"{peak / 2**20:.0f}")
    output = record.get("agreement", {}).get("output", {})
    cells.append("–" if output.get("error") is None else f"{output['error'] / output['largest']:.1g}")
    cells.append("" if record["status"] == "ok" else f"{record['status']}: {record['reason']}")
    return cells


def _milliseconds(times: dict[str, Any] | None) -> str:
    if times is None:
        return "–"
    return f"{times['median'] * 1e3:.4g} ({times['min'] * 1e3:.4g}-{times['max'] * 1e3:.4g})"


def _plot(results: dict[str, Any], path: Path) -> None:
    """Draw speed-up and memory ratio against PyG, one row a computation; 1 is PyG."""
    rows = [row for row in _rows(results) if not row[2]["full_step"]]
    matplotlib.use("Agg")
    fig, (speed, memory) = plt.subplots(
        1, 2, figsize=(11, 1.6 + 0.42 * len(rows)), sharey=True, width_ratios=(3, 2), layout="constrained"
    )
    ticks = range(len(rows))
    colors = {"forward": "#9ecae1", "training": "#08519c"}
    labels = {"forward": "forward", "training": "forward + backward"}
    for offset, kind in ((-0.2, "forward"), (0.2, "training")):
        places = [tick + offset for tick in ticks]
        cached, plain, dgl = ([_or_nan(speedup(row[3], name, kind)) for row in rows] for name in (CACHED, PLAIN, DGL))
        speed.barh(places, cached, height=0.38, color=colors[kind], label=f"{labels[kind]}, cached edges")
        marked = {"color": "black", "markersize": 4, "linestyle": "none"}
        note = kind == "training"
        speed.plot(plain, places, marker="o", **marked, label="plain edge_index" if note else None)
        if any(value == value for value in dgl):
            speed.plot(dgl, places, marker="x", **marked, label="DGL" if note else None)
    memory.barh(ticks, [_or_nan(memory_ratio(row[3], CACHED)) for row in rows], height=0.6, color="#74a892")
    for axis, title in ((speed, "times faster than PyG"), (memory, "times less peak memory than PyG (training)")):
        axis.axvline(1, color="#cb181d", linewidth=1)
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", color="#dddddd")
        axis.set_axisbelow(True)
        axis.set_xlim(left=0)
    speed.set_yticks(ticks, [f"{case}  {subject}" for case, subject, _, _ in rows])
    speed.set_ylim(len(rows) - 0.4, -0.6)
    fig.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    fig.savefig(path, dpi=140, metadata={"Software": None})
    plt.close(fig)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
