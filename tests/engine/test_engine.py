"""The training loop, its recipe, checkpoints and seeds, on least squares."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphattn.engine import Recipe, TrainingLog, load_checkpoint, save_checkpoint, seeded, train
from graphattn.engine.average import WeightAverage

SAMPLES = 24


class Regression:
    """Noisy samples of a linear map; dropout makes every step draw random numbers."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(SAMPLES, 5, generator=generator)
        self.y = self.x @ torch.randn(5, 1, generator=generator)
        self.weights = {"0.weight": torch.randn(1, 5, generator=generator), "0.bias": torch.zeros(1)}
        self.calls = 0

    def model(self) -> nn.Sequential:
        model = nn.Sequential(nn.Linear(5, 1), nn.Dropout(0.3))
        model.load_state_dict(self.weights)
        return model

    def run(self, model: nn.Module, recipe: Recipe, stop_after: int | None = None, **options: Any) -> TrainingLog:
        """Train; raise KeyboardInterrupt at the first step after ``stop_after`` epochs."""
        steps = math.ceil(SAMPLES / (recipe.batch_size or SAMPLES))
        self.calls = 0

        def losses(rows: Tensor) -> dict[str, Tensor]:
            if stop_after is not None and self.calls == stop_after * steps:
                raise KeyboardInterrupt
            self.calls += 1
            error = model(self.x[rows]) - self.y[rows]
            return {"loss": error.square().mean(), "absolute": error.detach().abs().mean()}

        return train(model, SAMPLES, losses, recipe, **options)

    def error(self, model: nn.Module) -> float:
        return (model(self.x) - self.y).square().mean().item()


@pytest.fixture
def task() -> Regression:
    return Regression()


RECIPES = {
    "sgd": Recipe(epochs=7, batch_size=10, lr=0.5, seed=3),
    "adamw": Recipe(epochs=7, batch_size=10, lr=0.5, optimizer="adamw", weight_decay=0.1, clip=None, seed=3),
    "average": Recipe(epochs=7, batch_size=10, lr=0.5, ema=0.8, seed=3),
}


@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize("optimizer", RECIPES)
@pytest.mark.parametrize("stop_after", [0, 1, 4, 6])
def test_a_stopped_run_goes_on_to_the_same_bits(
    task: Regression, tmp_path: Path, stop_after: int, optimizer: str, evaluated: bool
) -> None:
    def options(model: nn.Module) -> dict[str, Any]:
        return {"evaluate": lambda: -task.error(model)} if evaluated else {}

    recipe = RECIPES[optimizer]
    whole = task.model()
    log = task.run(whole, recipe, **options(whole))
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        task.run(model := task.model(), recipe, stop_after, checkpoint=path, **options(model))
    torch.rand(3)  # what happens in between does not matter
    resumed = task.model()
    again = task.run(resumed, recipe, checkpoint=path, **options(resumed))
    assert task.calls == 3 * (7 - stop_after)
    assert again == log
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    # A run that is over is read, not repeated.
    finished = task.model()
    assert task.run(finished, recipe, checkpoint=path, **options(finished)) == log
    assert task.calls == 0
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), finished.parameters(), strict=True))


def test_equals_steps_written_out(task: Regression) -> None:
    """Gradient descent with momentum, clipping and schedule, from the formulas, in float64."""
    recipe = Recipe(epochs=5, batch_size=SAMPLES, lr=2.0, momentum=0.5, weight_decay=0.01, clip=0.7, warmup=0.4)
    model = nn.Sequential(nn.Linear(5, 1)).double()
    model.load_state_dict(task.weights)
    x, y = task.x.double(), task.y.double()
    train(model, SAMPLES, lambda rows: {"loss": (model(x[rows]) - y[rows]).square().mean()}, recipe)
    w, b = task.weights["0.weight"][0].double(), torch.zeros(1, dtype=torch.float64)
    speed_w, speed_b = torch.zeros_like(w), torch.zeros_like(b)
    for epoch in range(5):
        error = x @ w + b - y[:, 0]
        grad_w, grad_b = 2 * (error @ x) / SAMPLES, 2 * error.mean()
        scale = min(1.0, 0.7 / math.sqrt(float(grad_w @ grad_w + grad_b**2)))
        peak = 2.0 * SAMPLES / 256
        rate = peak * (0.01 + 0.99 * epoch / 2) if epoch < 2 else peak * (1 + math.cos(math.pi * (epoch - 2) / 3)) / 2
        speed_w = 0.5 * speed_w + scale * grad_w + 0.01 * w
        speed_b = 0.5 * speed_b + scale * grad_b
        w, b = w - rate * speed_w, b - rate * speed_b
    # Clipping divides by the norm plus 1e-6.
    torch.testing.assert_close(model[0].weight[0], w, rtol=0, atol=1e-5)
    torch.testing.assert_close(model[0].bias, b, rtol=0, atol=1e-5)


