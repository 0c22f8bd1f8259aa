"""Training on event sequences: scores written out prefix by prefix, resumed runs to the bit, and what is learned."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.datasets.sequences import SequenceTask, periodic_events
from graphattn.engine import Recipe, load_checkpoint
from graphattn.models import AttentionNet
from graphattn.models.event_losses import log_normal_loss
from graphattn.models.event_sequence_model import EventSequenceModel
from graphattn.training.sequences import SequenceResult, fit_sequences

pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is not installed")

RECIPE = Recipe(epochs=5, batch_size=8, lr=0.3, optimizer="adamw", seed=3)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def task_of(**changes: Any) -> SequenceTask:
    """Forty sequences of 2 to 11 events of four types, each followed by the next type most of the time."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(40) % 10 + 2
    ptr = F.pad(lengths.cumsum(0), (1, 0))
    step = (torch.rand(int(ptr[-1]), generator=generator) < 0.8).long()
    event_type = step.cumsum(0) % 4 + 1
    t = torch.cat([(600 * torch.rand(int(n), generator=generator).double()).cumsum(0) for n in lengths])
    options: dict[str, Any] = {
        "name": "steps",
        "event_type": event_type,
        "t": t,
        "ptr": ptr,
        "num_types": 4,
        "split": {"train": torch.arange(24), "val": torch.arange(24, 32), "test": torch.arange(32, 40)},
        "split_name": "own",
        "metric": "accuracy",
        "licence": "generated",
    }
    return SequenceTask(**(options | changes))


def model_of(**changes: Any) -> EventSequenceModel:
    return EventSequenceModel(**{"num_types": 4, "dim": 8, "dropout": 0.2} | changes)


def run(model: EventSequenceModel | None = None, **options: Any) -> tuple[EventSequenceModel, SequenceResult]:
    model = model_of() if model is None else model
    task, recipe = options.pop("task", None) or task_of(), options.pop("recipe", RECIPE)
    return model, fit_sequences(model, task, recipe, **{"device": "cpu", "progress": False} | options)


