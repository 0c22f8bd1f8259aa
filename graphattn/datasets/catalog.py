"""The catalog: names of sets, and the one function that loads them."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from graphattn.datasets.embedded import SETS as EMBEDDED
from graphattn.datasets.embedded import load_embedded
from graphattn.datasets.events import EventTask
from graphattn.datasets.heterophilous import SETS as HETEROPHILOUS
from graphattn.datasets.heterophilous import load_heterophilous
from graphattn.datasets.jodie import SETS as JODIE
from graphattn.datasets.jodie import load_jodie
from graphattn.datasets.local import load_local
from graphattn.datasets.lrgb import SETS as LRGB
from graphattn.datasets.lrgb import load_lrgb
from graphattn.datasets.molecules import NAME as HIV
from graphattn.datasets.molecules import load_hiv
from graphattn.datasets.npz_graphs import SETS as NPZ
from graphattn.datasets.npz_graphs import load_npz_graph
from graphattn.datasets.ogb import SETS as OGB
from graphattn.datasets.ogb import load_ogb
from graphattn.datasets.planetoid import SETS as PLANETOID
from graphattn.datasets.planetoid import load_planetoid
from graphattn.datasets.snap import SETS as SNAP
from graphattn.datasets.snap import load_snap
from graphattn.datasets.tasks import Task
from graphattn.datasets.tgb import SETS as TGB
from graphattn.datasets.tgb import load_tgb
from graphattn.datasets.tudataset import SETS as TU
from graphattn.datasets.tudataset import load_tu

_LOADERS: dict[str, Callable[[str, Path, str | int | None], Task | EventTask]] = {
    **dict.fromkeys(EMBEDDED, load_embedded),
    **dict.fromkeys(PLANETOID, load_planetoid),
    **dict.fromkeys(HETEROPHILOUS, load_heterophilous),
    **dict.fromkeys(NPZ, load_npz_graph),
    **dict.fromkeys(TU, load_tu),
    **dict.fromkeys(LRGB, load_lrgb),
    **dict.fromkeys(OGB, load_ogb),
    HIV: load_hiv,
    **dict.fromkeys(SNAP, load_snap),
    **dict.fromkeys(JODIE, load_jodie),
    **dict.fromkeys(TGB, load_tgb),
}
_LEFT_OUT = {
    "squirrel": "nodes come twice, some in the training and in the test set; load 'squirrel-filtered'",
    "chameleon": "nodes come twice, some in the training and in the test set; load 'chameleon-filtered'",
    "ogbn-mag": "it is heterogeneous; use the package ogb",
    "ogbl-biokg": "it is heterogeneous; use the package ogb",
    "ogbl-wikikg2": "it asks for entities of a knowledge graph; use the package ogb",
    "ogbg-code2": "it asks for sequences of words; use the package ogb",
    "pcqm-contact": "it asks for links within many graphs; use torch_geometric.datasets.LRGBDataset",
}
_LOCAL = "local:"


def _key(name: str) -> str:
    return name.lower().replace("_", "-")


_NAMES = {_key(name): name for name in _LOADERS}


def names() -> list[str]:
    """List the names that :func:`load` knows, besides ``"local:PATH"``.

    Returns:
        The names.

    Example:
        >>> {"Cora", "MUTAG", "ogbl-ddi", "sbm"} <= set(names())
        True
    """
    return list(_LOADERS)


def load(name: str, root: str | Path = "data", split: str | int | None = None) -> Task | EventTask:
    """Load a set as a task: its data, one of its splits, its metric and what its licence says.

    Files are looked for under ``root``, in the layout of PyG or OGB or lying there side by side. If they are not there,
    they are downloaded into it, checked, and put in place once all have come.

    ============================================  ================================================================
    Sets                                          Splits, the default first
    ============================================  ================================================================
    Cora, CiteSeer, PubMed                        ``"public"``, ``"geom-gcn:0"`` to ``"geom-gcn:9"``, random
    Roman-empire, Minesweeper, Actor, Texas ...   ``"official:0"`` to ``"official:9"``, random
    Amazon-Photo, Coauthor-CS ...                 random
    PROTEINS, ENZYMES, IMDB-BINARY ...            ``"fair:0"`` to ``"fair:9"``, ``"own:0"`` to ``"own:9"``
    MUTAG                                         ``"own:0"`` to ``"own:9"``: stratified, shuffled with seed 0
    Peptides-func, PascalVOC-SP ...               ``"official"``
    ogbn-*, ogbl-*, ogbg-*, molhiv-smiles         OGB's, under its name, such as ``"scaffold"``
    digits-knn, karate, sbm                       random; karate ``"one-per-class:SEED"``
    CollegeMsg, BitcoinOTC, BitcoinAlpha          by time
    jodie-wikipedia, jodie-wikipedia-labels ...   by time
    tgbl-wiki, tgbl-review ...                    ``"official"``
    local:PATH                                    ``"given"`` if the files say one, random; events by time
    ============================================  ================================================================

    The random splits are ``"random-20:SEED"``, 20 nodes of each class and 500 and 1,000 others (seed 123 unless
    given), and ``"random-60-20-20:SEED"``, these percentages of all nodes (seed 0 unless given). ``split_name`` of the
    task tells which one it is: numbers on different splits cannot be compared.

    Streams of events are split by time, 70, 15 and 15 % as :func:`chronological_split` does it:
    ``"inductive-70-15-15:SEED"``, the default where events are asked for, hides a tenth of the nodes from training
    (seed 0 unless given), and ``"chronological-70-15-15"``, the default where labels are, none. The sets of JODIE ask
    for the next event, or with ``-labels`` for the users that are banned or drop out. Ratings of the Bitcoin sets are
    features from -1 to 1.

    The readers are tested on the original files of Cora, PubMed, Minesweeper, squirrel-filtered, Actor, Texas,
    Amazon-Photo, MUTAG, PROTEINS, ogbg-molbace, ogbg-molesol, ogbl-ddi, molhiv-smiles, CollegeMsg, BitcoinOTC and
    BitcoinAlpha; the other sets are read by the same code, and those of LRGB, JODIE and TGB, from small files in the
    same layouts: format tested, not run.

    A local graph is a file ``.pt`` (a PyG ``Data``, or a list of them), ``.npz``, ``.graphml``, ``.gml`` or ``.gexf``,
    or a folder with ``edges.csv`` (columns ``source``, ``target``, perhaps ``weight``) and ``nodes.csv`` or
    ``nodes.parquet`` (columns ``id``, ``y``, perhaps ``split``, and features). Instead of columns of features, a folder
    may hold ``x.npy``, a matrix of float32 (or of int64: categories) with a row for each node in the order of the
    table, which is mapped into memory and may be larger than it. Labels stand in ``y``: words, classes from 0, or the
    targets of a regression; nothing, or -1, is a label that is not known. ``split`` names ``train``, ``val`` or
    ``test``; in ``.pt`` and ``.npz`` the masks of PyG do. Edges are taken as they are directed, those of undirected
    networkx graphs in both directions. :func:`read_local` reads the same files as a plain graph, also without labels.

    A file ``.csv`` or ``.parquet`` holds events, a row for each in the order of time: columns ``src`` and ``dst``,
    names of nodes, ``t``, a number such as seconds, perhaps ``label``, and features. With ``label`` the task asks for
    it (empty where it is not known), without for the next event.

    Args:
        name: Name of the set, as :func:`names` lists it, or ``"local:PATH"``. Case does not matter.
        root: Folder of the data; sets that are embedded or local ignore it.
        split: Name of a split, or its number where the default one has several.

    Returns:
        The task.

    Raises:
        ValueError: If the name or the split is unknown, or the files are broken or unsound.
        FileNotFoundError: If files are missing and cannot be downloaded; it says which belong where.
        ImportError: If a file needs a package that is not installed, and for the sets of TGB without py-tgb.

    Example:
        >>> task = load("karate")
        >>> task.split_name, task.data.num_nodes, len(task.split["train"])
        ('one-per-class:0', 34, 4)
    """
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}; expected the name of a set")
    if name.startswith(_LOCAL):
        return load_local(Path(name.removeprefix(_LOCAL)).expanduser(), split)
    key = _key(name)
    if key in _NAMES:
        return _LOADERS[_NAMES[key]](_NAMES[key], Path(root).expanduser(), split)
    if key in _LEFT_OUT:
        raise ValueError(f"name is {name!r}, which is left out: {_LEFT_OUT[key]}")
    near = [_NAMES[close] for close in get_close_matches(key, _NAMES)]
    hint = f"near: {', '.join(map(repr, near))}" if near else "graphattn.datasets.names() lists all"
    raise ValueError(f"name is {name!r}, which is no known set ({hint}); a graph of your own is 'local:PATH'")