def test_the_best_epoch_is_kept(task: Regression) -> None:
    scores = iter([0.1, 0.5, 0.3, 0.5, 0.2])
    model, seen = task.model(), []

    def evaluate() -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append([p.clone() for p in model.parameters()])
        return next(scores)

    log = task.run(model, Recipe(epochs=5, batch_size=6), evaluate=evaluate)
    assert log.best_epoch == 1, "of equal scores the earlier one counts"
    assert [epoch["score"] for epoch in log.epochs] == [0.1, 0.5, 0.3, 0.5, 0.2]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), seen[1], strict=True))
    assert not model.training


def test_of_equal_scores_the_lower_loss_counts(task: Regression) -> None:
    found = [(0.1, 0.2), (0.5, 0.9), (0.5, 0.7), (0.5, 0.7), (0.4, 0.1), (0.5, 0.8)]
    steps = iter(found)

    def evaluate() -> dict[str, float]:
        score, loss = next(steps)
        return {"score": score, "val_loss": loss}

    log = task.run(task.model(), Recipe(epochs=6, batch_size=24), evaluate=evaluate)
    assert log.best_epoch == 2
    assert [(epoch["score"], epoch["val_loss"]) for epoch in log.epochs] == found


def test_the_smallest_score_is_kept_where_that_is_better(task: Regression) -> None:
    scores = iter([0.5, 0.2, 0.4, 0.2, 0.3])
    log = task.run(task.model(), Recipe(epochs=5, batch_size=6), evaluate=lambda: next(scores), maximize=False)
    assert log.best_epoch == 1


def test_patience(task: Regression, tmp_path: Path) -> None:
    """Three epochs that are no better, of which the first is as good, end the run, and end it for good."""
    values = [0.1, 0.5, 0.2, 0.6, 0.6, 0.3, 0.1, 9.0]
    scores = iter(values)
    recipe = Recipe(epochs=8, batch_size=24, patience=3)
    options: dict[str, Any] = {"recipe": recipe, "evaluate": lambda: next(scores), "checkpoint": tmp_path / "run.pt"}
    log = task.run(task.model(), **options)
    assert [epoch["score"] for epoch in log.epochs] == values[:7]
    assert (log.best_epoch, log.stopped) == (3, "patience")
    assert task.run(task.model(), **options) == log
    assert task.calls == 0
    with pytest.raises(ValueError, match="patience is 3, but nothing is evaluated; pass evaluate, or patience=None"):
        task.run(task.model(), recipe)