def interrupt(model: EventSequenceModel, step: int) -> EventSequenceModel:
    """Make a network stop at a training step, counted from 0."""
    seen: list[int] = []

    def hook(module: nn.Module, args: Any) -> None:
        if module.training:
            if len(seen) == step:
                raise KeyboardInterrupt
            seen.append(1)

    model.register_forward_pre_hook(hook)
    return model


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@torch.no_grad()
def by_prefixes(model: EventSequenceModel, task: SequenceTask, which: str, length: int | None) -> dict[str, Tensor]:
    """Predictions for each target from the events before it alone, a call for each."""
    rows = []
    for sequence in task.split[which].tolist():
        start, end = task.ptr[sequence : sequence + 2].tolist()
        for row in range(start + 1, end):
            first = start if length is None else max(start, row - length)
            seen = slice(first, row)
            x = model(task.event_type[None, seen], task.t[None, seen])[0, -1]
            rows.append((model.type_scores(x), *model.gap_distribution(x), model.median_gap(x)))
    names = ("scores", "mean", "std", "median")
    return {name: torch.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


# What a run is ########################################################################################################


@pytest.mark.parametrize("which", ["val", "test"])
def test_scores_are_those_of_single_prefixes(which: str) -> None:
    task = task_of()
    model, result = run(task=task, recipe=replace(RECIPE, epochs=3))
    found = by_prefixes(model, task, which, None)
    accuracy = (found["scores"].argmax(1) + 1 == task.target(which)).double().mean().item()
    error = float(np.median((found["median"] - task.elapsed(which)).abs()))
    if which == "test":
        assert result.test == pytest.approx(accuracy, rel=1e-6)
        assert result.test_time_error == pytest.approx(error, rel=1e-4)
        return
    best = result.epochs[result.best_epoch]
    loss = F.cross_entropy(found["scores"], task.target("val") - 1)
    loss = loss + 0.1 * log_normal_loss(found["mean"], found["std"], task.elapsed("val"))
    assert best["score"] == result.val == pytest.approx(accuracy, rel=1e-6)
    assert best["val_time_error"] == pytest.approx(error, rel=1e-4)
    assert best["val_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_a_bounded_past() -> None:
    """With windows one event apart a prediction behind the first window sees exactly as many events."""
    task = task_of()
    windows = task.windows("test", 3, 1)
    model, result = run(task=task, length=3)
    with torch.no_grad():
        x = model(windows.event_type[:, :-1], windows.t[:, :-1])[windows.scored[:, 1:]]
        expected = by_prefixes(model, task, "test", 3)["scores"]
    places = torch.cat([torch.arange(1, int(n)) for n in task.ptr.diff()[task.split["test"]]])
    last = places >= 3  # those before share the first window, and see what there is
    torch.testing.assert_close(model.type_scores(x)[last], expected[last], rtol=0, atol=1e-5)
    assert result.config["length"] == 3
    assert run(task=task)[1].epochs != result.epochs


def test_losses_and_their_parts() -> None:
    _, result = run(time_weight=0.25)
    for epoch in result.epochs:
        assert epoch["loss"] == pytest.approx(epoch["type_loss"] + 0.25 * epoch["time_loss"], rel=1e-5)
    for epoch in run(time_weight=0.0)[1].epochs:
        assert epoch["loss"] == pytest.approx(epoch["type_loss"], rel=1e-6)


@pytest.mark.parametrize("unit", [1.0, 1e6])
def test_times_start_from_mean_and_spread_of_the_training_set(unit: float) -> None:
    task = task_of(t=task_of().t * unit)
    model, _ = run(task=task, recipe=replace(RECIPE, epochs=1, lr=1e-30))
    logs = task.elapsed("train").log1p()
    mean, std = model.gap_distribution(torch.zeros(8))
    torch.testing.assert_close(mean.double(), logs.mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(std.double(), logs.std(correction=0), rtol=1e-5, atol=0)


def test_a_seed_is_a_result() -> None:
    model, state = model_of(), torch.get_rng_state()
    result = run(model)[1]
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"
    again = run(model)[1]  # whatever the weights are
    fresh, third = run()
    assert result == again == third
    assert same_weights(model, fresh)
    other = run(seed=4)[1]
    assert other.config["recipe"]["seed"] == 4
    assert other.epochs != result.epochs
    assert not model.training


@pytest.mark.parametrize("head", ["class", "ranking"])
@pytest.mark.parametrize("stop_after", [0, 3])
def test_a_stopped_run_goes_on_to_the_same_bits(head: str, stop_after: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"head": head, "time": "bochner_normal"}  # which draws in training
    whole, result = run(model_of(**options), out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(interrupt(model_of(**options), 3 * stop_after + 1), out=tmp_path / "parts")
    torch.rand(3)  # what happens in between does not matter
    resumed, again = run(model_of(**options), out=tmp_path / "parts", resume=True)
    assert again == result
    assert same_weights(whole, resumed)
    lines, results = (
        [(tmp_path / part / f"seed-3.{end}").read_text() for part in ("whole", "parts")] for end in ("jsonl", "json")
    )
    assert lines[0] == lines[1]
    first, second = map(json.loads, results)
    assert {**first, "measured": None} == {**second, "measured": None}
    # A run that is over is read, not repeated.
    read, finished = run(interrupt(model_of(**options), 0), out=tmp_path / "parts", resume=True)
    assert finished == result
    assert finished.measured == again.measured
    assert same_weights(whole, read)


def test_the_checkpoint_builds_the_network_again(tmp_path: Path) -> None:
    model, result = run(model_of(time="mercer", time_options={"harmonics": 2}), out=tmp_path)
    state = load_checkpoint(tmp_path / "seed-3.pt")
    again = EventSequenceModel.from_config(state["config"]["model"])
    again.load_state_dict(state["best"])
    assert same_weights(again, model)
    config = result.config
    assert (config["task"], config["kind"], config["split"], config["metric"]) == (
        "steps",
        "sequence",
        "own",
        "accuracy",
    )
    assert result.parameters == sum(p.numel() for p in model.parameters())
    with pytest.raises(ValueError, match="time_weight"):
        run(model_of(time="mercer", time_options={"harmonics": 2}), out=tmp_path, resume=True, time_weight=0.5)


def test_the_test_set_decides_nothing() -> None:
    task = task_of()
    changed = task.event_type.clone()
    changed[task.ptr[32] :] = 5 - changed[task.ptr[32] :]
    model, result = run(task=task)
    other, again = run(task=task_of(event_type=changed))
    assert again.epochs == result.epochs
    assert same_weights(model, other)
    assert again.test != result.test


def test_validation_stops_early() -> None:
    result = run(recipe=replace(RECIPE, epochs=60, patience=3, lr=1e-6))[1]
    assert (result.stopped, len(result.epochs)) == ("patience", result.best_epoch + 4)
    scores = [epoch["score"] for epoch in result.epochs]
    assert result.val == max(scores)
    assert run(max_minutes=1e-9)[1].stopped == "time"


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions(precision: str) -> None:
    """Times stay in float64 whatever the precision: those of today would all be equal in single precision."""
    now = task_of(t=task_of().t / 600 + 1_600_000_000)
    model, result = run(task=now, precision=precision)
    assert next(model.parameters()).dtype == (torch.float64 if precision == "64-true" else torch.float32)
    single = run(task=now)[1]
    assert result.epochs[0]["time_loss"] == pytest.approx(single.epochs[0]["time_loss"], rel=0.02)
    assert result.epochs[0]["type_loss"] == pytest.approx(single.epochs[0]["type_loss"], rel=0.02)


# What is learned ######################################################################################################


@pytest.mark.parametrize("head", ["class", "ranking"])
def test_the_next_type_is_learned(head: str) -> None:
    recipe = Recipe(epochs=30, batch_size=8, lr=0.3, optimizer="adam", weight_decay=0)
    result = run(model_of(head=head, dropout=0.0), recipe=recipe)[1]
    assert result.epochs[-1]["type_loss"] < 0.7 * result.epochs[0]["type_loss"]
    # Eight of ten steps go to the next type; of 52 targets four standard errors are 0.22.
    assert result.test > 0.8 - 0.22


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"time": "mercer", "time_dim": 81, "time_options": {"harmonics": 4}}, 50),
        pytest.param({"time": "bochner", "time_dim": 64}, 70, marks=pytest.mark.slow),
        ({"time": "sinusoidal"}, 15),
        pytest.param({"time": "learned", "fusion": "add"}, 40, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_phase_of_time_is_learned_and_order_says_nothing(options: dict[str, Any], epochs: int) -> None:
    task = periodic_events(600, 16, 4)
    recipe = Recipe(epochs=epochs, batch_size=64, lr=0.04, optimizer="adam", weight_decay=0, warmup=0.05)
    result = run(model_of(dim=16, dropout=0.0, **options), task=task, recipe=recipe)[1]
    if options["time"] in ("mercer", "bochner"):
        assert task.optimum == 1
        assert result.test > 0.95
        return
    # Of 1,800 targets four standard errors.
    chance = task.optimum_of_order
    assert abs(result.test - chance) < 4 * math.sqrt(chance * (1 - chance) / 1800)


# What does not go together ############################################################################################


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": [1, 2]}, TypeError, "task is a list; expected a SequenceTask"),
        ({"model": AttentionNet(2, 2, 2)}, TypeError, "model is a AttentionNet; expected an EventSequenceModel"),
        ({"model": model_of(num_types=7)}, ValueError, "model has 7 types, but steps has 4; make it with those"),
        ({"time_weight": -0.1}, ValueError, "time_weight is -0.1; expected a number of at least 0"),
        ({"time_weight": math.nan}, ValueError, "time_weight is nan; expected a number of at least 0"),
        ({"length": 0}, ValueError, "length is 0; expected at least 1"),
        ({"resume": True}, ValueError, "resume is True, but there is no out; pass the folder"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        run(**arguments)


def test_ranking_needs_a_second_type() -> None:
    one = task_of(event_type=torch.ones_like(task_of().event_type), num_types=1)
    with pytest.raises(ValueError, match="steps has one type, which there is nothing to rank against"):
        run(model_of(num_types=1, head="ranking"), task=one)
    assert run(model_of(num_types=1), task=one)[1].test == 1.0


def test_a_loss_that_is_not_finite() -> None:
    recipe = Recipe(epochs=20, batch_size=8, lr=1e30, optimizer="sgd", clip=None, warmup=0.0)
    with pytest.raises(FloatingPointError, match="lower lr"):
        run(recipe=recipe)
