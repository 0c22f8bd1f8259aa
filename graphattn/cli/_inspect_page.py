"""The page of ``graphattn inspect``: one file without scripts that loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphattn.cli._inspect_svg import BLUE, GREY, heatmap, lines, network, number, shade, text

_ROWS = 200  # of the table of heads
_DETAILS = 20  # inputs whose tokens are shown
# Medians over layers of published encoders and decoders.
_PUBLISHED = {False: (0.18, 0.77, "encoders, published"), True: (0.0, 0.19, "decoders, published")}

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1240px;padding:1.2em;color:#222}
h1{font-size:1.5em}h2{margin:1.8em 0 .3em;border-bottom:1px solid #ddd}h3{margin:.8em 0 .2em;font-size:1.02em}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:1.5em}
.pair>div{min-width:0;overflow-x:auto}
table{border-collapse:collapse;font-size:.86em}td,th{padding:.15em .6em;text-align:right;border-bottom:1px solid #eee}
td:first-child,th:first-child{text-align:left}
svg{max-width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#333}
.axis{fill:none;stroke:#888}.frame{fill:none;stroke:#bbb}
.tokens{line-height:2;overflow-wrap:anywhere}.tokens span{padding:.15em .3em;margin:.05em;border-radius:3px}
.target{outline:2px solid #d95f0e}.legend,.say{font-size:.88em;color:#555;margin:.2em 0 .6em}
.missing{color:#777;font-style:italic}.warn{color:#8a4b00}
figure{display:inline-block;vertical-align:top;margin:.4em 1.4em .4em 0;min-width:150px}
figcaption{font-size:.82em;line-height:1.3;margin-bottom:.3em;max-width:22em}
details{margin:.3em 0}summary{cursor:pointer}
"""


def page(report: Mapping[str, Any]) -> str:
    """Write the report of one model, or of two side by side."""
    models: Sequence[Mapping[str, Any]] = report["models"]
    sections: list[tuple[str, str, Callable[[Mapping[str, Any]], str]]] = [
        ("Overview", "", _overview),
        (
            "Heads",
            "Rows are layers, columns heads; the mean over the inputs. All numbers are in the JSON beside this page.",
            _heads,
        ),
        (
            "Roles",
            "Mean weight on the tokens of each role, beside what uniform attention gives. Attention says where a head "
            "looks, not what it does with what it finds.",
            _roles,
        ),
        ("Spectrum", "How many directions the attention of a head uses.", _spectrum),
        ("Sinks", "Tokens or nodes that attention collects on, whatever is said.", _sinks),
        (
            "Symmetry by depth",
            "1 is symmetric, 0 that of random weights, -1 skew. Bidirectional training is known to make query-key "
            "weights symmetric.",
            _symmetry,
        ),
        ("The affinity as a graph", "The strongest edges of the last layer, the mean of its heads.", _affinity),
        (
            "Rollout, and whether it is faithful",
            "A rollout multiplies the attention of the layers. It is shown with what the model says when the tokens it "
            "names are taken away (deletion should fall faster than in random orders) or kept alone (insertion should "
            "rise faster). Attention is no explanation by itself.",
            _details,
        ),
        (
            "Causal graph",
            "Learned from the attention of one head by tests of partial correlation: a hypothesis about the tokens, "
            "under the assumption of a linear model with as many samples as stated.",
            _causal,
        ),
    ]
    body = []
    if len(models) > 1:
        body.append(_side_by_side(models))
    for title, explained, draw in sections:
        columns = "".join(f"<div>{_headed(model, models)}{draw(model)}</div>" for model in models)
        said = f'<p class="say">{text(explained, 1000)}</p>' if explained else ""
        body.append(f'<section><h2>{text(title)}</h2>{said}<div class="pair">{columns}</div></section>')
    names = " and ".join(text(model["name"], 80) for model in models)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<title>Attention of {names}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Attention of {names}</h1>{''.join(body)}"
        f'<p class="say">graphattn {text(report["versions"]["graphattn"])}</p></body></html>\n'
    )


def _headed(model: Mapping[str, Any], models: Sequence[Any]) -> str:
    return f"<h3>{text(model['name'], 80)}</h3>" if len(models) > 1 else ""


def _missing(found: Mapping[str, Any]) -> str | None:
    return f'<p class="missing">Not measured: {text(found["missing"], 400)}</p>' if "missing" in found else None


