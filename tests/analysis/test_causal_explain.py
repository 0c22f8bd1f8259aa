"""Trees of possible d-separators, and the search for explanations along them."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from graphattn.analysis.causal_explain import (
    PdsTree,
    exhaustive_explanations,
    explain,
    masking_test,
    pds_tree,
)
from graphattn.analysis.causal_pag import Pag

KINDS = ["-->", "<--", "<->", "o->", "<-o", "o-o"]


def random_pag(seed: int, size: int = 6, probability: float = 0.5) -> Pag:
    rng = np.random.default_rng(seed)
    pairs = [pair for pair in combinations(range(size), 2) if rng.random() < probability]
    return Pag.from_edges(range(size), [(i, KINDS[rng.integers(6)], j) for i, j in pairs])


def paths(tree: PdsTree, before: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """All paths of a tree from its root, with their nodes."""
    here = (*before, tree.node)
    return [here] + [path for child in tree.children for path in paths(child, here)]


# Trees


def test_paths_go_on_through_colliders() -> None:
    # 0 -> 1 <-> 2 <-> 3 <- 4, of which 1, 2 and 3 are colliders
    pag = Pag.from_edges(range(5), [(0, "-->", 1), (1, "<->", 2), (2, "<->", 3), (4, "-->", 3)])
    assert pds_tree(pag, 0).distances() == {1: 1, 2: 2, 3: 3, 4: 4}
    assert pds_tree(pag, 0, max_range=2).distances() == {1: 1, 2: 2}
    assert pds_tree(pag, 4).distances() == {3: 1, 2: 2, 1: 3, 0: 4}


def test_paths_stop_at_what_is_no_collider() -> None:
    pag = Pag.from_edges(range(3), [(0, "-->", 1), (1, "-->", 2)])
    assert pds_tree(pag, 0).distances() == {1: 1}
    assert pds_tree(pag, 1).distances() == {0: 1, 2: 1}


def test_paths_go_on_in_triangles() -> None:
    pag = Pag.from_edges(range(4), [(0, "o-o", 1), (1, "o-o", 2), (0, "o-o", 2), (2, "o-o", 3)])
    tree = pds_tree(pag, 0)
    assert paths(tree) == [(0,), (0, 1), (0, 1, 2), (0, 2)]  # the edge 1-2 is used once, 3 is no neighbor of 0


@pytest.mark.parametrize("seed", range(20))
def test_trees_follow_the_definition(seed: int) -> None:
    pag = random_pag(seed)
    for root in pag.nodes:
        tree = pds_tree(pag, root)
        found = paths(tree)
        used = [frozenset(path[-2:]) for path in found if len(path) > 1]
        assert len(used) == len(set(used)), "an edge is used twice"
        assert [child.node for child in tree.children] == list(pag.neighbors(root))
        for path in found:
            assert all(pag.adjacent(i, j) for i, j in pairwise(path))
            for a, b, c in zip(path, path[1:], path[2:], strict=False):
                assert pag.adjacent(a, c) or pag.is_collider(a, b, c)
        shortest = {node: min(len(path) - 1 for path in found if path[-1] == node) for node in tree.distances()}
        assert tree.distances() == shortest
        for size in (1, 2, 3):
            for subset in combinations([node for node in pag.nodes if node != root], size):
                inside = {path[-1] for path in found if len(path) > 1 and set(path[1:]) <= set(subset)}
                assert tree.reaches(subset) == (inside == set(subset))


def test_wrong_trees_are_refused() -> None:
    pag = random_pag(0)
    with pytest.raises(ValueError, match="9 is none of the nodes"):
        pds_tree(pag, 9)
    with pytest.raises(ValueError, match="max_range is 0"):
        pds_tree(pag, 0, max_range=0)


# Explanations


def needs(*sets: set[int]) -> object:
    """A test that is passed by every set that holds one of these."""
    return lambda subset, target: any(needed <= set(subset) for needed in sets)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_found_is_among_all_explanations(seed: int) -> None:
    pag = random_pag(seed)
    rng = np.random.default_rng(seed)
    test = needs(*({int(node) for node in rng.choice(5, 2, replace=False)} for _ in range(2)))
    everything = exhaustive_explanations(pag.nodes, 5, test, minimal=False)  # type: ignore[arg-type]
    found = explain(pag, 5, test, minimal=False)  # type: ignore[arg-type]
    assert set(found.found) <= set(everything)
    tree = pds_tree(pag, 5)
    assert set(found.found) == {subset for subset in everything if tree.reaches(subset)}
    smallest = explain(pag, 5, test)  # type: ignore[arg-type]
    if found.found:
        size = min(map(len, found.found))
        assert set(smallest.found) == {subset for subset in found.found if len(subset) == size}
        assert smallest.n_tried <= found.n_tried
    else:
        assert smallest.found == ()


def test_everything_is_found_in_a_complete_graph() -> None:
    pag = Pag.from_edges(range(6), [(i, "o-o", j) for i, j in combinations(range(6), 2)])
    test = needs({0, 2}, {4})
    found = explain(pag, 1, test, minimal=False)  # type: ignore[arg-type]
    assert set(found.found) == set(exhaustive_explanations(range(6), 1, test, minimal=False))  # type: ignore[arg-type]
    assert found.n_tried == 2**5 - 1
    assert exhaustive_explanations(range(6), 1, test) == ((4,),)  # type: ignore[arg-type]
    assert explain(pag, 1, test).found == ((4,),)  # type: ignore[arg-type]


def test_small_and_near_sets_come_first() -> None:
    pag = Pag.from_edges(range(5), [(0, "-->", 1), (1, "<->", 2), (2, "<->", 3), (4, "-->", 0)])
    tried: list[tuple[int, ...]] = []
    explain(pag, 0, lambda subset, target: bool(tried.append(subset)))
    distances = {1: 1, 2: 2, 3: 3, 4: 1}
    keys = [(len(subset), sum(distances[node] for node in subset)) for subset in tried]
    assert keys == sorted(keys)
    assert tried == [(1,), (4,), (1, 4), (1, 2), (1, 2, 4), (1, 2, 3), (1, 2, 3, 4)]


def test_sizes_and_ranges_are_bounded() -> None:
    pag = Pag.from_edges(range(5), [(0, "-->", 1), (1, "<->", 2), (2, "<->", 3), (4, "-->", 0)])
    test = needs({1, 2})
    assert explain(pag, 0, test, max_size=1).found == ()  # type: ignore[arg-type]
    assert explain(pag, 0, test, max_range=1).candidates == {1: 1, 4: 1}  # type: ignore[arg-type]
    assert explain(pag, 0, test, max_range=2).found == ((1, 2),)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_size is 0"):
        explain(pag, 0, test, max_size=0)  # type: ignore[arg-type]


def test_without_a_test_all_candidates_are_returned() -> None:
    pag = Pag.from_edges(range(5), [(0, "-->", 1), (1, "<->", 2)])
    result = explain(pag, 0)
    assert (result.found, result.n_tried) == (((1, 2),), 0)
    assert "not put to the test" in repr(result)
    assert explain(pag, 0, max_size=1).found == ()
    assert explain(pag, 4).found == ()
    assert explain(pag, 4).candidates == {}


def test_explanations_as_a_table() -> None:
    pytest.importorskip("pandas")
    pag = Pag.from_edges(range(3), [(0, "-->", 1), (2, "-->", 1)])
    result = explain(pag, 0, lambda subset, target: True, minimal=False, tokens=["a", "b", "c"])
    frame = result.as_frame()
    assert frame.to_dict("list") == {
        "nodes": [(1,), (1, 2)],
        "tokens": [("b",), ("b", "c")],
        "size": [1, 2],
        "distance": [1, 3],
    }
    assert repr(result) == "Explanations(of a: {b}, {b, c}; 2 sets tried)"
    assert list(explain(pag, 0, lambda subset, target: False).as_frame().columns) == list(frame.columns)


# The masking test


@pytest.mark.parametrize("form", ["array", "tensor", "list"])
def test_tokens_are_hidden_as_said(form: str) -> None:
    seen = []

    def predict(ids: object, target: int) -> int:
        values = np.asarray(ids).tolist()
        seen.append((values, target))
        return values.count(0)

    ids = {"array": np.array([5, 6, 7, 8]), "tensor": torch.tensor([5, 6, 7, 8]), "list": [5, 6, 7, 8]}[form]
    test = masking_test(predict, ids, pad_id=0, mask_id=99)
    assert test((0, 3), 1)
    assert test((2,), 1)
    assert test((2,), 3)
    assert seen == [
        ([5, 99, 7, 8], 1),  # the prediction to compare with, once for each target
        ([0, 99, 7, 0], 1),
        ([5, 99, 0, 8], 1),
        ([5, 6, 7, 99], 3),
        ([5, 6, 0, 99], 3),
    ]
    assert np.asarray(ids).tolist() == [5, 6, 7, 8]


def test_the_target_stays_without_a_mask() -> None:
    test = masking_test(lambda ids, target: int(ids[target]), torch.tensor([5, 6]), pad_id=0)
    assert not test((0,), 1)
    assert test((1,), 1)


def test_predictions_may_be_tensors() -> None:
    weights = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    test = masking_test(lambda ids, target: (ids * weights).sum() > 5, torch.tensor([1, 2, 3]), pad_id=0)
    assert not test((1,), 0)
    assert test((2,), 0)


def test_the_explanation_of_a_model_that_is_known() -> None:
    """A prediction that two tokens make together is explained by both, and by either alone if hiding one suffices."""
    pag = Pag.from_edges(range(4), [(i, "-->", 3) for i in range(3)])
    ids = np.array([4, 9, 4, 1])
    either = masking_test(lambda ids, target: int(4 in ids[:3]), ids, pad_id=0)
    assert explain(pag, 3, either).found == ((0, 2),)
    both = masking_test(lambda ids, target: int((ids[:3] == 4).sum() == 2), ids, pad_id=0)
    assert explain(pag, 3, both).found == ((0,), (2,))


def test_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ids has shape \(1, 3\)"):
        masking_test(lambda ids, target: 0, torch.tensor([[1, 2, 3]]), pad_id=0)
