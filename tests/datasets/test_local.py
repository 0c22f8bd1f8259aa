"""Graphs of one's own: every format, and what is wrong with them, by its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphattn.datasets import GraphTask, NodeTask, load, read_local

X = torch.tensor([[0.5, 1.0], [2.0, -1.0], [0.0, 3.0], [1.0, 1.5], [4.0, 0.0], [2.5, 2.0]])
EDGES = torch.tensor([[0, 1, 4, 5], [1, 2, 3, 0]])
LABELS = torch.tensor([1, 0, 1, -1, 0, 1])
MASKS = {
    "train_mask": torch.tensor([True, True, False, False, False, False]),
    "val_mask": torch.tensor([False, False, True, False, False, False]),
    "test_mask": torch.tensor([False, False, False, False, True, True]),
}
SPLIT = {"train": [0, 1], "val": [2], "test": [4, 5]}


def node_task(path: Path, split: str | int | None = None) -> NodeTask:
    task = load(f"local:{path}", split=split)
    assert isinstance(task, NodeTask)
    return task


def check(task: NodeTask, weights: Tensor | None = None) -> None:
    """The task holds the graph above, its split and, perhaps, weights."""
    assert torch.equal(task.data.x, X)
    assert torch.equal(task.data.edge_index, EDGES)
    assert torch.equal(task.data.y, LABELS)
    assert {part: ids.tolist() for part, ids in task.split.items()} == SPLIT
    assert (task.split_name, task.metric, task.num_classes, task.licence) == ("given", "accuracy", 2, "your own")
    if weights is None:
        assert "edge_weight" not in task.data
    else:
        assert torch.equal(task.data.edge_weight, weights)


def test_pt_of_a_data_object_or_of_tensors(tmp_path: Path) -> None:
    data = Data(x=X, edge_index=EDGES, y=LABELS, **MASKS)
    torch.save(data, tmp_path / "mine.pt")
    check(node_task(tmp_path / "mine.pt"))
    assert node_task(tmp_path / "mine.pt").name == "mine"
    torch.save(dict(data.items()), tmp_path / "plain.pt")
    check(node_task(tmp_path / "plain.pt"))


def test_what_others_let_torch_load_stays_allowed(tmp_path: Path) -> None:
    torch.save(Data(x=X, edge_index=EDGES, y=LABELS, **MASKS), tmp_path / "mine.pt")
    before = torch.serialization.get_safe_globals()
    assert Data in before  # PyG allows it when it is imported
    node_task(tmp_path / "mine.pt")
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_npz(tmp_path: Path) -> None:
    arrays = {"x": X, "edge_index": EDGES, "y": LABELS, "edge_weight": torch.arange(4.0), **MASKS}
    np.savez(tmp_path / "mine.npz", **{key: value.numpy() for key, value in arrays.items()})
    check(node_task(tmp_path / "mine.npz"), torch.arange(4.0))


def test_masks_of_several_splits(tmp_path: Path) -> None:
    masks = {key: torch.stack([mask.roll(shift) for shift in range(3)], dim=1) for key, mask in MASKS.items()}
    y = torch.tensor([1, 0, 1, 0, 0, 1])
    torch.save(Data(x=X, edge_index=EDGES, y=y, **masks), tmp_path / "mine.pt")
    task = node_task(tmp_path / "mine.pt", split=2)
    assert task.split_name == "given:2"
    assert {part: ids.tolist() for part, ids in task.split.items()} == {"train": [2, 3], "val": [4], "test": [0, 1]}
    with pytest.raises(ValueError, match=r"split is 3; local:.* has 'given:0' to 'given:2', 'random-20:SEED'"):
        node_task(tmp_path / "mine.pt", split=3)
    torch.save(Data(y=y, **{**masks, "val_mask": MASKS["val_mask"]}, edge_index=EDGES), tmp_path / "mine.pt")
    with pytest.raises(ValueError, match=r"has masks of \[1, 3\] columns"):
        node_task(tmp_path / "mine.pt")


NODES = """id,first,y,second,split
a,0.5,yes,1,train
b,2,no,-1,train

