"""Roles of heads: hand-made heads, the probe of repeated tokens, chance, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from graphattn.analysis.maps import AttentionMaps
from graphattn.analysis.roles import HeadRoles, head_roles, offset_score, pool_roles, repeated_tokens

ROLES = ("previous", "current", "first", "duplicate", "induction")


def _head(size: int, offset: int, start: int) -> np.ndarray:
    """A head that looks a number of places back from ``start`` on, and at itself before."""
    A = np.eye(size)
    rows = np.arange(start, size)
    A[rows] = 0.0
    A[rows, rows - offset] = 1.0
    return A


def _causal(size: int, heads: int, seed: int) -> np.ndarray:
    A = np.tril(np.random.default_rng(seed).random((heads, size, size)))
    return A / A.sum(axis=2, keepdims=True)


def _maps(*layers: np.ndarray, **options: object) -> AttentionMaps:
    return AttentionMaps.from_arrays(list(layers), **options)


def _edges(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    target, source = np.nonzero(A.any(axis=0))
    return np.stack([source, target]), A[:, target, source].T


def _by_definition(A: np.ndarray, x: list[int], strict: bool) -> dict[str, float]:
    """The scores of one head, row by row as they are written down."""
    size = len(x)
    sets = {
        "previous": [{i - 1} if i else set() for i in range(size)],
        "current": [{i} for i in range(size)],
        "first": [{0} if i else set() for i in range(size)],
        "duplicate": [{j for j in range(i) if x[j] == x[i]} for i in range(size)],
        "induction": [{j for j in range(1, i + 1 - strict) if x[j - 1] == x[i]} for i in range(size)],
    }
    scores = {}
    for role, members in sets.items():
        rows = [sum(A[i, j] for j in chosen) for i, chosen in enumerate(members) if chosen]
        scores[role] = sum(rows) / len(rows) if rows else math.nan
    return scores


def _assert_same(found: HeadRoles, expected: HeadRoles) -> None:
    for role, scores in expected.scores.items():
        np.testing.assert_allclose(found.scores[role], scores, rtol=1e-14)
        np.testing.assert_allclose(found.chance[role], expected.chance[role], rtol=1e-14)
    assert found.n_rows == expected.n_rows


@pytest.mark.parametrize("length", [3, 8])
@pytest.mark.parametrize("role", ["previous", "duplicate", "induction"])
def test_a_hand_made_head_has_one_role(role: str, length: int) -> None:
    ids = repeated_tokens(length, 50, generator=torch.Generator().manual_seed(length))
    start = 1 if role == "previous" else 1 + length
    offset = {"previous": 1, "duplicate": length, "induction": length - 1}[role]
    found = head_roles(_maps(_head(len(ids), offset, start)), ids)
    assert found.scores[role].tolist() == [1.0]
    assert [found.scores[other].item() for other in ("previous", "duplicate", "induction") if other != role] == [0, 0]
    assert found.labels() == (role,)


@pytest.mark.parametrize("name", ["current", "first"])
def test_the_diagonal_and_the_first_column(name: str) -> None:
    A = np.eye(6) if name == "current" else np.eye(6)[[0] * 6]
    found = head_roles(_maps(A), range(6))
    assert found.scores[name].tolist() == [1.0]
    assert found.labels() == (name,)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_definition(seed: int, strict: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, 11).tolist()
    x[5] = x[4]
    layers = _causal(11, 2, seed), _causal(11, 1, seed + 10)
    found = head_roles(_maps(*layers), x, strict=strict)
    assert found.heads.tolist() == [[0, 0], [0, 1], [1, 0]]
    for number, A in enumerate([*layers[0], *layers[1]]):
        for role, score in _by_definition(A, x, strict).items():
            assert found.scores[role][number] == pytest.approx(score, rel=1e-14)


@pytest.mark.parametrize("strict", [True, False])
def test_uniform_attention_has_no_excess(strict: bool) -> None:
    x = [0, 1, 1, 2, 0, 1, 1, 1, 2]
    uniform = np.tril(np.ones((9, 9))) / np.arange(1, 10)[:, None]
    causal = head_roles(_maps(uniform), x, strict=strict)
    full = head_roles(_maps(np.full((9, 9), 1 / 9)), x, strict=strict)
    for found, roles in ((causal, ROLES), (full, (*ROLES, "next"))):
        assert set(found.excess) == set(roles)
        for excess in found.excess.values():
            assert abs(excess.item()) < 1e-15
        assert found.labels() == ("none",)
    assert causal.chance["previous"] == pytest.approx(np.mean([1 / i for i in range(2, 10)]), rel=1e-14)
    assert full.chance["previous"] == pytest.approx(1 / 9, rel=1e-14)


def test_without_repeated_tokens_there_is_nothing_to_score() -> None:
    found = head_roles(_maps(_causal(7, 2, 0)), range(7))
    for role in ("duplicate", "induction"):
        assert np.isnan(found.scores[role]).all()
        assert math.isnan(found.chance[role])
        assert found.n_rows[role] == 0
    assert "none" in found.labels() or set(found.labels()) <= {"previous", "current", "first"}


def test_one_token() -> None:
    found = head_roles(_maps(np.ones((1, 1))), [4])
    assert found.scores["current"].tolist() == [1.0]
    assert found.n_rows == {"previous": 0, "current": 1, "first": 0, "duplicate": 0, "induction": 0}
    assert found.labels() == ("none",)


def test_strict_leaves_out_the_own_token() -> None:
    x = [1, 1]
    maps = _maps(np.array([[1.0, 0.0], [0.25, 0.75]]))
    assert math.isnan(head_roles(maps, x).scores["induction"].item())
    assert head_roles(maps, x, strict=False).scores["induction"].tolist() == [0.75]


@pytest.mark.parametrize("bos", [0, None])
def test_general_and_stripe_forms_agree_on_the_probe(bos: int | None) -> None:
    length = 6
    ids = repeated_tokens(length, 20, bos=bos, generator=torch.Generator().manual_seed(1))
    maps = _maps(_causal(len(ids), 3, 2), _causal(len(ids), 2, 3))
    found = head_roles(maps, ids)
    second = range(len(ids) - length, len(ids))
    for role, offset in (("induction", length - 1), ("duplicate", length)):
        np.testing.assert_allclose(offset_score(maps, offset, second), found.scores[role], rtol=1e-14)
        assert found.n_rows[role] == length
    np.testing.assert_allclose(offset_score(maps, 1), found.scores["previous"], rtol=1e-14)
    np.testing.assert_allclose(offset_score(maps, 0), found.scores["current"], rtol=1e-14)


def test_next_token_where_maps_are_not_causal() -> None:
    A = np.random.default_rng(0).dirichlet(np.ones(5), (2, 5))
    found = head_roles(_maps(A), range(5))
    np.testing.assert_allclose(found.scores["next"], A[:, np.arange(4), np.arange(1, 5)].mean(axis=1), rtol=1e-14)
    np.testing.assert_allclose(offset_score(_maps(A), -1), found.scores["next"], rtol=1e-14)
    shifted = np.eye(5)[[1, 2, 3, 4, 4]]
    assert head_roles(_maps(shifted), range(5)).labels() == ("next",)
    assert "next" not in head_roles(_maps(_causal(5, 1, 0)), range(5)).scores


def test_edges_give_what_matrices_give() -> None:
    x = [3, 1, 3, 1, 1, 2, 3]
    A = _causal(7, 2, 4) * (np.random.default_rng(5).random((7, 7)) < 0.6)
    A /= np.maximum(A.sum(axis=2, keepdims=True), 1e-300)  # rows without edges stay 0
    dense, edges = _maps(A), _maps(_edges(A), num_nodes=7)
    _assert_same(head_roles(edges, x), head_roles(dense, x))
    _assert_same(head_roles(_maps(A, _edges(A)), x), head_roles(_maps(A, A), x))
    np.testing.assert_allclose(offset_score(edges, 2), offset_score(dense, 2), rtol=1e-14)


def test_detectors_that_divide_by_all_rows() -> None:
    """TransformerLens gives the share of all attention that lies on a pattern; induction is duplicate, moved by one."""
    x = np.array([3, 1, 3, 1, 1, 2, 3, 2])
    A = _causal(8, 3, 6)
    duplicate = np.tril(x[:, None] == x, -1)
    patterns = {
        "previous": np.eye(8, k=-1),
        "duplicate": duplicate,
        "induction": np.tril(np.pad(duplicate, ((0, 0), (1, 0)))[:, :-1]),
    }
    found = head_roles(_maps(A), x, strict=False)
    for role, pattern in patterns.items():
        share = (A * pattern).sum(axis=(1, 2)) / A.sum(axis=(1, 2))
        np.testing.assert_allclose(found.scores[role] * found.n_rows[role] / 8, share, rtol=1e-13)


@pytest.mark.filterwarnings("ignore")  # of what it imports
def test_parity_with_transformer_lens() -> None:
    detector = pytest.importorskip("transformer_lens.head_detector", reason="transformer-lens is not installed")
    x = [3, 1, 3, 1, 1, 2, 3, 2]
    A = _causal(8, 3, 6)
    found = head_roles(_maps(A), x, strict=False)
    names = {"previous": "previous_token", "duplicate": "duplicate_token", "induction": "induction"}
    options = {"exclude_bos": False, "exclude_current_token": False, "error_measure": "mul"}
    for role, name in names.items():
        pattern = getattr(detector, f"get_{name}_head_detection_pattern")(torch.tensor([x]))
        for head in range(3):
            theirs = detector.compute_head_attention_similarity_score(torch.from_numpy(A[head]), pattern, **options)
            assert found.scores[role][head] * found.n_rows[role] / 8 == pytest.approx(theirs, rel=1e-13)


def test_a_layer_without_edges() -> None:
    maps = _maps((np.zeros((2, 0), dtype=int), np.zeros((0, 2))), num_nodes=3)
    found = head_roles(maps, [1, 1, 1])
    assert all(scores.tolist() == [0.0, 0.0] for scores in found.scores.values())
    assert found.labels() == ("none", "none")
    assert offset_score(maps, 1).tolist() == [0.0, 0.0]


def test_a_large_graph() -> None:
    size = 10_000
    number = np.arange(size)
    edges = np.stack([np.concatenate([number, np.maximum(number - 1, 0)]), np.concatenate([number, number])])
    maps = _maps((edges, np.tile([[0.25, 1.0]], (2 * size, 1)) / 2), num_nodes=size, validate=False)
    found = head_roles(maps, number // 2)
    np.testing.assert_allclose(found.scores["previous"], [0.125, 0.5], rtol=1e-12)
    # Each token comes twice in a row, so that its earlier copy is the token before.
    np.testing.assert_allclose(found.scores["duplicate"], [0.125, 0.5], rtol=1e-12)
    assert found.n_rows["duplicate"] == size // 2
    assert found.n_rows["induction"] == 0


def test_relabelling_ids_changes_nothing() -> None:
    x = [3, 1, 3, 1, 1, 2, 3]
    maps = _maps(_causal(7, 2, 0))
    expected = head_roles(maps, x)
    _assert_same(head_roles(maps, [{1: 9, 2: 0, 3: 4}[value] for value in x]), expected)
    _assert_same(head_roles(maps, [f"token {value}" for value in x]), expected)
    _assert_same(head_roles(maps, torch.tensor(x)), expected)


@pytest.mark.parametrize(("left", "right"), [(0, 3), (2, 0), (1, 2)])
def test_padding_changes_nothing(left: int, right: int) -> None:
    x, A = [3, 1, 3, 1, 2], _causal(5, 2, 1)
    size = left + 5 + right
    padded = np.full((2, size, size), 1 / size)
    padded[:, left : left + 5] = 0.0
    padded[:, left : left + 5, left : left + 5] = A
    mask = np.zeros(size, dtype=bool)
    mask[left : left + 5] = True
    maps = _maps(padded, mask=mask)
    expected = head_roles(_maps(A), x)
    _assert_same(head_roles(maps, [0] * left + x + [0] * right), expected)
    _assert_same(head_roles(maps, x), expected)


def test_pooled_roles_are_means_over_all_rows() -> None:
    ids = [3, 1, 3, 1, 1, 2, 3], [0, 1, 0, 2], [0, 1, 2, 3, 4]
    samples = [head_roles(_maps(_causal(len(x), 2, seed)), x) for seed, x in enumerate(ids)]
    pooled = pool_roles(samples)
    for role in ROLES:
        rows = np.array([sample.n_rows[role] for sample in samples])
        assert pooled.n_rows[role] == rows.sum()
        for head in range(2):
            scores = [sample.scores[role][head] * n for sample, n in zip(samples, rows, strict=True) if n]
            assert pooled.scores[role][head] == pytest.approx(sum(scores) / rows.sum(), rel=1e-13)
        chance = [sample.chance[role] * n for sample, n in zip(samples, rows, strict=True) if n]
        assert pooled.chance[role] == pytest.approx(sum(chance) / rows.sum(), rel=1e-13)
    assert samples[2].n_rows["induction"] == 0
    alone = pool_roles(samples[2:])
    assert np.isnan(alone.scores["induction"]).all()
    assert math.isnan(alone.chance["induction"])
    _assert_same(pool_roles(samples[:1]), samples[0])


def test_only_roles_of_the_same_heads_are_pooled() -> None:
    one, two = (head_roles(_maps(_causal(3, heads, 0)), [1, 2, 1]) for heads in (1, 2))
    with pytest.raises(ValueError, match=r"sample 1 has 2 heads .* the first 1 and"):
        pool_roles([one, two])
    with pytest.raises(ValueError, match="expected the same model, causal or not"):
        pool_roles([one, head_roles(_maps(np.full((3, 3), 1 / 3)), [1, 2, 1])])
    with pytest.raises(ValueError, match="samples is empty"):
        pool_roles([])


def test_labels_take_the_largest_excess_above_a_bound() -> None:
    found = HeadRoles(
        np.array([[0, 0], [0, 1], [0, 2]]),
        {"previous": np.array([0.9, 0.39, 0.41]), "duplicate": np.full(3, np.nan), "first": np.array([0.7, 0.2, 0.8])},
        {"previous": 0.1, "duplicate": math.nan, "first": 0.1},
        {"previous": 4, "duplicate": 0, "first": 4},
    )
    assert found.labels() == ("previous", "none", "first")
    assert found.labels(0.2) == ("previous", "previous", "first")


def test_the_frame_has_a_row_a_head() -> None:
    frame = head_roles(_maps(_causal(5, 2, 0), np.eye(5)), [1, 2, 1, 2, 1]).as_frame()
    assert frame.index.tolist() == [(0, 0), (0, 1), (1, 0)]
    assert frame.columns.tolist() == [*ROLES, "label"]
    assert frame.loc[(1, 0), "current"] == 1.0
    assert frame.loc[(1, 0), "label"] == "current"


def test_repeated_tokens_are_distinct_and_come_twice() -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        ids = repeated_tokens(7, 8, bos=3, generator=generator).tolist()
        assert ids[0] == 3
        assert sorted(ids[1:8]) == [0, 1, 2, 4, 5, 6, 7]
        assert ids[1:8] == ids[8:]
    a, b = (repeated_tokens(9, 9, bos=None, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == (18,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0, "vocab_size": 5}, "length is 0; expected at least 1"),
        ({"length": 5, "vocab_size": 5}, "length is 5 but there are 4 ids"),
        ({"length": 2, "vocab_size": 5, "bos": 5}, "bos is 5 but vocab_size is 5"),
    ],
)
def test_impossible_probes(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        repeated_tokens(**options)


def test_mistakes_are_named() -> None:
    maps = _maps(_causal(5, 1, 0))
    with pytest.raises(ValueError, match=r"ids has shape \(4,\) but the maps have 5 tokens"):
        head_roles(maps, range(4))
    with pytest.raises(ValueError, match=r"rows is \[0\] with offset 1 but there are 5 tokens"):
        offset_score(maps, 1, [0])
    with pytest.raises(ValueError, match=r"rows is \[5\]"):
        offset_score(maps, 1, [5])
    assert np.isnan(offset_score(maps, 5)).all()
    assert np.isnan(offset_score(maps, -9)).all()
