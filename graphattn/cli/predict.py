"""Predict with a trained network: a class or a value for each node or graph, or a score for pairs of nodes.

CHECKPOINT is the file seed-N.pt of a training run; nothing in it is run as code. The data are a set by its name, or
local:PATH as for training: a .pt, .npz, .graphml, .gml or .gexf file, or a folder with edges.csv and nodes.csv, whose
labels may be missing. They go through the transforms that the training data went through. A network that was
evaluated on sampled neighbourhoods in training sees them here too, so that large features stay in their file.

What is written, a row for each node, graph or pair:
  id                 of nodes.csv or of the graph file; elsewhere the number of the node or graph, from 0
  prediction         the most probable class, by its name
  probability_NAME   how probable each class is
  value              instead of these, in a regression; value_0, value_1 ... if there are several
  probability        instead of these, for targets that hold or not; probability_0 ... if there are several
  source, target, score, probability     for pairs, which --pairs names by the ids of their nodes

How it is scored, where labels are known:
  with a split       on its test part: that of the files, or --split, or for the set that the network was trained on
                     the split of the training
  without            on all known labels, also those that the network was trained on, if they are among them
  labels as input    a network that takes known labels is shown those of the training part, or without a split all
                     there are, and is not scored on what it was shown
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphattn.cli._checkpoint import read_checkpoint
from graphattn.cli._checks import UserError, usable_device
from graphattn.cli._files import whole
from graphattn.cli._predict_network import predict
from graphattn.cli._predict_read import read_pairs, read_source, score
from graphattn.cli._predict_rows import Rows, of_nodes_or_graphs, of_pairs

BATCH_SIZE = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``graphattn predict``."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="seed-N.pt of a training run")
    parser.add_argument("--data", required=True, metavar="NAME|local:PATH", help="what to predict")
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="CSV with the columns source and target, for links")
    parser.add_argument("--split", help="whose test part is scored, such as random-60-20-20:0")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the sets (%(default)s)")
    parser.add_argument(
        "--batch-size", type=_size, metavar="N", help=f"graphs at a time, or neighbourhoods ({BATCH_SIZE})"
    )
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("predictions.csv"), help="the table (%(default)s)")


def _size(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no integer from 1")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Predict, write the table and return 0."""
    device = usable_device(args.device)
    model, config = read_checkpoint(args.checkpoint)
    _check_options(args, config)
    try:
        source = read_source(args.data, args.root, args.split, config)
        pairs = None if args.pairs is None else read_pairs(args.pairs, source)
        labels = source.shown_labels() if model.config.get("label_input") else None
        size, sampled = args.batch_size or BATCH_SIZE, config.get("eval_neighbors")
        out, notes = predict(model, source, device, size, num_neighbors=sampled, labels=labels, pairs=pairs)
    except (ValueError, TypeError, FileNotFoundError, ImportError) as error:
        raise UserError(str(error)) from error
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    rows = of_nodes_or_graphs(out, source, config) if pairs is None else of_pairs(out, source, pairs)
    _write(args.out, rows)
    print(f"{source.name}: {len(out)} {rows.what}, predicted by {config['model']['model']} of {args.checkpoint}")
    for line in rows.summary:
        print(f"  {line}")
    for line in score(out, source, seen=labels is not None):
        print(line)
    if source.y is not None and source.parts is None and source.name == config["task"]:
        print(f"if this is what it was trained on, --split {config['split']} scores the test part alone")
    print(f"wrote {args.out}")
    return 0


def _check_options(args: argparse.Namespace, config: Mapping[str, Any]) -> None:
    """Refuse options that mean nothing for a network."""
    kind = config["kind"]
    if kind == "link" and args.pairs is None:
        raise UserError(f"{args.checkpoint} scores pairs of nodes; name them with --pairs, in columns source, target")
    if kind != "link" and args.pairs is not None:
        raise UserError(f"--pairs has no meaning for {args.checkpoint}, which is about {kind}s")
    if kind != "graph" and config.get("eval_neighbors") is None and args.batch_size is not None:
        raise UserError(f"--batch-size has no meaning for {args.checkpoint}: it sees one graph as a whole")


def _write(path: Path, rows: Rows) -> None:
    with whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows.header)
        writer.writerows(rows.cells)
