"""What ``graphattn rerank`` tells of its work: on the screen, as JSON and as a picture."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphattn import __version__
from graphattn.cli._files import whole
from graphattn.cli._rerank_changes import MEASURES, Changes
from graphattn.cli._rerank_lists import Survey
from graphattn.retrieval import Reranker
from graphattn.retrieval.bulk import BulkJob, PartReport


def make_report(
    args: argparse.Namespace,
    reranker: Reranker,
    job: BulkJob,
    found: Survey,
    parts: list[PartReport],
    changes: Changes,
) -> dict[str, Any]:
    """Gather every option, version, count and metric."""
    counts = {
        "lists": found.queries,
        "documents": found.documents,
        "longest_list": found.longest,
        "dropped_documents": sum(part.dropped for part in parts),
        "parts": len(parts),
    }
    options = {name: value for name, value in vars(reranker).items() if not name.endswith("_")}
    return {
        "command": {name: value for name, value in vars(args).items() if name != "command"},
        "method": args.method,
        "options": options | {"chunk": job.options["chunk"]},
        **counts,
        **changes.summary(),
        "seconds": sum(part.seconds for part in parts),
        "versions": {
            "graphattn": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pyarrow": version("pyarrow"),
        },
    }


def write_report(text: Path, picture: Path, report: dict[str, Any], changes: Changes) -> None:
    """Write both files before the first gets its name."""
    from graphattn.cli._rerank_figure import draw_metrics, draw_order, save  # matplotlib takes a second to import

    if report["metrics"]:
        values = changes.values()[:, :, MEASURES.index("map")]
        figure = draw_metrics(report["method"], report["metrics"], values[:, 1] - values[:, 0])
    else:
        order = changes.order()
        figure = draw_order(report["method"], order[:, 0], order[:, 1])
    with ExitStack() as files:
        full, drawn = files.enter_context(whole(text)), files.enter_context(whole(picture))
        full.write_text(json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        save(figure, drawn)


def print_report(report: dict[str, Any]) -> None:
    """Print what changed, and what the user should know on stderr."""
    dropped, documents, lists = (report[name] for name in ("dropped_documents", "documents", "lists"))
    notes = {
        f"{dropped} of {documents} documents have no vector and were left out": dropped,
        f"{report['emptied']} of {lists} lists have no document left": report["emptied"],
        f"{lists - report['judged']} of {lists} lists have no judgement and are in no metric": (
            report["metrics"] and lists - report["judged"]
        ),
    }
    for note, count in notes.items():
        if count:
            print(f"note: {note}", file=sys.stderr)
    if report["metrics"]:
        print(f"  {'':<12}{'before':>8}{'after':>8}{'change':>9}{'won':>8}{'tied':>8}{'lost':>8}")
    for name, one in report["metrics"].items():
        change = one["after"] - one["before"]
        counts = "".join(f"{one[word]:>8}" for word in ("wins", "ties", "losses"))
        print(f"  {name:<12}{one['before']:>8.4f}{one['after']:>8.4f}{change:>+9.4f}{counts}")
    means = {
        "mean rank correlation with before": report["rank_correlation"],
        "mean confidence of the method": report["confidence"],
    }
    print(
        f"of {lists} lists, {report['first_changed']} have another first document and {report['top_10_changed']} other "
        "first ten" + "".join(f"; {name} {value:.3f}" for name, value in means.items() if value is not None)
    )
