"""The packaged model: its heads have the roles that its training is for, and taking them away shows that they do."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from graphattn.analysis.capture import capture
from graphattn.analysis.probe_model import WEIGHTS, ProbeModel, load_probe_model, repetition_loss, save_probe_model
from graphattn.analysis.roles import HeadRoles, head_roles, repeated_tokens

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "head_roles.json"


@pytest.fixture(scope="module")
def model() -> ProbeModel:
    return load_probe_model().double()


def _probes(count: int, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([repeated_tokens(length, 32, generator=generator) for _ in range(count)])


def _roles(model: ProbeModel, ids: torch.Tensor) -> HeadRoles:
    return head_roles(capture(model, ids[None], head_outputs=False).maps(causal=True), ids)


def _loss(model: torch.nn.Module, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return repetition_loss(model, ids).item()


def _tiny() -> ProbeModel:
    torch.manual_seed(0)
    return ProbeModel(vocab_size=9, max_length=12, dim=8, num_layers=2, heads=2).double().eval()


def _by_formula(model: ProbeModel, ids: torch.Tensor) -> torch.Tensor:
    """The model, head by head."""
    length, width = len(ids), model.token.embedding_dim // model.heads
    x = model.token.weight[ids]
    for norm, layer in zip(model.norms, model.layers, strict=True):
        values = norm(x)
        keys = values + model.position.weight[:length]
        W_q, W_k, W_v = layer.in_proj_weight.chunk(3)
        out = torch.zeros_like(x)
        for head in range(model.heads):
            own = slice(head * width, (head + 1) * width)
            scores = (keys @ W_q[own].T) @ (keys @ W_k[own].T).T / math.sqrt(width)
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
            out = out + scores.softmax(dim=1) @ (values @ W_v[own].T) @ layer.out_proj.weight[:, own].T
        x = x + out
    return model.norm(x) @ model.output.weight.T


@pytest.mark.parametrize("length", [8, 20])
def test_the_packaged_heads_have_their_roles(model: ProbeModel, length: int) -> None:
    excess = np.mean([list(_roles(model, ids).excess["induction"]) for ids in _probes(4, length, 1)], axis=0)
    assert excess.max() > 0.5
    assert excess[:2].max() < 0.3, "a first layer has nothing to find what followed with"
    labels = _roles(model, _probes(1, length, 2)[0]).labels()
    assert "induction" in labels[2:]
    assert "previous" in labels[:2]


@pytest.mark.parametrize("length", [8, 20])
def test_removing_a_head_with_a_role_hurts_more_than_a_random_one(model: ProbeModel, length: int) -> None:
    ids = _probes(16, length, 3)
    roles = _roles(model, ids[0])
    whole = _loss(model, ids)
    rises = np.array([_loss(model.without_heads((layer, head)), ids) - whole for layer, head in roles.heads.tolist()])
    named = np.isin(roles.labels(), ("previous", "induction"))
    assert 2 <= named.sum() < len(named)
    assert whole < 0.1
    assert rises[named].min() > rises.mean(), "the mean is what a head drawn at random costs"
    assert rises[named].min() > 10 * rises[~named].max()


def test_metrics_are_those_that_were_recorded(model: ProbeModel) -> None:
    recorded = json.loads(RESULTS.read_text())
    expected = recorded["models"]["0"]
    generator = torch.Generator().manual_seed(10_000)
    draws = [torch.stack([repeated_tokens(20, 32, generator=generator) for _ in range(16)]) for _ in range(2)]
    found = [_roles(model, ids) for ids in draws[0]]
    for role, scores in expected["scores"].items():
        np.testing.assert_allclose(np.mean([roles.scores[role] for roles in found], axis=0), scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found[0].chance[role], expected["chance"][role], rtol=0, atol=1e-6)
    assert _loss(model, draws[1]) == pytest.approx(expected["loss"], abs=1e-6)
    alone = [_loss(model.without_heads((layer, head)), draws[1]) for layer, head in expected["heads"]]
    np.testing.assert_allclose(alone, expected["loss_without"], rtol=0, atol=1e-6)


def test_every_recorded_model_confirms_the_roles() -> None:
    """In each model that was trained, every head with a role costs more than a head drawn at random."""
    models = json.loads(RESULTS.read_text())["models"]
    assert len(models) == 5
    for seed, entry in models.items():
        rises = np.array(entry["loss_without"]) - entry["loss"]
        named = np.isin(entry["labels"], ("previous", "induction"))
        assert rises[named].min() > rises.mean(), seed
        assert max(entry["scores"]["induction"]) - entry["chance"]["induction"] > 0.5, seed


def test_the_weights_are_small_and_hold_no_objects() -> None:
    assert WEIGHTS.stat().st_size < 200 * 1024
    with np.load(WEIGHTS, allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "fi" for name in file.files)


def test_the_model_is_its_formula() -> None:
    model = _tiny()
    ids = torch.tensor([3, 1, 4, 1, 5])
    torch.testing.assert_close(model(ids[None])[0], _by_formula(model, ids), rtol=1e-12, atol=1e-14)


def test_later_tokens_change_nothing() -> None:
    model, ids = _tiny(), torch.tensor([[3, 1, 4, 1, 5, 8]])
    changed = ids.clone()
    changed[0, 4:] = 2
    torch.testing.assert_close(model(ids)[:, :4], model(changed)[:, :4], rtol=1e-13, atol=1e-15)


def test_a_removed_head_contributes_nothing_and_the_model_stays() -> None:
    model, ids = _tiny(), torch.tensor([[3, 1, 4, 1, 5]])
    before = model(ids)
    width = 4
    removed = model.without_heads((1, 0))
    weight = model.layers[1].out_proj.weight.detach().clone()
    weight[:, :width] = 0.0
    assert torch.equal(removed.layers[1].out_proj.weight, weight)
    torch.testing.assert_close(removed(ids)[0], _by_formula(removed, ids[0]), rtol=1e-12, atol=1e-14)
    assert torch.equal(model(ids), before)
    # Without any head nothing but the token itself is left.
    alone = model.without_heads((0, 0), (0, 1), (1, 0), (1, 1))
    torch.testing.assert_close(alone(ids), model.output(model.norm(model.token(ids))), rtol=1e-12, atol=1e-14)
    assert torch.equal(model.without_heads()(ids), before)


def test_weights_of_a_head_are_views() -> None:
    model = _tiny()
    with torch.no_grad():
        for weight in model.head_weights(0, 1):
            weight.zero_()
    attention = model.layers[0]
    zero = attention.in_proj_weight.view(3, 2, 4, 8).abs().sum(dim=(0, 2, 3)) == 0
    assert zero.tolist() == [False, True]
    assert (attention.out_proj.weight.abs().sum(dim=0) == 0).tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize("bos", [0, None])
def test_the_loss_is_that_of_the_second_copy(bos: int | None) -> None:
    model = _tiny()
    ids = repeated_tokens(5, 9, bos=bos, generator=torch.Generator().manual_seed(0))
    logits = model(ids[None])[0]
    second = range(len(ids) - 4, len(ids))
    expected = np.mean([F.cross_entropy(logits[i - 1], ids[i]).item() for i in second])
    assert repetition_loss(model, ids[None]).item() == pytest.approx(expected, rel=1e-12)


def test_a_saved_model_is_the_same(tmp_path: Path) -> None:
    model, ids = _tiny(), torch.tensor([[3, 1, 4]])
    save_probe_model(model, tmp_path / "model.npz")
    loaded = load_probe_model(tmp_path / "model.npz")
    assert not loaded.training
    torch.testing.assert_close(loaded.double()(ids), model(ids), rtol=0, atol=1e-6)


def test_mistakes_are_named() -> None:
    model = _tiny()
    with pytest.raises(ValueError, match="ids has 13 tokens but the model has 12 positions"):
        model(torch.zeros(1, 13, dtype=torch.long))
    with pytest.raises(ValueError, match="ids has 3 tokens; expected two copies of at least two"):
        repetition_loss(model, torch.zeros(1, 3, dtype=torch.long))
