"""Train on node features that are larger than the memory the process may have: they stay in a file.

    python benchmarks/out_of_memory.py --data FOLDER --out benchmarks/results

``--data`` is a folder for the generated features; they are generated once. A fresh process may then have ``--limit``
of private memory (``RLIMIT_DATA``), which a copy of the features would exceed. It maps the file, draws the
neighbourhoods of a few nodes at a time in training, validation and test, and reads the rows of these nodes alone. The
peak of its anonymous memory (``RssAnon``), which the system cannot drop as it can the pages of a file, is compared with
the size of the features. Linux only.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import HERE, environment, fresh_process, installed, save, start
from torch_geometric.data import Data
from tqdm import tqdm

from graphattn.datasets import NodeTask
from graphattn.models import AttentionNet
from graphattn.training import Recipe, fit

CLASSES, DEGREE = 16, 5
BATCH, NEIGHBORS = 512, [5, 5]
FULL = {"nodes": 786_432, "channels": 1024, "limit_mib": 2048, "train": 20_480, "epochs": 2}
QUICK = {"nodes": 65_536, "channels": 1024, "limit_mib": 2048, "train": 2_048, "epochs": 1}
BLOCK = 4096


def make_features(path: Path, nodes: int, channels: int) -> None:
    """Write noise around the centre of each node's class, block by block; a file that is there is whole."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    random = np.random.default_rng(0)
    centres = 0.1 * random.standard_normal((CLASSES, channels), dtype=np.float32)
    rows = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(nodes, channels))
    for first in tqdm(range(0, nodes, BLOCK), desc="features"):
        ids = np.arange(first, min(first + BLOCK, nodes))
        rows[ids[0] : ids[-1] + 1] = centres[ids % CLASSES]
        rows[ids[0] : ids[-1] + 1] += random.standard_normal((len(ids), channels), dtype=np.float32)
    rows.flush()
    partial.rename(path)


def make_task(path: Path, spec: dict[str, Any]) -> NodeTask:
    """Map the features, and draw the edges: most of them within a class."""
    x = torch.from_numpy(np.load(path, mmap_mode="r+"))
    nodes = len(x)
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(nodes) % CLASSES
    target = torch.arange(nodes).repeat_interleave(DEGREE)
    source = torch.randint(0, nodes // CLASSES, target.shape, generator=generator) * CLASSES + y[target]
    stray = torch.rand(len(source), generator=generator) < 0.3
    source[stray] = torch.randint(0, nodes, (int(stray.sum()),), generator=generator)
    order = torch.randperm(nodes, generator=generator)
    train, rest = order[: spec["train"]], order[spec["train"] :]
    part = spec["train"] // 4
    return NodeTask(
        name="generated",
        data=Data(x=x, edge_index=torch.stack([source, target]), y=y),
        split={"train": train, "val": rest[:part], "test": rest[part : 2 * part]},
        split_name="own",
        metric="accuracy",
        licence="generated",
        num_classes=CLASSES,
    )


class Peak(threading.Thread):
    """Watch the anonymous memory of this process: the system keeps no peak of it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.kib = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            self.kib = max(self.kib, next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Train in this process, with the limit that it may not exceed."""
    torch.set_num_threads(spec["threads"])
    limit = spec["limit_mib"] * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    peak = Peak()
    peak.start()
    task = make_task(Path(spec["features"]), spec)
    recipe = Recipe(epochs=spec["epochs"], batch_size=BATCH, lr=0.005, optimizer="adamw", warmup=0.0)
    net = AttentionNet(task.num_features, 32, CLASSES, num_layers=2, heads=4)
    begin = time.perf_counter()
    result = fit(net, task, recipe, num_neighbors=NEIGHBORS, eval_neighbors=NEIGHBORS, device="cpu", progress=False)
    seconds = time.perf_counter() - begin
    peak.done.set()
    peak.join()
    return {
        "features_mib": task.data.x.nbytes / 2**20,
        "limit_mib": spec["limit_mib"],
        "peak_anonymous_mib": peak.kib / 1024,
        "copy_refused": copy_is_refused(task.data.x),
        "seconds": seconds,
        "test_accuracy": result.test,
    }


def copy_is_refused(x: torch.Tensor) -> bool:
    """Tell whether the limit is one: a copy of the features must not fit."""
    try:
        x.clone()
    except RuntimeError as error:
        return "DefaultCPUAllocator" in str(error)
    return False


def run(args: argparse.Namespace) -> None:
    """Generate the features, measure, and write the results."""
    spec = {**(QUICK if args.quick else FULL), "threads": args.threads}
    if args.limit is not None:
        spec["limit_mib"] = args.limit
    path = args.data / f"features-{spec['nodes']}x{spec['channels']}.npy"
    make_features(path, spec["nodes"], spec["channels"])
    found = fresh_process("out_of_memory.py", {**spec, "features": str(path)}, seconds=args.timeout)
    results = {**environment(spec, installed("lightning-fabric")), "training": found}
    save(args.out / "out_of_memory.json", results)
    print(
        f"features {found['features_mib']:.0f} MiB in a file, limit {found['limit_mib']} MiB "
        f"({'a copy is refused' if found['copy_refused'] else 'a copy would fit'}); "
        f"peak anonymous memory {found['peak_anonymous_mib']:.0f} MiB, "
        f"{found['seconds']:.0f} s, test accuracy {found['test_accuracy']:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(tempfile.gettempdir()) / "graphattn-out-of-memory"
    parser.add_argument("--data", type=Path, default=folder, help="folder of the generated features, of 3 GiB")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--limit", type=int, help="private memory in MiB that the process may have")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds until the process is given up")
    parser.add_argument("--quick", action="store_true", help="features of 256 MiB, below the limit")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    start(parser.parse_args(), run, measure)


if __name__ == "__main__":
    main()
