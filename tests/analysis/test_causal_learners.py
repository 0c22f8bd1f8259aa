"""Learners of causal structure: what must come out of known models, and what causal-learn finds in data."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from graphattn import _optional
from graphattn.analysis import causal_learners, causal_tests
from graphattn.analysis.causal_correlation import attention_correlation, surrogate_data
from graphattn.analysis.causal_learners import learn_pag
from graphattn.analysis.causal_pag import Pag
from graphattn.analysis.causal_tests import PartialCorrelationTest
from tests.analysis.structural_models import attention_of, correlation_of, random_weights, skeleton_of

LEARNERS = ["fci", "pc", "skeleton"]
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "causal"


@pytest.fixture(autouse=True)
def _needs_causal_learn(request: pytest.FixtureRequest) -> None:
    if "causal_learn" in request.fixturenames or "learner" in request.fixturenames:
        pytest.importorskip("causallearn")


@pytest.fixture
def causal_learn() -> Any:
    """The two learners, as they are called on data."""
    from causallearn.search.ConstraintBased.FCI import fci
    from causallearn.search.ConstraintBased.PC import pc

    return {"fci": fci, "pc": pc}


def edges(pag: Pag) -> set[tuple[int, int]]:
    return {(min(i, j), max(i, j)) for i, _, j in pag.edges()}


def weights(*entries: tuple[int, int, float], size: int = 3) -> np.ndarray:
    """Weights of a model from entries (effect, cause, weight)."""
    G = np.zeros((size, size))
    for effect, cause, weight in entries:
        G[effect, cause] = weight
    return G


def exact(G: np.ndarray, n_samples: int = 10**5, alpha: float = 1e-4, **options: Any) -> PartialCorrelationTest:
    return PartialCorrelationTest(correlation_of(G), n_samples, alpha, **options)


# What must come out


@pytest.mark.parametrize("learner", LEARNERS)
def test_independent_nodes_have_no_edges(learner: str) -> None:
    assert learn_pag(PartialCorrelationTest(np.eye(4), 768), learner).edges() == []


@pytest.mark.parametrize("learner", LEARNERS)
def test_one_node_has_no_edges(learner: str) -> None:
    pag = learn_pag(PartialCorrelationTest(np.eye(1), 768, nodes=[5]), learner)
    assert pag.nodes == (5,)
    assert pag.edges() == []


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_middle_of_a_chain_separates_its_ends(learner: str) -> None:
    test = exact(weights((1, 0, 0.8), (2, 1, 0.7)))
    assert learn_pag(test, learner).edges() == [(0, "o-o", 1), (1, "o-o", 2)]
    assert [result.given for result in test.results(0, 2) if result.p_value > test.alpha] == [(1,)]


@pytest.mark.parametrize("learner", ["fci", "pc"])
def test_arrows_meet_at_a_collider(learner: str) -> None:
    pag = learn_pag(exact(weights((2, 0, 0.8), (2, 1, 0.7))), learner)
    assert pag.is_collider(0, 2, 1)
    assert edges(pag) == {(0, 2), (1, 2)}
    assert {kind for _, kind, _ in pag.edges()} == {"o->" if learner == "fci" else "-->"}


def test_fci_finds_a_latent_common_cause() -> None:
    pytest.importorskip("causallearn")
    # 0 -> 2 <- 4 -> 3 <- 1, and 4 is not seen: neither 2 nor 3 causes the other.
    G = weights((2, 0, 0.8), (3, 1, 0.8), (2, 4, 0.8), (3, 4, 0.8), size=5)
    R = correlation_of(G)[:4, :4]
    pag = learn_pag(PartialCorrelationTest(R, 10**5, 1e-4), "fci")
    assert pag.edges() == [(0, "o->", 2), (1, "o->", 3), (2, "<->", 3)]


def test_a_perfect_learner_of_ones_own() -> None:
    """A learner is any function; what it asks is answered in terms of nodes."""
    asked = []

    def learner(test: PartialCorrelationTest, nodes: tuple[int, ...]) -> Pag:
        asked.append(test(nodes[0], nodes[2], [nodes[1]]))
        return Pag.from_edges(nodes, [(nodes[0], "-->", nodes[1])])

    test = exact(weights((1, 0, 0.8), (2, 1, 0.7)), nodes=[4, 2, 9])
    assert learn_pag(test, learner).edges() == [(4, "-->", 2)]
    assert asked == [test(4, 9, [2])]


def test_skeletons_of_random_models_are_those_by_d_separation() -> None:
    rng = np.random.default_rng(0)
    right = {"skeleton": 0, "fci": 0}
    for _ in range(30):
        G = random_weights(rng)
        R, nodes = attention_correlation(attention_of(G))
        truth = skeleton_of(G)
        assert truth == {(int(j), int(i)) for i, j in np.argwhere(G)}
        for learner in right:
            if learner == "fci":
                pytest.importorskip("causallearn")
            right[learner] += edges(learn_pag(PartialCorrelationTest(R, 10**5, 1e-4, nodes), learner)) == truth
    assert min(right.values()) >= 25


@pytest.mark.parametrize("learner", LEARNERS)
def test_graphs_of_a_hundred_models_are_those_of_their_exact_covariance(learner: str, causal_learn: Any) -> None:
    right = 0
    for seed in range(100):
        G = random_weights(np.random.default_rng(seed))
        R, nodes = attention_correlation(attention_of(G))
        found = learn_pag(PartialCorrelationTest(R, 10**5, 1e-4, nodes), learner)
        assert_array_equal(found.marks, learn_pag(exact(G), learner).marks)
        right += edges(found) == {(int(j), int(i)) for i, j in np.argwhere(G)}
    assert right >= 85


@pytest.mark.parametrize("n_samples", [100, 768, 10**5])
def test_the_built_in_skeleton_is_that_of_pc(n_samples: int, causal_learn: Any) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        R = correlation_of(random_weights(rng, size=7, probability=0.5))
        ours = learn_pag(PartialCorrelationTest(R, n_samples, max_cond=5), "skeleton")
        theirs = learn_pag(PartialCorrelationTest(R, n_samples, max_cond=5), "pc")
        assert edges(ours) == edges(theirs)


@pytest.mark.parametrize("learner", LEARNERS)
def test_scaling_rows_gives_the_same_graph(learner: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(10):
        A = attention_of(random_weights(rng))
        scaled = rng.uniform(0.01, 100, (6, 1)) * A
        pags = [learn_pag(PartialCorrelationTest(attention_correlation(X)[0], 10**4), learner) for X in (A, scaled)]
        assert_array_equal(pags[0].marks, pags[1].marks)


@pytest.mark.parametrize("learner", LEARNERS)
def test_permuting_tokens_permutes_the_graph(learner: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        A = attention_of(random_weights(rng))
        permutation = rng.permutation(6)
        pag = learn_pag(PartialCorrelationTest(attention_correlation(A)[0], 10**5, 1e-4), learner)
        permuted = A[np.ix_(permutation, permutation)]
        test = PartialCorrelationTest(attention_correlation(permuted)[0], 10**5, 1e-4, nodes=permutation)
        other = learn_pag(test, learner)
        if learner == "skeleton":
            assert other.hamming_distance(pag) == 0
        else:  # where colliders contradict one another, causal-learn lets the order of the nodes decide
            assert edges(other) == edges(pag)


@pytest.mark.parametrize("learner", LEARNERS)
def test_identical_tokens_are_never_separated(learner: str) -> None:
    A = attention_of(random_weights(np.random.default_rng(4), size=5))
    A = np.vstack([A, A[2]])  # a copy of the third token
    R = attention_correlation(np.hstack([A, np.zeros((6, 1))]))[0]
    assert learn_pag(PartialCorrelationTest(R, 768), learner).adjacent(2, 5)


def test_sets_are_no_larger_than_allowed() -> None:
    pytest.importorskip("causallearn")
    for learner in LEARNERS:
        for max_cond in (0, 1, 2):
            rng = np.random.default_rng(5)
            test = exact(random_weights(rng, size=7, probability=0.7), max_cond=max_cond)
            learn_pag(test, learner)
            assert max(len(result.given) for result in test) == max_cond


# Orders


@pytest.mark.parametrize("learner", LEARNERS)
def test_no_arrow_goes_from_later_to_earlier(learner: str) -> None:
    rng = np.random.default_rng(6)
    for _ in range(5):
        G = random_weights(rng)
        order = [3, 1, 5, 0, 4, 2]  # names of the nodes, in causal order
        test = PartialCorrelationTest(correlation_of(G), 10**5, 1e-4, nodes=order)
        pag = learn_pag(test, learner, order)
        assert edges(pag) == edges(learn_pag(test, learner))
        for i, kind, j in pag.edges():
            assert order.index(i) < order.index(j) or kind == "<->"
            assert kind in {"skeleton": ["o->"], "pc": ["-->"], "fci": ["o->", "-->", "<->"]}[learner]


def test_an_order_does_not_rule_out_latent_causes() -> None:
    """Of x, z, q and y with a latent cause of z and y, z causes y through q, and yet they may also be confounded."""
    pytest.importorskip("causallearn")
    x, z, q, y, u = range(5)
    G = weights((z, x, 0.6), (y, x, 0.5), (z, u, 0.7), (y, u, 0.8), (q, z, 0.9), (y, q, 0.6), size=5)
    test = PartialCorrelationTest(correlation_of(G)[:u, :u], 10**5, 1e-4)
    pag = learn_pag(test, "fci", order=[x, z, q, y])
    assert pag.edges() == [(x, "o->", z), (x, "o->", y), (z, "-->", q), (z, "o->", y), (q, "o->", y)]


def test_an_order_tells_tails_by_the_rules() -> None:
    pytest.importorskip("causallearn")
    chain = exact(weights((1, 0, 0.8), (2, 1, 0.7)))
    assert learn_pag(chain, "fci", order=range(3)).edges() == [(0, "o->", 1), (1, "-->", 2)]
    fork = exact(weights((1, 0, 0.8), (2, 0, 0.7)))
    assert learn_pag(fork, "fci", order=range(3)).edges() == [(0, "o->", 1), (0, "o->", 2)]


def test_an_order_overrules_what_contradicts_it() -> None:
    """A tail at the later node cannot be, and what led to it tells nothing of the other end."""
    pag = Pag.from_edges(range(4), [(0, "---", 1), (0, "<--", 2), (0, "--o", 3), (1, "<->", 3), (2, "-->", 3)])
    marks = causal_learners._point_forward(pag.marks, [0, 1, 2, 3])
    expected = [(0, "o->", 1), (0, "o->", 2), (0, "o->", 3), (1, "<->", 3), (2, "-->", 3)]
    assert Pag(pag.nodes, marks).edges() == expected


def test_tails_follow_from_the_rules() -> None:
    """R1: c is pointed at through b, of which a is no neighbor of c. R8: a causes c through m."""
    r1 = Pag.from_edges(range(3), [(0, "o->", 1), (1, "o->", 2)])
    assert Pag(r1.nodes, causal_learners._add_tails(r1.marks)).edges() == [(0, "o->", 1), (1, "-->", 2)]
    r8 = Pag.from_edges(range(3), [(0, "-->", 1), (1, "-->", 2), (0, "o->", 2)])
    assert Pag(r8.nodes, causal_learners._add_tails(r8.marks)).mark(2, 0) == "tail"
    neither = Pag.from_edges(range(3), [(0, "o->", 1), (1, "o->", 2), (0, "o->", 2)])
    assert_array_equal(causal_learners._add_tails(neither.marks), neither.marks)
    both = Pag.from_edges(range(4), [(3, "o->", 0), (0, "o->", 1), (1, "-->", 2), (0, "o->", 2), (3, "o->", 2)])
    found = Pag(both.nodes, causal_learners._add_tails(both.marks))  # R1 at 0, and only then R8
    assert found.edges() == [(0, "-->", 1), (0, "-->", 2), (3, "o->", 0), (1, "-->", 2), (3, "o->", 2)]


@pytest.mark.parametrize("seed", range(10))
def test_ordered_graphs_are_true(seed: int) -> None:
    """What is said of models without latent causes holds: a tail is a cause, an arrow is none."""
    pytest.importorskip("causallearn")
    G = random_weights(np.random.default_rng(seed))
    test = exact(G)
    pag = learn_pag(test, "fci", order=range(6))
    for i, kind, j in pag.edges():
        assert G[j, i] != 0
        assert kind in ("o->", "-->")


def test_the_order_may_name_more_nodes() -> None:
    pag = learn_pag(exact(weights((1, 0, 0.8)), nodes=[7, 3, 9]), "skeleton", order=range(10))
    assert pag.edges() == [(3, "o->", 7)]


# Errors and manners


def test_fci_is_silent(capsys: pytest.CaptureFixture[str], causal_learn: Any) -> None:
    learn_pag(exact(random_weights(np.random.default_rng(7))), "fci", order=range(6))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("learner", ["fci", "pc"])
def test_too_many_tests_are_refused(learner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_learners, "_MAX_CALLS", 20)
    with pytest.raises(RuntimeError, match="more than 20 tests of 6 nodes; choose fewer"):
        learn_pag(exact(random_weights(np.random.default_rng(0))), learner)


@pytest.mark.parametrize("learner", LEARNERS)
def test_results_that_are_kept_are_bounded(learner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_tests, "_MAX_TESTS", 20)
    test = exact(random_weights(np.random.default_rng(0)))
    with pytest.raises(RuntimeError, match="more than 20 tests of 6 nodes were asked for; choose fewer nodes"):
        learn_pag(test, learner)
    assert test.n_tests == 20


@pytest.mark.parametrize("name", ["fci", "pc"])
def test_a_missing_causal_learn_is_explained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"causallearn.search.ConstraintBased.{name.upper()}"
    monkeypatch.setitem(sys.modules, module, None)
    _optional._attempt.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'graphattn\[causal\]'"):
        learn_pag(PartialCorrelationTest(np.eye(2), 100), name)
    _optional._attempt.cache_clear()
    assert learn_pag(PartialCorrelationTest(np.eye(2), 100), "skeleton").edges() == []


def test_wrong_arguments_are_refused() -> None:
    test = PartialCorrelationTest(np.eye(3), 100)
    with pytest.raises(ValueError, match="learner is 'icd'; expected 'fci'"):
        learn_pag(test, "icd")
    with pytest.raises(ValueError, match=r"order misses the nodes \[1\]"):
        learn_pag(test, "skeleton", order=[0, 2])
    with pytest.raises(ValueError, match="order names a node twice"):
        learn_pag(test, "skeleton", order=[0, 1, 2, 1])
    with pytest.raises(ValueError, match="learner is a function, which takes none"):
        learn_pag(test, lambda test, nodes: Pag.from_edges(nodes, []), order=range(3))
    with pytest.raises(TypeError, match="learner returned None; expected a Pag"):
        learn_pag(test, lambda test, nodes: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match=r"expected a Pag of the nodes \[0, 1, 2\]"):
        learn_pag(test, lambda test, nodes: Pag.from_edges([0, 1], []))


# causal-learn on data


def run_on_data(causal_learn: Any, learner: str, X: np.ndarray, alpha: float) -> Pag:
    """Return what causal-learn finds in data by its own Fisher test."""
    if learner == "fci":
        graph = causal_learn["fci"](X, "fisherz", alpha, show_progress=False)[0].graph
    else:
        graph = causal_learn["pc"](X, alpha, "fisherz", show_progress=False).G.graph
        graph = np.where((graph == -1) & (graph.T == -1), 2, graph)
    codes = {0: 0, -1: 1, 1: 2, 2: 3}
    return Pag(tuple(range(X.shape[1])), np.vectorize(codes.get)(graph.T))


@pytest.mark.parametrize("name", ["fci", "pc"])
@pytest.mark.parametrize("n_samples", [60, 768])
def test_the_graph_is_that_of_causal_learn_on_surrogate_data(name: str, n_samples: int, causal_learn: Any) -> None:
    rng = np.random.default_rng(8)
    for _ in range(8):
        R = correlation_of(random_weights(rng, size=7, probability=0.5))[1:, 1:]  # the first one is latent
        test = PartialCorrelationTest(R, n_samples, 0.01)
        theirs = run_on_data(causal_learn, name, surrogate_data(R, n_samples), 0.01)
        assert_array_equal(learn_pag(test, name).marks, theirs.marks)


def read_set(name: str) -> tuple[np.ndarray, nx.DiGraph]:
    """Read data and the graph that made them, or that experts agree on."""
    file, truth = {
        "asia": ("asia.txt.gz", "asia.graph.txt"),
        "cancer": ("cancer.txt.gz", "cancer.graph.txt"),
        "sachs": ("sachs.2005.continuous.txt.gz", "sachs.2005.ground.truth.graph.txt"),
    }[name]
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not at hand")
    X = np.loadtxt(DATA / file, skiprows=1)
    lines = (DATA / truth).read_text().splitlines()
    names = lines[1].split(";")
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(names)))
    for line in lines[4:]:
        if "-->" in line:
            cause, effect = line.split(".", 1)[1].split("-->")
            graph.add_edge(names.index(cause.strip()), names.index(effect.strip()))
    return X, graph


@pytest.mark.parametrize("learner", ["pc", "fci"])
@pytest.mark.parametrize("name", ["asia", "cancer", "sachs"])
def test_real_sets_give_the_graph_of_causal_learn(name: str, learner: str, causal_learn: Any) -> None:
    X, truth = read_set(name)
    size = X.shape[1]
    # Attention whose rows have the correlations of the data; its entries need not be positive here.
    A = np.linalg.cholesky(np.corrcoef(X.T))
    R, nodes = attention_correlation(A)
    test = PartialCorrelationTest(R, len(X), 0.01, nodes, max_cond=size)
    ours, theirs = learn_pag(test, learner), run_on_data(causal_learn, learner, X, 0.01)
    known = Pag.from_edges(range(size), [(cause, "-->", effect) for cause, effect in truth.edges])
    assert ours.hamming_distance(known) == theirs.hamming_distance(known)
    assert ours.hamming_distance(theirs) == 0


@pytest.mark.parametrize("learner", LEARNERS)
def test_edges_are_kept_by_all_their_tests(learner: str) -> None:
    test = exact(random_weights(np.random.default_rng(9), size=7), n_samples=400, alpha=0.01)
    pag = learn_pag(test, learner)
    for x, y in combinations(range(7), 2):
        results = test.results(x, y)
        assert all(result.p_value <= test.alpha for result in results) == pag.adjacent(x, y)
