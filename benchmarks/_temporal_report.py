"""Turn the results of ``temporal.py`` into Markdown."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from _results import headline

OURS, PEERS = ("TGAT", "TemporalNet"), ("TGN", "GAT")
_NAMES = {"TGN": "TGN (PyG's example)", "GAT": "GAT (static, PyG)"}
WANTED = 2.0  # times as fast as PyG's layer


def write_report(results: dict[str, Any], folder: Path) -> str:
    """Write ``temporal.md`` and return its text."""
    quick = " **Tiny data (`--quick`): these numbers mean nothing.**" if results["settings"]["quick"] else ""
    parts = [f"# Streams of events\n\n{headline(results)}{quick}"]
    if results.get("links"):
        parts.append(_links(results["links"]))
    if results.get("speed", {}).get("cases"):
        parts.append(_speed(results["speed"]["cases"]))
    text = "\n\n".join(parts) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "temporal.md").write_text(text)
    return text


def _links(links: dict[str, Any]) -> str:
    setting = links["setting"]
    rates = ", ".join(f"{rate:g}" for rate in setting["rates"])
    lines = [
        "## Whom a node meets next",
        "",
        "Average precision, in %, of events against as many random destinations, the same for all networks, mean and "
        "standard deviation over seeds of the weights. *Transductive*: all test events; *inductive*: those with a node "
        "that training has not seen. Every network has "
        f"one layer, {setting['channels']} channels, the last {setting['neighbors']} events of a node where it sees "
        f"single events, at most {setting['epochs']} epochs of batches of {setting['batch_size']}, and the learning "
        f"rate, of {rates}, that validates best with seed 0. The epoch that validates best is the one that is tested. "
        "Nodes have no features; GAT learns a vector for each, on the graph of all training events.",
        "",
        "| set | network | transductive | inductive | seeds | rate | parameters | seconds an epoch |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    verdicts = []
    for name, networks in links["sets"].items():
        means = {}
        for network, entry in networks.items():
            cells = _row(entry)
            lines.append(f"| {name} | {_NAMES.get(network, network)} | {' | '.join(cells)} |")
            done = _done(entry)
            if done:
                means[network] = statistics.mean(run["test"] for run in done)
        verdicts += [_verdict(name, ours, means) for ours in OURS if ours in means]
    failures = [
        f"- {name}, {network}, seed {seed}: {run['reason']}"
        for name, networks in links["sets"].items()
        for network, entry in networks.items()
        for seed, run in entry["seeds"].items()
        if run["status"] != "ok"
    ]
    return "\n".join([*lines, "", *filter(None, verdicts), *failures])


def _done(entry: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for run in entry["seeds"].values() if run["status"] == "ok"]


def _row(entry: dict[str, Any]) -> list[str]:
    done = _done(entry)
    if not done:
        return ["–"] * 6
    scores = [_mean([run[name] for run in done if run[name] is not None]) for name in ("test", "inductive")]
    seconds = statistics.median(run["seconds_per_epoch"] for run in done)
    return [*scores, str(len(done)), f"{entry['rate']:g}", f"{done[0]['parameters']:,}", f"{seconds:.1f}"]


def _mean(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def _verdict(name: str, ours: str, means: dict[str, float]) -> str:
    peers = [peer for peer in PEERS if peer in means]
    if not peers:
        return ""
    gaps = []
    for peer in peers:
        gap = 100 * (means[ours] - means[peer])
        word = "above" if gap > 0 else "**below**"
        gaps.append(f"{abs(gap):.1f} points {word} {_NAMES[peer]}")
    return f"- {name}: {ours} is {' and '.join(gaps)}."


def _speed(cases: dict[str, Any]) -> str:
    lines = [
        "## A step of the layer",
        "",
        "Forward and backward pass of `TemporalAttentionConv`, with its merge layer, and of PyG's `TransformerConv`, "
        "with its time encoder, of equal width, on the same events that the sampler has drawn; milliseconds, and the "
        f"median of the ratios over batches. Wanted: {WANTED:g}x.",
        "",
        "| case | rows | sources | events | ours | PyG | faster | range |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, case in cases.items():
        if case["status"] != "ok":
            lines.append(f"| {name} | {case['reason']} | | | | | | |")
            continue
        sizes = " | ".join(f"{size:,.0f}" for size in case["rows, sources, events"])
        ours, theirs = (f"{1e3 * case['seconds'][who]:.2f}" for who in ("ours", "theirs"))
        span = f"{min(case['ratios']):.2f} to {max(case['ratios']):.2f}"
        lines.append(f"| {name} | {sizes} | {ours} | {theirs} | {case['ratio']:.2f}x | {span} |")
    missed = [name for name, case in cases.items() if case["status"] == "ok" and case["ratio"] < WANTED]
    if missed:
        lines += ["", f"Less than {WANTED:g}x: {', '.join(missed)}."]
    return "\n".join(lines)
