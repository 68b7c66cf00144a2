"""Programs of torch.export: ordinary ones open, and nothing of a file that could run code reaches torch."""

import io
import json
import os
import pickle
import warnings
import zipfile

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid import models
from pellucid.core import ModelError, Subject
from pellucid.models._program_scan import screened


class Net(nn.Module):
    """A network with a buffer, a constant, an option given as text, a part without gradients and a dict as answer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(36, 8), nn.Linear(8, 3)
        self.register_buffer("scale", torch.full((8,), 2.0))

    def forward(self, x):
        x = x.reshape(x.shape[0], -1)
        with torch.no_grad():
            mean = x.mean()
        h = nn.functional.gelu(self.first(x), approximate="tanh") * self.scale + torch.tensor([1.0])
        return {"logits": self.last(h) + 0 * mean, "features": h}


def export(path, model, *, dynamic=True, training=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim.AUTO},) if dynamic else None
        program = torch.export.export(model.train(training), (torch.rand(2, 1, 6, 6),), dynamic_shapes=shapes)
        torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    net = Net().eval()
    return net, export(tmp_path_factory.mktemp("net") / "net.pt2", net)


@pytest.fixture
def images(rng):
    return rng.child("images").uniform((9, 1, 6, 6))


def test_a_program_answers_as_its_network_with_gradients_for_any_batch(net, images):
    network, path = net
    loaded = models.load(str(path))
    assert loaded.name == "net.pt2"
    assert loaded.input_shape == (1, 6, 6)
    for count in (1, 2, 9):
        assert_close(loaded.model(images[:count])["logits"], network(images[:count])["logits"])
    subject = Subject(loaded.model, images)
    assert subject.differentiable
    assert subject.n_classes == 3
    assert loaded.model.eval() is loaded.model  # programs themselves refuse this


def test_what_is_kept_is_a_whole_program(net):
    program = torch.export.load(io.BytesIO(screened(net[1])))
    assert len(program.state_dict) == 5


def test_convolutions_batch_norm_and_attention_are_ordinary(tmp_path, images):
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(2), nn.Dropout())
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.layer, self.head = body, layer, head

        def forward(self, x):
            return self.head(self.layer(self.body(x).transpose(1, 2)))

    mixed = Mixed().eval()
    loaded = models.load(str(export(tmp_path / "mixed.pt2", mixed)))
    assert_close(loaded.model(images), mixed(images), atol=1e-5, rtol=1e-4)


def test_a_fixed_batch_is_refused_with_the_way_to_export(tmp_path, net):
    path = export(tmp_path / "fixed.pt2", net[0], dynamic=False)
    with pytest.raises(ModelError, match=r"batches of exactly 2; export it for any batch: .*dynamic_shapes=\(\{0: "):
        models.load(str(path))


def test_a_program_exported_for_training_is_refused(tmp_path):
    path = export(tmp_path / "t.pt2", nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(36, 3)), training=True)
    with pytest.raises(ModelError, match=r"training mode; call model\.eval\(\) before"):
        models.load(str(path))


# -- hostile files ------------------------------------------------------------------------------------------------


class Bomb:
    """Runs code when unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def rewrite(source, path, change):
    """Write a program again with changed files; `change(files)` gets them by name without the top folder."""
    with zipfile.ZipFile(source) as archive:
        files = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"net/{name}", content)
    return path


def in_json(name, change):
    """Return a change of the JSON file whose name ends with `name`."""

    def apply(files):
        place = next(key for key in files if key.endswith(name))
        content = json.loads(files[place])
        change(content)
        files[place] = json.dumps(content).encode()

    return apply


def node(content, index=0):
    return content["graph_module"]["graph"]["nodes"][index]


def graph(content):
    return content["graph_module"]["graph"]


def signature(content):
    return content["graph_module"]["module_call_graph"][0]["signature"]


RUN = "__import__('os').mkdir('ran')"
ENUM = json.dumps({"__enum__": True, "fqn": "os:mkdir", "name": "ran"})


def spec(kind="builtins.tuple", context="null"):
    leaf = {"type": None, "context": None, "children_spec": []}
    return json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])


