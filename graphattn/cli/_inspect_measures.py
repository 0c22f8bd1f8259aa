"""What ``graphattn inspect`` measures of a model, as numbers for JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphattn.cli._inspect_sections import SECTIONS
from graphattn.cli._inspect_sections.section import Study, attempt
from graphattn.cli._inspect_subject import Sample, Subject


def measure(subject: Subject, n_samples: int | None, seed: int, *, check: bool) -> dict[str, Any]:
    """Measure everything; what cannot be measured says why under ``missing``."""
    study = Study(subject, n_samples, seed, check)
    first = study.maps[0]
    found = {
        "name": subject.name,
        "what": subject.what,
        "notes": list(subject.notes),
        "layers": first.num_layers,
        "heads": list(first.heads),
        "causal_mask": all(maps.causal for maps in study.maps),
        "scored": subject.scored,
        "inputs": [_input(sample) for sample in study.samples],
        "example": study.example,
    }
    return found | {section.key: attempt(section.measure, study) for section in SECTIONS if section.measure is not None}


def _input(sample: Sample) -> dict[str, Any]:
    """Say what an input is, and how large."""
    maps = sample.maps
    found: dict[str, Any] = {
        "title": sample.title,
        "nodes": maps.num_nodes,
        "ordered": sample.ids is not None,
        "target": sample.target,
    }
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
