"""Train networks on sets with several seeds, and print what they come to as a table.

  graphattn bench --dataset Cora PubMed --model GCN GAT AttentionNet --seeds 10
  graphattn bench --dataset sbm --model GCN --network.hidden_channels 128 --recipe.lr 0.005
  graphattn bench --dataset CollegeMsg --model TGAT TemporalNet TGN GAT --seeds 3 --recipe.epochs 10
  graphattn bench --config table.yaml --resume
  graphattn bench report runs

What it does:
  runs          OUT/DATASET/MODEL/ gets a file seed-N.json for each seed, with its full configuration, scores of all
                epochs, versions, hardware and revision, and its checkpoint
  summary       OUT/results.md, .csv and .png; report FOLDER makes them of the files .json in any folder
  scores        of the test set at the epoch that validates best; the settings are chosen by validation alone
  settings      defaults of the kind of task < the file of the set that comes with the package < per_dataset and
                settings of --config < --network.NAME and its like, which hold for all models;
                --dry-run prints what they come to, as a file for --config
  --config      a YAML file with any of the options below, such as  settings: {GCN: {network: {dropout: 0.6}}}
  --split       official:{seed} and its like give every seed its own split
  --search      tries settings on seed 0 first and keeps the best, with all trials, in OUT/DATASET/MODEL/search and
                OUT/DATASET/settings.yaml; needs Optuna (pip install 'graphattn[search]')
  failures      are recorded in seed-N.failed.json and in the table; the others go on, and the exit status is 1
  --devices     2 let two processes train together, and so does torchrun --nproc-per-node 2 -m graphattn bench ...,
                which can start them on several machines that share the folder of the results
  interruption  keeps what there is; --resume goes on there, reads finished runs and tries failed ones again

It needs Lightning Fabric and jsonargparse (pip install 'graphattn[train]').
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from graphattn.cli._bench_options import Options, dump, read_defaults, read_options
from graphattn.cli._bench_plan import Experiment, as_config, begin, check_folders, explained, make_plan
from graphattn.cli._bench_report import as_markdown, number, write_report
from graphattn.cli._bench_results import FAILED, SEARCH, Run, failure, make_tables, read_run, read_runs
from graphattn.cli._checks import UserError
from graphattn.cli._files import write_text
from graphattn.training import Result
from graphattn.training.experiment import Settings
from graphattn.training.experiment import run as run_seed
from graphattn.training.loading import Tasks
from graphattn.training.search import search

_EXPECTED = (FloatingPointError, MemoryError, ValueError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: the options are read with the files that they name, by :func:`run`."""


def run(args: argparse.Namespace) -> int:
    """Run what is asked for, print and write the tables, and return 0, or 1 if a run failed."""
    words: Sequence[str] = args.words
    if words[:1] == ["report"]:
        return _report(words[1:])
    with explained():
        options = read_options(words, __doc__ or "")
    tasks = Tasks(options.root)
    plan = make_plan(options, tasks)
    for item in plan:
        _say(f"settings of {item.task}, {item.model}: {item.sources}")
    if options.dry_run:
        print(as_config(options, plan), end="")
        return 0
    if _leads():
        check_folders(options, plan)
    failed = False
    try:
        for item in plan:
            failed |= _run_experiment(item, options, tasks)
            if _leads():
                runs, _ = read_runs(item.folder.parent)
                print(*map(as_markdown, make_tables(runs)), sep="\n", flush=True)
    except KeyboardInterrupt:
        again = words if options.resume else [*words, "--resume"]
        _say(f"what is finished stays in {options.out}; go on with: graphattn bench {shlex.join(again)}")
        raise
    if _leads():
        _summarize(Path(options.out))
    return int(failed)


def _leads() -> bool:
    """Whether this is the process that prints and writes: the only one, or the first of those that work together."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _run_experiment(item: Experiment, options: Options, tasks: Tasks) -> bool:
    """Run the seeds of a model, and return whether one failed."""
    if _leads():
        begin(options, item)
    settings = item.settings
    if options.search is not None:
        try:
            settings = _search(item, options, tasks)
        except Exception as error:
            _record(item, 0, error, "the search failed: ")
            return True
    failed = False
    for seed in range(options.seeds):
        try:
            done = _finished(item.folder / f"seed-{seed}.json") or _train(item, settings, seed, options, tasks)
        except Exception as error:
            _record(item, seed, error)
            failed = True
            continue
        scores = f"test {number(done.test, item.metric)}, validation {number(done.val, item.metric)}"
        _say(f"{item.task}, {item.model}, seed {seed}: {scores}")
    return failed


def _finished(path: Path) -> Run | None:
    """Return the result of a run that is over; its folder was begun with the same settings."""
    try:
        return read_run(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _train(item: Experiment, settings: Settings, seed: int, options: Options, tasks: Tasks) -> Result:
    if _leads():
        (item.folder / f"seed-{seed}{FAILED}").unlink(missing_ok=True)
    return run_seed(
        tasks.load(item.dataset, item.split, seed),
        item.model,
        settings,
        seed=seed,
        out=item.folder,
        resume=True,  # what was there before this call was looked at when it began
        device=options.device,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        precision=options.precision,
        progress=sys.stderr.isatty(),
        max_parameters=options.max_parameters,
    )


def _search(item: Experiment, options: Options, tasks: Tasks) -> Settings:
    """Find the settings that validate best, and keep them in the form of a file of defaults."""
    found = search(
        tasks.load(item.dataset, item.split),
        item.model,
        item.settings,
        trials=options.search or 1,
        out=item.folder / SEARCH,
        device=options.device,
        precision=options.precision,
        progress=sys.stderr.isatty(),
        max_parameters=options.max_parameters,
    )
    path = item.folder.parent / "settings.yaml"
    stored = read_defaults(path)["settings"] if path.exists() else {}
    if _leads():
        write_text(path, dump({"split": item.split, "settings": {**stored, item.model: asdict(found)}}))
    _say(f"settings of {item.task}, {item.model}: the best of {options.search} that were tried, kept in {path}")
    return found


def _record(item: Experiment, seed: int, error: Exception, what: str = "") -> None:
    """Keep and tell why a run came to nothing."""
    message = f"{what}{error}" if isinstance(error, _EXPECTED) else f"{what}{type(error).__name__}: {error}"
    if not isinstance(error, _EXPECTED):
        traceback.print_exception(error)
    if _leads():
        content = failure(item.task, item.split_of(seed), item.metric, seed, message)
        write_text(item.folder / f"seed-{seed}{FAILED}", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    _say(f"{item.task}, {item.model}, seed {seed} failed: {message}")


def _say(text: str) -> None:
    if _leads():
        print(text, file=sys.stderr, flush=True)


def _report(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="graphattn bench report", description="Summarize the results in a folder.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="it gets results.md, results.csv and results.png")
    folder = parser.parse_args(list(words)).folder
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    tables = _summarize(folder)
    if not tables:
        raise UserError(f"{folder} has no results; expected files seed-N.json, one folder a model")
    print(*tables, sep="\n")
    return 0


def _summarize(folder: Path) -> list[str]:
    """Write the summary of a folder and return its tables."""
    runs, notes = read_runs(folder)
    for note in notes:
        print(note, file=sys.stderr)
    tables = make_tables(runs)
    if tables:
        print(f"wrote {', '.join(map(str, write_report(folder, tables)))}", file=sys.stderr)
    return list(map(as_markdown, tables))
