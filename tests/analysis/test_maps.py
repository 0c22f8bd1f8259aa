"""The input contract of the measures: what is read, removed and refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphattn.affinity import Affinity, DenseAffinity, SparseAffinity
from graphattn.analysis import AttentionMaps


def random_maps(*shape: int, seed: int = 0, lower: bool = False) -> np.ndarray:
    """Draw maps whose rows sum to 1."""
    weights = np.random.default_rng(seed).random((*shape, shape[-1]))
    weights = np.tril(weights) if lower else weights
    return weights / weights.sum(axis=-1, keepdims=True)


def as_edges(matrices: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """List all pairs of nodes and their weights (E, H), in any order."""
    order = np.random.default_rng(seed).permutation(matrices[0].size)
    target, source = np.divmod(order, matrices.shape[-1])
    return np.stack([source, target]), matrices[:, target, source].T


ATTENTION = random_maps(3, 2, 5)
MASK = np.array([True, False, True, True, False])


def as_layers(form: str) -> Any:
    """Give the maps in one of the forms that are read."""
    tensor = torch.from_numpy(ATTENTION)
    return {
        "array": ATTENTION,
        "tensor": tensor.requires_grad_(),
        "list of arrays": list(ATTENTION),
        "tuple of tensors": tuple(tensor),
        "pairs": [as_edges(layer) for layer in ATTENTION],
        "pairs of tensors": [tuple(torch.from_numpy(part) for part in as_edges(layer)) for layer in ATTENTION],
        "dense affinities": [DenseAffinity(layer) for layer in tensor],
        "sparse affinities": [
            SparseAffinity(*(torch.from_numpy(part) for part in as_edges(layer)), (5, 5)) for layer in ATTENTION
        ],
        "mixed": [ATTENTION[0], as_edges(ATTENTION[1]), DenseAffinity(tensor[2])],
    }[form]


FORMS = [
    "array",
    "tensor",
    "list of arrays",
    "tuple of tensors",
    "pairs",
    "pairs of tensors",
    "dense affinities",
    "sparse affinities",
    "mixed",
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_maps(form: str) -> None:
    maps = AttentionMaps.from_arrays(as_layers(form), num_nodes=5)
    assert (maps.num_layers, maps.num_nodes, maps.heads, maps.causal) == (3, 5, (2, 2, 2), False)
    assert maps.tokens == ("0", "1", "2", "3", "4")
    for number in range(-3, 3):
        np.testing.assert_array_equal(maps.dense(number), ATTENTION[number])
        (source, target), weights = maps.edges(number)
        again = np.zeros((2, 5, 5))
        again[:, target, source] = weights.T
        np.testing.assert_array_equal(again, ATTENTION[number])
        affinity = maps.affinity(number)
        np.testing.assert_array_equal(affinity.to_dense().matrix, ATTENTION[number])
        assert isinstance(affinity, SparseAffinity) == maps.is_sparse(number)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("as_mask", [np.array, torch.tensor, list])
def test_masked_rows_and_columns_are_removed(form: str, as_mask: Any) -> None:
    maps = AttentionMaps.from_arrays(
        as_layers(form), num_nodes=5, mask=as_mask(MASK), tokens=list("abcde"), validate=False
    )
    assert maps.tokens == ("a", "c", "d")
    assert maps.positions.tolist() == [0, 2, 3]
    for number in range(3):
        np.testing.assert_array_equal(maps.dense(number), ATTENTION[number][:, MASK][:, :, MASK])
        assert maps.edges(number)[0].max() == 2


def test_what_masked_rows_and_columns_hold_does_not_matter() -> None:
    clean = random_maps(1, 2, 3)
    padded = np.full((1, 2, 5, 5), np.nan)
    padded[:, :, MASK] = 0
    padded[:, :, np.ix_(MASK, MASK)[0], np.ix_(MASK, MASK)[1]] = clean
    np.testing.assert_array_equal(AttentionMaps.from_arrays(padded, mask=MASK).dense(0), clean[0])


@pytest.mark.parametrize("sample", [0, 1])
def test_one_sample_of_a_batch(sample: int) -> None:
    batch = random_maps(2, 3, 2, 5)
    mask = np.stack([np.arange(5) < 5, np.arange(5) < 3])
    batch[1] = 0
    batch[1, :, :, :3, :3] = random_maps(3, 2, 3, seed=1)
    expected = batch[sample][:, :, mask[sample]][:, :, :, mask[sample]]
    by_array = AttentionMaps.from_arrays(batch, mask=mask, sample=sample)
    by_layer = AttentionMaps.from_arrays(list(batch.transpose(1, 0, 2, 3, 4)), mask=mask, sample=sample)
    for number, maps in itertools.product(range(3), (by_array, by_layer)):
        np.testing.assert_array_equal(maps.dense(number), expected[number])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_measures_get_float64_of_whatever_is_stored(dtype: torch.dtype) -> None:
    given = torch.from_numpy(ATTENTION).to(dtype)
    maps = AttentionMaps.from_arrays(given, validate=dtype.itemsize > 2)
    assert maps.layers[0].dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert maps.dense(0).dtype == maps.edges(0)[1].dtype == np.float64
    np.testing.assert_array_equal(maps.dense(0), given[0].double())


def test_single_matrices_and_layers_of_different_heads() -> None:
    maps = AttentionMaps.from_arrays([np.eye(4), random_maps(3, 4), as_edges(random_maps(2, 4))])
    assert maps.heads == (1, 3, 2)
    assert repr(maps) == "AttentionMaps(3 layers, heads 1-3, 4 nodes, dense and edges)"
    assert (
        repr(AttentionMaps.from_arrays(np.eye(2)[None, None]))
        == "AttentionMaps(1 layers, heads 1, 2 nodes, dense, causal)"
    )


def test_an_affinity_without_weights_counts_each_edge_as_one() -> None:
    ring = Affinity.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]))
    np.testing.assert_array_equal(AttentionMaps.from_arrays([ring]).dense(0)[0], np.roll(np.eye(3), 1, axis=0))


def test_parallel_edges_add_up() -> None:
    edges = np.array([[0, 0, 1], [1, 1, 1]]), np.array([[0.25, 1.0], [0.25, 0.0], [0.5, 0.0]])
    maps = AttentionMaps.from_arrays([edges], num_nodes=2)
    np.testing.assert_array_equal(maps.dense(0), [[[0, 0], [0.5, 0.5]], [[0, 0], [1, 0]]])


def test_rows_without_attention_are_allowed_in_both_forms() -> None:
    matrix = np.array([[[0.0, 0.0], [0.5, 0.5]]])
    for layer in (matrix, as_edges(matrix)):
        np.testing.assert_array_equal(AttentionMaps.from_arrays([layer], num_nodes=2).dense(0), matrix)


def test_nothing_of_the_caller_is_changed() -> None:
    given = ATTENTION.copy()
    maps = AttentionMaps.from_arrays(given)
    maps.dense(0)[:] = 7
    np.testing.assert_array_equal(given, ATTENTION)
    np.testing.assert_array_equal(maps.dense(0), ATTENTION[0])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("lower", [False, True])
def test_causality_is_seen_claimed_or_denied(sparse: bool, lower: bool) -> None:
    attention = random_maps(2, 2, 4, lower=lower)
    layers = [as_edges(layer) for layer in attention] if sparse else attention
    assert AttentionMaps.from_arrays(layers, num_nodes=4).causal == lower
    assert not AttentionMaps.from_arrays(layers, num_nodes=4, causal=False).causal
    if lower:
        assert AttentionMaps.from_arrays(layers, num_nodes=4, causal=True).causal
    else:
        with pytest.raises(ValueError, match="causal is True but a token draws on a later one"):
            AttentionMaps.from_arrays(layers, num_nodes=4, causal=True)


@pytest.mark.parametrize("form", ["array", "pairs", "mixed"])
def test_files_hold_what_was_saved(form: str, tmp_path: Path) -> None:
    maps = AttentionMaps.from_arrays(as_layers(form), num_nodes=5, tokens=["<script>", "ü", "", "a", "b"])
    maps.save(tmp_path / "maps.npz")
    again = AttentionMaps.load(tmp_path / "maps.npz")
    assert again.tokens == maps.tokens
    assert (again.causal, again.num_nodes, repr(again)) == (maps.causal, 5, repr(maps))
    np.testing.assert_array_equal(again.positions, maps.positions)
    for number in range(3):
        np.testing.assert_array_equal(again.dense(number), maps.dense(number))


def test_files_of_plain_arrays(tmp_path: Path) -> None:
    attention = np.zeros((1, 1, 3, 3))
    attention[0, 0, :2, :2] = 0.5
    np.savez(tmp_path / "plain.npz", attention=attention, tokens=np.array(["a", "b", "[PAD]"]), mask=[1, 1, 0])
    assert AttentionMaps.load(tmp_path / "plain.npz").tokens == ("a", "b")
    np.savez(tmp_path / "other.npz", weights=attention)
    with pytest.raises(ValueError, match=r"holds \['weights'\], without 'num_layers'; expected an array 'attention'"):
        AttentionMaps.load(tmp_path / "other.npz")
    np.savez(tmp_path / "pickle.npz", attention=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        AttentionMaps.load(tmp_path / "pickle.npz")
    np.savez(tmp_path / "bad.npz", attention=2 * attention)
    with pytest.raises(ValueError, match="row 0 sums to 2"):
        AttentionMaps.load(tmp_path / "bad.npz")


def test_a_graph_of_ten_thousand_nodes_stays_a_list_of_edges(tmp_path: Path) -> None:
    nodes = np.arange(10_000)
    edges = np.stack([np.concatenate([nodes, np.roll(nodes, 1)]), np.concatenate([nodes, nodes])])
    maps = AttentionMaps.from_arrays([(edges, np.full((20_000, 4), 0.5, dtype=np.float32))] * 3, num_nodes=10_000)
    assert maps.edges(2)[1].shape == (20_000, 4)
    maps.save(tmp_path / "large.npz")
    assert (tmp_path / "large.npz").stat().st_size < 2**20
    assert maps.affinity(0).row_sums().eq(1).all()
    with pytest.raises(
        ValueError, match=r"layer 0 has 4 heads over 10000 nodes, which is 3\.0 GiB as matrices; read its"
    ):
        maps.dense(0)


# What is refused ######################################################################################################


def changed(index: tuple[int, ...], value: float) -> np.ndarray:
    attention = ATTENTION.copy()
    attention[index] = value
    return attention


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_weights_that_are_not_finite(value: float, validate: bool, sparse: bool) -> None:
    attention = changed((1, 0, 2, 3), value)
    layers = [as_edges(layer) for layer in attention] if sparse else attention
    with pytest.raises(ValueError, match="layer 1 has weights that are NaN or infinite; pass the attention after"):
        AttentionMaps.from_arrays(layers, num_nodes=5, validate=validate)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("positions", np.arange(4), "has positions .*; expected 5 increasing numbers of tokens"),
        ("positions", np.zeros(5, dtype=int), "expected 5 increasing numbers"),
        ("positions", np.arange(-1, 4), "expected 5 increasing numbers"),
        ("positions", np.linspace(0, 1, 5), "expected 5 increasing numbers"),
        ("positions", None, "without 'positions'"),
        ("tokens", np.array("abcde"), r"has tokens of shape \(\); expected a list of names"),
        ("tokens", np.array(["a"] * 4), "layer 0 has 5 nodes but 4 were expected"),
        ("num_layers", np.array(4), "without 'edge_index_3'"),
        ("causal", np.array(True), "causal is True but a token draws on a later one"),
    ],
)
def test_files_that_were_changed(name: str, value: Any, message: str, tmp_path: Path) -> None:
    AttentionMaps.from_arrays(ATTENTION).save(tmp_path / "maps.npz")
    arrays = dict(np.load(tmp_path / "maps.npz"))
    arrays.pop(name)
    np.savez(tmp_path / "changed.npz", **arrays, **({} if value is None else {name: value}))
    with pytest.raises(ValueError, match=message):
        AttentionMaps.load(tmp_path / "changed.npz")


def test_names_that_are_numbers(tmp_path: Path) -> None:
    maps = AttentionMaps.from_arrays(ATTENTION, tokens=range(10, 15))
    assert maps.tokens == ("10", "11", "12", "13", "14")
    np.savez(tmp_path / "plain.npz", attention=ATTENTION, tokens=np.arange(10, 15))
    assert AttentionMaps.load(tmp_path / "plain.npz").tokens == maps.tokens


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_that_do_not_sum_to_one(sparse: bool) -> None:
    def read(attention: np.ndarray, **options: Any) -> AttentionMaps:
        layers = [as_edges(layer) for layer in attention] if sparse else attention
        return AttentionMaps.from_arrays(layers, num_nodes=5, **options)

    wrong = changed((2, 1, 3, 4), ATTENTION[2, 1, 3, 4] + 0.0011)
    with pytest.raises(
        ValueError, match=r"layer 2, head 1: row 3 sums to 1\.001, not to 1 \(1 such rows\); pass the att"
    ):
        read(wrong)
    np.testing.assert_array_equal(read(wrong, validate=False).dense(2), wrong[2])
    assert read(changed((2, 1, 3, 4), ATTENTION[2, 1, 3, 4] + 0.0009)).num_layers == 3
    with pytest.raises(
        ValueError, match=r"layer 0 has negative weights, the lowest -1; pass the attention after its soft"
    ):
        read(changed((0, 0, 0, 0), -1))
    with pytest.raises(
        ValueError, match=r"row 0 sums to .*; the rest is on masked tokens; pass the mask the model was given"
    ):
        read(ATTENTION, mask=MASK)
    # After dropout of one half.
    dropped = ATTENTION * (np.random.default_rng(0).random(ATTENTION.shape) < 0.5) * 2
    with pytest.raises(ValueError, match="before dropout, or validate=False"):
        read(dropped)


def test_no_tokens_and_no_layers() -> None:
    with pytest.raises(ValueError, match=r"layers holds no layer; .*attn_implementation=\"eager\""):
        AttentionMaps.from_arrays([])
    with pytest.raises(ValueError, match="no tokens are left of 0; pass maps"):
        AttentionMaps.from_arrays(np.zeros((1, 1, 0, 0)))
    with pytest.raises(ValueError, match="no tokens are left of 5"):
        AttentionMaps.from_arrays(ATTENTION, mask=np.zeros(5, dtype=bool))


def test_ragged_layers() -> None:
    with pytest.raises(ValueError, match="layer 1 has 4 nodes but 5 were expected; all layers share their tokens"):
        AttentionMaps.from_arrays([np.eye(5), np.eye(4)])
    with pytest.raises(ValueError, match="layer 0 has 5 nodes but 6 were expected"):
        AttentionMaps.from_arrays(ATTENTION, num_nodes=6)
    with pytest.raises(ValueError, match=r"layer 0 has shape \(2, 3, 4\); expected \[H, N, N\] with at least one head"):
        AttentionMaps.from_arrays([np.zeros((2, 3, 4))])
    with pytest.raises(ValueError, match="layer 0 is 3 x 4; expected as many targets as sources"):
        AttentionMaps.from_arrays([Affinity.from_edge_index(torch.tensor([[3], [1]]), num_nodes=(4, 3))])
    with pytest.raises(TypeError, match="a layer is a list; expected real numbers"):
        AttentionMaps.from_arrays([[[1.0, 0.0], [1.0]]])
    with pytest.raises(TypeError, match="a layer is an array of dtype object"):
        AttentionMaps.from_arrays([np.array([[1.0], [1.0, 2.0]], dtype=object)])


def test_shapes_that_need_or_do_not_need_a_sample() -> None:
    with pytest.raises(
        ValueError, match=r"\(1, 3, 2, 5, 5\); expected \[L, H, N, N\]; pass sample= to read one of a batch"
    ):
        AttentionMaps.from_arrays(ATTENTION[None])
    with pytest.raises(ValueError, match=r"\(3, 2, 5, 5\); expected \[B, L, H, N, N\], as sample is given"):
        AttentionMaps.from_arrays(ATTENTION, sample=0)
    with pytest.raises(ValueError, match=r"layer 0 has shape \(1, 2, 5, 5\); expected \[H, N, N\]; pass sample="):
        AttentionMaps.from_arrays([ATTENTION[:1]])
    with pytest.raises(ValueError, match=r"layer 0 has shape \(2, 5, 5\); expected \[B, H, N, N\]"):
        AttentionMaps.from_arrays(list(ATTENTION), sample=0)
    with pytest.raises(ValueError, match="sample is 3 but the batch has 1; pass a number of 0 to 0"):
        AttentionMaps.from_arrays(ATTENTION[None], sample=3)
    with pytest.raises(TypeError, match="layers is a str; expected an array"):
        AttentionMaps.from_arrays("attention")


def test_tokens_and_masks_of_another_length() -> None:
    with pytest.raises(ValueError, match="tokens names 2 tokens but the maps have 5; pass one name for each"):
        AttentionMaps.from_arrays(ATTENTION, tokens=["a", "b"])
    with pytest.raises(ValueError, match=r"mask has shape \(3,\); expected 5 booleans, True for real tokens"):
        AttentionMaps.from_arrays(ATTENTION, mask=[True] * 3)
    with pytest.raises(ValueError, match=r"mask has shape \(5,\); expected 5 booleans"):
        AttentionMaps.from_arrays(ATTENTION, mask=[0, -1, -1, 0, 0])


def test_edges_that_do_not_fit() -> None:
    edges, weights = as_edges(ATTENTION[0])
    with pytest.raises(ValueError, match="num_nodes is None; pass the number of nodes, which edges do not tell"):
        AttentionMaps.from_arrays([(edges, weights)])
    with pytest.raises(ValueError, match="layer 0 has edges between nodes 0 to 4; expected numbers of 0 to 3"):
        AttentionMaps.from_arrays([(edges, weights)], num_nodes=4)
    with pytest.raises(ValueError, match=r"layer 0 has edge_index \(2, 25\) and weights \(24, 2\); expected \[2, E\]"):
        AttentionMaps.from_arrays([(edges, weights[1:])], num_nodes=5)
    with pytest.raises(TypeError, match="layer 0 is a pair whose edge_index is no integer array"):
        AttentionMaps.from_arrays([(edges.astype(float), weights)], num_nodes=5)
