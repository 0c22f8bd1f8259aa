"""Structure of the affinity: which nodes are central in the last layer, and which draw on one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphattn.analysis import AttentionMaps, centrality, communities
from graphattn.cli._inspect_html import beside, say, shown, table, text
from graphattn.cli._inspect_sections.section import Section, Study, attempt, example_title

_SEARCHED = 20_000  # edges up to which communities are searched
_WALKED = 2_000  # edges up to which shortest paths are
_LISTED = 10  # nodes
_GROUPS, _MEMBERS = 8, 12
_SIZES = 128


def _measure(study: Study) -> dict[str, Any]:
    maps = study.maps[study.example]
    return {"centrality": attempt(_central, maps), "communities": attempt(_communities, maps)}


def _edges(maps: AttentionMaps) -> int:
    source, target = maps.edges(-1)[0]
    return int((source != target).sum())


def _central(maps: AttentionMaps) -> dict[str, Any]:
    by_paths = ("closeness", "betweenness") if _edges(maps) <= _WALKED else ()
    found = centrality(maps, measures=("received", "pagerank", *by_paths))
    order = np.argsort(-found.values["pagerank"], kind="stable")[:_LISTED]
    return {
        "nodes": [
            {"node": int(node), "token": maps.tokens[node]}
            | {name: float(values[node]) for name, values in found.values.items()}
            for node in order
        ]
    }


def _communities(maps: AttentionMaps) -> dict[str, Any]:
    edges = _edges(maps)
    if edges > _SEARCHED:
        raise ValueError(f"communities are searched among up to {_SEARCHED} edges; the last layer has {edges}")
    found = communities(maps)
    sizes = np.bincount(found.member)
    groups = [
        [maps.tokens[node] for node in np.flatnonzero(found.member == group)[:_MEMBERS]]
        for group in range(min(_GROUPS, len(sizes)))
    ]
    return {
        "modularity": found.modularity,
        "sizes": sizes[:_SIZES].tolist(),
        "count": len(sizes),
        "groups": groups,
        "components": int(found.components.max()) + 1,
    }


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    central = shown(found["centrality"], _draw_central)
    together = shown(found["communities"], _draw_communities)
    return say(f"{example_title(model)}, last layer.") + beside(central, together)


def _draw_central(found: Mapping[str, Any]) -> str:
    names = [name for name in found["nodes"][0] if name not in ("node", "token")]
    rows = [[each["token"], *(each[name] for name in names)] for each in found["nodes"]]
    return f"<h3>Most central</h3>{table(['node', *names], rows)}"


def _draw_communities(found: Mapping[str, Any]) -> str:
    count, parts = found["count"], found["components"]
    said = f"Modularity {found['modularity']:.2f}; {parts} strongly connected {'part' if parts == 1 else 'parts'}."
    listed = "".join(_listed(*pair) for pair in zip(found["groups"], found["sizes"], strict=False))
    return f"<h3>Communities: {count}</h3>{say(said)}<ul>{listed}</ul>"


def _listed(group: Sequence[str], size: int) -> str:
    rest = f" … and {size - len(group)} more" if size > len(group) else ""
    return f"<li>{' '.join(text(token, 20) for token in group)}{rest}</li>"


SECTION = Section(
    "structure",
    "Central nodes and communities",
    "Received: mean weight from the others. Pagerank: share of the time of a walker along the attention. Closeness and "
    "betweenness: of shortest paths, whose steps are one over the weight. Communities draw on one another more than "
    "on others.",
    _draw,
    _measure,
)
