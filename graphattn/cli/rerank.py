"""Re-rank the lists of a first stage by what their documents say about one another.

  graphattn rerank --run first.run --queries queries.npy --gallery docs.npy --out new.run --qrels judgements.txt

How the files are read and written:
  --run              a TREC run (query Q0 document rank score tag), also with .gz; the lines of a query stand together
  --queries          vectors: .npy, whose ids are the lines of the .ids or .txt file of the same name, or the numbers
  --gallery          of its rows; .npz with the arrays ids and vectors; .parquet with a column of ids and one of lists
  --out              a TREC run; beside it a .json file with every option, count and metric, and a .png of the changes
  --qrels            TREC judgements; map, ndcg_cut_10, recall_100 and P_1 are those of trec_eval, before and after
  corrupt lines      stop the command and are named by their number
  missing documents  those without a vector stop the command and are named, unless --skip-missing leaves them out
  interruption       what is finished stays in the folder named as --out with .parts; the same command goes on there
  memory             a run streams through: of its queries only the names and some numbers are held

With --lists instead of --run, lists are read from the Parquet files of a folder (columns query_id, ids and scores) and
written to files of the same names in the folder --out, where a job that was interrupted goes on.

Parquet, which also serves in between, needs pyarrow (pip install 'graphattn[tables]'), --qrels needs pytrec_eval
('graphattn[retrieval]') and --engine ray needs Ray ('graphattn[ray]').
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from graphattn._optional import require
from graphattn.cli._checks import UserError, usable_device
from graphattn.cli._rerank_changes import Changes
from graphattn.cli._rerank_job import PART_SIZE, beside, discard_unbegun, prepare, work_folder
from graphattn.cli._rerank_lists import read_part
from graphattn.cli._rerank_options import explain_methods, read_options
from graphattn.cli._rerank_report import make_report, print_report, write_report
from graphattn.retrieval import read_qrels, write_run
from graphattn.retrieval._methods import METHODS, make_reranker
from graphattn.retrieval.bulk import BulkJob, run_job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``graphattn rerank``."""
    lists = parser.add_mutually_exclusive_group()
    lists.add_argument("--run", type=Path, metavar="RUN", help="the lists: a TREC run")
    lists.add_argument("--lists", type=Path, metavar="FOLDER", help="the lists: Parquet files")
    parser.add_argument("--queries", type=Path, metavar="FILE", help="vectors of the queries")
    parser.add_argument("--gallery", type=Path, metavar="FILE", help="vectors of the documents")
    parser.add_argument("--out", type=Path, metavar="NEW", help="the new run, or the folder of the new lists")
    parser.add_argument("--qrels", type=Path, metavar="FILE", help="judgements, for metrics before and after")
    parser.add_argument(
        "--method", choices=("list", *METHODS), default="auto", metavar="NAME", help="list explains them (%(default)s)"
    )
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="how many of each list are re-ranked (what is published)"
    )
    parser.add_argument("--blend", type=float, metavar="WEIGHT", help="weight of the first stage, in [0, 1]")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="another option of the method; repeatable"
    )
    parser.add_argument("--transductive", action="store_true", help="let the other queries take part")
    parser.add_argument("--model", type=Path, metavar="FILE", help="what a method has learned or found in the gallery")
    parser.add_argument("--skip-missing", action="store_true", help="leave out and count documents without a vector")
    parser.add_argument(
        "--batch-size", type=_batch_size, default="auto", metavar="N|auto", help="queries at a time (%(default)s)"
    )
    parser.add_argument("--part-size", type=int, metavar="N", help=f"queries that are finished together ({PART_SIZE})")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (%(default)s)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="who computes (%(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes of ray (one a CPU)")


def _batch_size(text: str) -> int | str:
    if text != "auto" and not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text} is neither auto nor an integer from 1")
    return text if text == "auto" else int(text)


def run(args: argparse.Namespace) -> int:
    """Re-rank lists, write them with a report and a picture, and return 0."""
    if args.method == "list":
        print(explain_methods())
        return 0
    started = time.perf_counter()
    _check(args)
    device = usable_device(args.device)
    try:
        with _explained(OSError, ValueError, TypeError, ImportError):
            reranker = make_reranker(args.method, read_options(args), args.model, device)
            if args.qrels is not None:
                require("pytrec_eval", "retrieval")
            qrels = {} if args.qrels is None else read_qrels(args.qrels)
            job, found = prepare(args, reranker, device, qrels)
            reports = run_job(job, args.engine, args.workers)
        changes = Changes(qrels)
        lists = _follow(job, changes)
        with _explained(OSError):
            if args.run is None:
                deque(lists, maxlen=0)
            else:
                write_run(args.out, lists)
    except UserError:
        discard_unbegun(args)
        raise
    except KeyboardInterrupt:
        if work_folder(args).exists():
            print(f"what is finished stays in {work_folder(args)}; the same command goes on there", file=sys.stderr)
        raise
    report = make_report(args, reranker, job, found, reports, changes)
    write_report(beside(args.out, ".json"), beside(args.out, ".png"), report, changes)
    if args.run is not None:
        shutil.rmtree(work_folder(args))
    print_report(report)
    files = [args.out, beside(args.out, ".json"), beside(args.out, ".png")]
    print(f"wrote {', '.join(map(str, files))} in {time.perf_counter() - started:.0f} s")
    return 0


def _follow(job: BulkJob, changes: Changes) -> Iterator[tuple[str, list[str], np.ndarray]]:
    """Read the lists that came of a job, and note how they changed."""
    for part in job.parts:
        for before, after in zip(read_part(part), read_part(job.target(part)), strict=True):
            changes.add(before, after)
            yield after.query, after.docs, after.scores


def _check(args: argparse.Namespace) -> None:
    """Refuse arguments that are missing, or that do not go together."""
    source = args.lists if args.run is None else args.run
    needed = {"--run or --lists": source, "--queries": args.queries, "--gallery": args.gallery, "--out": args.out}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise UserError(f"{missing[0]} is missing; --help explains it")
    if args.out in (beside(args.out, ".json"), beside(args.out, ".png")):
        raise UserError(f"--out {args.out} has the name of the report or the picture beside it; choose another ending")
    if args.out.resolve() == source.resolve():
        raise UserError(f"--out {args.out} would replace what it is made of; choose another name")
    if args.run is not None and args.out.is_dir():
        raise UserError(f"--out {args.out} is a folder; expected the name of a run")
    if args.part_size is not None and args.run is None:
        raise UserError(f"--part-size is {args.part_size}, but the files of --lists stay as they are; leave it out")
    if args.part_size is not None and args.transductive:
        raise UserError(f"--part-size is {args.part_size}, but with --transductive all queries are one part")
    if args.part_size is not None and args.part_size < 1:
        raise UserError(f"--part-size is {args.part_size}; expected at least 1")
    if args.workers is not None and args.engine == "local":
        raise UserError(f"--workers is {args.workers}, but --engine local is one process; leave it out")


@contextmanager
def _explained(*kinds: type[Exception]) -> Iterator[None]:
    """Let errors that are the input's be said without a traceback."""
    try:
        yield
    except kinds as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise UserError(f"{error.filename}: {error.strerror}") from error
        raise UserError(str(error)) from error
