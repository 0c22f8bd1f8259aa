"""The measures of ``graphattn inspect``, as numbers for JSON: each says what it found, or why it found nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from graphattn._optional import is_available
from graphattn.analysis import (
    AttentionMaps,
    CausalGraph,
    causal_graph,
    centrality,
    communities,
    faithfulness,
    head_roles,
    pool_roles,
    query_key_symmetry,
    randomized_control,
    removal_test,
    sinks,
    spectrum,
    symmetry,
)
from graphattn.analysis.roles import HeadRoles
from graphattn.cli._inspect_subject import WHOLE, Sample, Subject, attribution

CAUSAL_NODES = 20
SHOWN = 128  # tokens of a sample, and nodes of a graph, whose relevance is reported
DRAWN = 40  # nodes of a drawing
_VALUES = 16  # singular values of what is large
_SEARCHED = 20_000  # edges up to which communities are searched, and a tenth of it for paths
_COPIED = 200_000_000  # parameters up to which a model is copied
_COPIES = 3
_MAX_COND = 2  # tokens that a test holds fixed
_DENSE_NEIGHBORS = 10  # of a token, among which FCI tries all subsets


def measure(subject: Subject, n_samples: int | None, seed: int, *, check: bool) -> dict[str, Any]:
    """Measure everything; what cannot be measured says why under ``missing``."""
    samples = subject.samples
    maps = [sample.maps for sample in samples]
    # The graphs are drawn of the largest input that fits a picture whole.
    example = max(
        range(len(maps)), key=lambda number: maps[number].num_nodes * (maps[number].num_nodes <= CAUSAL_NODES)
    )
    generator = torch.Generator().manual_seed(seed)
    details = [_try(partial(_detail, each, generator, check)) for each in samples]
    for detail, sample in zip(details, samples, strict=True):
        detail["title"] = sample.title
    return {
        "name": subject.name,
        "what": subject.what,
        "notes": list(subject.notes),
        "layers": maps[0].num_layers,
        "heads": list(maps[0].heads),
        "causal_mask": all(each.causal for each in maps),
        "inputs": [_size(each) for each in maps],
        "roles": _try(lambda: _roles(samples)),
        "probe": {"missing": "the probe is for language models that read some tokens"}
        if subject.probe is None
        else _roles_as_numbers(subject.probe),
        "spectrum": _try(lambda: _spectrum(maps)),
        "sinks": _try(lambda: _sinks(maps)),
        "symmetry": _try(lambda: _symmetry(subject)),
        "example": example,
        "affinity": _try(lambda: _affinity(samples[example])),
        "centrality": _try(lambda: _central(maps[example])),
        "communities": _try(lambda: _communities(maps[example])),
        "causal": _try(lambda: _causal(samples[example], n_samples or subject.width)),
        "scored": subject.scored,
        "checked": _summary(details),
        "details": details,
        "randomized": _try(lambda: _randomized(subject, generator, check)),
    }


def _try(compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Compute, and keep why not, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = compute()
        except (ValueError, RuntimeError, ImportError, np.linalg.LinAlgError) as error:
            return {"missing": str(error)}
    said = list(dict.fromkeys(str(each.message) for each in caught if issubclass(each.category, UserWarning)))
    return found | ({"warnings": said} if said else {})


def _size(maps: AttentionMaps) -> dict[str, Any]:
    """Summarize the size of an input."""
    found: dict[str, Any] = {"nodes": maps.num_nodes}
    if maps.is_sparse(-1):
        target = maps.edges(-1)[0][1]
        degree = np.bincount(target, minlength=maps.num_nodes)
        found |= {
            "edges": len(target),
            "degree": {
                "mean": float(degree.mean()),
                "median": float(np.median(degree)),
                "max": int(degree.max()),
                "isolated": int((degree == 0).sum()),
            },
        }
    return found


# Heads ################################################################################################################


def _roles(samples: Sequence[Sample]) -> dict[str, Any]:
    if any(sample.ids is None for sample in samples):
        raise ValueError("roles are about the order of tokens, which the nodes of a graph do not have")
    return _roles_as_numbers(pool_roles([head_roles(sample.maps, sample.ids) for sample in _alike(samples)]))


def _alike(samples: Sequence[Sample]) -> list[Sample]:
    """Leave out samples so short that they pass for causal."""
    causal = all(sample.maps.causal for sample in samples)
    return [sample for sample in samples if sample.maps.causal == causal]


def _roles_as_numbers(found: HeadRoles) -> dict[str, Any]:
    return {
        "labels": list(found.labels()),
        "scores": {role: values.tolist() for role, values in found.scores.items()},
        "chance": dict(found.chance),
        "n_rows": dict(found.n_rows),
    }


def _mean_over(samples: Sequence[Sequence[np.ndarray]]) -> list[list[float]]:
    """Average what each sample has for the heads of each layer, without NaN."""
    means = []
    for layer in zip(*samples, strict=True):
        values = np.array(layer, dtype=np.float64)
        known = ~np.isnan(values)
        count = known.sum(axis=0)
        total = np.where(known, values, 0.0).sum(axis=0)
        means.append(np.where(count > 0, total / np.maximum(count, 1), np.nan).tolist())
    return means


def _spectrum(maps: Sequence[AttentionMaps]) -> dict[str, Any]:
    large = any(each.num_nodes > WHOLE for each in maps)
    found = [spectrum(each, k=min(_VALUES, each.num_nodes) if large else None) for each in maps]
    return {
        "stable_rank": _mean_over([each.stable_rank for each in found]),
        "effective_rank": _mean_over([each.effective_rank for each in found]),
        "rank_at_0.9": _mean_over([each.rank_at(0.9) for each in found]),
        "first_input": {
            "values": [layer.mean(axis=0)[:SHOWN].tolist() for layer in found[0].values],
            "explained": [layer.mean(axis=0)[:SHOWN].tolist() for layer in found[0].explained],
            "of": list(found[0].sizes),
        },
        "truncated": large,
    }


def _sinks(maps: Sequence[AttentionMaps]) -> dict[str, Any]:
    found = [sinks(each) for each in maps]
    strongest: dict[str, float] = {}
    for each, own in zip(found, maps, strict=True):
        mean = np.concatenate(each.strength).mean(axis=0)
        for node in np.argsort(-mean, kind="stable")[:10]:
            token = own.tokens[node]
            strongest[token] = max(strongest.get(token, 0.0), float(mean[node]))
    top = sorted(strongest.items(), key=lambda pair: -pair[1])[:10]
    return {
        "strength": _mean_over([[layer.max(axis=1) for layer in each.strength] for each in found]),
        "first_token_mass": _mean_over([each.first_token_mass for each in found]),
        "entropy": _mean_over([[layer.mean(axis=1) for layer in each.entropy] for each in found]),
        "n_sinks": [len(each.found) for each in found],
        "eps": found[0].eps,
        "strongest": [{"token": token, "strength": strength} for token, strength in top],
    }


def _symmetry(subject: Subject) -> dict[str, Any]:
    maps = [sample.maps for sample in subject.samples]
    of_maps = [[np.atleast_1d(symmetry(each.affinity(layer))) for layer in range(each.num_layers)] for each in maps]
    weights: list[float | None] = []
    directions: list[float | None] = []
    for pair in subject.query_key:
        if pair is None:
            weights.append(None)
            directions.append(None)
            continue
        found = query_key_symmetry([pair[:2]], heads=pair[2])
        weights.append(float(found.symmetry[0]))
        directions.append(float(found.directionality[0]))
    return {"maps": _mean_over(of_maps), "query_key": weights, "query_key_directionality": directions}


# The graph ############################################################################################################


def _mean_layer(maps: AttentionMaps, layer: int = -1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sources, targets and mean weights of a layer, without loops."""
    (source, target), weights = maps.edges(layer)
    away = source != target
    return source[away], target[away], weights.mean(axis=1)[away]


