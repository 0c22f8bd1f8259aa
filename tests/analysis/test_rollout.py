"""Rollout: closed forms, its definition multiplied out, and the sparse form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from graphattn.analysis.maps import AttentionMaps
from graphattn.analysis.rollout import rollout, rollout_rows

EPS = np.finfo(np.float64).eps
NODES, HEADS, LAYERS = 7, 3, 4
TIGHT = 4 * LAYERS * NODES * EPS  # of products of matrices whose rows sum to 1


def random_maps(causal: bool = False, seed: int = 0, edges: bool = False) -> AttentionMaps:
    rng = np.random.default_rng(seed)
    A = rng.random((LAYERS, HEADS, NODES, NODES)) ** 3
    if edges:
        A *= rng.random((LAYERS, 1, NODES, NODES)) < 0.5
        A[:, :, 4] = 0  # a node without any edge
    A = np.tril(A) if causal else A
    return AttentionMaps.from_arrays(A / np.where(A.any(-1), A.sum(-1), 1)[..., None])


def as_edges(maps: AttentionMaps, parallel: bool = False) -> AttentionMaps:
    layers = []
    for layer in range(maps.num_layers):
        edge_index, weights = maps.edges(layer)
        if parallel:  # every edge in two parts, far from each other
            edge_index = np.concatenate([edge_index, edge_index[:, ::-1]], axis=1)
            weights = np.concatenate([0.25 * weights, 0.75 * weights[::-1]])
        layers.append((edge_index, weights))
    return AttentionMaps.from_arrays(layers, num_nodes=maps.num_nodes, validate=False)


def stack(maps: AttentionMaps) -> np.ndarray:
    return np.stack([maps.dense(layer) for layer in range(maps.num_layers)])


def expected(maps: AttentionMaps, fuse: Any, share: float = 0.5) -> np.ndarray:
    """The product of the layers, with row i of each step written out."""
    R = np.eye(maps.num_nodes)
    products = []
    for layer in stack(maps):
        mixed = (1 - share) * fuse(layer, axis=0) + share * np.eye(maps.num_nodes)
        for i, row in enumerate(mixed):
            mixed[i] = row / row.sum() if row.sum() else np.eye(maps.num_nodes)[i]
        R = np.array([sum(mixed[i, j] * R[j] for j in range(maps.num_nodes)) for i in range(maps.num_nodes)])
        products.append(R)
    return np.array(products)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("residual", [True, False, 0.2, 0.9])
@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_it_is_the_product_of_the_layers(fusion: str, residual: float | bool, sparse: bool) -> None:
    maps = random_maps(edges=sparse)
    share = {True: 0.5, False: 0.0}[residual] if isinstance(residual, bool) else residual
    truth = expected(maps, getattr(np, fusion), share)
    given = as_edges(maps) if sparse else maps
    found = rollout(given, fusion=fusion, residual=residual)
    assert_allclose(found.relevance, truth, rtol=0, atol=TIGHT)
    assert_allclose(found.relevance.sum(-1), 1.0, rtol=0, atol=TIGHT)
    rows = rollout_rows(given, [5, 0], fusion=fusion, residual=residual)
    assert_allclose(rows.relevance, truth[-1:, [5, 0]], rtol=0, atol=TIGHT)
    assert rows.layers.tolist() == [LAYERS - 1]
    assert rows.targets.tolist() == [5, 0]


def test_parallel_edges_add_up_before_heads_are_fused() -> None:
    maps = random_maps(edges=True)
    found = rollout(as_edges(maps, parallel=True), fusion="max")
    assert_allclose(found.relevance, rollout(maps, fusion="max").relevance, rtol=0, atol=TIGHT)


def test_dense_and_sparse_layers_mix() -> None:
    maps = random_maps(edges=True)
    layers = [layer if number % 2 else as_edges(maps).layers[number] for number, layer in enumerate(maps.layers)]
    mixed = AttentionMaps.from_arrays(layers)
    assert_allclose(rollout(mixed).relevance, rollout(maps).relevance, rtol=0, atol=TIGHT)


def test_one_layer_is_its_mixture() -> None:
    A = stack(random_maps())[:1]
    found = rollout(AttentionMaps.from_arrays(A)).relevance[0]
    assert_allclose(found, (A[0].mean(0) + np.eye(NODES)) / 2, rtol=0, atol=TIGHT)


def test_no_token_hears_from_a_later_one_in_causal_maps() -> None:
    for fusion in ("mean", "max", "min"):
        assert not np.triu(rollout(random_maps(causal=True), fusion=fusion).relevance, 1).any()


def test_uniform_attention() -> None:
    uniform = np.full((LAYERS, HEADS, NODES, NODES), 1 / NODES)
    found = rollout(AttentionMaps.from_arrays(uniform)).relevance
    for layer, R in enumerate(found, start=1):
        assert_allclose(R, 2.0**-layer * np.eye(NODES) + (1 - 2.0**-layer) / NODES, rtol=0, atol=TIGHT)


def test_attention_to_oneself() -> None:
    identity = np.broadcast_to(np.eye(NODES), (LAYERS, HEADS, NODES, NODES)).copy()
    assert_array_equal(rollout(AttentionMaps.from_arrays(identity)).relevance, identity[:, 0])


def test_permuted_tokens() -> None:
    A, order = stack(random_maps()), np.roll(np.arange(NODES), 2)
    found = rollout(AttentionMaps.from_arrays(A[:, :, order][..., order])).relevance
    assert_allclose(found, rollout(AttentionMaps.from_arrays(A)).relevance[:, order][..., order], rtol=0, atol=TIGHT)


def test_equal_layers_without_residual_are_a_power() -> None:
    A = stack(random_maps())[:1, :1]
    found = rollout(AttentionMaps.from_arrays(A.repeat(LAYERS, axis=0)), residual=False).relevance
    assert_allclose(found[-1], np.linalg.matrix_power(A[0, 0], LAYERS), rtol=0, atol=TIGHT)


def test_half_the_weight_is_the_default() -> None:
    maps = random_maps()
    assert_allclose(rollout(maps, residual=0.5).relevance, rollout(maps).relevance, rtol=0, atol=TIGHT)


def test_from_a_later_layer_on() -> None:
    maps = random_maps()
    found = rollout(maps, start_layer=2)
    assert found.layers.tolist() == [2, 3]
    assert_array_equal(found.relevance, rollout(AttentionMaps.from_arrays(stack(maps)[2:])).relevance)
    assert_allclose(rollout_rows(maps, [1], start_layer=2).relevance[0], found.relevance[-1, [1]], rtol=0, atol=TIGHT)


def test_masked_tokens_are_gone() -> None:
    A = np.zeros((1, 1, 3, 3))
    A[..., :2, :2] = 0.5
    A[..., 2, 2] = 1.0
    found = rollout(AttentionMaps.from_arrays(A, mask=[True, True, False]))
    assert found.relevance.tolist() == [[[0.75, 0.25], [0.25, 0.75]]]


def test_a_large_sparse_graph_takes_rows_only() -> None:
    size = 20_000
    ring = np.stack([np.arange(size), (np.arange(size) + 1) % size])
    maps = AttentionMaps.from_arrays([(ring, np.ones((size, 1)))] * 3, num_nodes=size)
    row = rollout_rows(maps, [10]).relevance[0, 0]
    assert row[[10, 9, 8, 7]].tolist() == [1 / 8, 3 / 8, 3 / 8, 1 / 8]  # a binomial walk backwards
    assert np.count_nonzero(row) == 4
    with pytest.raises(ValueError, match=r"3 layers over 20000 nodes is 8.9 GiB; rollout_rows"):
        rollout(maps)


def test_the_frame() -> None:
    found = rollout(random_maps())
    frame = found.as_frame()
    assert frame.shape == (LAYERS * NODES, NODES)
    assert frame.loc[(2, 5), 3] == found.relevance[2, 5, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "sum"}, "fusion is 'sum'; expected one of 'mean', 'max', 'min'"),
        ({"residual": 1.5}, "residual is 1.5; expected True, False or a weight between 0 and 1"),
        ({"residual": 0.0}, "residual is 0.0"),
        ({"start_layer": LAYERS}, "start_layer is 4 but there are 4 layers"),
        ({"start_layer": -1}, "start_layer is -1"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(random_maps(), **options)
    with pytest.raises(ValueError, match=message):
        rollout_rows(random_maps(), [0], **options)


def test_wrong_targets_and_weights() -> None:
    maps = random_maps()
    for targets in ([NODES], [-1]):
        with pytest.raises(ValueError, match="there are 7 nodes"):
            rollout_rows(maps, targets)
    for wrong in ([], [0.5], 3):
        with pytest.raises(ValueError, match="expected a list of node numbers"):
            rollout_rows(maps, wrong)  # type: ignore[arg-type]
    negative = AttentionMaps.from_arrays(
        np.array([[[[2.0, 1.0], [3.0, 4.0]], [[-1.0, 0.0], [0.0, 1.0]]]]), validate=False
    )
    for given in (negative, as_edges(negative)):
        with pytest.raises(ValueError, match="layer 0 has negative weights, the lowest -1"):
            rollout(given, fusion="max")
