"""The probe of shared directions: judged and worded on subjects whose geometry is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pellucid import audits
from pellucid.audits import _levels
from pellucid.audits.probes import Collapses
from pellucid.cli import main
from pellucid.core import Curve, Finding, Heatmap, Interval, ModelError, Stream, Subject, Table
from pellucid.models import load
from pellucid.nn import ETFHead

NAMES = ("bag", "boot", "coat", "dress", "shirt", "shoe")


class Known(nn.Module):
    """Its inputs are its features; rows of `weight` are its classes."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.answer = nn.Linear(weight.shape[1], len(weight), bias=False)
        self.answer.weight.data = weight.clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)


def corners(k: int) -> Tensor:
    return torch.eye(k) - 1 / k


def subject(
    means: Tensor, weight: Tensor | None = None, *, each: int = 30, counts: tuple[int, ...] = (), **changes: object
) -> Subject:
    y = torch.arange(len(means)).repeat_interleave(each)
    x = means[y] + 0.05 * Stream(0).normal((len(y), means.shape[1]))
    model = Known(means if weight is None else weight)
    names = NAMES if len(means) == len(NAMES) else ()
    settings = {"bounds": None, "modality": "tabular", "class_names": names, "class_counts": counts, **changes}
    return Subject(model, x, y, **settings)


def asked(part: Subject, budget: int = 10_000) -> Finding:
    return Collapses()(part, budget, Stream(0))[0]


def value(finding: Finding, name: str) -> float | None:
    return next(m.value for m in (finding.measure, *finding.measures) if m.name == name)


def test_classes_far_apart_are_fine() -> None:
    finding = asked(subject(corners(6)))
    assert finding.level == "fine"
    assert finding.answer.startswith("No two classes are shown to share a direction: the closest are ")
    assert "(ideal -0.2)" in finding.answer
    assert finding.advice is None
    assert value(finding, "nc1") < 0.05
    assert value(finding, "nc3") == pytest.approx(0, abs=0.01)
    assert value(finding, "nc4") == 0
    assert value(finding, "shared_directions") == 0
    assert value(finding, "closest_classes[classifier]") == pytest.approx(-0.2)
    assert any("training samples per class are not known" in caution for caution in finding.cautions)


def test_two_classes_in_one_place_are_named_with_what_to_do() -> None:
    means = corners(6)
    means[4] = means[2] + 0.05 * means[4]
    weight = means.clone()
    weight[4] = 0.9 * means[2]
    finding = asked(subject(means, weight, counts=(5000, 3000, 1000, 500, 60, 50)))
    assert finding.level == "weak"
    assert finding.answer.startswith("Shirt is mostly answered as coat. 1 pair of classes shares a direction: coat and")
    assert "shirt as coat" in finding.reason
    assert finding.advice is not None
    assert "coat and shirt: training had 5,000 samples of the most frequent class and 50 of the rarest." in (
        finding.advice.text
    )
    for recipe in ("etf-dr-lt-fashion-mnist", "ce-balanced-lt-fashion-mnist", "logit-adjusted-lt-fashion-mnist"):
        assert recipe in finding.advice.text
    assert value(finding, "accuracy_head") == 100
    assert value(finding, "accuracy_tail") == 50
    assert value(finding, "shared_directions") == 1
    assert value(finding, "minority_collapse[classifier]") is not None


def test_the_recipes_of_the_advice_exist() -> None:
    from pellucid.training import Recipe

    for name in ("etf-dr-lt-fashion-mnist", "ce-balanced-lt-fashion-mnist", "logit-adjusted-lt-fashion-mnist"):
        assert Recipe.load(name)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((700,) * 6, "about equally frequent in training, so look at the samples"),
        ((), "where one of them was rare in training"),
    ],
)
def test_advice_depends_on_what_is_known_of_the_training(counts: tuple[int, ...], words: str) -> None:
    means = corners(6)
    means[4] = means[2] + 0.4 * means[4]
    finding = asked(subject(means, counts=counts))
    assert finding.level == "watch"
    assert finding.advice is not None
    assert words in finding.advice.text


def test_matrices_are_ordered_by_training_samples() -> None:
    finding = asked(subject(corners(6), counts=(10, 500, 40, 3000, 200, 90)))
    maps = [exhibit for exhibit in finding.exhibits if isinstance(exhibit, Heatmap)]
    assert [m.title for m in maps] == ["Cosines of class means", "Cosines of the classifier's vectors"]
    assert maps[0].rows == ("dress", "boot", "shirt", "shoe", "coat", "bag")
    assert all(row[k] == pytest.approx(1) for k, row in enumerate(maps[1].values))
    bars = next(exhibit for exhibit in finding.exhibits if isinstance(exhibit, Curve))
    assert bars.categories == ("frequent (2)", "medium (2)", "rare (2)")
    table = next(e for e in finding.exhibits if isinstance(e, Table) and e.title == "Classes by training samples")
    assert [row[:3] for row in table.rows[:2]] == [("dress", "frequent", 3000), ("boot", "frequent", 500)]