def _affinity(sample: Sample) -> dict[str, Any]:
    """Choose what is drawn: the strongest edges between the tokens, or around the node that is explained."""
    maps = sample.maps
    source, target, weight = _mean_layer(maps)
    if maps.num_nodes <= DRAWN:
        nodes = list(range(maps.num_nodes))
    else:
        start = sample.target if sample.target is not None else int(attribution(maps, None).argmax())
        nodes = [start]
        while len(nodes) < DRAWN:
            inside = np.isin(np.stack([source, target]), nodes)
            edge = inside[0] != inside[1]
            if not edge.any():
                break
            far = np.where(inside[0], target, source)[edge]
            total = np.bincount(far, weight[edge], minlength=maps.num_nodes)
            near = np.flatnonzero(total > 0)
            if not near.size:
                break
            nodes += near[np.argsort(-total[near], kind="stable")][: min(8, DRAWN - len(nodes))].tolist()
        nodes.sort()
    kept = np.isin(source, nodes) & np.isin(target, nodes) & (weight > 0)
    order = np.argsort(-weight[kept], kind="stable")[: 3 * len(nodes)]
    edges = [
        {"source": int(j), "target": int(i), "weight": float(a)}
        for j, i, a in zip(source[kept][order], target[kept][order], weight[kept][order], strict=True)
    ]
    return {
        "layer": maps.num_layers - 1,
        "of_nodes": maps.num_nodes,
        "of_edges": int((weight > 0).sum()),
        "nodes": [{"node": node, "token": maps.tokens[node]} for node in nodes],
        "edges": edges,
    }


