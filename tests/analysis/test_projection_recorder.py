"""Checkpoints of a layer hold what it makes of the rows at that time, and training does not notice."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import Tensor, nn

from graphattn.analysis import ProjectionRecorder
from graphattn.analysis.transport import trajectory
from graphattn.datasets import load
from graphattn.engine import Recipe, train
from graphattn.models import AttentionNet
from graphattn.nn import AttentionConv


class Net(nn.Module):
    """Two layers, with a dropout whose draws and a normalization whose statistics calls change."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x))))


def run(net: Net, x: Tensor, recorder: ProjectionRecorder | None = None, epochs: int = 4) -> list[Tensor]:
    """Train by the project's loop, evaluating each epoch; return the outputs of the evaluations."""
    outputs: list[Tensor] = []

    def evaluate() -> float:
        outputs.append(net(x))
        net(x)  # a second batch
        return -outputs[-1].square().mean().item()

    recipe = Recipe(epochs=epochs, batch_size=5, lr=0.5, seed=1)
    train(net, len(x), lambda rows: {"loss": (net(x[rows]) - 1).square().mean()}, recipe, evaluate=evaluate)
    return outputs


def test_a_checkpoint_for_the_first_weights_and_each_epoch() -> None:
    net, x = Net(), torch.randn(20, 3)
    first = copy.deepcopy(net).eval()
    with ProjectionRecorder(net, net.last, {"x": x[:8]}) as recorder:
        outputs = run(net, x)
    assert recorder.steps == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(recorder.checkpoints[0], first(x[:8]).detach().numpy())
    for projection, output in zip(recorder.checkpoints[1:], outputs, strict=True):
        np.testing.assert_allclose(projection, output[:8].numpy(), atol=1e-6)  # other blocks of rows, other rounding


def test_training_gives_the_same_bits() -> None:
    net, x = Net(), torch.randn(20, 3)
    alone = copy.deepcopy(net)
    run(alone, x)
    with ProjectionRecorder(net, net.norm, {"x": x}) as recorder:
        run(net, x)
    assert len(recorder.steps) == 5
    for key, value in alone.state_dict().items():
        assert torch.equal(value, net.state_dict()[key]), key


def test_it_records_what_fit_trains() -> None:
    pytest.importorskip("lightning_fabric", reason="Lightning Fabric is not installed")
    from graphattn.training import fit

    task = load("karate")
    recipe = Recipe(epochs=3, batch_size=None, lr=0.05, optimizer="adamw")
    net = AttentionNet(task.num_features, 8, task.out_channels)
    alone = fit(net, task, recipe, progress=False)
    with ProjectionRecorder(
        net, net, {"x": task.data.x, "edge_index": task.data.edge_index}, rows=torch.tensor([3, 0, 5])
    ) as recorder:
        recorded = fit(net, task, recipe, progress=False)
    assert recorded == alone
    assert recorder.steps == [0, 1, 2, 3]
    assert recorder.checkpoints[0].shape == (3, task.out_channels)
    found = recorder.trajectory()
    assert found.distance > 0
    assert 0 < found.efficiency <= 1
    expected = trajectory(recorder.checkpoints)
    np.testing.assert_array_equal(found.wasserstein, expected.wasserstein)


def test_rows_are_taken_and_flattened() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.split(self.layer(x)).sum(1)

        def split(self, x: Tensor) -> Tensor:
            return x.view(-1, 2, 3)

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return x.view(-1, 2, 3), "weights"

    heads, x = Heads(), torch.randn(5, 2)
    plain = ProjectionRecorder(heads, heads.layer, {"x": x})
    plain.record()
    pair = nn.Sequential(heads.layer, Pair())
    rows = torch.tensor([4, 1])
    picked = ProjectionRecorder(pair, pair[1], {"input": x}, rows=rows)
    picked.record()
    np.testing.assert_array_equal(picked.checkpoints[0], plain.checkpoints[0][[4, 1]])


def test_checkpoints_are_its_own_and_at_least_single_precision() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False)).bfloat16()
    recorder = ProjectionRecorder(net, net[0], {"input": torch.eye(2, dtype=torch.bfloat16)})
    recorder.record()
    before = recorder.checkpoints[0].copy()
    with torch.no_grad():
        net[0].weight.zero_()
    recorder.record()
    assert before.dtype == np.float32
    np.testing.assert_array_equal(recorder.checkpoints[0], before)
    assert not recorder.checkpoints[1].any()


