"""The tables are complete: every public name that computes on tensors has a case, or is listed here with the reason."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests.contracts.cases import CASES
from tests.contracts.host_work import HOST_WORK

MODULES = [
    "nn",
    "nn.global_attention",
    "nn.interaction",
    "nn.encodings",
    "nn.encodings.time",
    "models",
    "ops",
    "diffusion",
    "retrieval",
    "selection",
]
# Public names without a case, below graphattn, and why.
EXCEPTIONS = {
    # Bases and values, which compute nothing by themselves
    "nn.Score": "the base of scores",
    "nn.Acceleration": "the report of accelerate",
    "nn.global_attention.GlobalAttention": "the base of attentions",
    "nn.global_attention.Padding": "places in a padded batch, which every attention of the table finds",
    "nn.encodings.time.TimeEncoding": "the base of encodings of time",
    "ops.fuses": "tells which backend serves, by shapes and dtypes",
    "ops.sorts": "tells which backend serves, by shapes and dtypes",
    "ops.Layout": "edges in a sorted form, which every op of the table builds",
    "diffusion.ConvergenceWarning": "a warning",
    "diffusion.Solution": "the result of solve",
    "retrieval.Reranker": "the base of re-rankers",
    "retrieval.CandidateBatch": "what a re-ranker reads",
    "retrieval.RankedLists": "the result of a re-ranker",
    "selection.DispersionCollapsedWarning": "a warning",
    "models.EventNetwork": "the base of networks over events",
    # Builders, whose results are in the table
    "nn.accelerate": "replaces layers by AttentionConv",
    "nn.from_pyg": "makes an AttentionConv",
    "nn.global_attention.make_attention": "makes one of the attentions",
    "nn.encodings.time.make_time_encoding": "makes one of the encodings",
    "models.from_config": "makes one of the networks",
    "nn.attribute_pairs": "makes an affinity of two numbers",
    # Files and lists of ids, on the host
    "retrieval.DatabaseAugmentation": "maps a gallery, which may be a file, to another, once",
    "retrieval.Embeddings": "vectors in a file",
    "retrieval.load_embeddings": "vectors in a file",
    "retrieval.PaddedLists": "lists of ids",
    "retrieval.Run": "lists of ids",
    "retrieval.RunWriter": "writes a file",
    "retrieval.iterate_run": "reads a file",
    "retrieval.read_qrels": "reads a file",
    "retrieval.read_run": "reads a file",
    "retrieval.write_qrels": "writes a file",
    "retrieval.write_run": "writes a file",
}


def _public() -> dict[str, Any]:
    """Public objects by the first name that they have."""
    found: dict[int, tuple[str, Any]] = {}
    for module in MODULES:
        package = importlib.import_module(f"graphattn.{module}")
        for name in package.__all__:
            value = getattr(package, name)
            found.setdefault(id(value), (f"{module}.{name}", value))
    return dict(found.values())


PUBLIC = _public()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_case_or_a_reason(name: str) -> None:
    covered = {id(x) for case in CASES.values() for x in (case.covers, *case.also)}
    covered |= {id(work.covers) for work in HOST_WORK.values()}
    assert (id(PUBLIC[name]) in covered) != (name in EXCEPTIONS), (
        f"graphattn.{name} needs a case in tests/contracts, or a reason here why it has none, not both"
    )


def test_the_exceptions_exist() -> None:
    assert set(EXCEPTIONS) <= set(PUBLIC)