def _central(maps: AttentionMaps) -> dict[str, Any]:
    edges = len(_mean_layer(maps)[0])
    measures = (
        ("received", "pagerank", "closeness", "betweenness")
        if edges <= _SEARCHED / 10
        else (
            "received",
            "pagerank",
        )
    )
    found = centrality(maps, measures=measures)
    order = np.argsort(-found.values["pagerank"], kind="stable")[:10]
    return {
        "nodes": [
            {"node": int(node), "token": maps.tokens[node]}
            | {name: float(values[node]) for name, values in found.values.items()}
            for node in order
        ]
    }


def _communities(maps: AttentionMaps) -> dict[str, Any]:
    edges = len(_mean_layer(maps)[0])
    if edges > _SEARCHED:
        raise ValueError(f"communities are searched among up to {_SEARCHED} edges; the last layer has {edges}")
    found = communities(maps)
    sizes = np.bincount(found.member)
    groups = [
        [maps.tokens[node] for node in np.flatnonzero(found.member == group)[:12]]
        for group in range(min(8, len(sizes)))
    ]
    return {
        "modularity": found.modularity,
        "sizes": sizes[:SHOWN].tolist(),
        "count": len(sizes),
        "groups": groups,
        "components": int(found.components.max()) + 1,
    }


def _causal(sample: Sample, n_samples: int | None) -> dict[str, Any]:
    """Learn the graph of the sharpest head of the last layer, over the tokens that matter most."""
    maps = sample.maps
    if maps.num_nodes > 4 * WHOLE:
        raise ValueError(f"the causal graph is of tokens; {maps.num_nodes} nodes are more than {4 * WHOLE}")
    if n_samples is None:
        raise ValueError("the tests need a number of samples, such as the width of the model; pass --n-samples")
    head = int(np.argmin(sinks(maps).entropy[-1].mean(axis=1)))
    relevance = attribution(maps, sample.target)
    nodes = np.sort(np.argsort(-relevance, kind="stable")[:CAUSAL_NODES]).tolist()
    order = {"order": nodes} if maps.causal else {}

    def learn(learner: str) -> CausalGraph:
        return causal_graph(
            maps, n_samples, head=head, nodes=nodes, learner=learner, max_cond=_MAX_COND, on_zero="drop", **order
        )

    learner, notes = "skeleton", []
    found = learn(learner)
    most = max((len(found.pag.neighbors(node)) for node in found.pag.nodes), default=0)
    if most > _DENSE_NEIGHBORS:
        notes.append(f"a token keeps {most} neighbors, among which FCI would not end; edges have no directions")
    elif not is_available("causallearn"):
        notes.append("causal-learn is not installed (extra causal), so that edges have no directions")
    else:
        try:
            learner, found = "fci", learn("fci")
        except RuntimeError as error:
            learner = "skeleton"
            notes.append(f"FCI gave up, so that edges have no directions: {error}")
    edges = []
    for i, kind, j in found.pag.edges():
        edges.append({"source": i, "kind": kind, "target": j, "confidence": found.confidence(i, j)})
    return {
        "layer": maps.num_layers - 1,
        "head": head,
        "learner": learner,
        "n_samples": n_samples,
        "alpha": found.test.alpha,
        "max_cond": _MAX_COND,
        "n_tests": found.n_tests,
        "of_tokens": maps.num_nodes,
        "notes": notes,
        "nodes": [{"node": node, "token": maps.tokens[node]} for node in found.pag.nodes],
        "edges": edges,
    }


