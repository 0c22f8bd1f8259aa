"""The results of ``graphattn bench`` as they lie in a folder: what is read, what belongs together, and what is said."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphattn.datasets.metrics import LOWER_IS_BETTER
from graphattn.training.networks import OURS

SEARCH = "search"  # the folder of a search, beside the runs of its model
FAILED = ".failed.json"


@dataclass(frozen=True)
class Run:
    """One seed of a model: its scores and what they cost, or why there are none."""

    dataset: str
    split: str
    metric: str
    model: str
    seed: int
    val: float = math.nan
    test: float = math.nan
    parameters: int = 0
    inductive: float | None = None  # of events whose nodes the training has not seen
    seconds: float | None = None
    epoch_seconds: float | None = None
    memory_mib: float | None = None
    machine: str | None = None  # what times depend on
    revision: str | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Row:
    """A model on a set: the runs that came to a result, in the order of their seeds, and those that failed."""

    model: str
    runs: list[Run]
    failed: list[Run]

    def tests(self) -> dict[int, float]:
        """Return the test score of each seed."""
        return {run.seed: run.test for run in self.runs}

    def mean(self, name: str) -> float | None:
        """Return the mean of a number over the runs that know it."""
        values = self._values(name)
        return statistics.fmean(values) if values else None

    def std(self, name: str) -> float | None:
        """Return the unbiased standard deviation, which takes two runs."""
        values = self._values(name)
        return statistics.stdev(values) if len(values) > 1 else None

    def most(self, name: str) -> float | None:
        """Return the largest of a number."""
        return max(self._values(name), default=None)

    def _values(self, name: str) -> list[float]:
        return [value for run in self.runs if (value := getattr(run, name)) is not None]


@dataclass
class Table:
    """The models that can be compared: on one set, by one metric, on the same split for the same seed."""

    dataset: str
    metric: str
    rows: list[Row] = field(default_factory=list)
    splits: dict[int, str] = field(default_factory=dict)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is better."""
        return self.metric not in LOWER_IS_BETTER

    @property
    def split(self) -> str:
        """The split, with ``{seed}`` where every seed has its own."""
        names = set(self.splits.values())
        if len(names) > 1 and all(name.endswith(f":{seed}") for seed, name in self.splits.items()):
            names = {name.removesuffix(f":{seed}") + ":{seed}" for seed, name in self.splits.items()}
        return ", ".join(sorted(names))

    def takes(self, splits: Mapping[int, str]) -> bool:
        """Whether runs on these splits can stand in this table."""
        same = all(self.splits.get(seed, name) == name for seed, name in splits.items())
        return same and not set(splits.values()).isdisjoint(self.splits.values())


