"""TensorBoard's view of a run: every epoch once, whatever was stopped in between."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphattn.engine import Recipe, train
from graphattn.engine.report import Report


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the steps and values of a folder as TensorBoard shows them."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        events = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_epochs_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    epochs = [{"loss": 2.0**-number, "score": float(number)} for number in range(4)]
    with Report([], 4, tensorboard=tmp_path) as report:
        for number in (0, 1, 2):
            report.add(number, epochs[number])
    # The checkpoint of the last one was never written: it is made once more.
    with Report(epochs[:2], 4, tensorboard=tmp_path) as report:
        for number in (2, 3):
            report.add(number, epochs[number])
    expected = {name: [(number, epochs[number][name]) for number in range(4)] for name in ("loss", "score")}
    assert scalars(tmp_path) == expected


def test_a_run_that_is_over_writes_nothing(tmp_path: Path) -> None:
    with Report([{"loss": 1.0}], 1, tensorboard=tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphattn.engine.report.is_available", lambda module: False)
    with Report([], 1, tensorboard=tmp_path / "run") as report:
        report.add(0, {"loss": 1.0})
    assert not (tmp_path / "run").exists()


def test_training_is_stopped_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    model, steps = nn.Linear(1, 1), []

    def losses(rows: Tensor) -> dict[str, Tensor]:
        steps.append(rows)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return {"loss": model(torch.ones(len(rows), 1)).square().mean()}

    options = {"checkpoint": tmp_path / "run.pt", "tensorboard": tmp_path / "events"}
    with pytest.raises(KeyboardInterrupt):
        train(model, 4, losses, Recipe(epochs=4), **options)
    log = train(model, 4, losses, Recipe(epochs=4), **options)
    assert [step for step, _ in scalars(tmp_path / "events")["loss"]] == [0, 1, 2, 3]
    values = torch.tensor([value for _, value in scalars(tmp_path / "events")["loss"]])
    assert torch.equal(values, torch.tensor([epoch["loss"] for epoch in log.epochs]))
