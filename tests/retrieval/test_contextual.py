"""The learned re-ranker: its formulas as loops in float64, its losses, its training, and what it is for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.engine import Recipe, load_checkpoint, save_checkpoint
from graphattn.models import ContextualEncoder
from graphattn.retrieval import AffinityFeatures, ContextualReranker
from graphattn.retrieval._contextual_data import read_views
from graphattn.retrieval._contextual_training import (
    ContextualTask,
    contrastive_loss,
    list_features,
    reconstruction_loss,
)
from tests.budget import assert_within_budget
from tests.retrieval.cases import (
    CONTRACT,
    Make,
    Problem,
    all_vectors_rotated,
    candidates_without_scores_in_another_order,
    problem,
    score_of,
)

EPS, EPS32 = torch.finfo(torch.float64).eps, torch.finfo(torch.float32).eps
SMALL: dict[str, Any] = {"num_anchors": 9, "width": 32, "depth": 1, "heads": 4}


def untrained(**options: Any) -> ContextualReranker:
    """A re-ranker with weights large enough for attention to matter."""
    reranker = ContextualReranker(**{**SMALL, **options})
    torch.manual_seed(5)
    reranker.encoder_ = ContextualEncoder(reranker.num_anchors, reranker.width, reranker.depth, reranker.heads).eval()
    with torch.no_grad():
        for parameter in reranker.encoder_.parameters():
            parameter.normal_(std=0.3)
    return reranker


def clusters(seed: int, classes: int = 12, size: int = 10, width: int = 12) -> tuple[Tensor, Tensor]:
    """Noisy classes around random centers."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, 1, width, generator=generator)
    x = centers + 0.8 * torch.randn(classes, size, width, generator=generator)
    return x.flatten(0, 1), torch.arange(classes).repeat_interleave(size)


def mean_precision(x: Tensor, y: Tensor, reranker: Any = None) -> float:
    """Mean average precision of leave-one-out search, as it comes or re-ranked."""
    similarity = F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
    indices = similarity.fill_diagonal_(-2.0).sort(dim=1, descending=True).indices[:, :-1]
    if reranker is not None:
        indices = reranker.rerank(x, x, indices).indices
    hit = (y[indices] == y.unsqueeze(1)).double()
    precision = hit.cumsum(1) / torch.arange(1, hit.size(1) + 1)
    return ((precision * hit).sum(1) / hit.sum(1)).mean().item()


# The score ############################################################################################################


