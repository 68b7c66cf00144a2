"""Every probe of the table: complete findings, within budget, repeatable, whatever it is asked about."""

import math

import msgspec
import pytest
import torch
from torch import nn

from pellucid.audits import MORE
from pellucid.audits import PROBES as AUDITED
from pellucid.core import Finding, Gallery, Graph, PellucidError, Scatter, Stream, Subject, Work
from pellucid.data import synthetic_images, synthetic_table
from pellucid.reports import Report, SubjectCard


class Counting(nn.Module):
    """Counts what it is asked: one per forward of one sample, two when the input's gradient is wanted."""

    def __init__(self, model):
        super().__init__()
        self.model, self.spent = model, 0

    def forward(self, x):
        self.spent += len(x) * (2 if x.requires_grad else 1)
        return self.model(x)


class Chunked(nn.Module):
    """The same model in batches of seven."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return torch.cat([self.model(part) for part in x.split(7)])


def trained(dataset, layers, steps=60):
    with Stream(0).child("probes").forked():
        model = nn.Sequential(*layers())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(dataset.inputs), dataset.labels).backward()
            optimizer.step()
    return model.double()


def subject_of(dataset, model, *, labels=True, **changes):
    return Subject(
        model,
        dataset.inputs.double(),
        dataset.labels if labels else None,
        bounds=dataset.bounds,
        modality=dataset.modality,
        class_names=dataset.class_names,
        feature_names=dataset.feature_names,
        **changes,
    )


def convolutional():
    return nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 144, 4)


def dense(width, classes):
    return lambda: (nn.Flatten(), nn.Linear(width, 24), nn.ReLU(), nn.Linear(24, classes))


def constant(classes):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(0 * x.flatten(1)[:, :1] + torch.arange(classes, dtype=x.dtype)[None])

    return Constant()


class Blind(nn.Module):
    """A model that autograd cannot follow, as a wrapped estimator is."""

    def __init__(self, model):
        super().__init__()
        self.answer = lambda x: model(x.detach()).detach()

    def forward(self, x):
        return self.answer(x)


def grouped():
    x = WIDE.inputs.double()
    background = torch.cat([x + 1, x - 1])
    background[:, 3] = x[:, 3] = 2.0  # a constant column
    return Subject(
        trained(WIDE, dense(15, 2)),
        x,
        WIDE.labels,
        bounds=None,
        modality="tabular",
        class_names=WIDE.class_names,
        feature_names=WIDE.feature_names,
        background=background,
        groups={"first": (0, 1, 2), "last": tuple(range(6, 15))},
    )


def blind():
    return subject_of(TABLE, Blind(trained(TABLE, dense(6, 2))))


def crowded():
    with Stream(0).child("crowded").forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 6), nn.ReLU(), nn.Linear(6, 1000)).double()
    x = IMAGES.inputs.double()
    labels = model(x).argmax(1)
    labels[::3] = torch.arange(16)
    return Subject(model, x, labels)


PROBES = AUDITED | MORE
IMAGES = synthetic_images(48, rng=Stream(0))
COLOR = synthetic_images(24, rng=Stream(1), channels=3, size=9)
TABLE = synthetic_table(48, rng=Stream(0))
WIDE = synthetic_table(24, rng=Stream(0), features=15)
ONE_CLASS = synthetic_images(40, rng=Stream(0), classes=4)

CONVOLUTIONAL = trained(IMAGES, convolutional)
SUBJECTS = {
    "images": lambda: subject_of(IMAGES, CONVOLUTIONAL),
    "images without labels": lambda: subject_of(IMAGES, CONVOLUTIONAL, labels=False),
    "color images, two samples": lambda: subject_of(COLOR, trained(COLOR, dense(243, 4))).take(torch.tensor([0, 1])),
    "one sample": lambda: subject_of(IMAGES, CONVOLUTIONAL).take(torch.tensor([3])),
    "table": lambda: subject_of(TABLE, trained(TABLE, dense(6, 2))),
    "table without labels": lambda: subject_of(TABLE, trained(TABLE, dense(6, 2)), labels=False),
    "table with groups and training data": lambda: grouped(),
    "table of a function without gradients": lambda: blind(),
    "thousand classes": lambda: crowded(),
    "wide table": lambda: subject_of(WIDE, trained(WIDE, dense(15, 2))),
    "constant model": lambda: subject_of(IMAGES, constant(4)),
    "constant model on a table": lambda: subject_of(TABLE, constant(2)),
    "random model": lambda: subject_of(IMAGES, trained(IMAGES, convolutional, steps=0)),
}


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    """Fewer steps and cells, so that every probe meets every subject in seconds; the journeys use the real ones."""
    monkeypatch.setattr("pellucid.audits.probes._balls.STEPS", 6)
    monkeypatch.setattr("pellucid.audits.probes._balls.DRAWS", 6)
    monkeypatch.setattr("pellucid.audits.probes._robustness.DRAWS", 6)
    monkeypatch.setattr("pellucid.audits.probes._concepts.GRID", (2, 4))
    monkeypatch.setattr("pellucid.audits.probes._knowledge_points.STEPS", 20)
    monkeypatch.setattr("pellucid.audits.probes._knowledge_points.SEEDS", 2)
    monkeypatch.setattr("pellucid.audits.probes._knowledge_points.ATTACK_STEPS", 2)


CASES = [(name, case) for name in PROBES for case in SUBJECTS]


def ask(name, subject, *, effort="quick", budget=None, seed=0):
    probe = PROBES[name]
    need = probe.need(subject, effort=effort)
    if need.skip:
        pytest.skip(need.skip)
    return probe(subject, need.least if budget is None else budget, Stream(seed).child("audit", name))


def report_of(findings):
    card = SubjectCard(
        model="m",
        data="d",
        modality="image",
        n_samples=1,
        n_classes=2,
        class_names=("a", "b"),
        input_shape=(1,),
        parameters=1,
    )
    return Report(pellucid_version="0", subject=card, findings=tuple(findings))


def sentence(text):
    return (
        (text[0].isupper() or text[0].isdigit()) and text.rstrip()[-1] in ".?!:" and "nan" not in text.lower().split()
    )


def values(finding):
    return [finding.measure, *finding.measures]


def test_the_table_is_complete():
    assert list(AUDITED) == [
        "accuracy", "calibration", "robustness", "bottleneck", "concepts", "feature-diversity", "collapse",
    ]  # fmt: skip
    assert not set(AUDITED) & set(MORE)
    for name, probe in PROBES.items():
        assert probe.name == name
        assert probe.question.endswith("?")


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize("effort", ["quick", "full"])
def test_needs_are_sound(name, case, effort):
    need = PROBES[name].need(SUBJECTS[case](), effort=effort)
    assert need.skip or 0 < need.least <= need.wanted
    assert need.memory >= 0
    assert "\n" not in need.skip + need.remark


@pytest.mark.parametrize(("name", "case"), CASES)
def test_findings_are_complete_and_within_the_least_budget(name, case, tmp_path):
    subject = SUBJECTS[case]()
    counter = Counting(subject.model)
    counted = subject_like(subject, counter)
    counter.spent = 0
    budget = PROBES[name].need(counted, effort="quick").least
    findings = ask(name, counted)
    assert counter.spent <= budget
    check(findings, name, counted)
    report_of(findings).save(tmp_path)
    assert plain(Report.load(tmp_path).findings) == plain(findings)


def subject_like(subject, model):
    return Subject(
        model,
        subject.inputs,
        subject.labels,
        bounds=subject.bounds,
        modality=subject.modality,
        class_names=subject.class_names,
        ids=subject.ids,
        feature_names=subject.feature_names,
        background=subject.background,
        groups=subject.groups,
    )


def check(findings, name, subject):
    assert findings
    assert len({f.name for f in findings}) == len(findings)
    ids = set(subject.ids.tolist())
    for finding in findings:
        assert isinstance(finding, Finding)
        assert finding.probe == name
        assert all(map(sentence, (finding.question, finding.answer, finding.reason, *finding.cautions)))
        assert finding.level in ("fine", "watch", "weak", "noted")
        assert set(finding.provenance.sample_ids) <= ids
        assert finding.provenance.evaluations > 0
        assert finding.provenance.settings
        assert finding.references
        assert finding.exhibits
        names = [m.name for m in values(finding)]
        assert len(set(names)) == len(names)
        for measure in values(finding):
            assert len(measure.samples) in (0, len(finding.provenance.sample_ids))
            if None not in (measure.low, measure.value, measure.high):
                assert measure.low - 1e-9 <= measure.value <= measure.high + 1e-9


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("effort", ["quick", "full"])
def test_what_is_wanted_is_not_exceeded(name, effort):
    counter = Counting(CONVOLUTIONAL)
    subject = subject_of(IMAGES, counter)
    wanted = min(190_000, PROBES[name].need(subject, effort=effort).wanted)
    counter.spent = 0
    findings = ask(name, subject, effort=effort, budget=wanted)
    assert counter.spent <= wanted
    assert sum(f.provenance.evaluations for f in findings) <= wanted
    # What the findings say they cost is what they did cost.
    assert sum(f.provenance.evaluations for f in findings) == counter.spent


@pytest.mark.parametrize("name", PROBES)
def test_the_same_seed_gives_the_same_findings(name):
    first, again = (ask(name, subject_of(IMAGES, CONVOLUTIONAL)) for _ in range(2))
    assert msgspec.json.encode(plain(first)) == msgspec.json.encode(plain(again))


@pytest.mark.parametrize("name", [name for name in PROBES if name != "feature-diversity"])  # it watches the batches
def test_another_batch_size_gives_the_same_numbers(name):
    subject = subject_of(IMAGES, CONVOLUTIONAL)
    first = ask(name, subject)
    chunked = ask(name, subject_like(subject, Chunked(CONVOLUTIONAL)))
    for a, b in zip(first, chunked, strict=True):
        assert a.provenance == b.provenance
        for one, two in zip(values(a), values(b), strict=True):
            assert (one.value is None) == (two.value is None)
            if one.value is not None:
                assert math.isclose(one.value, two.value, rel_tol=1e-6, abs_tol=1e-6)


def plain(findings):
    """Findings without pixels, which neither JSON nor == can handle by themselves."""
    return [
        msgspec.structs.replace(f, exhibits=tuple(_plain(e) for e in f.exhibits if not isinstance(e, Gallery)))
        for f in findings
    ]


def _plain(exhibit):
    if isinstance(exhibit, Scatter):
        return msgspec.structs.replace(exhibit, thumbnails=())
    return msgspec.structs.replace(exhibit, picture=None) if isinstance(exhibit, Graph) else exhibit


@pytest.mark.parametrize("name", PROBES)
def test_progress_moves_forward_to_its_end(name):
    subject, steps = subject_of(IMAGES, CONVOLUTIONAL), []
    need = PROBES[name].need(subject, effort="quick")
    if need.skip:
        pytest.skip(need.skip)
    PROBES[name](subject, need.least, Stream(0), work=Work(on_step=lambda done, total: steps.append(done / total)))
    assert steps == sorted(steps)
    assert steps[-1] == 1.0


@pytest.mark.parametrize("name", PROBES)
def test_a_model_that_breaks_on_masked_or_attacked_inputs_gives_a_reason_and_no_crash(name):
    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()
            self.known = IMAGES.inputs.double()

        def forward(self, x):
            known = (x[:, None] == self.known[None]).flatten(2).all(2).any(1)
            return self.act(torch.where(known[:, None], CONVOLUTIONAL(x), torch.nan))

    subject = subject_of(IMAGES, Fragile())
    if name not in ("accuracy", "calibration", "feature-diversity"):
        with pytest.raises(PellucidError, match="NaN"):
            ask(name, subject)
    else:
        assert ask(name, subject)


def test_rounding_is_no_interaction():
    linear = nn.Linear(12, 2)
    with Stream(0).child("linear").forked():
        nn.init.normal_(linear.weight)
    x = Stream(1).normal((8, 12))
    subject = Subject(linear, x, linear(x).argmax(1), bounds=None, modality="tabular")
    (finding,) = ask("bottleneck", subject)
    assert finding.level == "fine"
    assert "a sum of single parts" in finding.answer
    assert finding.measure.value is None
    assert all(m.value == 0 for m in finding.measures if m.name.startswith("interaction_strength"))


def test_two_samples_give_no_interval_of_their_similarity():
    (finding,) = ask("feature-diversity", SUBJECTS["color images, two samples"]())
    assert finding.measure.value is not None
    assert finding.measure.low is None
    assert finding.measure.high is None


@pytest.mark.parametrize(("rare", "told"), [(3, True), (24, False)])
def test_attacked_samples_of_other_class_shares_than_the_data_are_told(rare, told):
    labels = (torch.arange(48) < rare).long()
    table = Subject(nn.Linear(4, 2), Stream(0).uniform((48, 4)), labels, modality="tabular")
    for finding in ask("robustness", table):
        assert any("drawn evenly" in caution for caution in finding.cautions) == told


@pytest.mark.parametrize(("features", "told"), [(3, True), (8, False)])
def test_few_features_make_no_finding_of_a_short_list(features, told):
    with Stream(0).child("few").forked():
        model = nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, 2))
    x = Stream(1).normal((6, features))
    (finding,) = ask("concepts", Subject(model, x, bounds=None, modality="tabular"))
    assert (f"only {2**features - 1} combinations in all" in finding.answer) == told
