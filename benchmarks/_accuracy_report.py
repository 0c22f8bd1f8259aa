"""What ``accuracy.py`` tells beside the tables of ``graphattn bench``: one line a set, and what was tried."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from graphattn.cli._bench_report import score, signed
from graphattn.cli._bench_results import Table, compare
from graphattn.training.networks import OURS

_SHARED = "Runs shared their processor or GPU with others: their times are upper bounds and do not compare networks."
_HEADER = ("set", "metric", "best of ours", "best of PyG's", "ours minus PyG's")


def summary(tables: Sequence[Table]) -> list[str]:
    """Return the best networks of each set, and their difference with its standard error."""
    lines = [f"| {' | '.join(_HEADER)} |", f"|{'---|' * len(_HEADER)}"]
    for table in tables:
        unit = f"{table.metric}, %" if table.higher_is_better else f"{table.metric}, lower is better"
        found = compare(table)
        apart = "–" if found is None else signed(*found[2:4], table.metric)
        lines.append(f"| {' | '.join((table.dataset, unit, _best(table, True), _best(table, False), apart))} |")
    return lines


def _best(table: Table, ours: bool) -> str:
    row = next((row for row in table.rows if row.runs and (row.model in OURS) == ours), None)
    return "–" if row is None else f"{row.model} {score(row, 'test', table)}"


def front(tables: Sequence[Table], wanted: Mapping[str, Collection[str]]) -> list[str]:
    """Return what stands before the tables: their summary, and the sets and networks that are in none yet."""
    run = {table.dataset: {row.model for row in table.rows} for table in tables}
    missing = sorted(wanted.keys() - run.keys())
    for name in sorted(run.keys() & wanted.keys()):
        if models := sorted(set(wanted[name]) - run[name]):
            missing.append(f"{', '.join(models)} on {name}")
    gap = [f"Not run yet: {'; '.join(missing)}.", ""] if missing else []
    return [*summary(tables), "", *gap, _SHARED, ""]


def back(tables: Sequence[Table], tried: Mapping[str, str]) -> list[str]:
    """Return what stands behind the tables: what was tried."""
    notes = [f"- **{table.dataset}**: {tried[table.dataset]}" for table in tables if table.dataset in tried]
    return ["## What was tried beyond the search", "", *notes, ""] if notes else []


def between(text: str, mark: str, lines: Sequence[str]) -> str:
    """Replace what stands between two comments of a Markdown file.

    Raises:
        ValueError: If they are not there.
    """
    start, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the text has no comments {start.strip()!r} and {end!r}, or several")
    before, _, rest = text.partition(start)
    return before + start + "\n".join([*lines, ""]) + end + rest.partition(end)[2]
