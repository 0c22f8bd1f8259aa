"""Turn the results of ``reranking.py`` into Markdown tables and a plot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from _reranking_quality import ANCHOR_GAP, ANCHORS, FIRST, OTHER
from _reranking_speed import (
    BATCH_TARGETS,
    DENSE,
    DENSE_LIMIT,
    FITTED,
    GAP,
    HEAD,
    LATENCY_CALLS,
    ONCE_SECONDS,
    OURS,
    SCALE_TARGET,
    SINGLE_TARGETS,
)
from _results import headline

_METRICS = {
    "map": "mAP",
    "ndcg_cut_10": "nDCG@10",
    "recall_10": "R@10",
    "recall_100": "R@100",
    "P_1": "P@1",
    "bulls_eye": "bull's eye",
}


def mean_gains(sets: dict[str, Any], kind: str | None, metric: str) -> dict[str, float]:
    """Return by how much each inductive method moves a metric, averaged over the sets of a kind, or over all."""
    chosen = [
        {n: m for n, m in entry["methods"].items() if m["status"] == "ok" and not m["transductive"]}
        for entry in sets.values()
        if entry["status"] == "ok" and kind in (None, entry["kind"])
    ]
    if not chosen:
        return {}
    common = [name for name in chosen[0] if all(name in methods for methods in chosen)]
    return {
        name: statistics.mean(m[name]["metrics"][metric] - m[FIRST]["metrics"][metric] for m in chosen)
        for name in common
        if name != FIRST and FIRST in common
    }


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write ``reranking.md`` and ``reranking.png``; return the Markdown."""
    quick = " **Tiny sets (`--quick`): these numbers mean nothing.**" if results["settings"]["quick"] else ""
    parts = [f"# Re-ranking\n\n{headline(results)}{quick}"]
    if results.get("quality"):
        parts.append(_quality_tables(results["quality"]))
    if results.get("speed"):
        parts.append(_speed_tables(results))
    if results.get("scale"):
        parts.append(_scale_table(results["scale"]))
    text = "\n\n".join(parts) + "\n"
    (folder / "reranking.md").write_text(text)
    _plot(results, folder / "reranking.png")
    return text


def _quality_tables(sets: dict[str, Any]) -> str:
    lines = [
        "## Quality",
        "",
        "Lists over the whole gallery, evaluated by trec_eval (`map` is its own, not the trapezoidal one); the first "
        "stage is the cosine. *K*: candidates that are re-ranked, the others keep their order behind them. "
        "*Self-excluded*: queries are items of the gallery and are left out of their own lists; `gallery` sees them "
        "as items, which they are, and is inductive. *Won, lost*: queries whose average precision rose or fell. "
        "*ms*: of a query, without the offline part, a rough figure: nothing is kept quiet for it.",
    ]
    lines += _gain_table(sets)
    lines += _anchor_table(sets)
    for name, entry in sets.items():
        if entry["status"] != "ok":
            lines += ["", f"**{name}**: {entry['status']}, {entry['reason']}."]
            continue
        excluded = ", self-excluded" if entry["leave_one_out"] else ""
        lines += [
            "",
            f"**{name}** ({entry['kind']}): {entry['queries']:,} queries{excluded}, {entry['items']:,} items, "
            f"{entry['width']} wide.",
        ]
        groups = (("inductive", False), ("transductive: the other queries take part", True))
        for title, transductive in groups:
            rows = {
                n: m for n, m in entry["methods"].items() if n == FIRST or m.get("transductive", False) == transductive
            }
            if set(rows) - {FIRST}:
                lines += ["", f"{name}, {title}:", "", *_set_table(rows)]
    return "\n".join(lines)


