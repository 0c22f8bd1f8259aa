"""Streams of events by name: SNAP's files, and small ones in the layouts of JODIE and TGB."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.datasets import JODIEDataset

from graphattn._optional import is_available
from graphattn.datasets import EventTask, load
from graphattn.datasets.jodie import read_jodie
from graphattn.datasets.snap import read_snap
from graphattn.datasets.tgb import TGBEvaluator

from .cases import shared


def events_of(name: str, root: Path, split: str | int | None = None) -> EventTask:
    task = load(name, root, split)
    assert isinstance(task, EventTask)
    return task


@pytest.mark.parametrize(
    ("name", "nodes", "events", "dtype", "features"),
    [
        ("CollegeMsg", 1899, 59835, torch.int64, 0),
        ("BitcoinOTC", 5881, 35592, torch.float64, 1),
        ("BitcoinAlpha", 3783, 24186, torch.int64, 1),
    ],
)
def test_the_shared_streams(name: str, nodes: int, events: int, dtype: torch.dtype, features: int) -> None:
    task = events_of(name, shared("temporal"), "chronological-70-15-15")
    assert (task.num_nodes, task.data.num_events, task.data.t.dtype) == (nodes, events, dtype)
    assert (task.num_features, task.metric, task.kind, task.bipartite) == (features, "average_precision", "link", False)
    file = next(shared("temporal").glob(f"*/{'CollegeMsg' if features == 0 else 'soc-sign-' + name.lower()}*"))
    rows = []
    with gzip.open(file, "rt") as lines:
        for number, line in enumerate(lines):
            if features == 0 or number:
                cells = line.replace(",", " ").split()
                rows.append((float(cells[-1]), cells[0], cells[1], cells[2]))
    rows.sort(key=lambda row: row[0])  # stable
    assert task.data.t.double().tolist() == [row[0] for row in rows]
    assert [task.node_ids[i] for i in task.data.src.tolist()] == [row[1] for row in rows]
    assert [task.node_ids[i] for i in task.data.dst.tolist()] == [row[2] for row in rows]
    if features:
        assert torch.equal(task.data.msg.flatten(), torch.tensor([int(row[3]) for row in rows]).float() / 10)
    sizes = [len(ids) for ids in task.split.values()]
    assert sum(sizes) == events
    assert all(abs(size - share * events) < 10 for size, share in zip(sizes, (0.70, 0.15, 0.15), strict=True))


def test_hidden_nodes_of_a_shared_stream() -> None:
    task, whole = (events_of("BitcoinAlpha", shared("temporal"), split) for split in (1, "chronological-70-15-15"))
    assert task.split_name == "inductive-70-15-15:1"
    seen = torch.cat([task.data.src[task.split["train"]], task.data.dst[task.split["train"]]]).unique()
    before = torch.cat([task.data.src[whole.split["train"]], task.data.dst[whole.split["train"]]]).unique()
    assert len(task.split["train"]) < len(whole.split["train"])
    assert len(seen) < len(before)
    assert bool((task.inductive("test") >= whole.inductive("test")).all())
    for part in ("val", "test"):
        assert torch.equal(task.split[part], whole.split[part])
        assert torch.equal(task.negatives(part), whole.negatives(part))


def write_gzip(path: Path, text: str) -> Path:
    with gzip.open(path, "wt") as file:
        file.write(text)
    return path


def test_a_small_stream_of_snap(tmp_path: Path) -> None:
    data, ids = read_snap(write_gzip(tmp_path / "a.csv.gz", "9,7,-10,20.0\n7,30,5,10\n30,7,1,10\n"))
    assert ids.tolist() == [7, 9, 30]
    assert (data.src.tolist(), data.dst.tolist(), data.t.tolist()) == ([0, 2, 1], [2, 0, 0], [10, 10, 20])
    assert data.t.dtype == torch.int64
    assert torch.equal(data.msg, torch.tensor([[0.5], [0.1], [-1.0]]))
    header = write_gzip(tmp_path / "b.csv.gz", "from,to,feature,time\n9,7,-10,20.5\n7,30,5,10\n")
    assert read_snap(header)[0].t.tolist() == [10.0, 20.5]
    assert read_snap(write_gzip(tmp_path / "c.txt.gz", "1 2 3\n2 1 4\n"))[0].msg.shape == (2, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n1 2 x\n", r"a.gz, line 2: could not convert string to float: 'x'; expected source, destination"),
        ("1 2 3\n1 2 3 4\n", r"a.gz, line 2: 4 numbers; expected"),
        ("1 2\n", r"a.gz, line 1: 2 numbers"),
        ("1 2 3\n\n1 2 4\n", r"a.gz, line 2: 0 numbers"),
        ("", r"a.gz is empty"),
    ],
)
def test_broken_streams_of_snap(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_snap(write_gzip(tmp_path / "a.gz", text))


def test_what_is_no_gzip(tmp_path: Path) -> None:
    (tmp_path / "CollegeMsg.txt.gz").write_text("1 2 3\n")
    with pytest.raises(ValueError, match=r"CollegeMsg.txt.gz, line 0: Not a gzipped file"):
        load("CollegeMsg", tmp_path)


def test_downloads_of_snap_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, root = tmp_path / "server", tmp_path / "root"
    server.mkdir()
    root.mkdir()
    write_gzip(server / "CollegeMsg.txt.gz", "".join(f"{i} {i + 1} {i}\n" for i in range(40)))
    monkeypatch.setattr("graphattn.datasets.snap._URL", server.as_uri() + "/")
    with pytest.raises(
        ValueError, match=r"CollegeMsg was downloaded with nodes and events \(41, 40\); expected \(1899, "
    ):
        load("CollegeMsg", root)
    assert list(root.iterdir()) == []
    monkeypatch.setitem(
        __import__("graphattn.datasets.snap", fromlist=["SETS"]).SETS,
        "CollegeMsg",
        ("collegemsg", "CollegeMsg.txt.gz", (41, 40)),
    )
    assert events_of("CollegeMsg", root, "chronological-70-15-15").data.num_events == 40
    assert (root / "CollegeMsg" / "raw" / "CollegeMsg.txt.gz").is_file()


def jodie_file(path: Path, features: int = 3, fraction: bool = True, events: int = 60) -> Path:
    """A tiny file in the layout of JODIE, whose header names one column for all features."""
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True)
    lines = ["user_id,item_id,timestamp,state_label,comma_separated_list_of_features"]
    time = 0.0
    for i in range(events):
        time += rng.integers(0, 3) + (0.5 if fraction else 0)
        cells = [i % 7, rng.integers(0, 5), time, float(i % 9 == 0), *rng.normal(size=features).round(4)]
        lines.append(",".join(map(str, cells)))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("inner", ["wikipedia/raw", "wikipedia", "."])
def test_the_layout_of_jodie(inner: str, tmp_path: Path) -> None:
    jodie_file(tmp_path / "root" / inner / "wikipedia.csv")
    links, labels = (events_of(name, tmp_path / "root") for name in ("jodie-Wikipedia", "jodie-wikipedia-labels"))
    assert (links.kind, links.metric, labels.kind, labels.metric) == ("link", "average_precision", "node", "roc_auc")
    assert (links.split_name, labels.split_name) == ("inductive-70-15-15:0", "chronological-70-15-15")
    assert links.bipartite
    assert links.num_features == 3
    assert links.data.t.dtype == torch.float64
    assert labels.target("val").tolist() == labels.data.y[labels.split["val"]].tolist()
    assert links.negatives("test").min() >= 7


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # of pandas 3, which PyG reads with
@pytest.mark.parametrize("fraction", [True, False])
def test_streams_are_read_as_pyg_reads_them(fraction: bool, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    file = jodie_file(tmp_path / "mooc" / "raw" / "mooc.csv", fraction=fraction)
    theirs = JODIEDataset(str(tmp_path), "mooc")[0]
    ours, num_nodes = read_jodie(file)
    assert torch.equal(ours.t.long(), theirs.t)  # PyG drops fractions
    assert ours.t.dtype == (torch.float64 if fraction else torch.int64)
    for key in ("src", "dst", "y", "msg"):
        assert torch.equal(ours[key], theirs[key]), key
    assert num_nodes == int(theirs.dst.max()) + 1


def test_streams_of_jodie_are_sorted_and_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = jodie_file(tmp_path / "set" / "lastfm.csv", features=2)
    whole, _ = read_jodie(file)
    monkeypatch.setattr("graphattn.datasets.jodie._BLOCK", 7)
    blocks, _ = read_jodie(file)
    assert all(torch.equal(whole[key], blocks[key]) for key in ("src", "dst", "t", "y", "msg"))
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *lines[30:], *lines[:30]]) + "\n")
    again, _ = read_jodie(file)
    assert torch.equal(again.t, whole.t)
    assert sorted(again.msg[:, 0].tolist()) == sorted(whole.msg[:, 0].tolist())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,3,0,x,0,0", r"mooc.csv, line 20: could not convert string 'x'"),
        ("1,2,3,0,1,0", r"mooc.csv, line 20: 6 numbers, not 7"),
        ("1", r"mooc.csv, line 20: 1 numbers, not 7"),
    ],
)
@pytest.mark.parametrize("block", [1 << 15, 18, 5])
def test_broken_lines_of_jodie(
    line: str, message: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphattn.datasets.jodie._BLOCK", block)
    file = jodie_file(tmp_path / "set" / "mooc.csv")
    lines = file.read_text().splitlines()
    lines[19] = line
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=message):
        read_jodie(file)


def test_files_of_jodie_that_hold_too_little(tmp_path: Path) -> None:
    file = jodie_file(tmp_path / "set" / "mooc.csv", events=0)
    with pytest.raises(ValueError, match=r"mooc.csv has no events; expected lines of user, item, time"):
        read_jodie(file)
    file.write_text("header\n1,2,3\n")
    with pytest.raises(ValueError, match=r"mooc.csv, line 2: 3 numbers; expected user, item, time, label, features"):
        read_jodie(file)


def test_downloads_of_jodie_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jodie_file(tmp_path / "server" / "reddit.csv")
    monkeypatch.setattr("graphattn.datasets.jodie._URL", (tmp_path / "server").as_uri() + "/")
    with pytest.raises(
        ValueError, match=r"jodie-reddit was downloaded with nodes and events \(12, 60\); expected \(10984"
    ):
        load("jodie-reddit", tmp_path)
    assert not (tmp_path / "reddit").exists()


def tgb_folder(root: Path) -> Path:
    """A tiny folder in the layout of tgbl-wiki: the stream, and negatives of its later events, by event."""
    folder = root / "tgbl_wiki"
    jodie_file(folder / "tgbl-wiki_edgelist_v2.csv", fraction=False)
    data, num_nodes = read_jodie(folder / "tgbl-wiki_edgelist_v2.csv")
    borders = np.quantile(data.t.numpy(), [0.70, 0.85])
    for number, part in enumerate(("val", "test"), start=1):
        later = [i for i in range(60) if np.searchsorted(borders, data.t[i].item()) == number]
        keys = [(int(data.src[i]), int(data.dst[i]), int(data.t[i])) for i in later]
        items = np.arange(7, num_nodes)
        found = {key: items[items != key[1]][: 2 + key[0] % 3] for key in keys}
        with open(folder / f"tgbl-wiki_{part}_ns_v2.pkl", "wb") as file:
            pickle.dump(found, file)
    return folder


needs_tgb = pytest.mark.skipif(not is_available("tgb"), reason="py-tgb is not installed")


@needs_tgb
def test_the_layout_of_tgb(tmp_path: Path) -> None:
    folder = tgb_folder(tmp_path)
    task = events_of("tgbl-wiki", tmp_path)
    assert (task.metric, task.split_name, task.num_nodes, task.num_features) == ("mrr", "official", 12, 3)
    data, _ = read_jodie(folder / "tgbl-wiki_edgelist_v2.csv")
    assert all(torch.equal(task.data[key], data[key]) for key in ("src", "dst", "t", "msg"))
    for part in ("val", "test"):
        with open(folder / f"tgbl-wiki_{part}_ns_v2.pkl", "rb") as file:
            given = pickle.load(file)
        negatives = task.negatives(part)
        for row, event in zip(negatives.tolist(), task.split[part].tolist(), strict=True):
            key = (int(data.src[event]), int(data.dst[event]), int(data.t[event]))
            assert [node for node in row if node >= 0] == given[key].tolist()
        assert (negatives == -1).any()
    positive = torch.rand(len(task.split["test"]), generator=torch.Generator().manual_seed(0))
    negative = torch.rand(task.negatives("test").shape, generator=torch.Generator().manual_seed(1))
    negative[0] = positive[0]  # ties count half
    ranks = []
    for score, others, nodes in zip(positive, negative, task.negatives("test"), strict=True):
        others = others[nodes >= 0]
        ranks.append(1 + 0.5 * ((others > score).sum() + (others >= score).sum()).item())
    assert task.evaluate(positive, negative, "test") == pytest.approx(np.mean(1 / np.array(ranks)), rel=1e-6)
    train = torch.rand(2, len(task.split["train"]), generator=torch.Generator().manual_seed(2))
    expected = np.where(train[0] > train[1], 1, 0.5).mean()
    assert task.evaluate(train[0], train[1], "train") == pytest.approx(expected, rel=1e-6)


@pytest.mark.skipif(is_available("tgb"), reason="py-tgb is installed")
def test_tgb_says_what_to_install(tmp_path: Path) -> None:
    tgb_folder(tmp_path)
    with pytest.raises(ImportError, match=r"tgb.linkproppred.dataset is needed here .* pip install 'graphattn\[tgb\]'"):
        load("tgbl-wiki", tmp_path)
    with pytest.raises(ImportError, match=r"pip install 'graphattn\[tgb\]'"):
        TGBEvaluator("tgbl-wiki")(torch.ones(1), torch.ones(1))


def test_archives_of_tgb_are_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    folder = tgb_folder(tmp_path / "server")
    with zipfile.ZipFile(tmp_path / "server" / "tgbl-wiki-v2.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
        archive.writestr("__MACOSX/._tgbl-wiki", "no part of it")
    monkeypatch.setattr("graphattn.datasets.tgb._URL", (tmp_path / "server").as_uri() + "/")
    if is_available("tgb"):
        assert events_of("tgbl-wiki", tmp_path).data.num_events == 60
    else:
        with pytest.raises(ImportError, match="tgb"):
            load("tgbl-wiki", tmp_path)
    found = {path.name for path in (tmp_path / "tgbl_wiki").iterdir() if not path.name.startswith("ml_")}
    assert found == {path.name for path in folder.iterdir()}
