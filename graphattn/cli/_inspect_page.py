"""The page of ``graphattn inspect``: one file without scripts that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphattn.cli._inspect_html import say, shown, table, text
from graphattn.cli._inspect_sections import SECTIONS
from graphattn.cli._inspect_sections.heads import MEASURES, applies
from graphattn.cli._inspect_sections.section import Section, flat

# Where the numbers lie that are compared, and what they are called.
_COMPARED = (
    *MEASURES,
    ("similarity", "mean_cosine", "likeness of outputs"),
    ("modality", "total", "weight given to other parts"),
)

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1240px;padding:1.2em;color:#222}
h1{font-size:1.5em}h2{margin:1.8em 0 .3em;border-bottom:1px solid #ddd}h3{margin:.8em 0 .2em;font-size:1.02em}
nav{font-size:.88em}nav a{display:inline-block;margin-right:1em;color:#2c7fb8;text-decoration:none}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:1.5em}
.pair>div{min-width:0;overflow-x:auto}
.row{display:flex;flex-wrap:wrap;gap:.5em 3em;align-items:flex-start}
.row>div{min-width:0;max-width:100%;flex:0 1 auto}.row p:not(.legend){max-width:36em}
table{border-collapse:collapse;font-size:.86em}td,th{padding:.15em .6em;text-align:right;border-bottom:1px solid #eee}
td:first-child,th:first-child{text-align:left}
svg{max-width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:#333;paint-order:stroke;stroke:#fff;stroke-width:2.5px}
.axis{fill:none;stroke:#888}.grid{fill:none;stroke:#eee}.frame{fill:none;stroke:#bbb}
.tokens{line-height:2;overflow-wrap:anywhere}.tokens span{padding:.15em .3em;margin:.05em;border-radius:3px}
.target{outline:2px solid #d95f0e}.legend,.say{font-size:.88em;color:#555;margin:.2em 0 .6em}
.missing{color:#777;font-style:italic}.warn{color:#8a4b00}
figure{display:inline-block;vertical-align:top;margin:.4em 1.4em .4em 0;min-width:150px}
figcaption{font-size:.82em;line-height:1.3;margin-bottom:.3em;max-width:22em}
details{margin:.3em 0}summary{cursor:pointer}ul{margin:.3em 0;padding-left:1.4em}
"""


def page(report: Mapping[str, Any]) -> str:
    """Write the report of one model, or of two side by side."""
    models: Sequence[Mapping[str, Any]] = report["models"]
    compared = _side_by_side(models) if len(models) > 1 else ""
    sections = "".join(_section(section, models) for section in SECTIONS)
    contents = "".join(f'<a href="#{section.key}">{text(section.title)}</a>' for section in SECTIONS)
    names = " and ".join(text(model["name"], 80) for model in models)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<title>Attention of {names}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Attention of {names}</h1><nav>{contents}</nav>{compared}{sections}"
        f"{say('graphattn ' + report['versions']['graphattn'])}</body></html>\n"
    )


def _section(section: Section, models: Sequence[Mapping[str, Any]]) -> str:
    """Write a section, with a column for each model."""
    columns = []
    for model in models:
        name = f"<h3>{text(model['name'], 80)}</h3>" if len(models) > 1 else ""
        found = {} if section.measure is None else model[section.key]
        columns.append(f"<div>{name}{shown(found, section.draw, model)}</div>")
    said = say(section.explained) if section.explained else ""
    heading = f'<h2 id="{section.key}">{text(section.title)}</h2>'
    return f'<section>{heading}{said}<div class="pair">{"".join(columns)}</div></section>'


def _side_by_side(models: Sequence[Mapping[str, Any]]) -> str:
    """Write a table of what is one number for each model."""
    rows: list[list[object]] = []
    for key, measure, title in _COMPARED:
        if not applies(measure, models[0]):
            continue
        values = [flat(model[key].get(measure, ())) for model in models]
        rows.append(_compared(title, [sum(own) / len(own) if own else None for own in values]))
    for key in ("rollout", "flow", "influence"):
        for curve in ("deletion", "insertion"):
            areas = [model[key].get("checked", {}).get(f"{curve}_area") for model in models]
            rows.append(_compared(f"{curve} area, {key}", areas))
    header = ["mean over heads and inputs", *(model["name"] for model in models), "second - first"]
    known = [row for row in rows if any(value is not None for value in row[1:])]
    return f"<section><h2>Side by side</h2>{table(header, known)}</section>"


def _compared(title: str, values: Sequence[float | None]) -> list[object]:
    first, second = values
    return [title, first, second, None if first is None or second is None else second - first]