def _set_table(rows: dict[str, Any]) -> list[str]:
    metrics = [key for key in _METRICS if any(key in m.get("metrics", {}) for m in rows.values())]
    best = {key: max(m["metrics"][key] for m in rows.values() if "metrics" in m) for key in metrics}
    lines = [
        "| method | settings | scope | K | "
        + " | ".join(_METRICS[key] for key in metrics)
        + " | won | lost | ms | note |",
        "|---|---|---|--:|" + "--:|" * len(metrics) + "--:|--:|--:|---|",
    ]
    for name, record in rows.items():
        if record["status"] != "ok":
            blank = " | ".join("–" for _ in range(len(metrics) + 6))
            lines.append(f"| {name} | {blank} | {record['status']}: {record['reason']} |")
            continue
        values = record["metrics"]
        cells = [
            name,
            "–" if name == FIRST else record["settings"],
            "–" if name == FIRST else record["scope"],
            _number(record["K"], "d"),
            *(f"**{values[key]:.4f}**" if values[key] == best[key] else f"{values[key]:.4f}" for key in metrics),
            "–" if name == FIRST else str(record["won"]),
            "–" if name == FIRST else str(record["lost"]),
            f"{1e3 * record['seconds_per_query']:.3g}",
            f"mean confidence {record['mean_confidence']:.2f}" if "mean_confidence" in record else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _gain_table(sets: dict[str, Any]) -> list[str]:
    columns = {
        "all sets, mAP": (None, "map"),
        "image sets, mAP": ("image", "map"),
        "text sets, mAP": ("text", "map"),
        "text sets, nDCG@10": ("text", "ndcg_cut_10"),
    }
    gains = {title: mean_gains(sets, *which) for title, which in columns.items()}
    gains = {title: found for title, found in gains.items() if found}
    names = list(dict.fromkeys(name for found in gains.values() for name in found))
    if not names:
        return []
    lines = [
        "",
        "Points over the first stage, mean over the sets, inductive:",
        "",
        "| method | " + " | ".join(gains) + " |",
        "|---|" + "--:|" * len(gains),
    ]
    for name in names:
        cells = [_number(100 * found[name] if name in found else None, "+.1f") for found in gains.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _anchor_table(sets: dict[str, Any]) -> list[str]:
    lines = []
    for name, anchors in ANCHORS.items():
        methods = sets.get(name, {}).get("methods", {})
        for method, value in anchors.items():
            if methods.get(method, {}).get("status") != "ok":
                continue
            ours = methods[method]["metrics"]["map"]
            near = [
                other
                for other, record in methods.items()
                if other.split(",")[0] == method.split(",")[0]
                and other != method
                and record["status"] == "ok"
                and abs(record["metrics"]["map"] - value) <= ANCHOR_GAP
            ]
            met = abs(ours - value) <= ANCHOR_GAP
            note = "" if met else f"met by: {'; '.join(near)}" if near else "met by no row"
            lines.append(
                f"| {name} | {method} | {value:.3f} | {ours:.4f} | {ours - value:+.4f} | {'yes' if met else 'no'} "
                f"| {note} |"
            )
    if not lines:
        return []
    return [
        "",
        f"mAP of published defaults by the code of others, to {ANCHOR_GAP:g}:",
        "",
        "| set | method | theirs | ours | difference | met | note |",
        "|---|---|--:|--:|--:|---|---|",
        *lines,
    ]


def _speed_tables(results: dict[str, Any]) -> str:
    lines = ["## Time and memory"]
    batch, single = (results["speed"].get(do) for do in ("batch", "single"))
    if batch:
        lines += [
            "",
            f"{batch['queries']:,} queries, {batch['candidates']} candidates each, {batch['width']} wide, of a gallery "
            f"of {batch['gallery']:,}; each method in a process of its own. Seconds are the median of "
            f"{results['settings']['repeats']} runs (*once* where the first took longer than {ONCE_SECONDS:g} s); "
            "memory is the peak that the first adds, with what it finds in the gallery.",
            "",
            "| method | offline seconds | seconds | peak MiB | target | note |",
            "|---|--:|--:|--:|---|---|",
        ]
        for name, record in batch["methods"].items():
            if record["status"] != "ok":
                lines.append(f"| {name} | – | – | – | | {record['status']}: {record['reason']} |")
                continue
            offline = _seconds(record["fit"]) if "," in name else "–"
            peak = record["peak_extra_bytes"]
            cells = [name, offline, _seconds(record["rerank"]), f"{peak / 2**20:.0f}", _batch_target(name, record), ""]
            lines.append(f"| {' | '.join(cells)} |")
    if single:
        lines += [
            "",
            f"One query, {single['candidates']} candidates, {single['width']} wide, one thread; {LATENCY_CALLS} calls.",
            "",
            "| method | median ms | 90 % below, ms | target | note |",
            "|---|--:|--:|---|---|",
        ]
        for name, record in single["methods"].items():
            if record["status"] != "ok":
                lines.append(f"| {name} | – | – | | {record['status']}: {record['reason']} |")
                continue
            median, target = 1e3 * record["median"], SINGLE_TARGETS.get(name)
            verdict = "" if target is None else f"{target:g} ms {_met(median <= target)}"
            lines.append(f"| {name} | {median:.2f} | {1e3 * record['p90']:.2f} | {verdict} | |")
    return "\n".join(lines)


def _batch_target(name: str, record: dict[str, Any]) -> str:
    if name not in BATCH_TARGETS:
        return ""
    seconds, gib = BATCH_TARGETS[name]
    verdicts = [f"{seconds:g} s {_met(record['rerank']['median'] <= seconds)}"]
    if gib is not None:
        verdicts.append(f"{gib:g} GiB {_met(record['peak_extra_bytes'] <= gib * 2**30)}")
    return ", ".join(verdicts)


def _scale_table(sizes: dict[str, Any]) -> str:
    some = next(iter(sizes.values()))
    lines = [
        "## Growth with the gallery",
        "",
        f"{some['queries']} queries, {some['candidates']} candidates each, {some['width']} wide, published defaults. "
        f"*{DENSE}*: the published algorithm in NumPy, float32, with the matrix of all pairs, queries among them (its "
        f"last product for the queries alone, which favours it); left out above {DENSE_LIMIT / 2**30:g} GiB. *{OURS}*: "
        '`scope="gallery", transductive=True`, everything in one call. '
        f'*{FITTED}*: `scope="gallery"` alone, other scores, the offline part apart. One run in a process of its own; '
        "memory is the peak that it adds. *Heads*: queries whose first "
        f"{HEAD} candidates are those of the dense form, but for scores within {GAP:g}; and places with the same one.",
        "",
        "| items | method | form | offline seconds | seconds | times faster | peak MiB | times less | target | heads | "
        "same place | note |",
        "|--:|---|---|--:|--:|--:|--:|--:|---|--:|--:|---|",
    ]
    for size, entry in sizes.items():
        for method, forms in entry["methods"].items():
            dense = forms[DENSE]
            for form, record in forms.items():
                agreement = record.get("agreement", {})
                seconds, peak = record.get("seconds"), record.get("peak_extra_bytes")
                faster = less = None
                target = ""
                if form == OURS and "seconds" in dense and seconds and peak:
                    faster, less = dense["seconds"] / seconds, dense["peak_extra_bytes"] / peak
                    if (method, int(size)) == SCALE_TARGET[:2]:
                        target = f"faster {_met(faster > 1)}, {SCALE_TARGET[2]:g}x {_met(less >= SCALE_TARGET[2])}"
                cells = [
                    f"{int(size):,}",
                    method,
                    form,
                    _number(record.get("fit_seconds") if form == FITTED else None, ".3g"),
                    _number(seconds, ".3g"),
                    _number(faster, ".1f", "x"),
                    _number(peak and peak / 2**20, ".0f"),
                    _number(less, ".1f", "x"),
                    target,
                    _number(100 * agreement["queries"] if agreement else None, ".0f", " %"),
                    _number(100 * agreement["same_place"] if agreement else None, ".2f", " %"),
                    "" if record["status"] == "ok" else f"{record['status']}: {record['reason']}",
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _met(met: bool) -> str:
    return "met" if met else "**not met**"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def _seconds(times: dict[str, Any]) -> str:
    if len(times["seconds"]) == 1:
        return f"{times['median']:.3g} (once)"
    return f"{times['median']:.3g} ({times['min']:.3g}-{times['max']:.3g})"


def _plot(results: dict[str, Any], path: Path) -> None:
    """Draw the gain in mAP of each method on every set, and time and memory against the size of the gallery."""
    matplotlib.use("Agg")
    sets = {name: entry for name, entry in results.get("quality", {}).items() if entry["status"] == "ok"}
    sizes = results.get("scale", {})
    number = bool(sets) + 2 * bool(sizes)
    if not number:
        return
    ratios = [2.0] * bool(sets) + [1.0, 1.0] * bool(sizes)
    fig, axes = plt.subplots(
        1, number, figsize=(4.2 * sum(ratios), 5.2), width_ratios=ratios, layout="constrained", squeeze=False
    )
    left = iter(axes[0])
    if sets:
        _plot_gains(next(left), sets)
    if sizes:
        for axis, key, title, unit in (
            (next(left), "seconds", "seconds", 1),
            (next(left), "peak_extra_bytes", "peak memory (MiB)", 2**20),
        ):
            _plot_growth(axis, sizes, key, unit)
            axis.set_title(f"{title} by items of the gallery", fontsize=10)
    fig.savefig(path, dpi=140, metadata={"Software": None})
    plt.close(fig)


def _plot_gains(axis: plt.Axes, sets: dict[str, Any]) -> None:
    """Draw one row a method, one mark a set: points of mAP over the first stage, inductive, at defaults."""
    shown: list[str] = []
    for number, (name, entry) in enumerate(sets.items()):
        done = {n: m for n, m in entry["methods"].items() if m["status"] == "ok"}
        if FIRST not in done:
            continue
        rows = [n for n, m in done.items() if n != FIRST and m["settings"] != OTHER and not m["transductive"]]
        shown += [n for n in rows if n not in shown]
        gains = [100 * (done[n]["metrics"]["map"] - done[FIRST]["metrics"]["map"]) for n in rows]
        axis.plot(gains, [shown.index(n) for n in rows], "osD^v<>"[number % 7], markersize=6, label=name)
    axis.axvline(0, color="#444444", linewidth=0.8)
    axis.set_yticks(range(len(shown)), shown, fontsize=8)
    axis.invert_yaxis()
    axis.grid(color="#dddddd")
    axis.legend(fontsize=8, frameon=False)
    axis.set_title("points of mAP over the first stage", fontsize=10)


def _plot_growth(axis: plt.Axes, sizes: dict[str, Any], key: str, unit: int) -> None:
    colors = {"k-reciprocal": "#08519c", "GNN": "#d94801"}
    for method, color in colors.items():
        for form, line in ((DENSE, "--"), (OURS, "-")):
            points = [
                (int(size), entry["methods"][method][form][key] / unit)
                for size, entry in sizes.items()
                if entry["methods"][method][form].get(key)
            ]
            axis.loglog(
                *zip(*sorted(points), strict=True) if points else ([], []),
                marker="o",
                markersize=3,
                linestyle=line,
                color=color,
                label=f"{method}: {form}",
            )
    axis.legend(fontsize=7, frameon=False)
    axis.grid(color="#dddddd")
