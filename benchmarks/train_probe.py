"""Train small causal models on repeated sequences, find the roles of their heads, and take the heads away.

    python benchmarks/train_probe.py --out benchmarks/results

Each model has two layers of two heads and predicts the second of two copies of a random sequence, of changing length.
Once it can, a penalty on the square root of the size of each head lets one head do each job and the others fade, so
that a head which is taken away has no understudy. Roles are those of ``graphattn.analysis.head_roles``, means over
probes that no training has seen; the loss without a head is that on the second copy of other such sequences. The model
of the first seed is the one that is packaged. Results are written after each model: a run that was stopped goes on with
``--resume``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import HERE, environment, headline, load_results, save, start, use_threads
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import trange

from graphattn.analysis.capture import capture
from graphattn.analysis.probe_model import WEIGHTS, ProbeModel, load_probe_model, repetition_loss, save_probe_model
from graphattn.analysis.roles import LABEL_EXCESS, head_roles, pool_roles, repeated_tokens

VOCABULARY, DIM, LONGEST, SHORTEST = 32, 48, 24, 6  # ids, width, and tokens of a copy in training
TRAINING = {"lr": 0.004, "weight_decay": 0.01, "batch_size": 64, "penalty": 0.1, "free": 0.3}
PROBES, PROBE_LENGTH = 16, 20
HELD_OUT = 10_000  # seeds of the generators that nothing is trained with
ROLES = ("previous", "induction")


def sequences(count: int, length: int, generator: torch.Generator) -> Tensor:
    return torch.stack([repeated_tokens(length, VOCABULARY, generator=generator) for _ in range(count)])


def penalty(model: ProbeModel) -> Tensor:
    """Sum the square roots of the sizes of all heads: concave, so that two that share a job are dearer than one."""
    heads = [model.head_weights(layer, head) for layer in range(len(model.layers)) for head in range(model.heads)]
    sizes = [torch.cat([weight.flatten() for weight in weights]).norm() for weights in heads]
    return sum(((size + 1e-3).sqrt() for size in sizes), start=torch.zeros(()))


def train(seed: int, steps: int) -> ProbeModel:
    """Train a model; the penalty sets in after a share ``free`` of the steps and grows over as many."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ProbeModel(VOCABULARY, 2 * LONGEST + 1, DIM)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=TRAINING["lr"], weight_decay=TRAINING["weight_decay"], betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, TRAINING["lr"], total_steps=steps, pct_start=0.1)
    progress = trange(steps, desc=f"seed {seed}", leave=False)
    for step in progress:
        length = int(torch.randint(SHORTEST, LONGEST + 1, (), generator=generator))
        loss = repetition_loss(model, sequences(int(TRAINING["batch_size"]), length, generator))
        share = min(1.0, max(0.0, step / (TRAINING["free"] * steps) - 1))
        optimizer.zero_grad()
        (loss + TRAINING["penalty"] * share * penalty(model)).backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval()


def judge(model: ProbeModel) -> dict[str, Any]:
    """Return the roles of each head and the loss without it, computed in float64."""
    model = model.double()
    generator = torch.Generator().manual_seed(HELD_OUT)
    found = []
    for ids in sequences(PROBES, PROBE_LENGTH, generator):
        found.append(head_roles(capture(model, ids[None], head_outputs=False).maps(causal=True), ids))
    roles = pool_roles(found)
    ids = sequences(PROBES, PROBE_LENGTH, generator)
    heads, labels = roles.heads.tolist(), roles.labels()
    with torch.no_grad():
        whole = repetition_loss(model, ids).item()
        alone = [repetition_loss(model.without_heads((layer, head)), ids).item() for layer, head in heads]
    return {
        "heads": heads,
        "labels": list(labels),
        "scores": {role: values.tolist() for role, values in roles.scores.items()},
        "chance": roles.chance,
        "loss": whole,
        "loss_without": alone,
    }


