"""Turn the results of ``event_sequences.py`` into Markdown tables."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from _results import headline

HOUR = 3600


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write ``event_sequences.md`` and return it."""
    quick = (
        " **Tiny streams, two epochs (`--quick`): these numbers mean nothing.**" if results["settings"]["quick"] else ""
    )
    lines = ["# The next event: times against order alone", "", f"{headline(results)}{quick}", ""]
    lines += [
        "One network, causal self-attention over the events so far, with encodings of the time since the first event "
        "or of the place in the sequence; all else is equal. Test scores of the epoch that validates best, mean and "
        "standard deviation. Times: median absolute error of the time until the next event, whose logarithm is taken "
        "for normal. The rules predict one type, or the one that most often followed the last, and the median time.",
        "",
    ]
    for name, stream in results.get("streams", {}).items():
        lines += [
            f"## Stream, {name}",
            "",
            f"The phase of time decides the next of four types: at best {_percent(stream['optimum'])} % with times and "
            f"{_percent(stream['optimum_of_order'])} % by order alone. {len(stream['seeds'])} seeds, of the stream and "
            "of the network.",
            "",
            *_table(list(stream["seeds"].values()), "time error", 1.0),
            "",
        ]
    badges = results.get("badges")
    if badges:
        lines += [
            "## Badges of Stack Overflow",
            "",
            f"{badges['sequences']:,} users, {badges['events']:,} badges of {badges['types']} types; "
            f"{len(badges['folds'])} of five folds of the users. The files at hand may hold fewer users than the "
            "published set (6,633), so compare rows with one another alone.",
            "",
            *_table(list(badges["folds"].values()), "time error (hours)", HOUR),
            "",
        ]
    text = "\n".join(lines).rstrip() + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "event_sequences.md").write_text(text)
    return text


def _table(runs: list[dict[str, Any]], error_name: str, unit: float) -> list[str]:
    """Rows of a task, and how the networks with times compare with the best one without, run by run."""
    lines = [f"| | accuracy (%) | {error_name} | parameters | epochs | seconds a run |", "|---|--:|--:|--:|--:|--:|"]
    names = list(dict.fromkeys(name for run in runs for name in run))
    for name in names:
        records = [run[name] for run in runs if "accuracy" in run.get(name, {})]
        failed = [run[name]["reason"] for run in runs if "reason" in run.get(name, {})]
        if failed:
            lines.append(f"| {name} | failed: {failed[0]} | | | | |")
        if not records:
            continue
        cells = [
            name,
            _spread([100 * record["accuracy"] for record in records]),
            _spread([record["time_error"] / unit for record in records]),
        ]
        network = "parameters" in records[0]
        cells += [
            f"{records[0]['parameters']:,}" if network else "",
            f"{statistics.mean(record['epochs'] for record in records):.0f}" if network else "",
            f"{statistics.median(record['seconds'] for record in records):.0f}" if network else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, *_comparison(runs)]


def _comparison(runs: list[dict[str, Any]]) -> list[str]:
    """Sentences that compare each network with times with the network without that validates best, run by run."""
    complete = [run for run in runs if all("accuracy" in record for record in run.values())]
    if not complete:
        return []
    lines = [""]
    for name in (name for name in complete[0] if name.startswith("time")):
        differences = []
        for run in complete:
            orders = [record for other, record in run.items() if other.startswith("order")]
            best = max(orders, key=lambda record: record["val_accuracy"])
            differences.append(100 * (run[name]["accuracy"] - best["accuracy"]))
        lines.append(
            f"- *{name}* minus the order that validates better, run by run: {_spread(differences)} points, better in "
            f"{sum(difference > 0 for difference in differences)} of {len(differences)} runs."
        )
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"