@pytest.mark.parametrize("most", [2, 3, 5, 8])
def test_memory_is_bounded_and_both_ends_are_kept(most: int) -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False))
    recorder = ProjectionRecorder(net, net[0], {"input": torch.ones(2, 1)}, max_checkpoints=most)
    for step in range(40):
        with torch.no_grad():
            net[0].weight.fill_(step)
        recorder.record()
        assert len(recorder.checkpoints) <= most
        assert len(recorder._kept) < most
        assert recorder.steps[0] == 0
        assert recorder.steps[-1] == step
        gaps = np.diff(recorder.steps)
        assert (gaps[:-1] == recorder._spacing).all()
        for kept, projection in zip(recorder.steps, recorder.checkpoints, strict=True):
            assert (projection == kept).all()
    assert recorder.trajectory().efficiency == 1.0
    assert len(recorder.steps) > most // 2


def test_modes_of_all_modules_are_put_back() -> None:
    net = Net().train()
    net.norm.eval()  # frozen, as in fine-tuning
    recorder = ProjectionRecorder(net, net.first, {"x": torch.randn(4, 3)})
    statistics = copy.deepcopy(net.norm.state_dict())
    recorder.record()
    assert [m.training for m in (net, net.first, net.norm, net.drop)] == [True, True, False, True]
    assert torch.equal(net.norm.running_mean, statistics["running_mean"])


def test_evaluations_before_training_are_no_checkpoints() -> None:
    net, x = Net(), torch.randn(6, 3)
    with ProjectionRecorder(net, net.first, {"x": x}) as recorder:
        net.eval()(x)
        assert recorder.steps == []
        net.train()(x)
        net.train()(x)
        assert recorder.steps == [0]
        net.eval()(x)
        net.eval()(x)
    assert recorder.steps == [0, 1]


def test_hooks_are_gone_after_an_error() -> None:
    net, x = Net(), torch.randn(6, 3)
    recorder = ProjectionRecorder(net, net.first, {"x": x})

    def interrupted() -> None:
        with recorder:
            net.train()(x)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert not net._forward_pre_hooks
    assert not net.first._forward_hooks
    net.eval()(x)
    assert recorder.steps == [0]


def test_hooks_and_modes_are_put_back_when_recording_fails() -> None:
    net, x = Net().train(), torch.randn(6, 3)
    recorder = ProjectionRecorder(net, net.first, {"x": x[:, :2]})
    with pytest.raises(RuntimeError, match="shapes"), recorder:
        net(x)
    assert not net._forward_pre_hooks
    assert not net.first._forward_hooks
    assert net.training
    assert net.drop.training
    assert recorder.steps == []
    net(x)


class Unused(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.first(x) @ self.first.weight)


class Named(nn.Identity):
    def forward(self, x: Tensor) -> Any:
        return {"x": x}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda n, x: ProjectionRecorder(n, nn.Linear(1, 1), {"x": x}), ValueError, "layer is a Linear that is not a"),
        (lambda n, x: ProjectionRecorder(n, n.first, {"x": x}, max_checkpoints=1), ValueError, "max_checkpoints is 1"),
        (lambda n, x: ProjectionRecorder(n, n.last, {"x": x}).record(), ValueError, "layer is called 0 times"),
        (lambda n, x: ProjectionRecorder(n, n.first, {"x": x}).record(), ValueError, "layer is called 2 times"),
        (lambda n, x: ProjectionRecorder(n, n.first, {"x": x}).trajectory(), ValueError, "checkpoints holds 0"),
    ],
)
def test_errors(call: Callable[[nn.Module, Tensor], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(Unused(), torch.randn(2, 3))


def test_a_layer_that_returns_no_tensor() -> None:
    net = nn.Sequential(nn.Linear(3, 3), Named())
    with pytest.raises(TypeError, match="layer returns a dict; expected a tensor"):
        ProjectionRecorder(net, net[1], {"input": torch.randn(2, 3)}).record()


@pytest.mark.parametrize("classes", [2, 3])
def test_attention_learns_a_nearly_optimal_map_by_a_detour(classes: int) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = AttentionConv(2, 8), nn.Linear(8, classes)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.head(self.attention(x, edge_index))

    X, y = make_blobs(45, centers=classes, cluster_std=1.5, random_state=0)
    x, target = torch.from_numpy((X - X.mean(0)) / X.std(0)).float(), torch.from_numpy(y)
    edge_index = torch.cartesian_prod(torch.arange(45), torch.arange(45)).T
    net = Classifier()

    def right() -> float:
        return (net(x, edge_index).argmax(1) == target).double().mean().item()

    recipe = Recipe(epochs=30, batch_size=15, lr=4.0, optimizer="adam")
    with ProjectionRecorder(net, net.attention, {"x": x, "edge_index": edge_index}) as recorder:
        loss = nn.CrossEntropyLoss()
        train(net, 45, lambda rows: {"loss": loss(net(x, edge_index)[rows], target[rows])}, recipe, evaluate=right)
    found = recorder.trajectory()
    assert found.end_optimality > 0.9
    assert found.efficiency < 0.5
