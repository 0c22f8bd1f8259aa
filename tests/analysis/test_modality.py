"""Flow between groups of tokens: the definition, block maps with known flow, groups without tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphattn.analysis.maps import AttentionMaps
from graphattn.analysis.modality import modality_flow
from graphattn.analysis.rollout import rollout

GROUPS = ["vision", "words", "vision", "words", "words", "vision", "vision"]


def _random(layers: int, heads: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(size), (layers, heads, size))


def _block_constant(B: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Attention with the block masses B, uniform inside the blocks."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    return B[group][:, group] / np.array(sizes)[group]


def test_masses_are_those_of_the_definition() -> None:
    A = _random(2, 3, 7)
    flow = modality_flow(AttentionMaps.from_arrays(A), GROUPS)
    assert flow.groups == ("vision", "words")
    assert flow.sizes.tolist() == [4, 3]
    assert flow.heads.tolist() == [[layer, head] for layer in range(2) for head in range(3)]
    for number, (layer, head) in enumerate(flow.heads):
        for g, reads in enumerate(flow.groups):
            for h, read in enumerate(flow.groups):
                rows = [
                    sum(A[layer, head, i, j] for j in range(7) if GROUPS[j] == read)
                    for i in range(7)
                    if GROUPS[i] == reads
                ]
                expected = sum(rows) / len(rows)
                assert flow.mass[number, g, h] == pytest.approx(expected, rel=1e-13)
                assert flow.lift[number, g, h] == pytest.approx(expected / (GROUPS.count(read) / 7), rel=1e-13)
        away = sum(A[layer, head, i, j] for i in range(7) for j in range(7) if GROUPS[i] != GROUPS[j]) / 7
        assert flow.total[number] == pytest.approx(away, rel=1e-13)


def test_rows_sum_to_one() -> None:
    flow = modality_flow(AttentionMaps.from_arrays(_random(2, 2, 7)), GROUPS)
    np.testing.assert_allclose(flow.mass.sum(axis=2), 1.0, rtol=1e-14)


def test_uniform_attention_has_lift_one() -> None:
    flow = modality_flow(AttentionMaps.from_arrays(np.full((1, 2, 7, 7), 1 / 7)), GROUPS)
    np.testing.assert_allclose(flow.lift, 1.0, rtol=1e-14)
    np.testing.assert_allclose(flow.total, 2 * 4 * 3 / 49, rtol=1e-14)


def test_attention_within_groups_does_not_flow() -> None:
    A = _block_constant(np.eye(3), [2, 3, 1])
    flow = modality_flow(AttentionMaps.from_arrays(A[None, None]), np.repeat([0, 1, 2], [2, 3, 1]))
    np.testing.assert_allclose(flow.mass, np.eye(3)[None], rtol=1e-14)
    assert flow.total.tolist() == [0.0]


def test_swapping_the_labels_swaps_the_flow() -> None:
    maps = AttentionMaps.from_arrays(_random(1, 2, 7))
    swapped = [{"vision": "words", "words": "vision"}[group] for group in GROUPS]
    flow, other = modality_flow(maps, GROUPS), modality_flow(maps, swapped)
    np.testing.assert_array_equal(other.mass, flow.mass[:, ::-1, ::-1])
    np.testing.assert_allclose(other.total, flow.total, rtol=1e-14)
    np.testing.assert_array_equal(other.asymmetry[:, 0, 1], -flow.asymmetry[:, 0, 1])
    ordered = modality_flow(maps, GROUPS, names=["words", "vision"])
    assert ordered.groups == ("words", "vision")
    np.testing.assert_array_equal(ordered.mass, flow.mass[:, ::-1, ::-1])


def test_block_constant_maps_multiply_like_their_blocks() -> None:
    rng = np.random.default_rng(3)
    sizes, (B, C) = [2, 4, 3], rng.dirichlet(np.ones(3), (2, 3))
    groups = np.repeat([0, 1, 2], sizes)
    product = _block_constant(B, sizes) @ _block_constant(C, sizes)
    flow = modality_flow(AttentionMaps.from_arrays(product[None, None]), groups)
    np.testing.assert_allclose(flow.mass[0], B @ C, rtol=1e-13)


def test_one_group_has_all() -> None:
    flow = modality_flow(AttentionMaps.from_arrays(_random(1, 2, 4)), ["all"] * 4)
    np.testing.assert_allclose(flow.mass, np.ones((2, 1, 1)), rtol=1e-14)
    assert flow.total.tolist() == [0.0, 0.0]


def test_a_group_without_tokens_is_nan_and_leaves_totals_alone() -> None:
    maps = AttentionMaps.from_arrays(_random(1, 2, 7))
    known, flow = modality_flow(maps, GROUPS), modality_flow(maps, GROUPS, names=["vision", "audio", "words"])
    assert flow.sizes.tolist() == [4, 0, 3]
    assert np.isnan(flow.mass[:, 1]).all()
    assert np.isnan(flow.lift[:, :, 1]).all()
    np.testing.assert_array_equal(flow.mass[:, [0, 2]][:, :, [0, 2]], known.mass)
    np.testing.assert_array_equal(flow.mass[:, [0, 2], 1], 0.0)
    np.testing.assert_allclose(flow.total, known.total, rtol=1e-14)


def test_edges_give_what_matrices_give() -> None:
    A = _random(2, 3, 7) * (np.random.default_rng(1).random((7, 7)) < 0.5)
    A /= np.maximum(A.sum(axis=3, keepdims=True), 1e-300)
    target, source = np.nonzero(A.any(axis=(0, 1)))
    layers = [(np.stack([source, target]), layer[:, target, source].T) for layer in A]
    dense = modality_flow(AttentionMaps.from_arrays(A), GROUPS)
    edges = modality_flow(AttentionMaps.from_arrays(layers, num_nodes=7), torch.tensor([g == "words" for g in GROUPS]))
    np.testing.assert_allclose(edges.mass, dense.mass, rtol=1e-13)


def test_a_layer_without_edges() -> None:
    maps = AttentionMaps.from_arrays([(np.zeros((2, 0), dtype=int), np.zeros((0, 2)))], num_nodes=3)
    flow = modality_flow(maps, ["a", "b", "b"])
    np.testing.assert_array_equal(flow.mass, np.zeros((2, 2, 2)))
    assert flow.total.tolist() == [0.0, 0.0]


def test_on_the_rollout() -> None:
    maps = AttentionMaps.from_arrays(_random(3, 2, 7))
    flow = modality_flow(maps, GROUPS, on="rollout")
    assert flow.heads.tolist() == [[0, -1], [1, -1], [2, -1]]
    for layer, R in enumerate(rollout(maps).relevance):
        expected = modality_flow(AttentionMaps.from_arrays(R[None, None]), GROUPS).mass[0]
        np.testing.assert_allclose(flow.mass[layer], expected, rtol=1e-13)


def test_the_frame_has_a_row_a_pair() -> None:
    flow = modality_flow(AttentionMaps.from_arrays(_random(1, 2, 7)), GROUPS)
    frame = flow.as_frame()
    assert len(frame) == 8
    assert frame.index.names == ["layer", "head", "target", "source"]
    assert frame.loc[(0, 1, "words", "vision"), "mass"] == flow.mass[1, 1, 0]
    assert frame.loc[(0, 1, "words", "vision"), "asymmetry"] == flow.mass[1, 1, 0] - flow.mass[1, 0, 1]


def test_mistakes_are_named() -> None:
    maps = AttentionMaps.from_arrays(_random(1, 1, 3))
    with pytest.raises(ValueError, match=r"groups has shape \(2,\) but the maps have 3 tokens"):
        modality_flow(maps, ["a", "b"])
    with pytest.raises(ValueError, match=r"groups has \['c'\], which names \['a', 'b'\] does not list"):
        modality_flow(maps, ["a", "b", "c"], names=["a", "b"])
    with pytest.raises(ValueError, match="expected each group once"):
        modality_flow(maps, ["a", "b", "b"], names=["a", "b", "a"])
    with pytest.raises(ValueError, match="on is 'flow'; expected 'attention' or 'rollout'"):
        modality_flow(maps, ["a", "b", "b"], on="flow")
