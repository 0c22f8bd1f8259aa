"""Hugging Face models in a folder, as ``graphattn inspect`` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphattn._optional import require
from graphattn.analysis import AttentionMaps, capture, head_roles, repeated_tokens
from graphattn.analysis.roles import HeadRoles
from graphattn.cli._checks import UserError
from graphattn.cli._inspect_subject import OUTPUTS, WHOLE, Sample, Subject, maps_of, outputs_of, weights_of

_PROBE = 25  # tokens of a copy
_TITLE = 500  # characters of a text that are kept as its title
_PAIR = "\t"  # between the two texts of a pair
_MARKS = (".", "!", "?", ";")  # that end a segment, as separators do
_LOADERS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}


def read_transformer(
    folder: Path, texts: Sequence[str], max_tokens: int, device: torch.device, generator: torch.Generator
) -> Subject:
    """Load a model without a network and capture its attention on each text by itself, so that none is padded."""
    tokenizer, model = _load(folder)
    separators = _separators(tokenizer)
    model = model.to(device).eval()
    limit = min(max_tokens, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 10**6)
    notes: dict[str, None] = {}
    encoded: list[dict[str, Tensor]] = []
    samples: list[Sample] = []
    weights: Any = ()
    scored = ""
    for number, text in enumerate(texts):
        pair = text.split(_PAIR, 1)
        batch = tokenizer(
            *pair, truncation=True, max_length=limit, return_tensors="pt", return_special_tokens_mask=True
        )
        special = batch.pop("special_tokens_mask")[0].bool()
        parts = _parts(batch) if len(pair) > 1 else None
        inputs = {name: value.to(device) for name, value in batch.items()}
        ids = inputs["input_ids"][0]
        if not len(ids):
            notes[f"text {number} has no tokens and is left out"] = None
            continue
        if len(ids) == limit and len(tokenizer(*pair)["input_ids"]) > limit:
            notes[f"texts are cut after {limit} tokens"] = None
        keep = len(samples) < OUTPUTS and len(ids) <= WHOLE
        captured = capture(model, inputs, head_outputs=keep)
        maps, unchecked = maps_of(captured, tokenizer.convert_ids_to_tokens(ids.tolist()))
        if unchecked:
            notes[unchecked] = None
        weights = weights or weights_of(captured)
        may = ~special
        if maps.causal:
            may[-1] = False  # what is said of the last token needs it
        maskable = np.flatnonzero(may.numpy())
        score, scored, target = _scorer(model, inputs, maskable, maps.causal)
        encoded.append(inputs)
        gathered = outputs_of(captured) if keep else None
        title = " | ".join(pair)[:_TITLE]
        samples.append(Sample(title, maps, ids.tolist(), target, maskable, score, gathered, separators, parts))
    if not samples:
        raise UserError("no text has a token; expected at least one that has")
    names = [sample.maps.tokens for sample in samples]
    return Subject(
        name="/".join(folder.resolve().parts[-2:]),
        what=f"{type(model).__name__}, {sum(each.numel() for each in model.parameters()):,} parameters",
        samples=samples,
        scored=scored,
        notes=list(notes),
        query_key=weights,
        width=getattr(model.config, "hidden_size", None),
        model=model,
        capture=lambda other, number: maps_of(capture(other, encoded[number], head_outputs=False), names[number])[0],
        probe=_probe(model, tokenizer, limit, device, generator),
    )


def _load(folder: Path) -> tuple[Any, Any]:
    transformers = require("transformers", "inspect")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
        architecture = (config.architectures or [""])[0]
        loader = next((name for end, name in _LOADERS.items() if architecture.endswith(end)), "AutoModel")
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = getattr(transformers, loader).from_pretrained(
            str(folder), local_files_only=True, attn_implementation="eager"
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise UserError(f"{folder} holds no model that can be read: {str(error).splitlines()[0]}") from error
    return tokenizer, model.get_encoder() if config.is_encoder_decoder else model


def _separators(tokenizer: Any) -> list[int]:
    """List the ids that end a segment: the tokenizer's own, and marks that it knows as tokens."""
    marks = tokenizer.convert_tokens_to_ids(list(_MARKS))
    found = {tokenizer.sep_token_id, tokenizer.eos_token_id, *marks} - {None, tokenizer.unk_token_id}
    return sorted(found)


def _parts(batch: Any) -> list[str] | None:
    """Tell which text of a pair each token is of, where the tokenizer keeps track of it."""
    if not batch.is_fast:
        return None
    names = {None: "special", 0: "first text", 1: "second text"}
    return [names[number] for number in batch.sequence_ids(0)]


def _probe(
    model: nn.Module, tokenizer: Any, limit: int, device: torch.device, generator: torch.Generator
) -> HeadRoles | None:
    """Measure roles on random tokens that are repeated."""
    vocabulary = int(model.get_input_embeddings().num_embeddings)  # type: ignore[operator]
    length = min(_PROBE, (limit - 1) // 2, vocabulary - 1)
    if length < 1:
        return None
    first = next((token for token in (tokenizer.bos_token_id, tokenizer.cls_token_id) if token is not None), None)
    ids = repeated_tokens(length, vocabulary, bos=first, generator=generator)
    inputs = {"input_ids": ids[None].to(device), "attention_mask": torch.ones_like(ids)[None].to(device)}
    maps: AttentionMaps = maps_of(capture(model, inputs, head_outputs=False), [str(i) for i in ids.tolist()])[0]
    return head_roles(maps, ids)


def _scorer(model: Any, inputs: dict[str, Tensor], maskable: np.ndarray, causal: bool) -> tuple[Any, str, int | None]:
    """Return what the model makes of some of the tokens, that in words, and the token that it reads."""
    places = torch.from_numpy(maskable)
    full = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))

    def run(mask: Tensor) -> tuple[str, Tensor]:
        rows = {name: value.expand(len(mask), -1) for name, value in inputs.items()} | {"attention_mask": mask}
        with torch.no_grad():
            output = model(**rows)
        logits = getattr(output, "logits", None)
        if logits is not None and logits.dim() == 2:
            return ("class", logits.softmax(-1)) if logits.size(1) > 1 else ("value", logits)
        if logits is not None:
            return "token", logits[:, -1].softmax(-1)
        states = output.last_hidden_state
        if causal:
            return "state", states[:, -1]
        return "mean", (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    kind, whole = run(full)
    best = int(whole[0].argmax())

    def score(kept: Tensor) -> Tensor:
        mask = full.repeat(len(kept), 1)
        mask[:, places] = kept.to(mask.dtype).to(mask.device)
        found = run(mask)[1]
        if kind in ("class", "token", "value"):
            return found[:, best]
        return nn.functional.cosine_similarity(found, whole)

    said = {
        "class": "probability of the class that it predicts for the whole text",
        "value": "what it predicts",
        "token": "probability of the next token that it predicts for the whole text",
        "state": "cosine of the last token's state with that for the whole text",
        "mean": "cosine of the mean of the token states with that for the whole text",
    }
    last = int(full.size(1)) - 1
    return score, said[kind], None if kind == "mean" else last if causal else 0