def describe(results: dict[str, Any]) -> tuple[dict[str, list[float]], list[str]]:
    """Return the rise of the loss without the heads of each label, over all models, and a table of all heads."""
    rises: dict[str, list[float]] = {}
    lines = [
        "| seed | layer | head | previous | induction | duplicate | current | first | label | loss without it |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|",
    ]
    for seed, model in results["models"].items():
        lines.append(f"| {seed} | | | | | | | | whole model | {model['loss']:.3f} |")
        for number, (layer, head) in enumerate(model["heads"]):
            label, without = model["labels"][number], model["loss_without"][number]
            rises.setdefault(label, []).append(round(without - model["loss"], 4) + 0.0)  # no -0.0
            shown = ("previous", "induction", "duplicate", "current", "first")
            cells = " | ".join(f"{model['scores'][role][number]:.2f}" for role in shown)
            lines.append(f"| {seed} | {layer} | {head} | {cells} | {label} | {without:.3f} |")
    return rises, lines


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write ``head_roles.md``; return the Markdown."""
    rises, table = describe(results)
    models = list(results["models"].values())
    quick = " **A few steps only (`--quick`): these numbers mean nothing.**" if results["settings"]["quick"] else ""
    random = statistics.mean(rise for values in rises.values() for rise in values)
    lines = [
        "| removed | heads | rise of the loss, mean | least | most |",
        "|---|--:|--:|--:|--:|",
        *(
            f"| labelled {label} | {len(values)} | {statistics.mean(values):.3f} "
            f"| {min(values):.3f} | {max(values):.3f} |"
            for label, values in sorted(rises.items())
        ),
        f"| any, at random | {sum(map(len, rises.values()))} | {random:.3f} | | |",
    ]
    text = "\n\n".join(
        [
            f"# Roles of heads, confirmed by taking heads away\n\n{headline(results)}{quick}",
            f"{len(models)} models of two layers and two heads, attention only, trained on repeated sequences by "
            "`benchmarks/train_probe.py`; the first is the one that `load_probe_model` loads. Scores are "
            f"mean weights on {PROBES} probes of two copies of {PROBE_LENGTH} random tokens; a label needs "
            f"{LABEL_EXCESS} more than uniform attention has. The loss is that on the second copy, in nats; "
            f"{np.log(VOCABULARY - 1):.2f} is that of guessing. The training lets heads fade that have no job, so that "
            "the stricter comparison is with a head drawn at random from all. A previous-token head is of use in the "
            f"first copy alone, of at most {LONGEST} tokens in training; its other rows do what they like.",
            "![Attention of two heads, and the loss without each head](head_roles.png)",
            "## Heads by their label\n\n" + "\n".join(lines),
            "## All heads\n\n" + "\n".join(table),
        ]
    )
    (folder / "head_roles.md").write_text(text + "\n")
    return text


def draw(results: dict[str, Any], model: ProbeModel, folder: Path) -> None:
    """Draw what the first model's strongest head of each role attends to, and the loss without each head of each model.

    Writes ``head_roles.png``.
    """
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    *pictures, axes = figure.subplots(1, 3)
    ids = sequences(1, PROBE_LENGTH, torch.Generator().manual_seed(HELD_OUT))
    maps = capture(model, ids, head_outputs=False).maps(causal=True)
    first = next(iter(results["models"].values()))
    for picture, role in zip(pictures, ROLES, strict=True):
        number = int(np.argmax(first["scores"][role]))
        layer, head = first["heads"][number]
        picture.imshow(maps.dense(layer)[head], cmap="Blues", vmin=0, vmax=1)
        picture.set_title(f"layer {layer}, head {head}: {first['labels'][number]}")
        picture.set_xlabel("token that is read")
        picture.set_ylabel("token that reads")
    labels = sorted({label for model in results["models"].values() for label in model["labels"]})
    for shift, entry in enumerate(results["models"].values()):
        places = [labels.index(label) + 0.06 * (shift - len(results["models"]) / 2) for label in entry["labels"]]
        color = "#c0392b" if shift == 0 else "#999999"
        axes.scatter(places, entry["loss_without"], color=color, s=30, zorder=3 - (shift > 0))
        axes.axhline(entry["loss"], color="#1b7837", linewidth=0.8, label="whole model" if shift == 0 else None)
    axes.axhline(np.log(VOCABULARY - 1), color="#999999", linestyle=":", label="guessing")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_ylabel("loss on the second copy (nats)")
    axes.set_title("Without one head (red: packaged model)")
    axes.set_xlabel("label of the head that is taken away")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "head_roles.png", dpi=120)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train and judge every model that is not in the results; write ``head_roles.json``, ``.md`` and ``.png``."""
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "head_roles.json"
    results = environment({"threads": args.threads, "quick": args.quick, "steps": args.steps, **TRAINING})
    results = load_results(path, results) if args.resume and path.exists() else results
    models = results.setdefault("models", {})
    with use_threads(args.threads):
        for seed in range(args.seeds):
            if str(seed) not in models:
                model = train(seed, args.steps)
                if seed == 0:
                    save_probe_model(model, args.weights)
                models[str(seed)] = judge(model)
                save(path, results)
    draw(results, load_probe_model(args.weights), args.out)
    print(write_report(results, args.out))
    return results


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--weights", type=Path, help="file of the first model's weights (default: the packaged one)")
    parser.add_argument("--seeds", type=int, default=5, help="number of models (default 5)")
    parser.add_argument("--steps", type=int, default=1200, help="steps of each training (default 1200)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--quick", action="store_true", help="few steps, weights in --out: tells whether all runs")
    parser.add_argument("--resume", action="store_true", help="keep what the results in --out already hold")
    args = parser.parse_args(argv)
    if min(args.seeds, args.threads) < 1 or args.steps < 20:
        parser.error("--seeds and --threads must be at least 1, and --steps 20")
    if args.quick:
        args.steps = 20
    args.weights = args.weights or (args.out / WEIGHTS.name if args.quick else WEIGHTS)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    start(parse(argv), run)


if __name__ == "__main__":
    main()