def _warned(found: Mapping[str, Any]) -> str:
    return "".join(f'<p class="say warn">{text(each, 300)}</p>' for each in found.get("warnings", ()))


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    lines_ = ("<tr>" + "".join(f"<td>{text(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{''.join(lines_)}</table>"


def _cell(value: object) -> object:
    return number(value) if isinstance(value, float) or value is None else value


# Sections #############################################################################################################


def _overview(model: Mapping[str, Any]) -> str:
    inputs = model["inputs"]
    sizes = [each["nodes"] for each in inputs]
    heads = model["heads"]
    rows: list[tuple[str, object]] = [
        ("model", model["what"]),
        ("layers of attention", model["layers"]),
        ("heads", heads[0] if len(set(heads)) == 1 else f"{min(heads)} to {max(heads)}"),
        ("inputs", len(inputs)),
        ("tokens or nodes", sizes[0] if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"),
        ("sees only what came before", "yes" if model["causal_mask"] else "no"),
    ]
    first = inputs[0]
    if "edges" in first:
        degree = first["degree"]
        rows.append(("edges of the first input", f"{first['edges']:,}"))
        rows.append(
            (
                "neighbours of a node",
                f"mean {degree['mean']:.3g}, median {degree['median']:.3g}, most {degree['max']}",
            )
        )
        rows.append(("nodes without neighbours", degree["isolated"]))
    notes = "".join(f'<p class="say warn">note: {text(note, 400)}</p>' for note in model["notes"])
    body = "".join(f"<tr><td>{text(name)}</td><td>{text(value, 120)}</td></tr>" for name, value in rows)
    return f"<table>{body}</table>{notes}"


def _flat(rows: Sequence[Sequence[float | None]]) -> list[float]:
    return [value for row in rows for value in row if value is not None and value == value]


def _difference(values: Sequence[float | None]) -> float | None:
    first, second = values
    return None if first is None or second is None else second - first


def _side_by_side(models: Sequence[Mapping[str, Any]]) -> str:
    rows: list[list[object]] = []
    for name, key, measure in (
        ("entropy", "sinks", "entropy"),
        ("strongest sink", "sinks", "strength"),
        ("mass on the first token", "sinks", "first_token_mass"),
        ("effective rank", "spectrum", "effective_rank"),
        ("stable rank", "spectrum", "stable_rank"),
        ("symmetry of attention", "symmetry", "maps"),
    ):
        means: list[float | None] = []
        for model in models:
            values = _flat(model[key].get(measure, ()))
            means.append(sum(values) / len(values) if values else None)
        rows.append([name, *means, _difference(means)])
    for name, measure in (("deletion area", "deletion_area"), ("insertion area", "insertion_area")):
        means = [model["checked"][measure] for model in models]
        rows.append([name, *means, _difference(means)])
    header = ["mean over heads and inputs", *(model["name"] for model in models), "second - first"]
    return f"<section><h2>Side by side</h2>{_table(header, rows)}</section>"


def _heads(model: Mapping[str, Any]) -> str:
    drawn, columns = [], {}
    for key, measure, title in (
        ("sinks", "entropy", "entropy, nats"),
        ("sinks", "strength", "strength of the strongest sink"),
        ("sinks", "first_token_mass", "mass on the first token"),
        ("spectrum", "effective_rank", "effective rank"),
        ("spectrum", "stable_rank", "stable rank"),
        ("symmetry", "maps", "symmetry"),
    ):
        rows = model[key].get(measure)
        if rows is None or not _flat(rows):
            continue
        if measure == "first_token_mass" and not model["details"][0].get("ordered"):
            continue
        values = _flat(rows)
        columns[title] = values if len(values) == sum(model["heads"]) else []
        drawn.append(heatmap(rows, title, min(values), max(values)))
    labels = model["roles"].get("labels")
    numbers = [(layer, head) for layer, count in enumerate(model["heads"]) for head in range(count)]
    columns = {title: values for title, values in columns.items() if values}
    header = ["layer", "head", *(["role"] if labels else []), *columns]
    rows_ = [
        [layer, head, *([labels[place]] if labels else []), *(values[place] for values in columns.values())]
        for place, (layer, head) in enumerate(numbers[:_ROWS])
    ]
    rest = f'<p class="say">{len(numbers) - _ROWS} more in the JSON</p>' if len(numbers) > _ROWS else ""
    table = f"<details><summary>numbers of {len(numbers)} heads</summary>{_table(header, rows_)}{rest}</details>"
    return "".join(drawn) + table


def _roles(model: Mapping[str, Any]) -> str:
    parts = []
    for title, found in (("on the inputs", model["roles"]), ("on random tokens, twice in a row", model["probe"])):
        missing = _missing(found)
        if missing is not None:
            parts.append(f"<h3>{title}</h3>{missing}")
            continue
        numbers = [(layer, head) for layer, count in enumerate(model["heads"]) for head in range(count)]
        rows: list[list[object]] = []
        for role, scores in found["scores"].items():
            known = [(score, place) for place, score in enumerate(scores) if score is not None and score == score]
            best = max(known, default=None)
            where = "–" if best is None else "layer {}, head {}".format(*numbers[best[1]])
            labelled = found["labels"].count(role)
            rows.append([role, labelled, found["chance"][role], None if best is None else best[0], where])
        parts.append(f"<h3>{title}</h3>{_table(['role', 'heads', 'by chance', 'highest', 'of'], rows)}")
    return "".join(parts)


def _spectrum(model: Mapping[str, Any]) -> str:
    found = model["spectrum"]
    missing = _missing(found)
    if missing is not None:
        return missing
    first = found["first_input"]
    deepest = len(first["explained"]) - 1
    chosen = sorted({0, deepest // 2, deepest})
    shades = {layer: shade(0.35 + 0.65 * place / max(len(chosen) - 1, 1)) for place, layer in enumerate(chosen)}
    series = {
        f"layer {layer}": (
            list(range(1, len(first["explained"][layer]) + 1)),
            first["explained"][layer],
            shades[layer],
            "",
        )
        for layer in chosen
    }
    cut = '<p class="say">Only the largest singular values were computed.</p>' if found["truncated"] else ""
    return lines(series, "singular values, of the first input", "share explained") + cut


def _sinks(model: Mapping[str, Any]) -> str:
    found = model["sinks"]
    missing = _missing(found)
    if missing is not None:
        return missing
    rows = [[each["token"], each["strength"]] for each in found["strongest"]]
    count = sum(found["n_sinks"])
    return (
        f'<p class="say">{count} sinks (strength above {found["eps"]}) in {len(found["n_sinks"])} inputs, over all '
        f"layers and heads.</p>{_table(['drawn on most', 'mean strength'], rows)}"
    )


def _symmetry(model: Mapping[str, Any]) -> str:
    found = model["symmetry"]
    missing = _missing(found)
    if missing is not None:
        return missing
    means = [[value for value in row if value is not None] for row in found["maps"]]
    depth = list(range(len(means)))
    series = {"attention": (depth, [sum(row) / len(row) if row else None for row in means], GREY, "4 3")}
    weights = found["query_key"]
    known = any(value is not None for value in weights) and len(weights) == len(depth)
    if known:
        series["query-key weights"] = (depth, weights, BLUE, "")
        band = _PUBLISHED[model["causal_mask"]] if model["scored"] and model["details"][0].get("ordered") else None
    else:
        band = None
    said = "" if known else '<p class="say">Query-key weights are not known here.</p>'
    return lines(series, "layer", "symmetry", band) + said


def _affinity(model: Mapping[str, Any]) -> str:
    found = model["affinity"]
    missing = _missing(found)
    if missing is not None:
        return missing
    nodes = {each["node"]: each["token"] for each in found["nodes"]}
    edges = [(each["source"], each["target"], each["weight"], "->") for each in found["edges"]]
    example = model["details"][model["example"]]
    ring = bool(example.get("ordered")) or not edges
    drawn = network(nodes, edges, ring, example.get("target"))
    said = (
        f'<p class="say">{_example(model)}, layer {found["layer"]}: {len(nodes)} of {found["of_nodes"]:,} nodes and '
        f"{len(edges)} of {found['of_edges']:,} edges; arrows point to the node that reads.</p>"
    )
    return said + drawn + _central(model)


def _example(model: Mapping[str, Any]) -> str:
    return f"Of “{text(model['details'][model['example']]['title'])}”"


def _central(model: Mapping[str, Any]) -> str:
    parts = []
    found = model["centrality"]
    if "missing" in found:
        parts.append(_missing(found) or "")
    elif found["nodes"]:
        names = [name for name in found["nodes"][0] if name not in ("node", "token")]
        rows = [[each["token"], *(each[name] for name in names)] for each in found["nodes"]]
        parts.append(f"<h3>Most central</h3>{_table(['node', *names], rows)}")
    groups = model["communities"]
    if "missing" in groups:
        parts.append(_missing(groups) or "")
    else:
        listed = "".join(f"<li>{' '.join(text(token, 20) for token in group)}</li>" for group in groups["groups"])
        parts.append(
            f"<h3>Communities: {groups['count']}, modularity {number(groups['modularity'])}</h3><ul>{listed}</ul>"
        )
    return "".join(parts)


def _details(model: Mapping[str, Any]) -> str:
    parts = []
    checked = model["checked"]
    if checked["inputs"]:
        parts.append(
            f"<p>Mean over {checked['inputs']} inputs: p = {number(checked['deletion_p'])} for deletion and "
            f"{number(checked['insertion_p'])} for insertion. About 0.5 is what a random order would have; near 0, the "
            "order by rollout beats random ones.</p>"
        )
    control = model["randomized"]
    if "missing" not in control:
        shown = ", ".join(number(value) for value in control["correlation"])
        parts.append(
            f"<p>Rank correlation of the attribution with that of {control['copies']} copies of the model whose "
            f"weights are shuffled: {shown}. Near 1, the attribution says little about what was learned.</p>"
        )
    else:
        parts.append(f'<p class="missing">Copies with shuffled weights: {text(control["missing"], 300)}</p>')
    for place, detail in enumerate(model["details"][:_DETAILS]):
        opened = " open" if place < 3 else ""
        inner = _detail(detail, model["scored"])
        parts.append(f"<details{opened}><summary>{text(detail['title'], 90)}</summary>{inner}</details>")
    return "".join(parts)


def _detail(detail: Mapping[str, Any], scored: str) -> str:
    missing = _missing(detail)
    if missing is not None:
        return missing
    tokens = detail["tokens"]
    highest = max((each["relevance"] for each in tokens), default=0.0) or 1.0
    if detail["ordered"]:
        spans = []
        for each in tokens:
            share = 0.85 * max(each["relevance"], 0.0) / highest
            colour = "#fff" if share > 0.55 else "#222"
            marked = ' class="target"' if each["node"] == detail["target"] else ""
            spans.append(
                f'<span{marked} style="background:{shade(share)};color:{colour}" '
                f'title="{number(each["relevance"])}">{text(each["token"])}</span>'
            )
        shown = f'<p class="tokens">{" ".join(spans)}</p>'
    else:
        best = sorted(tokens, key=lambda each: -each["relevance"])[:10]
        shown = _table(["node", "relevance"], [[each["token"], each["relevance"]] for each in best])
    read = "the mean over all rows" if detail["target"] is None else f"what {text(detail['target_token'])} receives"
    cut = "" if len(tokens) == detail["of_nodes"] else f"; {len(tokens)} of {detail['of_nodes']:,} are in the JSON"
    return f'<p class="say">Rollout: {read}{cut}.</p>{shown}{_checked(detail["faithfulness"], scored)}'


def _checked(found: Mapping[str, Any], scored: str) -> str:
    if "missing" in found:
        return f'<p class="missing">Faithfulness was not checked: {text(found["missing"], 300)}</p>'
    x = found["fractions"]
    drawn = lines(
        {
            "deletion": (x, found["deletion"], BLUE, ""),
            "deletion, random orders": (x, found["random_deletion"], BLUE, "4 3"),
            "insertion": (x, found["insertion"], "#d95f0e", ""),
            "insertion, random orders": (x, found["random_insertion"], "#d95f0e", "4 3"),
        },
        "fraction removed, or inserted",
        "score",
    )
    mask = found["masking"]
    return (
        f'<p class="say">Score: {text(scored, 200)}. {len(found["maskable"])} can be left out.</p>{drawn}'
        f"<p>Deletion area {number(found['deletion_area'])} (p = {number(found['deletion_p'])}), insertion area "
        f"{number(found['insertion_area'])} (p = {number(found['insertion_p'])}). Without the first "
        f"{len(mask['nodes'])} the score falls by {number(mask['drop'])}, without others by "
        f"{number(mask['random_drop'])} (p = {number(mask['p'])}).</p>{_warned(found)}"
    )


def _causal(model: Mapping[str, Any]) -> str:
    found = model["causal"]
    missing = _missing(found)
    if missing is not None:
        return missing
    nodes = {each["node"]: each["token"] for each in found["nodes"]}
    edges = [
        (each["source"], each["target"], each["confidence"] if each["confidence"] is not None else 1.0, each["kind"])
        for each in found["edges"]
    ]
    finite = [weight for _, _, weight, _ in edges if weight < float("inf")]
    limit = max(finite, default=1.0)
    edges = [(i, j, min(weight, limit), kind) for i, j, weight, kind in edges]
    said = (
        f'<p class="say">{_example(model)}, layer {found["layer"]}, head {found["head"]} (the sharpest), '
        f"{len(nodes)} of {found['of_tokens']} tokens: learner {text(found['learner'])}, {found['n_samples']} samples, "
        f"alpha {found['alpha']}, at most {found['max_cond']} tokens held fixed, {found['n_tests']:,} tests. "
        "Wider edges are surer.</p>"
    )
    notes = "".join(f'<p class="say warn">{text(note, 400)}</p>' for note in found["notes"])
    return said + network(nodes, edges, ring=True) + notes + _warned(found)
