"""Turn the results of ``temporal.py`` into Markdown."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from _results import headline

OURS, PEERS = ("TGAT", "TemporalNet"), ("TGN", "GAT")
_NAMES = {"TGN": "TGN (PyG's example)", "GAT": "GAT (static, PyG)"}
SPEED_PEERS = {"equal": "the layer of equal function", "example": "the layer of the example"}
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
        "Forward and backward pass on the same events that the sampler has drawn; milliseconds, and the median "
        "of the ratios over batches with their range. *Equal function*: PyG's `TransformerConv` with attention of the "
        "width of ours, queries, maps and norm behind it as in `TemporalAttentionConv`; one matrix serves the features "
        "of events in its keys and values. *Example*: `TransformerConv` as in PyG's example of TGN, whose attention is "
        "half as wide or less and which has nothing behind it: a smaller layer. "
        f"Wanted: {WANTED:g}x.",
        "",
        "| case | rows | sources | events | ours | equal function | faster | example | faster |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, case in cases.items():
        if case["status"] != "ok":
            lines.append(f"| {name} | {case['reason']} | | | | | | | |")
            continue
        cells = [f"{size:,.0f}" for size in case["rows, sources, events"]] + [f"{1e3 * case['seconds']['ours']:.2f}"]
        for peer in SPEED_PEERS:
            low, high = min(case["ratios"][peer]), max(case["ratios"][peer])
            cells.append(f"{1e3 * case['seconds'][peer]:.2f}")
            cells.append(f"{case['ratio'][peer]:.2f}x ({low:.2f} to {high:.2f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for peer, what in SPEED_PEERS.items():
        done = {name: case for name, case in cases.items() if case["status"] == "ok"}
        missed = [name for name, case in done.items() if case["ratio"][peer] < WANTED]
        if missed:
            lines += ["", f"Less than {WANTED:g}x {what}: {', '.join(missed)}."]
    return "\n".join(lines)
