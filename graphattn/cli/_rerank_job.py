"""From the arguments of a command to a bulk job: the lists cut into parts, and how many queries go at a time."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from graphattn.cli._checks import UserError
from graphattn.cli._files import make_folder, write_text
from graphattn.cli._rerank_lists import Survey, cut, read_checked, survey
from graphattn.cli._rerank_memory import choose_batch_size
from graphattn.cli._rerank_options import read_options
from graphattn.retrieval import Reranker, load_embeddings
from graphattn.retrieval.bulk import BulkJob

PART_SIZE = 1000
_LISTS, _RERANKED, _CUT = "lists", "reranked", "run.json"


def work_folder(args: argparse.Namespace) -> Path:
    """Return the folder in which a job goes on."""
    return args.out if args.run is None else args.out.with_name(args.out.name + ".parts")


def beside(out: Path, ending: str) -> Path:
    """Return the name of a file beside the results."""
    return out.with_name(out.name.removesuffix(".gz")).with_suffix(ending)


def prepare(
    args: argparse.Namespace, reranker: Reranker, device: torch.device, qrels: Mapping[str, Any]
) -> tuple[BulkJob, Survey]:
    """Find the lists, as Parquet files, and say what is to be done with them.

    Args:
        args: The command line.
        reranker: The method.
        device: Where the work is done.
        qrels: Judgements, empty if there are none.
    """
    folder = work_folder(args)
    if args.run is None:
        if not args.lists.is_dir():
            raise UserError(f"--lists {args.lists} is no folder; expected one of Parquet files")
        parts = sorted(args.lists.glob("*.parquet"))
    else:
        parts = _cut_run(args, folder, None if args.transductive else args.part_size or PART_SIZE)
    found = survey(parts, qrels)
    if not found.queries:
        raise UserError(f"{args.lists or args.run} holds no list")
    if args.qrels is not None and not found.judged:
        some = ", ".join(map(repr, list(qrels)[:3])) or "none"
        raise UserError(f"--qrels {args.qrels} judges no query of the lists; its queries are {some}")
    size = args.batch_size
    if size == "auto":
        together = found.queries if args.transductive else min(found.queries, args.part_size or PART_SIZE)
        workers = (args.workers or os.cpu_count() or 1) if args.engine == "ray" else 1
        width = load_embeddings(args.queries).vectors.shape[1]
        size = choose_batch_size(reranker, together, found.longest, width, device, workers)
    print(
        f"{args.lists or args.run}: {found.queries} lists of up to {found.longest} documents, re-ranked by "
        f"{args.method} {size} at a time{' (auto)' if args.batch_size == 'auto' else ''}"
    )
    if args.transductive:
        print("note: all queries take part in each list, so that they are one part, held at once", file=sys.stderr)
    job = BulkJob(
        method=args.method,
        options={**read_options(args), "chunk": size},
        queries=args.queries,
        gallery=args.gallery,
        parts=tuple(parts),
        out=folder if args.run is None else folder / _RERANKED,
        skip_missing=args.skip_missing,
        model=args.model,
        device=args.device,
    )
    return job, found


def discard_unbegun(args: argparse.Namespace) -> None:
    """Remove what there is of a job without a finished part: another one would only be refused there."""
    if args.run is not None and not _is_begun(work_folder(args)):
        shutil.rmtree(work_folder(args), ignore_errors=True)


def _is_begun(folder: Path) -> bool:
    return any((folder / _RERANKED).glob("*.parquet"))


def _cut_run(args: argparse.Namespace, folder: Path, part_size: int | None) -> list[Path]:
    """Cut the run into parts, unless that is done."""
    make_folder(folder)
    record, lists = folder / _CUT, folder / _LISTS
    now = {"--run": _sha256(args.run), "--part-size": part_size}
    before = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    changed = [name for name in now if now[name] != before.get(name)]
    if changed and _is_begun(folder):
        raise UserError(
            f"{folder} holds an unfinished job whose {' and '.join(changed)} was another; go on with that, or remove "
            "the folder to start anew"
        )
    if changed:
        shutil.rmtree(lists, ignore_errors=True)
        make_folder(lists)
        queries, gallery = load_embeddings(args.queries), load_embeddings(args.gallery)
        rows = read_checked(args.run, queries, gallery, skip_missing=args.skip_missing)
        cut(tqdm(rows, desc="reading", unit="query"), lists, part_size)
        write_text(record, json.dumps(now) + "\n")
    return sorted(lists.glob("*.parquet"))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 16):
            digest.update(block)
    return digest.hexdigest()
