"""Explanations as audits: what is found, kept, written as a file, and refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, nn

from pellucid import audits
from pellucid.audits import Explain, Explained, explain
from pellucid.core import BudgetError, DataError, PellucidError, Ranks, RunError, Stream, Subject
from pellucid.data import synthetic_images
from pellucid.games import Features, ModelGame, index, log_odds
from pellucid.reports import Report


def network(inputs: int, classes: int) -> nn.Module:
    with Stream(0).forked():
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, classes))


@pytest.fixture(scope="module")
def images() -> Subject:
    data = synthetic_images(24, rng=Stream(0))
    return Subject(network(144, 4), data.inputs, data.labels, class_names=("ape", "bee", "cat", "dog"))


def table(**more: object) -> Subject:
    x: Tensor = Stream(1).normal((20, 5))
    names = ("age", "height", "weight", "dose", "time")
    return Subject(
        network(5, 2),
        x,
        torch.arange(20) % 2,
        bounds=None,
        modality="tabular",
        feature_names=names,
        **more,
    )


def test_an_explanation_is_a_report_with_a_finding_for_all_and_one_for_each(images: Subject, tmp_path: Path) -> None:
    found = explain(images, Explain(players="grid:2x3", samples=3), out=tmp_path / "run")
    names = [finding.name for finding in found.report.findings]
    assert names == ["explain", *(f"explain-{sample}" for sample in found.interactions)]
    assert {finding.level for finding in found.report.findings} == {"noted"}
    assert found.report.findings[1].question.startswith("Why does the model answer ")
    again = Report.load(tmp_path / "run")
    assert [finding.answer for finding in again.findings] == [finding.answer for finding in found.report.findings]
    assert sum(finding.provenance.evaluations for finding in found.report.findings[1:]) == again.plan[0].granted
    loaded = Explained.load(tmp_path / "run")
    assert loaded.file == found.file
    assert not (tmp_path / "run" / "parts").exists()


def test_numbers_are_those_of_the_index_and_survive_the_file(tmp_path: Path) -> None:
    subject = table()
    explain(subject, Explain(index="FSII", order=3, ids=(7,), fill="zero"), out=tmp_path)
    label = int(subject.take(torch.tensor([7])).logits().argmax())
    game = ModelGame(subject.model, subject.inputs[7], Features(fill="zero"), log_odds(label))
    expected = index(game, "FSII", order=3)
    read = Explained.load(tmp_path).interactions[7]
    assert torch.equal(read.values, expected.values)
    assert read.players == expected.players
    assert read.index == "FSII"
    assert float(read.total()) == pytest.approx(float(log_odds(label)(subject.logits()[7:8].double())), abs=1e-5)


def test_players_of_a_table_are_its_columns_or_its_groups() -> None:
    alone = explain(table(), Explain(samples=2)).file
    grouped = explain(table(groups={"body": (1, 2)}), Explain(samples=2)).file
    assert alone is not None
    assert grouped is not None
    assert alone.samples[0].players == ("age", "height", "weight", "dose", "time")
    assert grouped.samples[0].players == ("age", "body", "dose", "time")
    columns = explain(table(groups={"body": (1, 2)}), Explain(players="features", samples=2)).file
    assert columns is not None
    assert columns.samples[0].players == alone.samples[0].players


def test_segments_may_differ_in_number(images: Subject) -> None:
    pytest.importorskip("skimage")
    found = explain(images, Explain(players="segments:5", samples=3, index="harsanyi"))
    assert not found.report.skipped
    for one in found.interactions.values():
        assert one.index == "Moebius"
        assert len(one.values) == 2**one.n_players


@pytest.mark.parametrize("of", ["label", "cat", "2", 2])
def test_the_class_may_be_the_label_or_a_name_or_a_number(images: Subject, of: str | int) -> None:
    file = explain(images, Explain(players="grid:2", samples=2, of=of)).file
    assert file is not None
    for one in file.samples:
        assert one.target == (one.label if of == "label" else 2)


def test_many_players_are_sampled_with_standard_errors(images: Subject) -> None:
    found = explain(images, Explain(players="grid:6", index="SV", samples=2, permutations=20))
    assert found.file is not None
    one = found.file.samples[0]
    assert one.variance == ()
    assert min(error for error in one.stderr[1:] if error is not None) > 0
    shares = sum(share for share in one.shapley if share is not None)
    assert one.score is not None
    assert one.empty is not None
    assert shares == pytest.approx(one.score - one.empty)
    assert found.report.findings[0].measure.name == "score_gain"


def test_a_finished_explanation_is_not_computed_again(images: Subject, tmp_path: Path) -> None:
    how = Explain(players="grid:2", samples=2)
    first = explain(images, how, out=tmp_path)
    with pytest.raises(RunError, match="add --resume"):
        explain(images, how, out=tmp_path)
    assert explain(images, how, out=tmp_path, resume=True).file == first.file


def test_an_interruption_keeps_the_samples_that_are_done(images: Subject, tmp_path: Path) -> None:
    class Stops(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body, self.seen, self.last = body, 0, 10**9

        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 16:
                self.seen += 1
                if self.seen > self.last:
                    raise KeyboardInterrupt
            return self.body(x)

    model = Stops(network(144, 4))
    subject = Subject(model, images.inputs, images.labels)
    whole = explain(subject, Explain(players="grid:2", samples=5))
    model.seen, model.last = 0, 3
    with pytest.raises(KeyboardInterrupt):
        explain(subject, Explain(players="grid:2", samples=5), out=tmp_path)
    model.seen, model.last = 0, 10**9
    done = explain(subject, Explain(players="grid:2", samples=5), out=tmp_path, resume=True)
    assert model.seen == 2
    whole.save(tmp_path / "whole")
    assert (tmp_path / "report.json").read_bytes() == (tmp_path / "whole" / "report.json").read_bytes()
    assert done.file == whole.file


def test_one_row_per_sample_and_interaction(images: Subject, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    found = explain(images, Explain(players="grid:2", samples=2))
    rows = parquet.read_table(found.save_table(tmp_path / "e.parquet")).to_pylist()
    assert len(rows) == 2 * 11
    for row in rows:
        assert row["value"] == float(found.interactions[row["sample"]][tuple(row["players"])])
        assert row["size"] == len(row["players"])


def test_a_shard_has_no_numbers_of_its_own(images: Subject, tmp_path: Path) -> None:
    shard = explain(images, Explain(players="grid:2", samples=4), out=tmp_path, ranks=Ranks.shard("2/3"))
    assert shard.file is None
    assert "shard 2/3 has done its part" in shard.report.skipped[0].reason
    assert shard.report.settings["shard"] == "2/3"
    assert list((tmp_path / "parts").rglob("*.safetensors"))
    with pytest.raises(DataError, match="no explanation to write"):
        shard.save_table(tmp_path / "x.parquet")
    with pytest.raises(RunError, match="holds no explanation"):
        Explained.load(tmp_path)


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        (
            Explain(players="gird:4"),
            DataError,
            "players must be grid:4, grid:3x4, segments:12, features, groups or words",
        ),
        (Explain(players="grid:0"), DataError, "players must be"),
        (Explain(players="grid:99"), DataError, "more cells than the images of 12 x 12"),
        (Explain(players="segments:999"), DataError, "more than the 144 pixels"),
        (Explain(players="features"), DataError, "players of a table"),
        (Explain(players="grid:5"), BudgetError, r"grid:5: SII of 25 players takes 2\*\*25 .* the index SV"),
        (Explain(value="odds"), DataError, "there is no value 'odds'; did you mean"),
        (Explain(index="SIII"), DataError, "there is no index 'SIII'; did you mean SII"),
        (Explain(index="SV", order=2), DataError, "order of SV must be from 1 to 1"),
        (Explain(of="cow"), DataError, "there is no class 'cow'"),
        (Explain(of="9"), DataError, "there is no class 9; classes are 0 to 3"),
        (Explain(ids=(5, 77)), DataError, "no sample 77 among the 24"),
        (Explain(fill="black"), DataError, "fill must be one of mean, zero, blur"),
        (Explain(samples=0), DataError, "samples must be at least 1"),
    ],
)
def test_what_cannot_be_explained_is_said_in_one_sentence(
    images: Subject, how: Explain, error: type[PellucidError], text: str
) -> None:
    with pytest.raises(error, match=text):
        explain(images, how)


def test_tables_have_no_grids_and_groups_need_names() -> None:
    for players, text in (("grid:2", "players of images"), ("groups", "names no groups of columns")):
        with pytest.raises(DataError, match=text):
            explain(table(), Explain(players=players))
    with pytest.raises(DataError, match="fill must be one of mean, zero for"):
        explain(table(), Explain(fill="blur"))


def test_without_labels_the_answer_is_explained(images: Subject) -> None:
    bare = Subject(images.model, images.inputs)
    found = explain(bare, Explain(players="grid:2", samples=2))
    assert found.file is not None
    assert found.file.samples[0].label is None
    with pytest.raises(DataError, match="have no labels"):
        explain(bare, Explain(of="label"))


def test_a_constant_score_has_nothing_to_tell(images: Subject) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 3) + x.sum() * 0

    found = explain(Subject(Flat(), images.inputs), Explain(players="grid:2", samples=2))
    assert "does not change when cells are absent" in found.report.findings[1].answer


def test_the_file_says_what_it_is(images: Subject, tmp_path: Path) -> None:
    explain(images, Explain(players="grid:2", samples=2), out=tmp_path)
    raw = msgspec.json.decode((tmp_path / audits._explain.FILE).read_bytes())
    assert (raw["kind"], raw["schema_version"]) == ("explanation", 1)
    (tmp_path / "explanation.json").write_text('{"kind": 3}', encoding="utf-8")
    with pytest.raises(DataError, match="is not the JSON it should be"):
        Explained.load(tmp_path)


def test_the_reference_leaves_out_methods_that_pass_private_types() -> None:
    passed = {
        name for name, member in vars(audits.Explain).items() if "Told" in str(getattr(member, "__annotations__", ""))
    }
    assert passed
    for name in passed:
        assert ":meta private:" in (getattr(audits.Explain, name).__doc__ or ""), name
