"""What ``graphattn bench`` tells of its results: as Markdown, which is also printed, as CSV and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from graphattn.cli._bench_results import Row, Table, compare
from graphattn.cli._files import whole
from graphattn.datasets.metrics import LOWER_IS_BETTER

_HEADER = ("model", "test", "validation", "parameters", "s a run", "ms an epoch", "peak MiB", "seeds", "failed")
_COLUMNS = (
    *("dataset", "split", "metric", "model", "seeds", "test_mean", "test_std", "val_mean", "val_std"),
    *("inductive_mean", "inductive_std", "parameters", "seconds", "seconds_per_epoch", "peak_memory_mib", "failed"),
)
_ABOUT = (
    "Mean ± unbiased standard deviation over seeds of the test score at the epoch that validates best; "
    "the best mean is bold."
)
_INDUCTIVE = " Inductive: the score of those test events that have a node which training has not seen."


def write_report(
    folder: Path, tables: list[Table], before: Sequence[str] = (), after: Sequence[str] = ()
) -> list[Path]:
    """Write ``results.md``, ``.csv`` and, if a run came to a result, ``.png``, all of them or none.

    Args:
        folder: Where they are written.
        tables: What is in them.
        before: Lines of the Markdown before the tables.
        after: Lines behind them.

    Returns:
        The files.
    """
    from graphattn.cli._bench_figure import draw, save  # matplotlib takes a second to import

    scored = [table for table in tables if any(row.runs for row in table.rows)]
    with ExitStack() as files:
        paths = [folder / f"results.{end}" for end in ("md", "csv", "png")[: 3 if scored else 2]]
        markdown, numbers, *picture = [files.enter_context(whole(path)) for path in paths]
        lines = ["# Results", "", _ABOUT, "", *before, *map(as_markdown, tables), *after]
        markdown.write_text("\n".join(lines), encoding="utf-8")
        numbers.write_text(_as_csv(tables), encoding="utf-8")
        for part in picture:
            save(draw(scored), part)
    return paths


def as_markdown(table: Table) -> str:
    """Return a table with its heading, where it was measured, the comparison with the best peer, and what failed."""
    unit = " in %" if table.higher_is_better else ", lower is better"
    inductive = any(row.mean("inductive") is not None for row in table.rows)
    about = f"Split {table.split}; {table.metric}{unit}; {_seeds(table.splits)}.{_INDUCTIVE * inductive}"
    lines = [f"## {table.dataset}", "", about, ""]
    header = (*_HEADER[:2], "inductive", *_HEADER[2:]) if inductive else _HEADER
    lines += _aligned([header, *(_cells(row, table, row is table.rows[0], inductive) for row in table.rows)])
    for line in (_measured(table), _compared(table)):
        if line is not None:
            lines += ["", line]
    failures: dict[tuple[str, str | None], list[int]] = {}
    for row in table.rows:
        for run in row.failed:
            failures.setdefault((row.model, run.failure), []).append(run.seed)
    if failures:
        lines += ["", "Failed:", ""]
        lines += [f"- {model}, {_seeds(seeds)}: {failure}" for (model, failure), seeds in failures.items()]
    return "\n".join([*lines, ""])


def _measured(table: Table) -> str | None:
    """Return the machines and, of each, the revisions."""
    revisions: dict[str, set[str]] = {}
    for run in (run for row in table.rows for run in row.runs):
        if run.machine is not None:
            revisions.setdefault(run.machine, set()).update([run.revision] if run.revision else [])
    if not revisions:
        return None
    machines = (f"{name} ({', '.join(sorted(found))})" if found else name for name, found in sorted(revisions.items()))
    return f"Measured with {' and '.join(machines)}."


def _seeds(seeds: Iterable[int]) -> str:
    seeds = sorted(seeds)
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"


def _cells(row: Row, table: Table, best: bool, inductive: bool) -> tuple[str, ...]:
    test = score(row, "test", table)
    epoch = row.mean("epoch_seconds")
    return (
        row.model,
        f"**{test}**" if best and row.runs else test,
        *([score(row, "inductive", table)] if inductive else []),
        score(row, "val", table),
        _plain(row.most("parameters"), 0),
        _plain(row.mean("seconds"), 1),
        _plain(None if epoch is None else 1000 * epoch, 1),
        _plain(row.most("memory_mib"), 0),
        str(len(row.runs)),
        str(len(row.failed)),
    )


def score(row: Row, name: str, table: Table) -> str:
    """Return the mean of a score and its deviation, as a table has them."""
    mean, std = row.mean(name), row.std(name)
    if mean is None:
        return "–"
    return number(mean, table.metric) if std is None else f"{number(mean, table.metric)} ± {number(std, table.metric)}"


def number(value: float, metric: str) -> str:
    """Return a score as it is usually printed: in percent, or an error as it is."""
    return f"{value:.4f}" if metric in LOWER_IS_BETTER else f"{100 * value:.2f}"


def _plain(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table whose columns are as wide in a terminal as in Markdown."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    lines = [
        "| " + " | ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)) + "|"
    return [lines[0], rule, *lines[1:]]


def _compared(table: Table) -> str | None:
    found = compare(table)
    if found is None:
        return None
    ours, peer, difference, error, paired = found
    points = " points" if table.higher_is_better else ""
    text = f"{ours.model} minus {peer.model}, the best peer: {signed(difference, error, table.metric)}{points}"
    if error is None:
        return f"{text}, of too few seeds for an error."
    how = f"paired over {paired} seeds" if paired else "over seeds that are not the same"
    return f"{text} (standard error, {how})."


def signed(difference: float, error: float | None, metric: str) -> str:
    """Return a difference of scores with its sign and, where there is one, its error."""
    text = f"{'+' * (difference >= 0)}{number(difference, metric)}"
    return text if error is None else f"{text} ± {number(error, metric)}"


def _as_csv(tables: list[Table]) -> str:
    """Return one line a model, its scores as they were measured."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(_COLUMNS)
    for table in tables:
        for row in table.rows:
            scores = [part for name in ("test", "val", "inductive") for part in (row.mean(name), row.std(name))]
            costs = [row.most("parameters"), row.mean("seconds"), row.mean("epoch_seconds"), row.most("memory_mib")]
            names = [table.dataset, table.split, table.metric, row.model]
            lines.writerow([*names, len(row.runs), *scores, *costs, len(row.failed)])
    return text.getvalue()
