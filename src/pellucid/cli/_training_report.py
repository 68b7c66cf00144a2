"""The report of a recorded training, for `pellucid report` and `pellucid compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.reports import Report, SubjectCard


def is_record(path: Path) -> bool:
    """Whether `path` is the folder of a training with a record and no report of its own, or a record itself."""
    if path.is_dir():
        return not (path / "report.json").is_file() and bool(_records(path))
    return path.suffix == ".jsonl" and path.is_file()


def is_training(path: Path) -> bool:
    """Whether `path` is the folder of a training with a record."""
    return path.is_dir() and (path / "recipe.json").is_file() and bool(_records(path))


def training_report(path: Path) -> Report:
    """Return the report of the training in a folder, which may still run, or of a record in a file."""
    from pellucid.audits import first_phase_report
    from pellucid.metrics import DiversityHistory

    history = DiversityHistory.read(path)
    card = _card(path, len(history.head.sample_ids)) if path.is_dir() else _bare(path, len(history.head.sample_ids))
    return first_phase_report(history, card, command=f"pellucid report {path.name}")


def _records(folder: Path) -> list[Path]:
    from pellucid.training import RECORDS

    return [file for kind in RECORDS if (file := folder / f"{kind}.jsonl").is_file()]


def _card(folder: Path, samples: int) -> SubjectCard:
    from pellucid.core import read_json
    from pellucid.reports import SubjectCard

    recipe: Any = read_json(folder / "recipe.json") if (folder / "recipe.json").is_file() else {}
    file = folder / "model.json"
    card: Any = read_json(file) if file.is_file() else {}
    names = tuple(card.get("class_names", ()))
    data = recipe.get("data", {}).get("kind", "the training's own data")
    return SubjectCard(
        model=str(recipe.get("name", folder.name)),
        data=str(data),
        modality=str(card.get("task", "image")).partition(" ")[0],
        n_samples=samples,
        n_classes=len(names),
        class_names=names,
        input_shape=tuple(card.get("input_shape", ())),
        parameters=int(card.get("parameters", 0)),
        notes=("What was recorded while the model was trained, on a probe of its training samples.",)
        + (() if card else ("The training is not complete.",)),
    )


def _bare(file: Path, samples: int) -> SubjectCard:
    from pellucid.reports import SubjectCard

    return SubjectCard(
        model=file.stem,
        data="the training's own data",
        modality="image",
        n_samples=samples,
        n_classes=0,
        class_names=(),
        input_shape=(),
        parameters=0,
        notes=("What was recorded while the model was trained, on a probe of its training samples.",),
    )
