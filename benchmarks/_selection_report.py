"""Turn the results of ``feature_selection.py`` into Markdown tables and a plot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from _results import headline
from _selection_quality import ALL, FOLDS, RELIEF, RELIEF_SAMPLES
from _selection_speed import BLOCKED, DENSE, ONCE_SECONDS, OURS
from scipy.stats import rankdata

_SPEED_TARGET = ("9,712 x 60", 20.0)
_LARGE_GIB = 2.0
_OUR_METHODS = ("InfFS", "InfFS, 10 neighbors", "InfFSSupervised", "ILFS", "ECFS")


def speedup(candidates: dict[str, Any], name: str) -> float | None:
    """Return how many times the candidate's median time the dense inverse takes."""
    if "fit" not in candidates[DENSE] or "fit" not in candidates[name]:
        return None
    return candidates[DENSE]["fit"]["median"] / candidates[name]["fit"]["median"]


def mean_accuracy(record: dict[str, Any]) -> dict[int, tuple[float, float]]:
    """Return mean and standard deviation over the folds, by number of features."""
    accuracies: dict[int, list[float]] = {}
    for fold in record["folds"].values():
        for count, value in fold["accuracy"].items():
            accuracies.setdefault(int(count), []).append(value)
    return {count: (statistics.mean(values), statistics.pstdev(values)) for count, values in accuracies.items()}


