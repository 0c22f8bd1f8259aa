"""What each of several processes runs in the tests of distributed training: a list of jobs, given as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphattn.engine import Recipe
from graphattn.models import AttentionNet, GraphHead, LinkHead
from graphattn.models.network import Network
from graphattn.training import Result, fit
from graphattn.training._batches import SampledNodes
from tests.training.test_fit import graph_task, link_task, node_task

TASKS = {"nodes": node_task, "graphs": graph_task, "links": link_task}


def make_net(kind: str, noisy: bool) -> Network:
    """Return a network whose output for a node depends on its surroundings alone, unless it is noisy."""
    options: dict[str, Any] = {"heads": 2, "norm": "batch" if noisy else "layer", "dropout": 0.3 if noisy else 0.0}
    if kind == "nodes":
        return AttentionNet(4, 8, 2, **options)
    backbone = AttentionNet(4, 8, 8, **options)
    return GraphHead(backbone, 8, 2) if kind == "graphs" else LinkHead(backbone, 8)


def run(kind: str, recipe: dict[str, Any], noisy: bool = False, **options: Any) -> tuple[Result, Network]:
    """Do one job."""
    net = make_net(kind, noisy)
    settings = {"epochs": 4, "batch_size": 11, "lr": 0.3, "optimizer": "adamw", "seed": 3, **recipe}
    return fit(net, TASKS[kind](), Recipe(**settings), **{"device": "cpu", "progress": False, **options}), net


def kill_at(epoch: int, lines: Path) -> None:
    """Let this process kill itself in the middle of an epoch, as a machine that loses power would."""
    losses = SampledNodes.losses

    def deadly(self: SampledNodes, rows: Tensor) -> dict[str, Tensor]:
        # The first process, which may be another one, writes the file.
        if lines.exists() and len(lines.read_text().splitlines()) == epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses(self, rows)

    SampledNodes.losses = deadly  # type: ignore[method-assign]


def main() -> None:
    folder, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
    rank = int(os.environ.get("LOCAL_RANK", 0))
    torch.set_num_threads(1)
    found = []
    for job in jobs:
        if "kill" in job and rank == job.pop("victim"):
            kill_at(job.pop("kill"), folder / job["out"] / "seed-3.jsonl")
        job.pop("kill", None)
        job.pop("victim", None)
        seen: list[list[int]] = []
        losses = SampledNodes.losses

        def watched(self: SampledNodes, rows: Tensor, losses: Any = losses, seen: Any = seen) -> dict[str, Tensor]:
            seen.append(rows.tolist())
            return losses(self, rows)

        SampledNodes.losses = watched  # type: ignore[method-assign]
        if "out" in job:
            job["out"] = str(folder / job["out"])
        result, net = run(**job)
        SampledNodes.losses = losses  # type: ignore[method-assign]
        weights = {name: value.tolist() for name, value in net.state_dict().items()}
        found.append({"result": asdict(result), "weights": weights, "rows": seen})
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