def sizes(content):
    return content["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]


HOSTILE_TEXT = {
    "operator of torch": (lambda c: node(c).update(target="torch.hub.load"), r"the operator torch\.hub\.load"),
    "operator of another library": (
        lambda c: node(c).update(target="torch.ops.mine.run.default"),
        "the operator torch",
    ),
    "operator that reads files": (lambda c: node(c).update(target="torch.ops.aten.from_file.default"), "from_file"),
    "operator that writes files": (lambda c: node(c).update(target="torch.ops.aten.save.default"), "save"),
    "operator that nobody knows": (lambda c: node(c).update(target="torch.ops.aten.no_such.default"), "does not know"),
    "operator on text": (lambda c: node(c).update(target="torch.ops.aten.upper.default"), "upper"),
    "guard": (lambda c: c.update(guards_code=[f"{RUN} or L['x'].size()[0] > 0"]), "holds the condition"),
    "guard with a way out of its text": (lambda c: c.update(guards_code=['"']), "holds the expression"),
    "guard of two lines": (lambda c: c.update(guards_code=["1 == 1)\n  exit(("]), "holds the expression"),
    "size": (lambda c: sizes(c).update(expr_str=RUN), "holds the size"),
    "size by attributes": (lambda c: sizes(c).update(expr_str="Symbol.__class__"), "holds the size"),
    "size of endless digits": (lambda c: sizes(c).update(expr_str="9**9**9**9"), "holds the size"),
    "name of an input": (
        lambda c: c["graph_module"]["graph"]["inputs"][0]["as_tensor"].update(name=f"x={RUN}"),
        "name",
    ),
    "name of a node": (lambda c: node(c).update(name=f"x\n{RUN}"), "holds the name"),
    "name of a symbol": (lambda c: c.update(range_constraints={RUN: {"min_val": 1, "max_val": 2}}), "holds the name"),
    "name of a parameter": (
        lambda c: c["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name=f'"]{RUN}["'),
        "holds the text",
    ),
    "argument name": (lambda c: signature(c).update(forward_arg_names=[f"x={RUN}"]), "holds the name"),
    "enum in a tree": (lambda c: signature(c).update(in_spec=spec(context=ENUM)), "holds the container"),
    "enum deep in a tree": (lambda c: signature(c).update(in_spec=spec("builtins.dict", f"[{ENUM}]")), "container"),
    "factory in a tree": (lambda c: signature(c).update(in_spec=spec("collections.defaultdict")), "the container"),
    "path as an argument": (
        lambda c: node(c)["inputs"][0].update(arg={"as_string": "/etc/passwd"}),
        "holds the text '/etc/passwd' as an argument",
    ),
    "custom object": (lambda c: node(c)["inputs"][0].update(arg={"as_custom_obj": {"name": "a"}}), "a custom object"),
    "verifier": (lambda c: c.update(verifiers=["os; rm"]), "holds the text"),
}


@pytest.mark.parametrize("case", HOSTILE_TEXT)
def test_text_that_torch_would_run_is_refused(tmp_path, monkeypatch, net, case):
    monkeypatch.chdir(tmp_path)
    change, message = HOSTILE_TEXT[case]
    path = rewrite(net[1], tmp_path / "bad.pt2", in_json("models/model.json", change))
    with pytest.raises(ModelError, match=message) as caught:
        models.load(str(path))
    assert "\n" not in str(caught.value)
    assert "could run code when opened, and is refused" in str(caught.value)
    assert "--trust" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt2"]


def pickled(mark):
    return pickle.dumps(Bomb(mark))


def saved(mark):
    buffer = io.BytesIO()
    torch.save({"a": Bomb(mark)}, buffer)
    return buffer.getvalue()


def payload(kind, name, content):
    """Return a change that puts a pickle in place of a weight or a constant."""

    def apply(files):
        config = next(key for key in files if key.endswith(f"{kind}_config.json"))
        described = json.loads(files[config])
        entry = next(iter(described["config"].values()))
        entry.update(path_name=name, use_pickle=not name.startswith("opaque"))
        files[config] = json.dumps(described).encode()
        files[f"data/{kind}/{name}"] = content

    return apply


@pytest.mark.parametrize("make", [pickled, saved])
@pytest.mark.parametrize(
    "place",
    ["weights/weight_9", "constants/tensor_9", "constants/opaque_obj_0", "constants/custom_obj_0", "sample_inputs"],
)
def test_a_gadget_in_any_payload_is_refused_and_does_not_run(tmp_path, net, place, make):
    mark = tmp_path / "ran"
    kind, _, name = place.partition("/")
    if name:
        change = payload(kind, name, make(mark))
    else:

        def change(files):
            files["data/sample_inputs/model.pt"] = make(mark)

    path = rewrite(net[1], tmp_path / "bad.pt2", change)
    with pytest.raises(ModelError, match="could run code when opened, and is refused"):
        models.load(str(path))
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["data/weights/model.pt", "data/aotinductor/model/m.so", "../evil.py", "models/other.json", "code/x.py"]
)
def test_files_that_do_not_belong_are_refused(tmp_path, net, name):
    path = rewrite(net[1], tmp_path / "bad.pt2", lambda files: files.update({name: b"{}"}))
    with pytest.raises(ModelError, match="could run code when opened, and is refused"):
        models.load(str(path))


def test_a_weight_larger_than_its_file_is_refused(tmp_path, net):
    def change(content):
        next(iter(content["config"].values()))["tensor_meta"]["sizes"] = [{"as_int": 10**12}]

    path = rewrite(net[1], tmp_path / "bad.pt2", in_json("weights_config.json", change))
    with pytest.raises(ModelError, match="1,000,000,000,000 numbers"):
        models.load(str(path))


def test_damaged_and_foreign_files_are_one_sentence(tmp_path, net):
    whole = net[1].read_bytes()
    for content in (b"", b"PK", whole[: len(whole) // 2], b"not a program"):
        path = tmp_path / "bad.pt2"
        path.write_bytes(content)
        with pytest.raises(ModelError, match="is a damaged program"):
            models.load(str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(ModelError, match=r"no program of torch\.export of this generation; export it again"):
        models.load(str(path))
    with pytest.raises(ModelError, match=r"gone\.pt2 does not exist"):
        models.load(str(tmp_path / "gone.pt2"))
    compressed = tmp_path / "small.pt2"
    with zipfile.ZipFile(net[1]) as old, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ModelError, match="compressed files"):
        models.load(str(compressed))


def test_trust_opens_what_the_look_inside_refuses(tmp_path, net, images):
    def change(files):
        files["data/sample_inputs/model.pt"] = saved(tmp_path / "ran")

    path = rewrite(net[1], tmp_path / "odd.pt2", change)
    with pytest.raises(ModelError, match="trust"):
        models.load(str(path))
    assert not (tmp_path / "ran").exists()
    assert models.load(str(net[1]), trust=True).model(images)["logits"].shape == (9, 3)