c,0,yes,3,val
d,1,,1.5,
"e",4,no,0,test
f,2.5,yes,2,test
"""
LINKS = "source,target\na,b\nb,c\ne,d\nf,a\n"


def write(folder: Path, nodes: str = NODES, links: str = LINKS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "nodes.csv").write_text(nodes, encoding="utf-8")
    (folder / "edges.csv").write_text(links, encoding="utf-8")
    return folder


def test_tables(tmp_path: Path) -> None:
    check(node_task(write(tmp_path / "mine")))
    weighted = "source,target,weight\na,b,0.5\nb,c,1\ne,d,2\nf,a,-3\n"
    check(node_task(write(tmp_path / "mine", "\ufeff" + NODES, weighted)), torch.tensor([0.5, 1.0, 2.0, -3.0]))
    task = node_task(write(tmp_path / "mine", links="source,target,kind,weight\na,b,3,1\nb,c,4,1\n"))
    assert task.data.edge_attr.tolist() == [[3.0], [4.0]]


def test_tables_in_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = write(tmp_path / "mine")
    (folder / "nodes.csv").unlink()
    columns = {
        "id": ["a", "b", "c", "d", "e", "f"],
        "first": X[:, 0].tolist(),
        "second": X[:, 1].tolist(),
        "y": [1, 0, 1, None, 0, 1],
        "split": ["train", "train", "val", None, "test", "test"],
    }
    parquet.write_table(pa.table(columns), folder / "nodes.parquet")
    check(node_task(folder))
    parquet.write_table(pa.table({**columns, "first": [0.5, None, 1, 1, 1, 1]}), folder / "nodes.parquet")
    with pytest.raises(ValueError, match=r"nodes\.parquet, row 2, column 'first': an empty cell is no finite number"):
        node_task(folder)
    (folder / "nodes.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"nodes\.parquet cannot be read as Parquet"):
        node_task(folder)


def _networkx(directed: bool) -> Any:
    graph: Any = nx.DiGraph() if directed else nx.Graph()
    for node in range(6):
        given = {"first": float(X[node, 0]), "second": float(X[node, 1]), "y": int(LABELS[node])}
        part = next((part for part, ids in SPLIT.items() if node in ids), None)
        graph.add_node(f"n{node}", **given, **({"split": part} if part else {}))
    graph.add_edges_from((f"n{i}", f"n{j}") for i, j in EDGES.t().tolist())
    return graph


WRITERS = {"graphml": nx.write_graphml, "gml": nx.write_gml, "gexf": nx.write_gexf}


@pytest.mark.parametrize("form", WRITERS)
def test_files_of_networkx(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine.{form}"
    WRITERS[form](_networkx(directed=True), path)
    task = node_task(path)
    pairs = set(map(tuple, EDGES.t().tolist()))
    assert set(map(tuple, task.data.edge_index.t().tolist())) == pairs
    assert torch.equal(task.data.x, X)
    assert torch.equal(task.data.y, LABELS)
    assert {part: ids.tolist() for part, ids in task.split.items()} == SPLIT
    WRITERS[form](_networkx(directed=False), path)
    both = node_task(path)
    assert set(map(tuple, both.data.edge_index.t().tolist())) == pairs | {(j, i) for i, j in pairs}
    assert both.data.num_edges == 2 * len(pairs)


def test_weights_of_networkx(tmp_path: Path) -> None:
    graph = _networkx(directed=True)
    for number, edge in enumerate(list(graph.edges)):
        graph.edges[edge]["weight"] = number + 0.5
    nx.write_graphml(graph, tmp_path / "mine.graphml")
    assert node_task(tmp_path / "mine.graphml").data.edge_weight.tolist() == [0.5, 1.5, 2.5, 3.5]
    del graph.nodes["n3"]["second"]
    nx.write_graphml(graph, tmp_path / "mine.graphml")
    with pytest.raises(ValueError, match="node 'n3', column 'second': an empty cell is no finite number"):
        node_task(tmp_path / "mine.graphml")


def test_random_splits_of_what_has_none(tmp_path: Path) -> None:
    y = torch.arange(20) % 2
    torch.save(Data(x=torch.eye(20), edge_index=EDGES, y=y), tmp_path / "mine.pt")
    task = node_task(tmp_path / "mine.pt")
    assert task.split_name == "random-60-20-20:0"
    assert [len(task.split[part]) for part in ("train", "val", "test")] == [12, 4, 4]
    with pytest.raises(ValueError, match=r"split is 'given'; local:.* has 'random-20:SEED', 'random-60-20-20:SEED'"):
        node_task(tmp_path / "mine.pt", split="given")


def test_regression(tmp_path: Path) -> None:
    nodes = "id,y,split\na,0.5,train\nb,1.5,val\nc,,\nd,-2,test\n"
    task = node_task(write(tmp_path / "mine", nodes, "source,target\na,b\n"))
    assert (task.metric, task.num_classes, task.out_channels) == ("rmse", None, 1)
    assert task.evaluate(torch.tensor([1.0])) == 3.0
    torch.save(Data(x=X, edge_index=EDGES, y=torch.randn(6, 2)), tmp_path / "mine.pt")
    assert node_task(tmp_path / "mine.pt").out_channels == 2


def test_many_graphs(tmp_path: Path) -> None:
    graphs = [
        Data(x=torch.randn(3, 2), edge_index=torch.tensor([[0], [1]]), y=torch.tensor([k % 3])) for k in range(10)
    ]
    torch.save(graphs, tmp_path / "mine.pt")
    task = load(f"local:{tmp_path}/mine.pt", split="random-60-20-20:3")
    assert isinstance(task, GraphTask)
    assert [len(task.split[part]) for part in ("train", "val", "test")] == [6, 2, 2]
    assert (task.num_classes, task.metric, task.split_name) == (3, "accuracy", "random-60-20-20:3")
    split = {"train": torch.tensor([4, 1]), "val": torch.tensor([0]), "test": torch.tensor([9])}
    torch.save({"graphs": graphs, "split": split}, tmp_path / "mine.pt")
    given = load(f"local:{tmp_path}/mine.pt")
    assert isinstance(given, GraphTask)
    assert (given.split["train"].tolist(), given.split_name) == ([4, 1], "given")
    torch.save({"graphs": graphs, "split": {**split, "test": torch.tensor([9, 4])}}, tmp_path / "mine.pt")
    with pytest.raises(ValueError, match="split of mine leaks: 1 graphs of 'test' are also in 'train'"):
        load(f"local:{tmp_path}/mine.pt")
    del graphs[3].y
    torch.save(graphs, tmp_path / "mine.pt")
    with pytest.raises(ValueError, match=r"graph 3 of local:.* has no y"):
        load(f"local:{tmp_path}/mine.pt")


@pytest.mark.parametrize(
    ("nodes", "links", "message"),
    [
        (NODES.replace("b,2", "b,two"), LINKS, "nodes.csv, line 3, column 'first': 'two' is no finite number"),
        (NODES.replace("b,2", "b,nan"), LINKS, "nodes.csv, line 3, column 'first': 'nan' is no finite number"),
        (NODES.replace("c,0,", "c,,"), LINKS, "nodes.csv, line 5, column 'first': an empty cell is no finite number"),
        (NODES.replace("c,0,", "c,0,0,"), LINKS, "nodes.csv, line 5: 6 fields, but the header has 5"),
        (NODES.replace("c,0", "a,0"), LINKS, "nodes.csv, line 5, column 'id': 'a' is also the node of line 2"),
        (NODES.replace("val", "valid"), LINKS, "line 5, column 'split': 'valid' is no part of a split; expected train"),
        (NODES.replace("first", "y", 1), LINKS, "nodes.csv has the column 'y' twice"),
        (
            NODES.replace("id", "name", 1),
            LINKS,
            "nodes.csv has the columns name, first, y, second, split; id is missing",
        ),
        (NODES, LINKS.replace("e,d", "e,z"), "edges.csv, line 4, column 'target': 'z' is no node"),
        (NODES, LINKS.replace("e,d", "e"), "edges.csv, line 4: 1 fields, but the header has 2"),
        (NODES, "from,to\na,b\n", "edges.csv has the columns from, to; source, target is missing"),
        (NODES, "", "edges.csv has the columns none; source, target is missing"),
        (NODES, "source,target,weight\na,b,x\n", "edges.csv, line 2, column 'weight': 'x' is no finite number"),
        ("id,y,split\na,-2,train\nb,1,val\nc,0,test\n", "source,target\n", "line 2, column 'y': '-2' is no class"),
        (NODES.replace("val", "test"), LINKS, "split 'val' of mine is empty"),
        ("id,y\n", "source,target\n", "mine has no nodes; expected at least one"),
        ("id,y\na,\nb,\n", "source,target\na,b\n", "split 'train' of mine is empty"),
        (NODES.replace("yes,1,train", ",1,train"), LINKS, "labels of mine hold 1 such as -1 in its split"),
    ],
)
def test_tables_that_are_broken(tmp_path: Path, nodes: str, links: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        node_task(write(tmp_path / "mine", nodes, links))


def test_text_in_another_encoding(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine")
    (folder / "nodes.csv").write_bytes(NODES.replace("yes", "très").encode("latin-1"))
    with pytest.raises(ValueError, match=r"nodes\.csv is not UTF-8 text"):
        node_task(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.graphml", "<graphml><node>", r"cannot be read as GRAPHML .*line 1"),
        ("mine.gml", "graph [ node [ id 0 label", r"cannot be read as GML"),
        ("mine.gexf", "no xml", r"cannot be read as GEXF"),
        ("mine.pt", "no archive", r"cannot be read .* expected what torch\.save wrote"),
        ("mine.npz", "no archive", r"mine\.npz cannot be read"),
        (
            "mine.txt",
            "",
            r"ends in '\.txt'; expected \.pt, \.npz, \.graphml, \.gml, \.gexf, or a folder with edges\.csv",
        ),
        ("mine", "", r"ends in ''; expected \.pt"),
    ],
)
def test_files_that_are_broken(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        node_task(tmp_path / name)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pt does not exist; expected a file or a folder"):
        node_task(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match=r"lacks its tables; put edges\.csv"):
        node_task(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Path("mine"), r"cannot be read \(Unsupported global: GLOBAL pathlib.* expected what torch\.save wrote"),
        (3, r"holds int; expected a Data, a list of them"),
        ([], r"holds list; expected a Data"),
        ({"edge_index": EDGES, "y": LABELS, "masks": LABELS}, r"has edge_index, y, masks; expected edge_index"),
        (Data(x=X, edge_index=EDGES), r"has no y; expected a label"),
        (Data(x=X, edge_index=EDGES + 3, y=LABELS, **MASKS), r"edge_index of mine has nodes from 3 to 8"),
        (Data(x=X / 0, edge_index=EDGES, y=LABELS, **MASKS), r"features of mine hold"),
        (
            Data(x=X, edge_index=EDGES, y=LABELS, **{**MASKS, "val_mask": MASKS["test_mask"]}),
            r"split of mine leaks: 2 nodes of 'test' are also in 'val'",
        ),
    ],
)
def test_content_that_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(ValueError, match=message):
        node_task(tmp_path / "mine.pt")


def test_arrays_that_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", y=np.zeros(3))
    with pytest.raises(ValueError, match="has y; expected edge_index"):
        node_task(tmp_path / "mine.npz")
    np.savez(tmp_path / "mine.npz", y=np.array(["a", "b"]), edge_index=EDGES.numpy())
    with pytest.raises(ValueError, match="has an array that torch does not take"):
        node_task(tmp_path / "mine.npz")


def test_classes_have_the_words_of_the_files_as_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine")
    assert node_task(folder).classes == ("no", "yes")
    assert "classes" not in node_task(folder).data
    assert node_task(write(folder, NODES.replace("yes", "1").replace("no", "0"))).classes == ("0", "1")
    graph = _networkx(directed=True)
    for node, values in graph.nodes(data=True):
        values["y"] = "cat" if node in ("n0", "n2") else "dog"
    nx.write_graphml(graph, tmp_path / "mine.graphml")
    assert node_task(tmp_path / "mine.graphml").classes == ("cat", "dog")
    torch.save(Data(x=X, edge_index=EDGES, y=LABELS, classes=2, **MASKS), tmp_path / "mine.pt")
    assert node_task(tmp_path / "mine.pt").classes == ("0", "1")


PLAIN = "id,y,split\na,yes,train\nb,no,train\nc,yes,val\nd,,\ne,no,test\nf,yes,test\n"


def test_features_in_a_file_of_their_own_are_mapped(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", PLAIN)
    np.save(folder / "x.npy", X.numpy())
    task = node_task(folder)
    check(task)
    if Path("/proc/self/maps").exists():
        assert str(folder / "x.npy") in Path("/proc/self/maps").read_text()
    task.data.x.zero_()  # stays in memory
    check(node_task(folder))
    np.save(folder / "x.npy", np.arange(12).reshape(6, 2))
    assert node_task(folder).data.x.tolist() == torch.arange(12).reshape(6, 2).tolist()
    np.save(folder / "x.npy", np.asfortranarray(X.numpy()))
    check(node_task(folder))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((5, 2), np.float32), r"x.npy holds an array \(5, 2\) of float32; expected a row for each of the 6"),
        (np.zeros(6, np.float32), r"holds an array \(6,\) of float32"),
        (np.zeros((6, 2)), r"of float64; expected .* of float32, or of int64"),
        (np.full((6, 2), np.nan, np.float32), r"features of mine hold 12 NaN or infinite values"),
        (np.array([[None] * 2] * 6), r"x.npy cannot be read"),
        (np.zeros((0, 2), np.float32), r"x.npy (cannot be read|holds an array)"),
    ],
)
def test_files_of_features_that_are_refused(tmp_path: Path, x: np.ndarray, message: str) -> None:
    folder = write(tmp_path / "mine", PLAIN)
    np.save(folder / "x.npy", x)
    with pytest.raises(ValueError, match=message):
        node_task(folder)


def test_features_are_given_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine")
    np.save(folder / "x.npy", X.numpy())
    with pytest.raises(ValueError, match=r"nodes.csv has columns of features and .*x.npy has others; keep one"):
        node_task(folder)
    write(folder, PLAIN)
    (folder / "x.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"x.npy cannot be read .* expected what numpy.save wrote"):
        node_task(folder)
    with (folder / "x.npy").open("wb") as file:
        np.savez(file, x=X.numpy())
    with pytest.raises(ValueError, match=r"x.npy holds several arrays"):
        node_task(folder)


def test_graphs_are_read_with_what_there_is(tmp_path: Path) -> None:
    data = read_local(write(tmp_path / "mine"))
    assert isinstance(data, Data)
    assert (data.node_ids, data.classes) == (list("abcdef"), ["no", "yes"])
    assert torch.equal(data.x, X)
    assert torch.equal(data.y, LABELS)
    assert all(torch.equal(data[key], mask) for key, mask in MASKS.items())
    (tmp_path / "mine" / "nodes.csv").write_text("id,first\n b ,1\na,2\nc,0\ne,0\nd,0\nf,0\n")
    bare = read_local(str(tmp_path / "mine"))
    assert isinstance(bare, Data)
    assert bare.node_ids == list("bacedf")
    assert bare.edge_index.tolist() == [[1, 0, 3, 5], [0, 2, 4, 1]]
    assert (bare.y, "train_mask" in bare, "classes" in bare) == (None, False, False)
    with pytest.raises(ValueError, match=r"mine has no y; expected a label or a target for each node"):
        load(f"local:{tmp_path}/mine")


def test_graphs_without_labels_in_other_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=X.numpy(), edge_index=EDGES.numpy())
    data = read_local(tmp_path / "mine.npz")
    assert isinstance(data, Data)
    assert torch.equal(data.x, X)
    graph = nx.path_graph(3)
    nx.write_gml(nx.relabel_nodes(graph, str), tmp_path / "mine.gml")
    path = read_local(tmp_path / "mine.gml")
    assert isinstance(path, Data)
    assert (path.node_ids, path.num_edges, path.x, path.y) == (["0", "1", "2"], 4, None, None)
    masks = {key: mask[:, None].expand(6, 2) for key, mask in MASKS.items()}
    torch.save(Data(x=X, edge_index=EDGES, **masks), tmp_path / "mine.pt")
    several = read_local(tmp_path / "mine.pt")
    assert isinstance(several, Data)
    assert several.test_mask.shape == (6, 2)
    torch.save([Data(x=X, edge_index=EDGES), Data(x=X[:1], edge_index=EDGES[:, :0])], tmp_path / "mine.pt")
    graphs = read_local(tmp_path / "mine.pt")
    assert isinstance(graphs, list)
    assert [graph.num_nodes for graph in graphs] == [6, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Data(x=X / 0, edge_index=EDGES), r"features of local:.*mine.pt hold 12 NaN or infinite"),
        (Data(x=X, edge_index=EDGES + 3), r"edge_index of local:.*mine.pt has nodes from 3 to 8, but there are 6"),
        ([Data(x=X), Data(x=X, edge_index=EDGES + 3)], r"edge_index of local:.*mine.pt, graph 1, has nodes"),
        ({"x": X}, r"holds dict; expected a Data, a list of them"),
    ],
)
def test_graphs_without_labels_that_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(ValueError, match=message):
        read_local(tmp_path / "mine.pt")