# Attribution and its checks ###########################################################################################


def _detail(sample: Sample, generator: torch.Generator, check: bool) -> dict[str, Any]:
    """Attribute what is said of a sample to its tokens, and ask the model whether it is so."""
    maps = sample.maps
    relevance = attribution(maps, sample.target)
    shown = (
        np.arange(maps.num_nodes) if maps.num_nodes <= SHOWN else np.sort(np.argsort(-relevance, kind="stable")[:SHOWN])
    )
    found = {
        "target": sample.target,
        "target_token": None if sample.target is None else maps.tokens[sample.target],
        "of_nodes": maps.num_nodes,
        "ordered": sample.ids is not None,
        "tokens": [
            {"node": int(node), "token": maps.tokens[node], "relevance": float(relevance[node])} for node in shown
        ],
    }
    checked = _try(lambda: _check(sample, relevance, generator)) if check else {"missing": "left out by --no-check"}
    return found | {"faithfulness": checked}


def _check(sample: Sample, relevance: np.ndarray, generator: torch.Generator) -> dict[str, Any]:
    if sample.score is None:
        raise ValueError("saved maps have no model to ask; take the attribution for where attention goes, no more")
    values, size = relevance[sample.maskable], len(sample.maskable)
    if size < 2:
        raise ValueError(f"{size} of the tokens can be left out; curves need at least 2")
    curves = faithfulness(sample.score, values, steps=10, samples=10, generator=generator)
    chosen = np.argsort(-values, kind="stable")[: max(1, round(0.2 * size))]
    removal = removal_test(sample.score, chosen.tolist(), size, samples=30, generator=generator)
    return {
        "maskable": sample.maskable.tolist(),
        "fractions": curves.fractions.tolist(),
        "deletion": curves.deletion.tolist(),
        "insertion": curves.insertion.tolist(),
        "random_deletion": curves.random.mean(axis=0).tolist(),
        "random_insertion": curves.random.mean(axis=0)[::-1].tolist(),
        "deletion_area": curves.deletion_area,
        "insertion_area": curves.insertion_area,
        "deletion_p": curves.deletion_p,
        "insertion_p": curves.insertion_p,
        "masking": {
            "nodes": sample.maskable[list(removal.tokens)].tolist(),
            "drop": removal.drop,
            "random_drop": float(removal.random_drops.mean()) if len(removal.random_drops) else math.nan,
            "p": removal.p,
            "exact": removal.exact,
        },
    }


def _summary(details: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Average what the checks of all inputs say."""
    checks = [detail["faithfulness"] for detail in details if "deletion_p" in detail.get("faithfulness", {})]
    found: dict[str, Any] = {"inputs": len(checks)}
    for name in ("deletion_area", "insertion_area", "deletion_p", "insertion_p"):
        found[name] = float(np.mean([check[name] for check in checks])) if checks else math.nan
    return found


def _randomized(subject: Subject, generator: torch.Generator, check: bool) -> dict[str, Any]:
    """Compare with the same attributions of copies whose weights are shuffled."""
    model, capture = subject.model, subject.capture
    if not check:
        raise ValueError("left out by --no-check")
    if model is None or capture is None:
        raise ValueError("saved maps have no model whose weights could be shuffled")
    size = sum(each.numel() for each in model.parameters())
    if size > _COPIED:
        raise ValueError(f"the model has {size:,} parameters; copies are made of up to {_COPIED:,}")
    used = [number for number, sample in enumerate(subject.samples) if len(sample.maskable)][:8]
    if not used:
        raise ValueError("no token can be left out")

    def attribute(other: Any) -> np.ndarray:
        parts = []
        for number in used:
            sample = subject.samples[number]
            values = attribution(capture(other, number), sample.target)[sample.maskable]
            # Ranks, so that no sample outweighs the others.
            parts.append((np.argsort(np.argsort(values, kind="stable")) + 0.5) / len(values))
        return np.concatenate(parts)

    found = randomized_control(model, attribute, copies=_COPIES, generator=generator)
    return {"correlation": found.correlation.tolist(), "copies": _COPIES, "inputs": len(used)}
