"""The tables of ``tabular.py``: scores with their standard errors, and what the other rows are worth."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from _results import headline
from _tabular_tasks import OURS, TRANSPORT, VOTED


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write ``tabular.md`` and return its text."""
    parts = {
        "classes": _classes,
        "transport": _transport,
        "numbers": _numbers,
        "lookup": _lookup,
        "large": _large,
    }
    lines = ["# Attention between the rows of a table", "", headline(results)]
    if results["settings"]["quick"]:
        lines += ["", "**A quick run on tiny tables: the numbers mean nothing.**"]
    for part, write in parts.items():
        if results.get(part):
            lines += ["", *write(results[part])]
    text = "\n".join(lines) + "\n"
    (folder / "tabular.md").write_text(text)
    return text


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Return the mean and its standard error; that of one value is not known."""
    if len(values) < 2:
        return values[0], math.nan
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def compare(ours: dict[str, Any], theirs: dict[str, Any], score: str) -> tuple[float, float]:
    """Return the mean difference of a score, ours minus theirs, over the splits of both, and its standard error."""
    common = [number for number in ours["splits"] if number in theirs["splits"]]
    return mean_and_error([ours["splits"][n][score] - theirs["splits"][n][score] for n in common])


def _classes(sets: dict[str, Any]) -> list[str]:
    lines = ["## Classes", "", "Folds are stratified and the same for all. Mean ± standard error over them."]
    for name, record in sets.items():
        lines += [
            "",
            f"**{name}**",
            "",
            *_table(record, {"AUROC": "auroc", "log-loss": "log_loss", "accuracy": "accuracy"}),
        ]
        for ours, left_out in ((OURS, VOTED), (VOTED, OURS)):
            others = {method: found for method, found in record.items() if method != left_out}
            lines += _differences(others, ours, {"AUROC": "auroc", "log-loss": "log_loss"})
        lines += ["", *_corruption(record, "log_loss", "log-loss")]
    return lines


def _transport(sets: dict[str, Any]) -> list[str]:
    lines = [
        "## Classes by optimal transport",
        "",
        "Small sets in stratified folds, the same for all; every method as it comes, with scaled inputs. Optimal "
        "transport is a reconstruction of a method whose published accuracies are not known.",
    ]
    for name, record in sets.items():
        lines += ["", f"**{name}**", "", *_table(record, {"accuracy": "accuracy"})]
        lines += _differences(record, TRANSPORT, {"accuracy": "accuracy"})
    return lines


def _numbers(sets: dict[str, Any]) -> list[str]:
    lines = [
        "## Numbers",
        "",
        "RMSE on the standard splits. Mean ± standard error. Every method as it comes, with scaled inputs where it "
        "needs them; published ranks are of other splits and tuned methods, and are not compared with.",
    ]
    for name, record in sets.items():
        lines += ["", f"**{name}**", "", *_table(record, {"RMSE": "rmse"}), "", *_corruption(record, "rmse", "RMSE")]
    return lines


def _lookup(kinds: dict[str, Any]) -> list[str]:
    lines = [
        "## Lookup",
        "",
        "The target of a test row is a random number that only its duplicate in the training table tells; k-NN looks "
        "at one neighbour. NPT is trained on that table alone, and besides on other tables of the kind, of which k-NN "
        "and the MLP know nothing. Pearson's r, and RMSE at targets of deviation 1.",
        "",
        "| rows have | method | r | RMSE | r, other rows shuffled | seconds |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for kind, record in kinds.items():
        for name, entry in record.items():
            for split in entry["splits"].values():
                shuffled = _number(split.get("corrupted r"), ".3f")
                scores = f"{split['r']:.4f} | {split['rmse']:.3f} | {shuffled} | {split['seconds']:.3g}"
                lines.append(f"| {kind} | {name} | {scores} |")
            lines += _failures(kind, name, entry)
    return lines


def _large(kinds: dict[str, Any]) -> list[str]:
    lines = [
        "## A large table",
        "",
        "Peak memory of a fresh process: with the table and the library alone, after training, and after predicting.",
        "",
        "| rows attend to | table | steps | fit s | predict s | R² | MiB before | fitted | predicted |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, record in kinds.items():
        if record["status"] != "ok":
            lines.append(f"| {kind} | {record['status']}: {record['reason']} | | | | | | | |")
            continue
        lines.append(
            f"| {kind} | {record['rows']} x {record['columns']} | {record['steps']} | {record['fit_seconds']:.3g} | "
            f"{record['predict_seconds']:.3g} | {record['r2']:.3f} | {_number(record['mib_before'], '.0f')} | "
            f"{_number(record['mib_fitted'], '.0f')} | {_number(record['mib_predicted'], '.0f')} |"
        )
    return lines


def _table(record: dict[str, Any], scores: dict[str, str]) -> list[str]:
    lines = [
        "| method | " + " | ".join(scores) + " | splits | seconds a split |",
        "|---|" + "--:|" * (len(scores) + 2),
    ]
    for name, entry in record.items():
        splits = list(entry["splits"].values())
        if splits:
            cells = [_with_error(mean_and_error([split[key] for split in splits])) for key in scores.values()]
            seconds = statistics.median(split["seconds"] for split in splits)
            lines.append(f"| {name} | {' | '.join(cells)} | {len(splits)} | {seconds:.3g} |")
        lines += _failures("", name, entry)
    return lines


def _differences(record: dict[str, Any], ours: str, scores: dict[str, str]) -> list[str]:
    """Say for every other method how far from it one of ours is."""
    lines: list[str] = []
    for other in record:
        if other != ours and record[other]["splits"] and record.get(ours, {}).get("splits"):
            found = ", ".join(
                f"{label} {_difference(compare(record[ours], record[other], score))}" for label, score in scores.items()
            )
            lines += ["", f"{ours} - {other}, fold by fold: {found}."]
    return lines


def _failures(kind: str, name: str, entry: dict[str, Any]) -> list[str]:
    if entry.get("status", "ok") == "ok":
        return []
    where = f"{kind} | {name}" if kind else name
    return [f"| {where} | {entry['status']}: {entry['reason']} |"]


def _corruption(record: dict[str, Any], score: str, label: str) -> list[str]:
    """Say how much worse predictions are when the rows that they look at are shuffled, column by column."""
    splits = list(record.get(OURS, {"splits": {}})["splits"].values())
    if not splits:
        return []
    clean = statistics.mean(split[score] for split in splits)
    shuffled = statistics.mean(split[f"corrupted {score}"] for split in splits)
    return [
        f"With the columns of the other rows shuffled, the {label} of {OURS} is {shuffled:.3g} instead of {clean:.3g}."
    ]


def _with_error(value: tuple[float, float]) -> str:
    mean, error = value
    return f"{mean:.4g}" if math.isnan(error) else f"{mean:.4g} ± {error:.2g}"


def _difference(value: tuple[float, float]) -> str:
    mean, error = value
    if math.isnan(error) or not error:
        return f"{mean:+.4f}"
    verdict = "within one standard error" if abs(mean) <= error else f"{abs(mean) / error:.1f} standard errors"
    return f"{mean:+.4f} ± {error:.4f} ({verdict})"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"
