"""Which cells are hidden, which enter the loss, and what the loss is."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.models.table_masking import annealed, mask_table, table_loss

CATEGORIES = [0, 4, 0, 3]


def table(n: int = 2000) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.full((n, 4), 5.0)
    x[:, 1] = torch.randint(4, (n,), generator=generator)
    x[:, 3] = torch.randint(3, (n,), generator=generator)
    return x, torch.zeros(n, 4, dtype=torch.bool)


def within_sigmas(count: int, total: int, p: float) -> bool:
    return abs(count - total * p) <= 4 * math.sqrt(total * p * (1 - p))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_masks_have_their_probabilities() -> None:
    x, hidden = table()
    masked = mask_table(x, hidden, CATEGORIES, 1, p=0.15, p_target=0.4, generator=generator())
    features, selected = masked.scored[:, :3], int(masked.scored[:, :3].sum())
    assert within_sigmas(selected, features.numel(), 0.15)
    assert within_sigmas(int((features & masked.hidden[:, :3]).sum()), selected, 0.9)
    assert within_sigmas(int(masked.scored[:, 3].sum()), len(x), 0.4)
    assert torch.equal(masked.hidden[:, 3], masked.scored[:, 3])  # no target is shown wrong
    assert not (masked.hidden & ~masked.scored).any()
    wrong = masked.scored & ~masked.hidden
    assert torch.equal(masked.x[~wrong], x[~wrong])
    codes, noise = masked.x[wrong[:, 1], 1], masked.x[wrong[:, 0], 0]
    for code in range(4):
        assert within_sigmas(int((codes == code).sum()), codes.numel(), 0.25)
    assert abs(float(noise.mean())) < 4 / math.sqrt(noise.numel())
    assert set(codes.tolist()) <= {0.0, 1.0, 2.0, 3.0}


def test_with_probability_one_all_targets_are_masked_every_time() -> None:
    x, hidden = table(50)
    masks = [mask_table(x, hidden, CATEGORIES, 2, p=0.0, p_target=1.0, generator=generator(i)) for i in range(2)]
    for masked in masks:
        assert torch.equal(masked.x, x)
        assert masked.hidden[:, 2:].all()
        assert not masked.hidden[:, :2].any()
        assert torch.equal(masked.scored, masked.hidden)


@pytest.mark.parametrize("compat", [None, "npt"])
def test_missing_cells_and_unknown_categories_are_never_scored(compat: str | None) -> None:
    x, hidden = table(300)
    hidden[::2] = True
    x[1::4, 1] = -1.0
    masked = mask_table(x, hidden, CATEGORIES, 1, p=1.0, p_target=1.0, compat=compat, generator=generator())
    assert not masked.scored[::2].any()
    assert masked.hidden[::2].all()
    assert not masked.scored[1::4, 1].any()
    assert masked.scored[3::4].all()


def test_the_table_is_not_changed() -> None:
    x, hidden = table(100)
    before = x.clone(), hidden.clone()
    mask_table(x, hidden, CATEGORIES, 1, p=0.9, generator=generator())
    assert torch.equal(x, before[0])
    assert torch.equal(hidden, before[1])


@pytest.mark.parametrize(("selected", "wrong"), [(3, 2), (100, 11), (1, 1), (10, 2), (0, 0)])
def test_compat_shows_one_more_wrong(selected: int, wrong: int) -> None:
    x, hidden = torch.randn(1, selected + 1), torch.zeros(1, selected + 1, dtype=torch.bool)
    masked = mask_table(x, hidden, [0] * (selected + 1), 1, p=1.0, compat="npt", generator=generator())
    assert int(masked.scored[:, :-1].sum()) == selected
    assert int((masked.scored & ~masked.hidden).sum()) == wrong


def test_compat_draws_a_rounded_normal_number_of_cells() -> None:
    x, hidden = torch.randn(40, 5), torch.zeros(40, 5, dtype=torch.bool)
    for seed in range(20):
        wobble = float(torch.randn((), generator=generator(seed)))
        masked = mask_table(x, hidden, [0] * 5, 1, p=0.15, compat="npt", generator=generator(seed))
        expected = int(160 * 0.15 + math.sqrt(160 * 0.15 * 0.85) * wobble)
        assert int(masked.scored[:, :-1].sum()) == max(0, expected)


def outputs(n: int, categories: list[int]) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(n, max(1, c), dtype=torch.float64, requires_grad=True) for c in categories]


def test_the_loss_is_a_mean_over_selected_cells() -> None:
    x, _ = table(7)
    x = x.double()
    scored = torch.rand(7, 4, generator=generator()) < 0.5
    predicted = outputs(7, CATEGORIES)
    found = table_loss(predicted, x, scored, CATEGORIES, 2, 0.3)
    sums, counts = [0.0, 0.0], [0, 0]
    values = [output.detach() for output in predicted]
    for i in range(7):
        for j in range(4):
            if scored[i, j]:
                part = j >= 2
                if CATEGORIES[j]:
                    sums[part] -= float(values[j][i].log_softmax(0)[int(x[i, j])])
                else:
                    sums[part] += float(values[j][i, 0] - x[i, j]) ** 2
                counts[part] += 1
    features, targets = (total / count for total, count in zip(sums, counts, strict=True))
    found = {name: value.detach() for name, value in found.items()}
    eps = 100 * torch.finfo(torch.float64).eps
    assert float(found["feature_loss"]) == pytest.approx(features, rel=eps)
    assert float(found["target_loss"]) == pytest.approx(targets, rel=eps)
    assert float(found["loss"]) == pytest.approx(0.7 * targets + 0.3 * features, rel=eps)


def test_the_loss_ignores_cells_that_are_not_selected() -> None:
    x, _ = table(7)
    scored = torch.rand(7, 4, generator=generator()) < 0.5
    predicted = outputs(7, CATEGORIES)
    expected = table_loss(predicted, x.double(), scored, CATEGORIES, 1, 0.5)["loss"]
    other = torch.where(scored, x.double(), torch.nan)
    assert torch.equal(table_loss(predicted, other, scored, CATEGORIES, 1, 0.5)["loss"], expected)
    gradients = torch.autograd.grad(expected, predicted)
    for column, gradient in enumerate(gradients):
        assert torch.equal(gradient.abs().sum(1) > 0, scored[:, column])


def test_a_part_without_selected_cells_is_zero() -> None:
    x, _ = table(4)
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    found = table_loss(outputs(4, CATEGORIES), x.double(), nothing, CATEGORIES, 1, 0.5)
    assert {name: value.item() for name, value in found.items()} == {
        "loss": 0.0,
        "target_loss": 0.0,
        "feature_loss": 0.0,
    }
    found["loss"].backward()  # a step that selects nothing moves nothing, and does not fail
    only_target = table_loss(outputs(4, [2]), torch.ones(4, 1), ~nothing[:, :1], [2], 1, 0.5)
    assert only_target["feature_loss"].item() == 0.0
    expected = F.cross_entropy(outputs(4, [2])[0], torch.ones(4).long())
    assert only_target["target_loss"].item() == pytest.approx(expected.item(), rel=1e-14)


def test_the_weight_of_the_features_falls_to_zero() -> None:
    steps = [annealed(i / 10) for i in range(11)]
    assert steps[0] == 1.0
    assert steps[-1] == 0.0
    assert steps == sorted(steps, reverse=True)
    assert annealed(0.3, 0.5) == 0.5 * steps[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.5}, r"p is 1.5; expected a probability in \[0, 1\]"),
        ({"p_target": -0.1}, r"p_target is -0.1; expected a probability"),
        ({"compat": "saint"}, "compat is 'saint'; expected one of None, 'npt'"),
    ],
)
def test_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_table(*table(3), CATEGORIES, **options)
