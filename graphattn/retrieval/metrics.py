"""Metrics of result lists: trec_eval's by its own code, those of shape and landmark retrieval, and PyG's."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from graphattn._optional import require
from graphattn.retrieval._bulls_eye import evaluate_bulls_eye
from graphattn.retrieval._evaluation import Comparison, Evaluation, compare, read_scores
from graphattn.retrieval._link_prediction import label_pairs, prediction_matrix
from graphattn.retrieval._run import check_distinct
from graphattn.retrieval._trapezoidal import evaluate_revisited, trapezoidal_average_precision

__all__ = [
    "Comparison",
    "Evaluation",
    "compare",
    "evaluate",
    "evaluate_bulls_eye",
    "evaluate_revisited",
    "label_pairs",
    "prediction_matrix",
    "trapezoidal_average_precision",
]

_FAMILIES = ("official", "set", "all_trec")
# trec_eval ends the process on a cutoff of 0, so that what it is handed has to be read first.
_WITH_CUTOFF = re.compile(
    r"(P|recall|ndcg_cut|map_cut|success|relative_P)_[1-9]\d{0,8}|(iprec_at_recall|Rprec_mult)_\d\.\d\d"
)
_NOT_A_NUMBER = {"runid", "relstring"}


def evaluate(
    run: Any,
    qrels: Mapping[Hashable, Mapping[Hashable, int]],
    measures: Sequence[str] = ("map", "ndcg_cut_10", "recall_100", "P_1"),
) -> Evaluation:
    """Evaluate result lists as trec_eval does, by its own code.

    Everything is trec_eval's, its conventions too: documents are sorted by score, read as float32, and equal scores by
    the name of the document, from the last to the first; a document without judgement is not relevant; the mean is over
    the queries that have both a list and a judgement. It is trec_eval 9: where a level of recall falls between two
    documents, ``iprec_at_recall`` and ``11pt_avg`` may differ from version 10. ``map`` is not the trapezoidal one of
    :func:`evaluate_revisited`.

    Args:
        run: Scores ``{query: {document: score}}``, larger is better, or a :class:`~graphattn.retrieval.runs.Run`.
        qrels: Judgements ``{query: {document: grade}}``; a grade of at least 1 is relevant.
        measures: trec_eval's names, with a cutoff (``"P_10"``, ``"ndcg_cut_100"``) or without, for all its usual
            cutoffs (``"ndcg_cut"``); or ``"official"``, ``"set"`` or ``"all_trec"``, its groups of them.

    Returns:
        Values of each query and their means (sums of what counts, and geometric means of ``gm_map`` and ``gm_bpref``,
        whose values per query are logarithms). Queries without a list or a judgement are in ``left_out``.

    Raises:
        ValueError: If a measure is unknown, a score is not a number, no query has a judgement, or two ids are the same
            text.
        TypeError: If ``run`` or ``qrels`` is no dict of dicts, or a grade is no integer.
        ImportError: If pytrec_eval cannot be imported.

    Example:
        >>> run = {"q1": {"d1": 1.0, "d2": 0.0, "d3": 1.5}, "q2": {"d1": 1.5, "d2": 0.2, "d3": 0.5}}
        >>> qrels = {"q1": {"d1": 0, "d2": 1, "d3": 0}, "q2": {"d2": 1, "d3": 1}}
        >>> evaluate(run, qrels, ("map", "ndcg"))
        Evaluation(2 queries: map 0.4583, ndcg 0.5967)

    Reference:
        Van Gysel and de Rijke, "Pytrec_eval: An Extremely Fast Python Interface to trec_eval", 2018.
    """
    trec = require("pytrec_eval", "retrieval")
    if isinstance(measures, str) or not measures:
        raise ValueError(f"measures is {measures!r}; expected a sequence of names, such as ('map', 'ndcg_cut_10')")
    plain = [name for name in measures if not _WITH_CUTOFF.fullmatch(name)]
    for name in plain:
        if name not in _FAMILIES and (name in _NOT_A_NUMBER or name not in trec.supported_measures):
            known = ", ".join(sorted(trec.supported_measures - _NOT_A_NUMBER))
            raise ValueError(f"measures contains {name!r}; expected some of {known}, or such a name with its cutoff")
    lists, judgements = read_scores("run", run), _read_grades(qrels)
    both = [query for query in lists if judgements.get(query)]
    if not both:
        raise ValueError(f"run and qrels have no query in common; they have {_some(lists)} and {_some(judgements)}")
    names = _texts("query", both)
    scores = {names[query]: _renamed(lists[query], float) for query in both}
    grades = {names[query]: _renamed(judgements[query], int) for query in both}

    # A name with a cutoff replaces the usual cutoffs, so that both kinds are asked for on their own.
    found: dict[str, dict[str, float]] = {query: {} for query in scores}
    for group in (plain, [name for name in measures if name not in plain]):
        for query, values in trec.RelevanceEvaluator(grades, group).evaluate(scores).items() if group else ():
            found[query].update(values)
    some = next(iter(found.values()))
    columns = [name for name in dict.fromkeys((*measures, *some)) if name in some and name not in _NOT_A_NUMBER]
    per_query: dict[Hashable, dict[str, float]] = {
        query: {name: found[names[query]][name] for name in columns} for query in both
    }
    mean = {
        name: trec.compute_aggregated_measure(name, [values[name] for values in per_query.values()]) for name in columns
    }
    left_out = {query: "no judgement" for query in lists if query not in per_query}
    left_out |= {query: "no list" for query in judgements if judgements[query] and query not in lists}
    return Evaluation(per_query, mean, left_out)


def _read_grades(qrels: Any) -> Mapping[Hashable, Mapping[Hashable, int]]:
    if not isinstance(qrels, Mapping) or not all(isinstance(docs, Mapping) for docs in qrels.values()):
        raise TypeError(f"qrels is a {type(qrels).__name__}; expected a dict {{query: {{document: grade}}}}")
    for query, docs in qrels.items():
        for doc, grade in docs.items():
            if not isinstance(grade, Integral):
                raise TypeError(f"qrels has grade {grade!r} at {doc!r} of query {query!r}; expected an integer")
    return qrels


def _renamed(docs: Mapping[Hashable, Any], kind: type) -> dict[str, Any]:
    """Return a list with text for ids and plain numbers for values."""
    names = _texts("document", docs)
    return {names[doc]: kind(value) for doc, value in docs.items()}


def _texts(what: str, ids: Iterable[Hashable]) -> dict[Hashable, str]:
    texts = {name: str(name) for name in ids}
    check_distinct(f"the {what} ids as texts", list(texts.values()))
    return texts


def _some(queries: Any) -> str:
    shown = ", ".join(map(repr, list(queries)[:3]))
    return f"{len(queries)} ({shown}{', ...' if len(queries) > 3 else ''})" if queries else "none"
