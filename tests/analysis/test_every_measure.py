"""What holds for every measure of attention maps: sparse forms, padding, precision, degenerate and large maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from graphattn import analysis
from graphattn.affinity import Affinity
from graphattn.analysis import AttentionMaps
from tests.analysis.measures import MEASURES, numbers

NODES, LAYERS, HEADS, LARGE = 6, 2, 2, 10_000
PLACES = np.arange(LARGE)
TIGHT = 64 * NODES * np.finfo(np.float64).eps


every_measure = pytest.mark.parametrize("name", MEASURES)


def random_maps(causal: bool = False) -> np.ndarray:
    A = np.random.default_rng(3).random((LAYERS, HEADS, NODES, NODES)) ** 3 + 0.01
    A = np.tril(A) if causal else A
    return A / A.sum(-1, keepdims=True)


def as_edges(A: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """All edges of each layer, in any order, some in two parts."""
    layers = []
    for number, heads in enumerate(A):
        target, source = np.nonzero(heads.any(axis=0))
        order = np.random.default_rng(number).permutation(len(target))
        target, source = target[order], source[order]
        weights = heads[:, target, source].T.copy()
        weights[:5] /= 2
        edge_index = np.stack([source, target])
        pairs = np.concatenate([edge_index, edge_index[:, :5]], axis=1), np.concatenate([weights, weights[:5]])
        layers.append(pairs)
    return layers


def assert_same(found: Any, expected: Any, tolerance: float) -> None:
    """Compare all numbers of two results."""
    one, other = dict(numbers(found)), dict(numbers(expected))
    assert one.keys() == other.keys()
    assert one
    for name, values in one.items():
        assert_allclose(values, other[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_every_public_measure_is_here() -> None:
    """Whatever else is public reads a model, makes data or takes other input, and has tests of its own."""
    elsewhere = {
        *("capture", "stream_attention", "load_probe_model", "repetition_loss", "repeated_tokens"),
        *("faithfulness", "removal_test", "masking_test", "randomized_control", "explain", "exhaustive_explanations"),
        *("query_key_symmetry", "symmetric_init_", "output_similarity", "direct_weights", "pool_roles", "sink_mask"),
        *("attention_graph", "transport", "depth_width"),
    }
    functions = {name for name in analysis.__all__ if not isinstance(getattr(analysis, name), type)}
    assert functions == elsewhere | set(MEASURES)


@every_measure
@pytest.mark.parametrize("causal", [False, True])
def test_edges_give_what_matrices_give(name: str, causal: bool) -> None:
    A = random_maps(causal)
    dense, edges = AttentionMaps.from_arrays(A), AttentionMaps.from_arrays(as_edges(A), num_nodes=NODES)
    assert edges.causal == causal
    # The capacities of a flow are rounded, to the same or the next unit.
    assert_same(MEASURES[name](edges), MEASURES[name](dense), 2.0**-20 * NODES**2 if name == "flow" else TIGHT)


@every_measure
@pytest.mark.parametrize("sparse", [False, True])
def test_padding_changes_nothing(name: str, sparse: bool) -> None:
    """Masked rows and columns hold anything, and are gone before anything is measured."""
    A = random_maps(causal=True)
    padded = np.full((LAYERS, HEADS, NODES + 3, NODES + 3), np.nan)
    padded[:, :, :NODES] = 0.0
    padded[:, :, :NODES, :NODES] = A
    mask = np.arange(NODES + 3) < NODES
    layers = as_edges(padded) if sparse else padded
    long = AttentionMaps.from_arrays(layers, num_nodes=NODES + 3, mask=mask)
    short = AttentionMaps.from_arrays(as_edges(A) if sparse else A, num_nodes=NODES)
    assert_same(MEASURES[name](long), MEASURES[name](short), TIGHT)


@every_measure
def test_results_are_in_double_precision_and_inputs_stay(name: str) -> None:
    given = torch.from_numpy(random_maps()).float().requires_grad_()
    before = given.detach().clone()
    maps = AttentionMaps.from_arrays(given)
    result = MEASURES[name](maps)
    assert torch.equal(given.detach(), before)
    assert given.grad is None
    for field, values in numbers(result):
        assert values.dtype.kind in "iub" or values.dtype == np.float64, field


@every_measure
def test_results_have_frames(name: str) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    result = MEASURES[name](AttentionMaps.from_arrays(random_maps(), tokens=["<script>", "ü", "", "a", "b", "c"]))
    if isinstance(result, np.ndarray):
        assert name in ("symmetry", "directionality", "offset_score")  # a number for each head
        assert result.size == LAYERS * HEADS
        return
    frame = result.as_frame()
    assert len(frame) > 0
    assert len(set(frame.columns)) == frame.shape[1]


@every_measure
def test_one_token(name: str) -> None:
    result = MEASURES[name](AttentionMaps.from_arrays(np.ones((LAYERS, HEADS, 1, 1))))
    for field, values in numbers(result):
        assert not np.isinf(values.astype(float)).any(), field


@every_measure
def test_a_token_that_attends_to_nothing(name: str) -> None:
    A = random_maps()
    A[:, :, 2] = 0.0
    for layers in (A, as_edges(A)):
        maps = AttentionMaps.from_arrays(layers, num_nodes=NODES)
        if name == "causal_graph":
            with pytest.raises(ValueError, match=r"tokens \[2\] attend to nothing"):
                MEASURES[name](maps)
            continue
        for field, values in numbers(MEASURES[name](maps)):
            assert np.isfinite(values.astype(float)).all(), field


# A graph of 10,000 nodes ##############################################################################################

REFUSED = {
    "rollout": (analysis.rollout, r"rollout of 3 layers over 10000 nodes is 2\.2 GiB; rollout_rows"),
    "flow": (lambda maps: analysis.flow(maps, layers="all"), r"flow to 10000 targets in 3 layers is 2\.2 GiB"),
    "influence": (analysis.influence, r"influence of 10000 sources in 3 layers is 2\.2 GiB; choose fewer sources"),
    "attention_threshold": (analysis.attention_threshold, r"3 heads over 10000 nodes, which is 2\.2 GiB as matrices"),
    "modality_flow": (
        lambda maps: analysis.modality_flow(maps, PLACES % 2, on="rollout"),
        r"rollout of 3 layers over 10000 nodes is 2\.2 GiB",
    ),
    "causal_graph": (
        lambda maps: analysis.causal_graph(maps, 768, head=0),
        "there are 10000 nodes; choose at most 500 of them by nodes",
    ),
}


@pytest.fixture(scope="module")
def ring() -> AttentionMaps:
    """Nodes draw on themselves and on the one before, with three heads in three layers."""
    edge_index = np.stack([np.concatenate([PLACES, np.roll(PLACES, 1)]), np.concatenate([PLACES, PLACES])])
    return AttentionMaps.from_arrays([(edge_index, np.full((2 * LARGE, 3), 0.5))] * 3, num_nodes=LARGE)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_fit_is_refused(name: str, ring: AttentionMaps) -> None:
    measure, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        measure(ring)


def test_what_is_measured_of_a_large_ring(ring: AttentionMaps) -> None:
    A = ring.affinity(0)
    assert_allclose(analysis.symmetry(A), 0.5, rtol=1e-12)  # the squares of the loops
    assert analysis.directionality(A).tolist() == [0.0] * 3
    row = analysis.rollout_rows(ring, [5], residual=False).relevance[0, 0]
    assert row[[5, 4, 3, 2]].tolist() == [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    assert analysis.flow(ring, targets=[5], residual=False).flow.sum() == pytest.approx(1.0)
    found = analysis.sinks(ring)
    assert_allclose(found.strength[0], 0.5, rtol=1e-12)
    assert_allclose(found.entropy[0], np.log(2), rtol=1e-12)
    assert analysis.sink_rate([ring], eps=0.4).rates.tolist() == [1.0]
    values = analysis.spectrum(AttentionMaps.from_arrays(list(ring.layers[:1]), num_nodes=LARGE), fuse_heads=True, k=1)
    assert 0.9 < values.values[0][0, 0] <= 1 + 1e-9  # of cos(pi k / N), which crowd below 1
    assert_allclose(analysis.head_roles(ring, PLACES).scores["previous"], 0.5, rtol=1e-12)
    assert_allclose(analysis.offset_score(ring, 0), 0.5, rtol=1e-12)
    flow = analysis.modality_flow(ring, PLACES % 2)
    assert_allclose(flow.total, 0.5, rtol=1e-12)
    reach = analysis.influence(ring, 0.5, sources=[3]).reach
    assert_allclose(reach, 1 / LARGE, rtol=1e-8)
    central = analysis.centrality(ring, measures=["received", "pagerank"])
    assert_allclose(central.values["pagerank"], 1 / LARGE, rtol=1e-9)
    graph = analysis.causal_graph(ring, 768, head=0, nodes=[0, 1, 2, 50], learner="skeleton")
    assert graph.pag.edges() == [(0, "o-o", 1), (1, "o-o", 2)]


def test_communities_of_a_large_graph() -> None:
    """Triangles that draw on no others, so that each is a community."""
    size = LARGE // 3 * 3
    place = np.arange(size)
    source = np.concatenate([place // 3 * 3 + (place + step) % 3 for step in (1, 2)])
    maps = AttentionMaps.from_arrays(
        [(np.stack([source, np.tile(place, 2)]), np.full((2 * size, 1), 0.5))], num_nodes=size
    )
    found = analysis.communities(maps)
    assert found.member.tolist() == (place // 3).tolist()
    assert found.modularity == pytest.approx(1 - 3 / size, rel=1e-9)
    assert len(set(found.components.tolist())) == size // 3


def test_attributions_of_a_large_graph() -> None:
    worth = torch.zeros(LARGE, dtype=torch.float64)
    worth[:2] = 1.0
    curves = analysis.faithfulness(lambda kept: kept.double() @ worth, worth, steps=4, samples=2)
    assert curves.deletion.tolist() == [2.0, 0.0, 0.0, 0.0, 0.0]
    test = analysis.removal_test(lambda kept: kept.double() @ worth, [0, 1], LARGE, samples=20)
    assert (test.drop, test.exact) == (2.0, False)


def test_a_large_graph_is_captured_as_edges() -> None:
    from graphattn.nn import AttentionConv

    edges = torch.from_numpy(np.stack([np.roll(PLACES, 1), PLACES]))
    captured = analysis.capture(AttentionConv(2, 3, heads=2), (torch.randn(LARGE, 2), edges))
    maps = captured.maps()
    assert maps.is_sparse(0)
    assert_allclose(maps.edges(0)[1], 1.0, rtol=1e-6)


def test_the_empty_graph_has_no_maps() -> None:
    from graphattn.nn import AttentionConv

    captured = analysis.capture(AttentionConv(2, 3), (torch.zeros(0, 2), torch.zeros(2, 0, dtype=torch.long)))
    with pytest.raises(ValueError, match="no tokens are left of 0"):
        captured.maps()
    assert analysis.symmetry(Affinity.from_edge_index(torch.zeros(2, 0, dtype=torch.long), num_nodes=2)) == 0.0