def literal_features(query: list[float], found: list[list[float]], num_anchors: int, standardize: bool) -> Tensor:
    """Rows of similarities, from the definition."""
    nodes = [query, *found]
    anchors = nodes[:num_anchors]
    rows = [[sum(a * b for a, b in zip(node, anchor, strict=True)) for anchor in anchors] for node in nodes]
    if standardize:
        values = [v for row in rows for v in row]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        rows = [[(v - mean) / deviation for v in row] for row in rows]
    return torch.tensor([row + [0.0] * (num_anchors - len(row)) for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("num_anchors", [1, 9, 24, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_formula(num_anchors: int, standardize: bool, dtype: torch.dtype) -> None:
    """The encoder has its own literal form in its tests."""
    case = problem(dtype=dtype)
    reranker = untrained(num_anchors=num_anchors, standardize=standardize)
    lists = case.rerank(reranker)
    truths, plain, scores = [], [], []
    for row in range(len(case.queries)):
        nodes = torch.cat([case.queries[[row]], case.gallery[case.indices[row]]])
        unit = F.normalize(nodes.double(), dim=1).tolist()
        truths.append(coded(literal_features(unit[0], unit[1:], num_anchors, standardize), reranker.encoder_))
        rough = F.normalize(nodes, dim=1) @ F.normalize(nodes, dim=1)[:num_anchors].T
        rough = (rough - rough.mean()) / rough.std(correction=0) if standardize else rough
        plain.append(coded(F.pad(rough, (0, num_anchors - rough.size(1))), reranker.encoder_))
        scores.append(torch.empty(23).scatter(0, lists.order[row], lists.scores[row]))
    if dtype == torch.float32:
        assert_within_budget(torch.stack(scores), torch.stack(plain), torch.stack(truths))
    else:
        assert (torch.stack(scores) - torch.stack(truths)).abs().max() <= EPS32


def coded(features: Tensor, weights: ContextualEncoder) -> Tensor:
    """Cosines of the codes, in the dtype of the features."""
    encoder = ContextualEncoder(features.size(1), 32, 1, 4).to(features.dtype).eval()
    encoder.load_state_dict(weights.state_dict())
    with torch.no_grad():
        codes = encoder(features.unsqueeze(0), torch.ones(1, len(features), dtype=torch.bool))[0]
    return codes[1:] @ codes[0] / (codes[1:].norm(dim=1) * codes[0].norm())


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(
    "holds",
    [*(holds for holds in CONTRACT if holds is not candidates_without_scores_in_another_order), all_vectors_rotated],
    ids=lambda f: f.__name__,
)
def test_contract(holds: Callable[[Make], None], standardize: bool) -> None:
    """Which candidates are anchors, and in which column, is a matter of their ranks."""
    holds(lambda **options: untrained(standardize=standardize, **options))


@pytest.mark.parametrize("num_anchors", [6, 24, 30])
def test_identity_without_blocks_is_the_raw_score(num_anchors: int) -> None:
    case = problem()
    reranker = ContextualReranker(num_anchors, width=num_anchors, depth=0, heads=1, standardize=False)
    reranker.encoder_ = ContextualEncoder(num_anchors, num_anchors, 0, 1).eval()
    with torch.no_grad():
        nn.init.eye_(reranker.encoder_.embed.weight)
    learned, raw = case.rerank(reranker), case.rerank(AffinityFeatures(num_anchors))
    assert torch.equal(learned.indices, raw.indices)
    torch.testing.assert_close(learned.scores, raw.scores, rtol=0, atol=EPS32)


def test_scores_of_candidates_do_not_depend_on_their_places() -> None:
    """With the anchors kept, the order of all others is free."""
    case = problem(length=23)
    order = torch.cat([torch.arange(8), 8 + torch.randperm(15, generator=torch.Generator().manual_seed(1))])
    a = case.rerank(untrained())
    b = replace(case, indices=case.indices[:, order]).rerank(untrained())
    torch.testing.assert_close(score_of(a, 40), score_of(b, 40), rtol=0, atol=EPS32, equal_nan=True)


def test_missing_anchors_are_zero_and_more_are_cut() -> None:
    x = F.normalize(torch.randn(2, 7, 4, dtype=torch.float64), dim=2)
    mask = torch.tensor([[1, 1, 0, 1, 0, 0, 1], [1] * 7], dtype=torch.bool)
    x = x * mask.unsqueeze(2)
    for standardize in (False, True):
        features = list_features(x, mask, 5, standardize=standardize)
        for row in range(2):
            nodes = x[row, mask[row]].tolist()
            truth = literal_features(nodes[0], nodes[1:], 5, standardize)
            torch.testing.assert_close(features[row, mask[row]], truth[:, :5], rtol=0, atol=40 * EPS)
        assert (features[0, :, 4] == 0).all()
        assert (features[0, ~mask[0]] == 0).all()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e15])
def test_lists_without_contrast_are_not_blown_up(scale: float) -> None:
    """Copies of one vector differ by their rounding only; a list may be of zero vectors alone."""
    copies = (scale * torch.full((1, 6, 3), 1 / math.sqrt(3))).float()
    features = list_features(copies, torch.ones(1, 6, dtype=torch.bool), 4, standardize=True)
    assert features.abs().max() <= 6 * math.sqrt(EPS32)


def test_standardized_features_do_not_see_the_scale() -> None:
    x, mask = F.normalize(torch.rand(3, 7, 4, dtype=torch.float64), dim=2), torch.ones(3, 7, dtype=torch.bool)
    features = list_features(x, mask, 7, standardize=True)
    torch.testing.assert_close(features.mean((1, 2)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=50 * EPS)
    torch.testing.assert_close(features.std((1, 2), correction=0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(list_features(9 * x, mask, 7, standardize=True), features)


def test_blend_and_published_options() -> None:
    reranker = ContextualReranker()
    assert (reranker.top_k, reranker.blend, reranker.num_anchors, reranker.list_length) == (1024, 0.0, 512, 512)
    assert (reranker.width, reranker.depth, reranker.heads, reranker.dropout) == (768, 2, 12, 0.1)
    assert (reranker.temperature, reranker.reconstruction) == (2.0, 0.2)
    case = problem()
    assert torch.equal(case.rerank(untrained(blend=1.0)).indices, case.indices)


def test_a_broken_query_keeps_its_list() -> None:
    case = problem()
    queries = case.queries.clone()
    queries[1] = torch.nan
    lists = replace(case, queries=queries).rerank(untrained(nan_policy="last"))
    assert torch.equal(lists.indices[1], case.indices[1])
    assert torch.equal(lists.indices[[0, 2]], case.rerank(untrained()).indices[[0, 2]])


# The losses ###########################################################################################################


def literal_contrast(cosine: list[float], positive: list[bool], t: float) -> float:
    e = [math.exp(c / t) for c in cosine]
    return -math.log(sum(v for v, hit in zip(e, positive, strict=True) if hit) / sum(e))


def literal_reconstruction(affinity: list[list[float]], aligned: list[list[float]]) -> float:
    total = 0.0
    for f, g in zip(affinity, aligned, strict=True):
        length_f, length_g = math.sqrt(sum(v * v for v in f)), math.sqrt(sum(v * v for v in g))
        square = sum((a / length_f - b / length_g) ** 2 for a, b in zip(f, g, strict=True))
        total += math.sqrt(min(max(square, 1e-4), 1e4))
    return total / len(affinity)


@pytest.mark.parametrize("temperature", [0.05, 2.0])
def test_losses_equal_the_formulas(temperature: float) -> None:
    cosine = torch.rand(3, 8, dtype=torch.float64) * 2 - 1
    positive = torch.rand(3, 8) < 0.4
    positive[:, 0] = True
    truth = [literal_contrast(c.tolist(), p.tolist(), temperature) for c, p in zip(cosine, positive, strict=True)]
    assert contrastive_loss(cosine, positive, temperature).item() == pytest.approx(sum(truth) / 3, rel=1e-12)
    affinity, aligned = torch.randn(2, 3, 8, 5, dtype=torch.float64)
    aligned[1] = 2 * affinity[1]  # at no distance, which the clamp makes 0.01
    rows = [literal_reconstruction(f.tolist(), g.tolist()) for f, g in zip(affinity, aligned, strict=True)]
    assert rows[1] == pytest.approx(0.01)
    assert reconstruction_loss(affinity, aligned).item() == pytest.approx(sum(rows) / 3, rel=1e-12)


@pytest.mark.parametrize(("positives", "n"), [(1, 12), (5, 12), (11, 12), (20, 513)])
def test_floor_of_the_contrastive_loss(positives: int, n: int) -> None:
    """Positives on the query and all others opposite: nothing is below, whatever the codes."""
    t = 2.0
    positive = torch.arange(n).unsqueeze(0) < positives
    best = torch.where(positive, 1.0, -1.0).double()
    up, down = positives * math.exp(1 / t), (n - positives) * math.exp(-1 / t)
    floor = -math.log(up / (up + down))
    assert contrastive_loss(best, positive, t).item() == pytest.approx(floor, rel=1e-12)
    others = torch.rand(50, n, dtype=torch.float64) * 2 - 1
    others[:, 0] = 1.0
    assert all(contrastive_loss(c.unsqueeze(0), positive, t) > floor for c in others)


@pytest.mark.parametrize("temperature", [1e-3, 2.0])
@pytest.mark.parametrize("case", ["all", "query"])
def test_losses_and_gradients_are_finite_in_the_corners(case: str, temperature: float) -> None:
    cosine = torch.tensor([[1.0, -1.0, -1.0, -1.0]], requires_grad=True)
    positive = torch.tensor([[True, case == "all", case == "all", case == "all"]])
    loss = contrastive_loss(cosine, positive, temperature)
    loss.backward()
    assert loss.isfinite()
    assert cosine.grad is not None
    assert cosine.grad.isfinite().all()
    if case == "all":
        assert loss.item() == 0.0
        assert (cosine.grad == 0).all()
    zero = torch.zeros(1, 4, 3, requires_grad=True)
    rebuilt = reconstruction_loss(zero.detach(), zero)
    rebuilt.backward()
    assert rebuilt.item() == pytest.approx(0.01)
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def sample_task(**options: Any) -> ContextualTask:
    x, y = clusters(0, classes=4, size=5)
    [view] = read_views(x, None, y, normalize=True, nan_policy="raise")
    torch.manual_seed(0)
    encoder = ContextualEncoder(6, 8, 1, 2, dropout=0.0)
    whole = torch.ones(20, dtype=torch.bool)
    values = {"temperature": 2.0, "reconstruction": 0.2, "standardize": True, **options}
    return ContextualTask(encoder, [view.lists(whole, 11)], **values)


def test_training_lists() -> None:
    x, y = clusters(0, classes=4, size=5)
    x, y = x[torch.arange(20).roll(3)], y.roll(3)
    y[4] = -1
    [view] = read_views(x, None, y, normalize=True, nan_policy="raise")
    known = view.lists(y != 2, 11)
    kept = (y != 2).nonzero().squeeze(1)
    unit = F.normalize(x, dim=1)
    asked = [i for i in kept.tolist() if y[i] >= 0]
    assert len(known) == len(asked) == 14
    for row, i in enumerate(asked):
        others = [j for j in kept.tolist() if j != i]
        others.sort(key=lambda j: -float(unit[i] @ unit[j]))
        assert kept[known.ids[row]].tolist() == others[:11]
        assert known.positive[row].tolist() == [bool(y[j] == y[i]) for j in others[:11]]
        assert known.num_relevant[row] == sum(bool(y[j] == y[i]) for j in others)
        nodes = known.nodes(torch.tensor([row]))[0]
        torch.testing.assert_close(nodes, unit[[i, *others[:11]]])


def test_shuffled_candidates_keep_their_positives() -> None:
    task = sample_task()
    affinity, positive = task._features(torch.arange(20))
    mixed, hits = task._shuffled(affinity, positive)
    assert torch.equal(mixed[:, 0], affinity[:, 0])
    assert hits[:, 0].all()
    assert not torch.equal(mixed, affinity)
    for row in range(20):
        before = {(*f, bool(p)) for f, p in zip(affinity[row, 1:].tolist(), positive[row], strict=True)}
        after = {(*f, bool(p)) for f, p in zip(mixed[row, 1:].tolist(), hits[row, 1:], strict=True)}
        assert before == after


def test_anchors_are_taken_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    task = sample_task()
    seen: list[Tensor] = []
    monkeypatch.setattr(
        task.encoder, "forward", lambda affinity, mask: seen.append(affinity) or task.encoder.embed(affinity)
    )
    for _ in range(40):
        task.losses(torch.arange(20))
    kept = (torch.cat(seen) != 0).any(1).long()
    assert (kept.diff(dim=1) <= 0).all(), "the first anchors stay"
    counts = torch.bincount(kept.sum(1), minlength=7)[1:].double() / 800
    expected = torch.tensor([1 / 12] * 5 + [7 / 12], dtype=torch.float64)
    assert ((counts - expected).abs() <= 4 * (expected * (1 - expected) / 800).sqrt()).all()


def test_validation_precision_is_that_of_re_ranked_lists() -> None:
    x, y = clusters(1, classes=5, size=4)
    reranker = untrained()
    [view] = read_views(x, None, y, normalize=True, nan_policy="raise")
    task = ContextualTask(reranker.encoder_, [view.lists(y >= 0, 19)], 2.0, 0.2, True)
    with torch.no_grad():
        assert task.mean_average_precision() == pytest.approx(mean_precision(x, y, reranker), rel=1e-6)


# Training #############################################################################################################

RECIPE = Recipe(epochs=12, batch_size=24, lr=0.03, optimizer="adamw", seed=1)


@cache
def trained(standardize: bool = True) -> ContextualReranker:
    x, y = clusters(0)
    return ContextualReranker(**{**SMALL, "num_anchors": 60}, standardize=standardize).fit(
        x, labels=y, recipe=RECIPE, validation=0.25
    )


@pytest.mark.parametrize("standardize", [False, True])
def test_training_raises_precision_on_classes_never_seen(standardize: bool) -> None:
    reranker = trained(standardize)
    for seed in (7, 8):
        x, y = clusters(seed)
        first, raw = mean_precision(x, y), mean_precision(x, y, AffinityFeatures())
        assert mean_precision(x, y, reranker) > max(first, raw) + 0.02


def test_the_epoch_is_chosen_by_held_out_classes() -> None:
    log = trained().log_
    scores = [epoch["score"] for epoch in log.epochs]
    assert len(scores) == 12
    assert scores[log.best_epoch] == max(scores)
    assert log.epochs[-1]["loss"] == pytest.approx(
        log.epochs[-1]["contrast"] + 0.2 * log.epochs[-1]["reconstruction"], rel=1e-5
    )


def short(**options: Any) -> tuple[ContextualReranker, dict[str, Any]]:
    x, y = clusters(0, classes=6, size=5)
    recipe = Recipe(epochs=4, batch_size=12, lr=0.5, seed=2)
    return ContextualReranker(**SMALL), {"gallery": x, "labels": y, "recipe": recipe, "validation": 0.3, **options}


def same_weights(a: ContextualReranker, b: ContextualReranker) -> bool:
    left, right = a.encoder_.state_dict(), b.encoder_.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker, options = short()
    reranker.fit(**options)
    options["checkpoint"] = tmp_path / "training.pt"
    losses, calls = ContextualTask.losses, []

    def stopped(task: ContextualTask, samples: Tensor) -> dict[str, Tensor]:
        calls.append(samples)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return losses(task, samples)

    with monkeypatch.context() as patch:
        patch.setattr(ContextualTask, "losses", stopped)
        with pytest.raises(KeyboardInterrupt):
            short()[0].fit(**options)
    assert len(load_checkpoint(options["checkpoint"])["epochs"]) == 2
    resumed = short()[0].fit(**options)
    assert same_weights(resumed, reranker)
    assert resumed.log_ == reranker.log_


@pytest.mark.parametrize("change", ["labels", "gallery", "dropout", "validation"])
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, change: str) -> None:
    reranker, options = short(checkpoint=tmp_path / "training.pt")
    reranker.fit(**options)
    if change == "dropout":
        reranker = ContextualReranker(**SMALL, dropout=0.2)
    else:
        changed = {"labels": options["labels"].roll(1), "gallery": options["gallery"] + 0.1, "validation": 0.4}
        options[change] = changed[change]
    with pytest.raises(ValueError, match="belongs to another run"):
        reranker.fit(**options)


def test_the_same_seed_gives_the_same_weights() -> None:
    a, b, other = (short()[0] for _ in range(3))
    a.fit(**short()[1])
    torch.rand(7)
    before = torch.get_rng_state()
    b.fit(**short()[1])
    assert torch.equal(torch.get_rng_state(), before)
    assert same_weights(a, b)
    other.fit(**short(recipe=Recipe(epochs=4, batch_size=12, lr=0.5, seed=3))[1])
    assert not same_weights(a, other)


def test_save_and_load(tmp_path: Path) -> None:
    reranker = trained()
    path = tmp_path / "reranker.pt"
    reranker.save(path)
    before = torch.get_rng_state()
    loaded = ContextualReranker.load(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert repr(loaded) == repr(reranker)
    assert loaded.log_ == reranker.log_
    assert same_weights(loaded, reranker)
    case = problem()
    a, b = case.rerank(reranker), case.rerank(loaded)
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.scores, b.scores)
    other = ContextualReranker.load(path, top_k=5, blend=1.0)
    assert (other.top_k, other.blend, other.width) == (5, 1.0, 32)


def test_what_cannot_be_saved_or_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing to save; call fit"):
        ContextualReranker().save(tmp_path / "nothing.pt")
    save_checkpoint(tmp_path / "other.pt", {})
    with pytest.raises(ValueError, match=r"other\.pt is no re-ranker; expected a file that ContextualReranker\.save"):
        ContextualReranker.load(tmp_path / "other.pt")


def test_several_descriptors() -> None:
    """Descriptors of other widths give further samples; the result equals that of their order of samples."""
    x, y = clusters(0, classes=6, size=5)
    other = x @ torch.randn(12, 7)
    reranker, options = short(gallery=[x, other.numpy()])
    reranker.fit(**options)
    views = read_views([x, other], None, y, normalize=True, nan_policy="raise")
    whole = torch.ones(30, dtype=torch.bool)
    task = ContextualTask(reranker.encoder_, [view.lists(whole, 29) for view in views], 2.0, 0.2, True)
    assert len(task) == 60
    affinity, positive = task._features(torch.tensor([3, 29, 34]))
    for row, (vectors, query) in enumerate(((x, 3), (x, 29), (other, 4))):
        unit = F.normalize(vectors, dim=1)
        found = (unit[query] @ unit.T).index_fill(0, torch.tensor(query), -2.0).sort(descending=True).indices[:-1]
        nodes = unit[torch.cat([torch.tensor([query]), found])].unsqueeze(0)
        expected = list_features(nodes, torch.ones(1, 30, dtype=torch.bool), 9, standardize=True)[0]
        torch.testing.assert_close(affinity[row], expected)
        assert torch.equal(positive[row], y[found] == y[query])


def test_queries_of_their_own() -> None:
    x, y = clusters(0, classes=6, size=6)
    asked, items = torch.arange(36) % 6 == 0, torch.arange(36) % 6 != 0
    relevant = y[asked].unsqueeze(1) == y[items]
    reranker = ContextualReranker(**SMALL)
    recipe = Recipe(epochs=3, batch_size=4, lr=0.5)
    reranker.fit(x[items], x[asked].numpy(), relevant, recipe=recipe, validation=0.3)
    assert {"loss", "score"} <= reranker.log_.epochs[0].keys()
    [view] = read_views(x[items], x[asked], relevant, normalize=True, nan_policy="raise")
    held_out = view.hold_out(0.3)
    assert held_out.sum() == 2
    known = view.lists(held_out, 20)
    for row, q in enumerate(held_out.nonzero().squeeze(1).tolist()):
        found = (F.normalize(x[asked][q], dim=0) @ F.normalize(x[items], dim=1).T).sort(descending=True).indices[:20]
        assert torch.equal(known.ids[row], found)
        assert torch.equal(known.positive[row], relevant[q, found])
        assert known.num_relevant[row] == relevant[q].sum()


def test_held_out_classes_are_whole() -> None:
    y = torch.tensor([5, 5, -1, 9, 9, 2, 2, 2, -1, 7, 4, 4])
    view = read_views(torch.rand(12, 3), None, y, normalize=True, nan_policy="raise")[0]
    for part, number in ((0.0, 0), (0.01, 1), (0.4, 2), (0.99, 5)):
        held_out = view.hold_out(part)
        assert y[held_out].unique().numel() == number
        assert not set(y[held_out].tolist()) & set(y[~held_out].tolist())
        assert not held_out[y == -1].any()


def test_without_validation_the_last_epoch_is_kept() -> None:
    reranker, options = short(validation=0.0)
    reranker.fit(**options)
    assert reranker.log_.best_epoch == 3
    assert "score" not in reranker.log_.epochs[0]


def test_anchors_that_no_training_list_has_are_ignored() -> None:
    x, y = clusters(0, classes=4, size=4)
    options: dict[str, Any] = {"recipe": Recipe(epochs=2, batch_size=16, lr=0.5), "validation": 0.0}
    reranker = ContextualReranker(**{**SMALL, "num_anchors": 30}).fit(x, labels=y, **options)
    assert (reranker.encoder_.embed.weight[:, 16:] == 0).all()
    assert (reranker.encoder_.embed.weight[:, :16] != 0).all()


def test_broken_rows_are_left_out_in_every_view() -> None:
    x, y = clusters(0, classes=4, size=4)
    first, second = x.clone(), x.clone()
    first[3], second[6] = torch.nan, torch.inf
    views = read_views([first, second], None, y, normalize=True, nan_policy="last")
    kept = [i for i in range(16) if i not in (3, 6)]
    for view in views:
        torch.testing.assert_close(view.gallery, F.normalize(x[kept], dim=1))
        assert torch.equal(view.labels, y[kept])
    with pytest.raises(ValueError, match=r"gallery is not finite in 1 row\(s\): 3"):
        ContextualReranker(**SMALL).fit(first, labels=y)


def test_any_length_after_training() -> None:
    """From one candidate to more than in training."""
    x, _ = clusters(3, classes=20)
    reranker = trained()
    for length in (1, 2, 59, 60, 199):
        lists = reranker.rerank(x[:3], x, torch.arange(1, length + 1).expand(3, -1))
        assert torch.equal(lists.indices.sort(1).values, torch.arange(1, length + 1).expand(3, -1))
        assert lists.scores.isfinite().all()
        assert (lists.scores.abs() <= 1 + 4 * EPS32).all()


def test_few_anchors_still_help() -> None:
    """Lists cut to a third of the anchors: the encoder has learned to do with fewer."""
    x, y = clusters(7)
    similarity = F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
    found = similarity.fill_diagonal_(-2.0).sort(dim=1, descending=True).indices[:, :20]

    def precision(indices: Tensor) -> float:
        hit = (y[indices] == y.unsqueeze(1)).double()
        return ((hit.cumsum(1) / torch.arange(1, 21) * hit).sum(1) / hit.sum(1).clamp(min=1)).mean().item()

    assert precision(trained().rerank(x, x, found).indices) > precision(found)


# Errors ###############################################################################################################


def test_not_trained() -> None:
    case = problem()
    with pytest.raises(ValueError, match="the re-ranker is not trained; call fit"):
        case.rerank(ContextualReranker())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_anchors": 0}, "num_anchors is 0; expected an integer, at least 1"),
        ({"width": 30}, "width is 30 and heads is 12; expected a width that the heads divide"),
        ({"list_length": 1}, "list_length is 1; expected an integer, at least 2"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a positive number"),
        ({"reconstruction": -0.1}, "reconstruction is -0.1; expected a weight of at least 0"),
        ({"scope": "gallery"}, "scope is 'gallery', but ContextualReranker has only 'candidates'"),
        ({"transductive": True}, "transductive is True, but ContextualReranker has no form"),
        ({"min_support": 1}, "min_support is 1, but ContextualReranker has no reciprocal neighbours"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContextualReranker(**options)


X, Y = torch.rand(12, 3), torch.arange(4).repeat_interleave(3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": None}, ValueError, "labels is None, but training needs the class of each item"),
        ({"queries": X[:2], "labels": None}, ValueError, "labels is None, but training needs which items are relevant"),
        ({"labels": Y[:5]}, ValueError, r"labels has shape \(5,\); expected the class of each item.*here \(12,\)"),
        ({"labels": Y.float()}, TypeError, "labels has dtype torch.float32; expected the class of each item"),
        ({"queries": X[:2], "labels": Y}, ValueError, r"labels has shape \(12,\); expected which items"),
        ({"queries": X[:2], "labels": torch.ones(2, 12)}, TypeError, "labels has dtype torch.float32; expected which"),
        ({"queries": [X, X], "labels": Y}, ValueError, r"queries have widths \[3, 3\], gallery has \[3\]"),
        ({"gallery": [X, X[:5]]}, ValueError, r"gallery has \[12, 5\] rows; expected as many in every view"),
        ({"gallery": []}, TypeError, "gallery is a list; expected a Tensor, an array, or a list of them"),
        ({"gallery": lambda ids: X[ids]}, TypeError, "gallery is a function; expected a Tensor, an array"),
        ({"validation": 1.0}, ValueError, r"validation is 1.0; expected a part in \[0, 1\)"),
        ({"labels": torch.zeros(12).long()}, ValueError, "labels leave nothing to train on when the part 0.1 is held"),
        ({"labels": torch.full((12,), -1)}, ValueError, "labels leave nothing to train on"),
    ],
)
def test_bad_training_data(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ContextualReranker(**SMALL).fit(**{"gallery": X, "labels": Y, **arguments})


def test_arrays_are_read_as_tensors_are() -> None:
    a, options = short()
    b, _ = short()
    a.fit(**options)
    b.fit(**(options | {"gallery": options["gallery"].numpy(), "labels": options["labels"].numpy()}))
    assert same_weights(a, b)


def test_nothing_is_edited() -> None:
    reranker, options = short()
    x, y = options["gallery"].clone(), options["labels"].clone()
    reranker.fit(**options)
    assert torch.equal(options["gallery"], x)
    assert torch.equal(options["labels"], y)


def test_device_of_the_encoder_is_named() -> None:
    reranker = untrained()
    reranker.encoder_ = reranker.encoder_.to("meta")
    case: Problem = problem(dtype=torch.float32)
    with pytest.raises(ValueError, match="the encoder is on meta but queries are on cpu; load it with device='cpu'"):
        case.rerank(reranker)