def test_many_classes_show_those_that_are_close() -> None:
    means = corners(30)
    means[17] = means[3] + 0.1 * means[17]
    part = subject(means, each=6)
    maps = [exhibit for exhibit in asked(part).exhibits if isinstance(exhibit, Heatmap)]
    assert [len(m.rows) for m in maps] == [30, 30, 12, 12]
    assert {"3", "17"} <= set(maps[2].rows)
    assert abs(maps[2].rows.index("3") - maps[2].rows.index("17")) == 1  # like ones side by side
    counted = asked(subject(means, each=6, counts=tuple(range(30, 0, -1))))
    closest = [exhibit for exhibit in counted.exhibits if isinstance(exhibit, Heatmap)][2]
    assert list(closest.rows) == sorted(closest.rows, key=int)


def test_too_few_samples_leave_the_classifier_alone() -> None:
    part = subject(corners(50), each=3)
    need = Collapses().need(part, effort="full")
    assert (need.least, need.wanted) == (8, 8)
    finding = asked(part, 8)
    assert finding.level == "noted"
    assert "too few have 5 samples here" in finding.answer
    assert finding.measure.name == "closest_classes[classifier]"
    assert finding.provenance.evaluations == 8
    assert [len(e.rows) for e in finding.exhibits if isinstance(e, Heatmap)] == [12]
    unlabelled = Subject(part.model, part.inputs, bounds=None, modality="tabular")
    assert "the data have no labels" in asked(unlabelled).answer


def test_classes_with_few_samples_are_left_out() -> None:
    part = subject(corners(6))
    kept = torch.cat([torch.arange(120), torch.arange(120, 123), torch.arange(150, 152)])
    finding = asked(part.take(kept))
    assert any("Fewer than 5 samples are here of 2 classes of 6" in caution for caution in finding.cautions)
    assert any("30" in m.label or m.value is not None for m in finding.measures)


def test_two_classes_have_nothing_to_share() -> None:
    finding = asked(subject(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])))
    assert finding.level == "fine"
    assert finding.answer.startswith("With two classes there is one direction")
    assert not [e for e in finding.exhibits if isinstance(e, Heatmap)]
    assert "shared_directions" not in {m.name for m in finding.measures}


def test_models_without_a_linear_classifier_are_skipped_with_the_reason() -> None:
    part = subject(corners(6))
    plain = Subject(nn.ReLU(), part.inputs, part.labels, bounds=None, modality="tabular")
    assert "has no linear layer that can be watched" in Collapses().need(plain, effort="full").skip
    bent = Subject(nn.Sequential(part.model, nn.Tanh()), part.inputs, part.labels, bounds=None, modality="tabular")
    with pytest.raises(ModelError, match="come from no linear layer"):
        asked(bent)


def test_more_classes_than_room_for_a_simplex_is_said() -> None:
    means = Stream(3).normal((6, 2))
    finding = asked(subject(means))
    assert any("6 classes have no simplex ETF in 2 dimensions" in caution for caution in finding.cautions)


def test_levels() -> None:
    high, low = Interval(0.9, 0.85, 0.95), Interval(0.5, 0.4, 0.6)
    assert _levels.collapse(0, [], None, None, told=True).level == "fine"
    assert _levels.collapse(0, [], None, None, told=False).level == "noted"
    assert _levels.collapse(2, [], None, None, told=True).level == "watch"
    assert _levels.collapse(0, [], high, low, told=True).level == "watch"
    assert "not shown to be served worse" in _levels.collapse(0, [], high, high, told=True).reason
    assert _levels.collapse(0, [], None, None, told=True, reach=0.82).level == "watch"
    assert _levels.collapse(1, ["a as b"], high, low, told=True).level == "weak"
    assert not _levels.mostly(3, 5)
    assert _levels.mostly(30, 40)


def test_a_text_classifier_is_measured() -> None:
    import pellucid

    part = pellucid.subject("movie-snippets-classifier", "movie-snippets", samples=40)
    finding = asked(part)
    assert finding.level == "fine"
    assert math.isfinite(finding.measure.value or math.nan)