def mean_ranks(sets: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Return the rank of every complete method (1 = most accurate, ties share it), averaged over the sets."""
    measured = [entry["methods"] for entry in sets.values() if entry["status"] == "ok"]
    names = [n for n in measured[0] if n != ALL and all(m.get(n, {}).get("status") == "ok" for m in measured)]
    ranks: dict[str, dict[int, list[float]]] = {name: {} for name in names}
    for methods in measured:
        accuracy = {name: mean_accuracy(methods[name]) for name in names}
        for count in accuracy[names[0]]:
            for name, rank in zip(names, rankdata([-accuracy[name][count][0] for name in names]), strict=True):
                ranks[name].setdefault(count, []).append(float(rank))
    return {name: {count: statistics.mean(r) for count, r in by_count.items()} for name, by_count in ranks.items()}


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write ``feature_selection.md`` and ``feature_selection.png``; return the Markdown."""
    quick = " **Tiny tables (`--quick`): these numbers mean nothing.**" if results["settings"]["quick"] else ""
    parts = [f"# Feature selection\n\n{headline(results)}{quick}"]
    if results.get("speed"):
        parts.append(_speed_tables(results))
    if results.get("large"):
        parts.append(_large_lines(results["large"]))
    if results.get("quality"):
        parts.append(_quality_tables(results))
    text = "\n\n".join(parts) + "\n"
    (folder / "feature_selection.md").write_text(text)
    _plot(results, folder / "feature_selection.png")
    return text


def _speed_tables(results: dict[str, Any]) -> str:
    lines = [
        "## Speed and memory",
        "",
        "Inf-FS (alpha 0.5, decay 0.9) on features x samples, building of the affinity included. Seconds are the "
        f"median of {results['settings']['repeats']} interleaved rounds; *once*: a candidate that took longer than "
        f"{ONCE_SECONDS:g} s was timed once. Memory is the peak that one call adds in a fresh process. *tau*: "
        "Kendall's tau with the scores of the dense inverse; *misplaced*: features out of order beyond a relative gap "
        "of 1e-6 at tight tolerances. PyIFS is another formula (raw Spearman), written out here because the package "
        "fails on import; its largest eigenvalue, and that of the dense inverse, come from a Lanczos iteration, which "
        "favours both.",
        "",
        "| features x samples | candidate | seconds | times faster | target | peak MiB | times less | tau | "
        "misplaced | note |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|---|",
    ]
    for size, entry in results["speed"].items():
        candidates = entry["candidates"]
        for name, record in candidates.items():
            ratio, target = speedup(candidates, name), ""
            if size == _SPEED_TARGET[0] and name == OURS and ratio is not None:
                target = f"{_SPEED_TARGET[1]:g}x {'met' if ratio >= _SPEED_TARGET[1] else '**not met**'}"
            agreement = record.get("agreement", {})
            dense_peak, peak = (candidates[who].get("peak_extra_bytes") for who in (DENSE, name))
            cells = [
                size,
                name,
                _seconds(record.get("fit")),
                _number(ratio, ".1f", "x"),
                target,
                _number(peak and peak / 2**20, ".0f"),
                _number(dense_peak / peak if dense_peak and peak else None, ".1f", "x"),
                _number(agreement.get("tau"), ".6f"),
                _number(agreement.get("misplaced"), "d"),
                "" if record["status"] == "ok" else f"{record['status']}: {record['reason']}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _large_lines(large: dict[str, Any]) -> str:
    lines = ["## A table whose affinity does not fit", ""]
    for part, record in large.items():
        if record["status"] != "ok":
            lines.append(f"{part}: {record['status']}, {record['reason']}.")
        elif part == "ranked":
            peak = record["peak_extra_bytes"] / 2**30
            certified = "certified" if record["radius_certified"] else "**not certified**"
            verdict = "met" if peak < _LARGE_GIB else "**not met**"
            lines.append(
                f"{record['features']:,} features of {record['samples']} samples in float32: "
                f"{record['seconds']:.1f} s, peak {peak:.2f} GiB (target below {_LARGE_GIB:g} GiB {verdict}), "
                f"{record['iterations']} iterations, residual {record['residual']:.1g}, radius {certified}. "
                f"Stored, the affinity alone would take {4 * record['features'] ** 2 / 2**30:.1f} GiB.\n"
            )
        else:
            lines.append(
                f"float32 (radius to 1e-6) against float64 (to 1e-8) on {record['features']:,} features of "
                f"{record['samples']} samples: "
                f"Kendall's tau {record['tau']:.6f}, largest difference of a score {record['largest_difference']:.1g} "
                f"of the largest score, {record['same_place']:.2%} of the features at the same place, "
                f"{record['misplaced']} out of order beyond a relative gap of 1e-6."
            )
    return "\n".join(lines).rstrip()


def _quality_tables(results: dict[str, Any]) -> str:
    sets = results["quality"]
    done = {name: entry for name, entry in sets.items() if entry["status"] == "ok"}
    lines = [
        "## Quality",
        "",
        "Accuracy (%) of a linear SVM on standardized features, mean ± standard deviation over repeats of "
        f"{FOLDS} stratified folds; the selection sees the training fold alone. {RELIEF} "
        f"(skrebate) sees at most {RELIEF_SAMPLES} samples of it. *Seconds*: of one selection, median over the folds, "
        "a rough figure: nothing is kept quiet for it. Every method at its defaults.",
    ]
    if done:
        lines += ["", *_rank_table(done)]
    for name, entry in sets.items():
        if entry["status"] != "ok":
            lines += ["", f"**{name}**: {entry['status']}, {entry['reason']}."]
            continue
        lines += ["", *_set_table(name, entry)]
    return "\n".join(lines)


def _rank_table(sets: dict[str, Any]) -> list[str]:
    ranks = mean_ranks(sets)
    counts = list(next(iter(ranks.values())))
    lines = [
        f"Mean rank over {len(sets)} sets (1 = best):",
        "",
        "| method | " + " | ".join(f"{count} features" for count in counts) + " | mean |",
        "|---|" + "--:|" * (len(counts) + 1),
    ]
    for name, by_count in sorted(ranks.items(), key=lambda item: statistics.mean(item[1].values())):
        cells = [f"{by_count[count]:.2f}" for count in counts]
        lines.append(f"| {name} | {' | '.join(cells)} | {statistics.mean(by_count.values()):.2f} |")
    return lines


def _set_table(name: str, entry: dict[str, Any]) -> list[str]:
    complete = {n: m for n, m in entry["methods"].items() if m["folds"] and n != ALL}
    counts = sorted({count for record in complete.values() for count in mean_accuracy(record)})
    lines = [
        f"**{name}**: {entry['samples']} samples, {entry['features']} features, {entry['classes']} classes; "
        f"{FOLDS} folds x {entry['repeats']}.",
        "",
        "| method | " + " | ".join(f"{count} features" for count in counts) + " | seconds | note |",
        "|---|" + "--:|" * (len(counts) + 1) + "---|",
    ]
    for method, record in entry["methods"].items():
        accuracy = mean_accuracy(record)
        if method == ALL and accuracy:
            mean, deviation = next(iter(accuracy.values()))
            cells = [f"{100 * mean:.1f} ± {100 * deviation:.1f}"] + ["" for _ in counts[1:]] + ["–"]
        else:
            cells = [_percent(accuracy.get(count)) for count in counts]
            seconds = [fold["selection_seconds"] for fold in record["folds"].values()]
            cells.append(f"{statistics.median(seconds):.2g}" if seconds else "–")
        notes = [] if record["status"] == "ok" else [f"{record['status']}: {record['reason']}"]
        unconverged = sum(fold["unconverged"] for fold in record["folds"].values())
        if unconverged:
            notes.append(f"{unconverged} SVMs stopped at their iteration limit")
        label = f"{method} ({entry['features']})" if method == ALL else method
        lines.append(f"| {label} | {' | '.join(cells)} | {'; '.join(notes)} |")
    return lines


def _percent(value: tuple[float, float] | None) -> str:
    return "–" if value is None else f"{100 * value[0]:.1f} ± {100 * value[1]:.1f}"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def _seconds(times: dict[str, Any] | None) -> str:
    if times is None:
        return "–"
    if len(times["seconds"]) == 1:
        return f"{times['median']:.3g} (once)"
    return f"{times['median']:.3g} ({times['min']:.3g}-{times['max']:.3g})"


def _plot(results: dict[str, Any], path: Path) -> None:
    """Draw time against features, accuracy against features kept for each set, and the mean ranks."""
    matplotlib.use("Agg")
    sets = {name: entry for name, entry in results.get("quality", {}).items() if entry["status"] == "ok"}
    number = len(sets) + bool(sets) + bool(results.get("speed"))
    if not number:
        return
    columns = min(5, number)
    rows = -(-number // columns)
    fig, grid = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.9 * rows + 0.6), layout="constrained", squeeze=False
    )
    axes = iter(grid.flat)
    if results.get("speed"):
        _plot_speed(next(axes), results["speed"])
    explained: plt.Axes | None = None  # the first panel of accuracies, whose lines the legend names
    for name, entry in sets.items():
        curves = {m: mean_accuracy(r) for m, r in entry["methods"].items() if r["folds"]}
        everything = curves.pop(ALL, {})
        axis = next(axes)
        explained = explained or axis
        _plot_curves(axis, {m: {c: 100 * mean for c, (mean, _) in curve.items()} for m, curve in curves.items()})
        for mean, _ in everything.values():
            axis.axhline(100 * mean, color="#999999", linewidth=1, linestyle=":", label=ALL)
        axis.set_title(f"{name}: accuracy (%)", fontsize=10)
    if explained is not None:
        axis = next(axes)
        _plot_curves(axis, mean_ranks(sets))
        axis.invert_yaxis()
        axis.set_title(f"mean rank over {len(sets)} sets", fontsize=10)
        fig.legend(
            *explained.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, frameon=False
        )
    for axis in axes:
        axis.remove()
    fig.savefig(path, dpi=140, metadata={"Software": None})
    plt.close(fig)


def _plot_speed(axis: plt.Axes, sizes: dict[str, Any]) -> None:
    colors = {OURS: "#08519c", BLOCKED: "#6baed6", DENSE: "#cb181d"}
    for name, color in colors.items():
        points = sorted(
            (entry["features"], entry["candidates"][name]["fit"]["median"])
            for entry in sizes.values()
            if "fit" in entry["candidates"][name]
        )
        axis.loglog(
            *zip(*points, strict=True) if points else ([], []), marker="o", markersize=3, color=color, label=name
        )
    axis.set_title("Inf-FS: seconds by number of features", fontsize=10)
    axis.legend(fontsize=7, frameon=False)
    axis.grid(color="#dddddd")


def _plot_curves(axis: plt.Axes, curves: dict[str, dict[int, float]]) -> None:
    """Draw one line a method: ours in colour, the others grey with a marker each."""
    ours = dict(zip(_OUR_METHODS, ("#08519c", "#4292c6", "#d94801", "#238b45", "#6a51a3"), strict=True))
    markers = iter("s^vD<>")
    for name, curve in curves.items():
        look = {"color": ours[name], "linewidth": 1.8} if name in ours else {"color": "#888888", "linewidth": 0.9}
        axis.plot(
            list(curve),
            list(curve.values()),
            marker="o" if name in ours else next(markers),
            markersize=3,
            label=name,
            **look,
        )
    axis.set_xscale("log")
    axis.set_xticks(list(next(iter(curves.values()))), [str(count) for count in next(iter(curves.values()))])
    axis.minorticks_off()
    axis.grid(color="#dddddd")