def test_time(task: Regression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No epoch begins once the time is used up, that of the run before it was stopped included."""
    clock = itertools.count(step=30.0)
    monkeypatch.setattr("graphattn.engine.loop.time.perf_counter", lambda: next(clock))
    recipe, path = Recipe(epochs=9, batch_size=24), tmp_path / "run.pt"
    log = task.run(task.model(), recipe, max_minutes=1.0, checkpoint=path)
    assert (log.seconds, log.stopped) == ([30.0, 30.0], "time")
    log = task.run(task.model(), recipe, max_minutes=1.6, checkpoint=path)
    assert (log.seconds, log.stopped, task.calls) == ([30.0] * 4, "time", 2)
    assert task.run(task.model(), recipe, checkpoint=path) == task.run(task.model(), recipe)
    with pytest.raises(ValueError, match="max_minutes is -1; expected a positive number, or None"):
        task.run(task.model(), recipe, max_minutes=-1)


def test_lines_of_metrics(task: Regression, tmp_path: Path) -> None:
    """Each epoch has one line, whatever a run that was stopped has written."""
    lines, recipe = tmp_path / "run.jsonl", Recipe(epochs=4, batch_size=10)
    options: dict[str, Any] = {"metrics": lines, "checkpoint": tmp_path / "run.pt"}
    with pytest.raises(KeyboardInterrupt):
        task.run(task.model(), recipe, 2, **options)
    assert len(lines.read_text().splitlines()) == 2
    with lines.open("a") as file:
        file.write('{"epoch": 2, "loss"')  # killed while it was written, before the checkpoint
    log = task.run(task.model(), recipe, **options)
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert found == [{"epoch": number, **epoch} for number, epoch in enumerate(log.epochs)]


def test_one_batch_of_all_samples(task: Regression) -> None:
    """It takes the learning rate as it is."""
    recipe = Recipe(epochs=3, batch_size=None, lr=0.1)
    assert recipe.rate(0.6) == pytest.approx(0.1)
    log = task.run(model := task.model(), recipe)
    assert task.calls == 3
    same = task.run(other := task.model(), Recipe(epochs=3, batch_size=SAMPLES, lr=0.1 * 256 / SAMPLES))
    assert log.epochs == [pytest.approx(epoch, rel=1e-6) for epoch in same.epochs]
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_losses_are_means_over_samples(task: Regression) -> None:
    """The last batch is smaller, and counts for less."""
    model = task.model().eval()
    model[1].p = 0.0
    log = task.run(model, Recipe(epochs=1, batch_size=10, lr=1e-30))
    truth = (task.x @ task.weights["0.weight"].T - task.y).double()
    assert log.epochs[0]["loss"] == pytest.approx(truth.square().mean().item(), rel=1e-6)
    assert log.epochs[0]["absolute"] == pytest.approx(truth.abs().mean().item(), rel=1e-6)
    assert log.best_epoch == 0


def test_every_sample_once_an_epoch(task: Regression) -> None:
    model, seen = task.model(), []

    def losses(rows: Tensor) -> dict[str, Tensor]:
        seen.append(rows)
        return {"loss": model(task.x[rows]).square().mean()}

    train(model, SAMPLES, losses, Recipe(epochs=2, batch_size=10))
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert [rows.numel() for rows in seen] == [10, 10, 4] * 2
    assert torch.equal(first.sort().values, torch.arange(SAMPLES))
    assert torch.equal(second.sort().values, torch.arange(SAMPLES))
    assert not torch.equal(first, second)


def test_random_numbers_of_others_are_left_alone(task: Regression) -> None:
    model = task.model()
    before = torch.get_rng_state()
    task.run(model, RECIPES["sgd"])
    assert torch.equal(torch.get_rng_state(), before)
    a, b = (task.run(task.model(), Recipe(epochs=2, seed=seed)).epochs for seed in (0, 1))
    assert a != b


@pytest.mark.parametrize("change", [{"config": {"width": 2}}, {"recipe": Recipe(epochs=8, batch_size=10, seed=3)}])
def test_a_checkpoint_of_another_run_is_refused(task: Regression, tmp_path: Path, change: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"recipe": RECIPES["sgd"], "config": {"width": 1}, "checkpoint": tmp_path / "run.pt"}
    task.run(task.model(), **asked)
    with pytest.raises(ValueError, match=r"belongs to another run; (width is 2 but was 1|recipe is .*'epochs': 8)"):
        task.run(task.model(), **(asked | change))


def test_a_loss_that_is_not_finite_stops(task: Regression) -> None:
    model = task.model()
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 0, step 0; lower lr"):
        train(model, 4, lambda rows: {"loss": model(task.x[rows]).sum() * torch.nan}, Recipe(epochs=1))


def test_no_samples(task: Regression) -> None:
    with pytest.raises(ValueError, match="num_samples is 0; expected at least one"):
        train(task.model(), 0, lambda rows: {}, Recipe())


def test_progress_goes_to_stderr(task: Regression, capsys: pytest.CaptureFixture[str]) -> None:
    task.run(task.model(), Recipe(epochs=2))
    assert capsys.readouterr() == ("", "")
    task.run(task.model(), Recipe(epochs=2), progress=True)
    out, err = capsys.readouterr()
    assert "epochs" not in out
    assert "2/2" in err
    assert "loss=" in err


# Averages of weights ##################################################################################################


def test_average_by_its_definition() -> None:
    """The plain mean of the first steps, then the recursion; counts are not averaged."""
    model = nn.BatchNorm1d(3, dtype=torch.float64)
    average = WeightAverage(model, 0.75)
    steps = torch.randn(7, 3, dtype=torch.float64)
    expected = steps[:4].mean(0)
    for step in steps[4:]:
        expected = 0.75 * expected + 0.25 * step
    for number, step in enumerate(steps):
        with torch.no_grad():
            model.weight.copy_(step)
            model.running_mean.copy_(-step)
            model.num_batches_tracked.fill_(number)
        average.update()
    with average.applied():
        torch.testing.assert_close(model.weight, nn.Parameter(expected), rtol=0, atol=1e-15)
        torch.testing.assert_close(model.running_mean, -expected, rtol=0, atol=1e-15)
        assert model.num_batches_tracked == 6
    assert torch.equal(model.weight, steps[6])


@pytest.mark.parametrize("evaluated", [False, True])
def test_the_average_is_judged_and_kept_and_training_does_not_see_it(task: Regression, evaluated: bool) -> None:
    recipe = Recipe(epochs=6, batch_size=24, lr=1.0)
    steps: list[dict[str, Tensor]] = []
    plain = task.model()
    options: dict[str, Any] = {"evaluate": lambda: steps.append(copy.deepcopy(plain.state_dict())) or 0.0}
    log = task.run(plain, recipe, **options)
    means = {name: torch.stack([step[name] for step in steps]).mean(0) for name in steps[0]}
    model, judged = task.model(), []
    evaluate = {"evaluate": lambda: judged.append(task.error(model)) or float(len(judged))} if evaluated else {}
    averaged = task.run(model, replace(recipe, ema=0.99), **evaluate)
    assert [epoch["loss"] for epoch in averaged.epochs] == [epoch["loss"] for epoch in log.epochs]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, means[name], rtol=0, atol=1e-6)
    if evaluated:
        assert judged[-1] == task.error(model)


# Recipe ###############################################################################################################


def test_published_recipe() -> None:
    recipe = Recipe()
    # 20 epochs from 1e-3 to 0.1, both times 64/256, then a cosine to 0.
    expected = {0: 2.5e-4, 10: (1e-3 + 0.1) / 2 / 4, 20: 0.025, 60: 0.0125, 100: 0.0}
    assert {epoch: recipe.rate(epoch) for epoch in expected} == pytest.approx(expected, abs=1e-15)
    assert Recipe(batch_size=64).rate(20) == pytest.approx(0.025 / 4)


def test_no_warmup() -> None:
    assert [Recipe(epochs=4, warmup=0.0).rate(epoch) for epoch in (0, 2, 4)] == pytest.approx([0.025, 0.0125, 0.0])


def test_constant_rate_after_the_warmup() -> None:
    recipe = Recipe(epochs=4, batch_size=None, lr=0.1, schedule="constant", warmup=0.5, warmup_start=0.0)
    assert [recipe.rate(epoch) for epoch in (0, 1, 2, 3, 4)] == pytest.approx([0.0, 0.05, 0.1, 0.1, 0.1])


def test_weight_decay_of_adam_is_a_part_of_the_gradient(task: Regression) -> None:
    """Two steps from the formulas, in float64: the first moments are those of the gradient plus the decay."""
    constant: dict[str, Any] = {"schedule": "constant", "warmup": 0.0, "clip": None}
    recipe = Recipe(epochs=2, batch_size=None, lr=0.1, optimizer="adam", weight_decay=0.5, **constant)
    model = nn.Sequential(nn.Linear(5, 1)).double()
    model.load_state_dict(task.weights)
    x, y = task.x.double(), task.y.double()
    train(model, SAMPLES, lambda rows: {"loss": (model(x[rows]) - y[rows]).square().mean()}, recipe)
    w, b = task.weights["0.weight"][0].double(), torch.zeros((), dtype=torch.float64)
    first, second = [torch.zeros(6, dtype=torch.float64) for _ in range(2)]
    for step in (1, 2):
        error = x @ w + b - y[:, 0]
        gradient = torch.cat([2 * error @ x / SAMPLES + 0.5 * w, (2 * error.mean() + 0.5 * b).reshape(1)])
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        move = 0.1 * first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        w, b = w - move[:5], b - move[5]
    torch.testing.assert_close(model[0].weight[0], w, rtol=0, atol=1e-12)
    torch.testing.assert_close(model[0].bias[0], b, rtol=0, atol=1e-12)


def test_vectors_have_no_weight_decay_but_with_adam() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    model[2].bias.requires_grad_(False)
    for name, kind in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        optimizer = Recipe(optimizer=name, weight_decay=0.3).make_optimizer(model)
        assert type(optimizer) is kind
        decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        vectors = [model[0].bias, *model[1].parameters()]
        expected = {model[0].weight: 0.3, model[2].weight: 0.3, **dict.fromkeys(vectors, 0.3 * (name == "adam"))}
        assert decays == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected an integer, at least 1"),
        ({"batch_size": 2.0}, "batch_size is 2.0; expected an integer, at least 1, or None"),
        ({"patience": 0}, "patience is 0; expected an integer, at least 1, or None"),
        ({"seed": -1}, "seed is -1; expected an integer, at least 0"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; expected 'sgd' or 'adam' or 'adamw'"),
        ({"schedule": "step"}, "schedule is 'step'; expected 'cosine' or 'constant'"),
        ({"momentum": 1.0}, r"momentum is 1.0; expected a number in \[0, 1\)"),
        ({"warmup": 1.0}, r"warmup is 1.0; expected a number in \[0, 1\)"),
        ({"warmup_start": 2.0}, "warmup_start is 2.0; expected a fraction"),
        ({"lr": 0.0}, "lr is 0.0; expected a positive number"),
        ({"lr": math.nan}, "lr is nan; expected a positive number"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; expected a number of at least 0"),
        ({"ema": 1.0}, r"ema is 1.0; expected a number in \(0, 1\), or None"),
        ({"clip": 0.0}, "clip is 0.0; expected a positive number, or None"),
    ],
)
def test_bad_recipes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


# Checkpoints ##########################################################################################################


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    config = {"width": 3, "clip": None, "names": ["a"], "deep": {"x": 0.1}}
    save_checkpoint(path, config, model={"w": torch.arange(3.0)}, best=None)
    state = load_checkpoint(path, config)
    assert state["config"] == config
    assert state["best"] is None
    assert torch.equal(state["model"]["w"], torch.arange(3.0))
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, {}, value=1)
    with pytest.raises(AttributeError):
        save_checkpoint(path, {}, value=lambda: None)
    assert load_checkpoint(path)["value"] == 1


class _Code:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (exec, ("raise AssertionError('code of the file was run')",))


def _write_code(path: Path) -> None:
    torch.save({"version": 1, "config": {}, "model": _Code()}, path)


def _write_text(path: Path) -> None:
    path.write_text("no checkpoint")


def _write_half(path: Path) -> None:
    save_checkpoint(path, {}, value=torch.arange(1000))
    path.write_bytes(path.read_bytes()[:2000])


def _write_nothing(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize("write", [_write_code, _write_text, _write_half, _write_nothing])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "run.pt")
    with pytest.raises(
        ValueError, match=r"run\.pt is no checkpoint \(.+\); expected what save_checkpoint wrote"
    ) as caught:
        load_checkpoint(tmp_path / "run.pt")
    assert "weights_only" not in str(caught.value)  # torch's advice, which would let the file run code


def test_checkpoints_of_others(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    torch.save({"weights": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="no checkpoint of this library"):
        load_checkpoint(path)
    torch.save({"version": 99, "config": {}}, path)
    with pytest.raises(ValueError, match="has version 99, this library reads version 1"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "nothing.pt")


# Seeds ################################################################################################################


def test_seeded_streams() -> None:
    def draw(*key: int) -> list[float]:
        with seeded(*key):
            return torch.rand(4).tolist()

    before = torch.get_rng_state()
    assert draw(0, 1) == draw(0, 1)
    different = [draw(*key) for key in ((0, 1), (1, 0), (0, 2), (1, 1), (2**40, 1))]
    assert len({tuple(values) for values in different}) == 5
    assert torch.equal(torch.get_rng_state(), before)


def test_zeros_at_the_end_of_a_key_count_for_nothing() -> None:
    with seeded(3):
        first = torch.rand(4)
    with seeded(3, 0):
        assert torch.equal(torch.rand(4), first)


@pytest.mark.parametrize("key", [(), (-1,), (0, -2)])
def test_bad_keys(key: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected integers of at least 0"), seeded(*key):
        pass