def test_on_the_command_line(tmp_path, capsys) -> None:
    out = tmp_path / "audit"
    asked = ["audit", "fashion-standard", "fashion-mnist", "--probe", "collapse", "--samples", "200"]
    assert main([*asked, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "share a direction" in " ".join(shown.split())
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (finding,) = report["findings"]
    assert finding["name"] == "collapse"
    assert "Measures of neural collapse and their ideal values" in (out / "index.html").read_text(encoding="utf-8")
    assert main(["check", "fashion-standard", "fashion-mnist", "--samples", "200", "--require", "nc1 <= 0.001"]) == 1
    assert load("fashion-standard").card is not None
    assert audits.PROBES["collapse"]


class Fixed(nn.Module):
    """Its inputs are the features that a simplex ETF head compares with its prototypes."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.head = ETFHead(k, k, batch_norm=False, rng=Stream(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def test_a_fixed_head_is_not_advised_to_fix_its_head() -> None:
    model = Fixed(6)
    means = model.head.prototypes.T.clone()
    means[4] = means[2] + 0.1 * means[4]
    y = torch.arange(6).repeat_interleave(30)
    x = means[y] + 0.01 * Stream(0).normal((len(y), 6))
    for counts, words in (
        ((5000, 3000, 1000, 500, 60, 50), "50 of the rarest. The directions of the classifier are fixed in advance"),
        ((), "2 and 4: the directions of the classifier are fixed in advance already"),
    ):
        part = Subject(model, x, y, bounds=None, modality="tabular", class_counts=counts, data_name="fashion-mnist")
        advice = asked(part).advice
        assert advice is not None
        assert words in advice.text
        assert "simplex" not in advice.text
        assert advice.command == "pellucid train logit-adjusted-lt-fashion-mnist --out runs/adjusted"


@pytest.mark.parametrize(
    ("data", "words", "command"),
    [
        ("cifar10", "ce-balanced-lt-cifar10 and", "pellucid train etf-dr-lt-cifar10 --out runs/etf"),
        ("mine", "`pellucid recipes show etf-dr-lt-fashion-mnist`", "pellucid train RECIPE.toml --out runs/NAME"),
    ],
)
def test_advice_names_the_recipe_of_the_data(data: str, words: str, command: str) -> None:
    means = corners(6)
    means[4] = means[2] + 0.05 * means[4]
    advice = asked(subject(means, counts=(5000, 3000, 1000, 500, 60, 50), data_name=data)).advice
    assert advice is not None
    assert words in advice.text
    assert advice.command == command


def test_rare_classes_alone_name_no_pair() -> None:
    part = subject(corners(6), counts=(5000, 3000, 1000, 500, 60, 50))
    x = part.inputs.clone()
    x[part.labels == 4] = torch.roll(corners(6)[4], 1)[None] * torch.linspace(0.0, 1.0, 30)[:, None]
    x[part.labels == 4] += torch.linspace(1.0, 0.1, 30)[:, None] * corners(6)[4]
    finding = asked(replace(part, inputs=x))
    assert finding.level == "watch"
    assert "rare classes ends at" in finding.reason
    assert finding.advice is not None
    assert finding.advice.text.startswith("Training had 5,000 samples")
    assert "Adjust the logits" in finding.advice.text


def test_slightly_uneven_classes_are_not_called_rare() -> None:
    finding = asked(subject(corners(6), counts=(1010, 990, 1000, 1005, 995, 1000)))
    assert value_or_none(finding, "accuracy_tail") is None
    assert value_or_none(finding, "minority_collapse[means]") is None
    assert any("about equally frequent" in caution for caution in finding.cautions)


def test_the_numbers_of_the_audited_samples_are_not_taken_for_those_of_training() -> None:
    part = subject(corners(6))
    finding = asked(part.take(torch.arange(10, len(part))))  # the first class has fewer samples here
    assert value_or_none(finding, "minority_collapse[means]") is None


def test_all_pairs_are_counted_and_merged_classes_found_wherever_they_lie() -> None:
    k = 40
    means = torch.eye(2).repeat_interleave(k // 2, 0) + 1e-3 * torch.eye(k, 2)
    finding = asked(subject(means, each=6))
    assert value(finding, "shared_directions") == 2 * math.comb(k // 2, 2) > _levels.PAIRS_LOOKED_AT
    swapped = asked(subject(corners(6), corners(6)[[0, 1, 2, 3, 5, 4]]))
    assert swapped.level == "weak"
    assert swapped.answer.startswith("Shoe is mostly answered as shirt.")


def test_one_of_two_classes_is_given_up() -> None:
    weight = torch.tensor([[1.0, 1.0], [1.0, 0.9]])
    finding = asked(subject(torch.tensor([[1.0, 0.5], [1.0, 1.0]]), weight))
    assert finding.level == "weak"
    assert finding.answer.startswith("1 is mostly answered as 0. With two classes there is one direction")


def value_or_none(finding: Finding, name: str) -> float | None:
    return next((m.value for m in (finding.measure, *finding.measures) if m.name == name), None)


def test_what_all_class_vectors_have_in_common_makes_none_close() -> None:
    plain, moved = asked(subject(corners(6))), asked(subject(corners(6), corners(6) + 3 * torch.ones(6)))
    assert moved.level == "fine"
    for name in ("closest_classes[classifier]", "nc2_widest[classifier]", "nc3"):
        assert value(moved, name) == pytest.approx(value(plain, name), abs=1e-4)


def test_a_class_that_is_never_answered_is_named() -> None:
    weight = corners(6)
    weight[5] = -2 * corners(6)[5]
    part = subject(corners(6), weight)
    x = part.inputs.clone()
    x[part.labels == 5] += torch.cat([corners(6)[:3]] * 10)  # taken for one of three others
    finding = asked(replace(part, inputs=x))
    assert finding.level == "weak"
    assert "Shoe is answered rightly less often than by chance." in finding.answer
    assert "lies below chance for shoe" in finding.reason
