"""What ``accuracy.py`` tells beside the tables of ``graphattn bench``: one line a set, and what was tried."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from graphattn.cli._bench_report import number
from graphattn.cli._bench_results import Row, Table, compare

_SHARED = "Runs shared their processor or GPU with others: their times are upper bounds and do not compare networks."
_HEADER = ("set", "metric", "best of ours", "best of PyG's", "ours minus PyG's")


def summary(tables: Sequence[Table]) -> list[str]:
    """Return the best networks of each set, and their difference with its standard error."""
    lines = [f"| {' | '.join(_HEADER)} |", f"|{'---|' * len(_HEADER)}"]
    for table in tables:
        found = compare(table)
        if found is None:
            best = [_score(row, table.metric) for row in table.rows[:1]] + ["–", "–"]
        else:
            ours, peer, difference, error, _ = found
            sign = "+" * (difference >= 0)
            spread = "" if error is None else f" ± {number(error, table.metric)}"
            best = [_score(row, table.metric) for row in (ours, peer)]
            best.append(f"{sign}{number(difference, table.metric)}{spread}")
        unit = f"{table.metric}, %" if table.higher_is_better else f"{table.metric}, lower is better"
        lines.append(f"| {' | '.join((table.dataset, unit, *best))} |")
    return lines


def _score(row: Row, metric: str) -> str:
    mean, std = row.mean("test"), row.std("test")
    if mean is None:
        return f"{row.model}: failed"
    spread = "" if std is None else f" ± {number(std, metric)}"
    return f"{row.model} {number(mean, metric)}{spread}"


def page(document: str, tables: Sequence[Table], tried: Mapping[str, str], names: Collection[str]) -> str:
    """Return the page of all tables with their summary in front, what is missing, and at its end what was tried."""
    missing = sorted(set(names) - {table.dataset for table in tables})
    gap = ["", f"Not run yet: {', '.join(missing)}."] if missing else []
    about, first, rest = document.partition("\n## ")
    notes = [f"- **{table.dataset}**: {tried[table.dataset]}" for table in tables if table.dataset in tried]
    end = ["## What was tried beyond the search", "", *notes, ""] if notes else []
    return "\n".join([about, *summary(tables), *gap, "", _SHARED, first + rest, *end])


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