def read_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """Read the results below a folder.

    Args:
        folder: Any folder; the name of the one a file lies in is that of its model.

    Returns:
        The runs, and what was passed over, with the reason.
    """
    runs: dict[tuple[str, str, str, str, int], Run] = {}
    notes = []
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder)
        if SEARCH in name.parts[:-1]:
            continue
        try:
            run = read_run(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
            notes.append(f"{name} is no result of a run: {reason}")
            continue
        key = (run.dataset, run.split, run.metric, run.model, run.seed)
        if key in runs:
            notes.append(f"{name} is passed over: there is another result of {run.model} with seed {run.seed}")
        else:
            runs[key] = run
    return list(runs.values()), notes


def read_run(path: Path) -> Run:
    """Read the result of a run, or the record of its failure.

    Raises:
        ValueError, KeyError, TypeError: If the file holds something else.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    config = content["config"]
    names = (str(config["task"]), str(config["split"]), str(config["metric"]), path.parent.name)
    seed = int(config["recipe"]["seed"])
    if path.name.endswith(FAILED):
        return Run(*names, seed, failure=str(content["failure"]))
    val, test = float(content["val"]), float(content["test"])
    if not (math.isfinite(val) and math.isfinite(test)):
        raise ValueError("its scores are not finite")
    measured = content["measured"]
    return Run(
        *names,
        seed,
        val,
        test,
        int(content["parameters"]),
        inductive=_number(content.get("inductive")),
        seconds=_number(measured["seconds"]),
        epoch_seconds=_number(measured["seconds_per_epoch"]),
        memory_mib=_number(measured["peak_memory_mib"]),
        machine=_machine(measured),
        revision=measured["revision"],
    )


def _machine(measured: dict[str, Any]) -> str:
    hardware, versions = measured["hardware"], measured["versions"]
    where = hardware["accelerator"] or f"{hardware['cpu']}, threads: {measured['threads']}"
    return f"{where}; torch {versions['torch']}, graphattn {versions['graphattn']}"


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def failure(task: str, split: str, metric: str, seed: int, message: str) -> dict[str, Any]:
    """Return what is kept of a run that failed, in the form of a result."""
    return {
        "config": {"task": task, "split": split, "metric": metric, "recipe": {"seed": seed}},
        "failure": " ".join(message.split()),
    }


def make_tables(runs: Iterable[Run]) -> list[Table]:
    """Put the runs that can be compared into tables, the best model first."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.dataset, run.metric, run.model), []).append(run)
    tables: list[Table] = []
    # Models of many seeds first: they tell whether each seed has a split of its own.
    for (dataset, metric, model), group in sorted(groups.items(), key=lambda item: -len(item[1])):
        for part in _of_one_split(group):
            splits = {run.seed: run.split for run in part}
            found = (table for table in tables if (table.dataset, table.metric) == (dataset, metric))
            table = next((table for table in found if table.takes(splits)), None)
            if table is None:
                table = Table(dataset, metric)
                tables.append(table)
            table.splits |= splits
            done = sorted((run for run in part if run.failure is None), key=lambda run: run.seed)
            table.rows.append(Row(model, done, [run for run in part if run.failure is not None]))
    for table in tables:
        table.rows.sort(key=lambda row: _rank(row, table.higher_is_better))
    return sorted(tables, key=lambda table: (table.dataset.lower(), table.metric, table.split))


def _of_one_split(runs: list[Run]) -> list[list[Run]]:
    """Part the runs of a model: those that share a split, and those whose seeds have splits of their own."""
    seeds = Counter(run.split for run in runs)
    parts: dict[str, list[Run]] = {}
    for run in runs:
        name = run.split if seeds[run.split] > 1 else run.split.removesuffix(f":{run.seed}")
        parts.setdefault(name, []).append(run)
    return list(parts.values())


def _rank(row: Row, higher_is_better: bool) -> tuple[float, str]:
    mean = row.mean("test")
    if mean is None:
        return math.inf, row.model
    return -mean if higher_is_better else mean, row.model


def compare(table: Table) -> tuple[Row, Row, float, float | None, int] | None:
    r"""Compare the best of this library with the best of its peers.

    Over the :math:`n` seeds that both have, with differences :math:`d`:

    .. math:: \bar d \pm \sqrt{\operatorname{var}(d) / n}

    and, where they share fewer than two seeds, the difference of the means with the errors of both.

    Returns:
        Ours, the peer, the difference of the test scores, its standard error if there are seeds enough, and the number
        of seeds they share, 0 if the seeds are not paired; ``None`` without one of each.
    """
    scored = [row for row in table.rows if row.runs]
    ours = next((row for row in scored if row.model in OURS), None)
    peer = next((row for row in scored if row.model not in OURS), None)
    if ours is None or peer is None:
        return None
    first, second = ours.tests(), peer.tests()
    shared = sorted(first.keys() & second.keys())
    if len(shared) > 1:
        differences = [first[seed] - second[seed] for seed in shared]
        error = statistics.stdev(differences) / math.sqrt(len(shared))
        return ours, peer, statistics.fmean(differences), error, len(shared)
    difference = statistics.fmean(first.values()) - statistics.fmean(second.values())
    if min(len(first), len(second)) < 2:
        return ours, peer, difference, None, 0
    variances = (statistics.variance(scores.values()) / len(scores) for scores in (first, second))
    return ours, peer, difference, math.sqrt(sum(variances)), 0
