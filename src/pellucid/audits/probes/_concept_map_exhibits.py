"""What the atoms of a matrix decomposition look like: their maps over images, their table, and how they were found."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core import Axis, Curve, Exhibit, Line, Number, Overlays, Subject, Table, number, numbers
from pellucid.explain import AtomEffects, ConceptMaps, ConceptMatches

from .._dense import laid_over, mask_map, strength_map
from .._players import is_image
from .._wording import brief, count, percent

MOST_ATOMS = 64
"""Atoms whose maps are shown, the most used ones."""

HIGHEST = 0.99
"""Quantile of an atom's values from which its map is brightest: a few places must not dim all others."""

MOST_ROWS = 200
MOST_HEADS = 6


def atom_name(atom: int) -> str:
    """Return what an atom is called: numbered from 1."""
    return f"atom {atom + 1}"


def exhibits_of(
    subject: Subject,
    shown: Subject,
    answers: Tensor,
    maps: ConceptMaps,
    matches: ConceptMatches | None,
    effects: AtomEffects | None,
) -> list[Exhibit]:
    """Return the exhibits of one layer.

    Args:
        subject: the samples looked at.
        shown: those that are shown.
        answers: the model's answers to these, one per sample or pixel.
        maps: of all samples.
        matches: what the atoms follow; None where nothing was matched.
        effects: what changes on the shown samples when atoms are left out; None where that was not tried.
    """
    exhibits: list[Exhibit] = []
    if is_image(subject) and maps.maps.ndim == 4 and 1 not in maps.maps.shape[2:]:
        exhibits.append(_viewer(subject, shown, answers, maps, matches))
    exhibits.append(_atoms(subject, maps, matches, effects))
    if maps.steps:
        exhibits.append(_steps(maps))
    exhibits.append(_use(maps))
    return exhibits


def _order(maps: ConceptMaps, matches: ConceptMatches | None) -> list[int]:
    """Return the atoms: those that follow a class first, by their score, then by how much they carry."""
    use = maps.usage.mean(0)
    clear = torch.zeros(maps.atoms, dtype=torch.bool) if matches is None else matches.clear
    score = use if matches is None else torch.where(clear, matches.best_score.to(use) + 1, use)
    return [int(atom) for atom in score.argsort(descending=True, stable=True)]


def _viewer(
    subject: Subject, shown: Subject, answers: Tensor, maps: ConceptMaps, matches: ConceptMatches | None
) -> Overlays:
    atoms = _order(maps, matches)
    drawn = atoms[:MOST_ATOMS]
    values = maps.maps.clamp_min(0).transpose(0, 1).flatten(1).sort(1).values
    most = values[:, round(HIGHEST * (values.shape[1] - 1))]
    rows = {int(name): row for row, name in enumerate(subject.ids)}
    pictures = []
    for place in range(len(shown)):
        row = rows[int(shown.ids[place])]
        overlays = [
            strength_map(
                atom_name(atom),
                maps.maps[row, atom],
                most=float(most[atom]),
                caption=_said(subject, maps, matches, row, atom),
            )
            for atom in drawn
        ]
        if shown.dense:
            labels = [] if shown.labels is None else [mask_map("labels", shown.labels[place])]
            overlays = [*labels, mask_map("answer", answers[place]), *overlays]
        pictures.append(
            laid_over(
                shown.inputs[place],
                tuple(overlays),
                title=f"Sample {int(shown.ids[place])}",
                caption=_caption(shown, answers, place),
                bounds=shown.bounds,
            )
        )
    left = f" Of {maps.atoms} the {len(drawn)} most used are shown." if len(drawn) < maps.atoms else ""
    mixed = " Shown are the images whose labels are the most mixed." if shown.dense and shown.labels is not None else ""
    first = "those that follow a class first, then " if matches is not None and bool(matches.clear.any()) else ""
    return Overlays(
        title=f"Where the atoms of {maps.layer} are",
        pictures=tuple(pictures),
        classes=subject.class_names if shown.dense else (),
        strength="the highest hundredth of the atom's values on all samples",
        caption=f"Each atom is a soft segment: how strongly it is used at each place. Atoms are in one order for all "
        f"images, {first}the most used.{left}{mixed}",
    )


def _caption(shown: Subject, answers: Tensor, place: int) -> str:
    if shown.dense:
        return ""
    answer = shown.class_names[int(answers[place])]
    if shown.labels is None:
        return f"answered {answer}"
    true = shown.class_names[int(shown.labels[place])]
    return f"{true}, answered so" if true == answer else f"{true}, answered {answer}"


def _said(subject: Subject, maps: ConceptMaps, matches: ConceptMatches | None, row: int, atom: int) -> str:
    """Return what is said of an atom on one image."""
    text = f"carries {percent(float(maps.usage[row, atom]))} of the layer's answer here."
    if matches is None or int(matches.best[atom]) < 0:
        return text
    if not bool(matches.clear[atom]):
        return f"{text} It follows no class more than chance would."
    name = subject.class_names[int(matches.best[atom])]
    score, chance = float(matches.best_score[atom]), float(matches.best_chance[atom])
    if matches.measure == "iou":
        return f"{text} It follows {name}: IoU {percent(score)}, by chance {percent(chance)}."
    return f"{text} It is used for {name}: AUC {brief(score)}, by chance {brief(chance)}."


def _atoms(subject: Subject, maps: ConceptMaps, matches: ConceptMatches | None, effects: AtomEffects | None) -> Table:
    use, steadiness = maps.usage.mean(0), maps.steadiness
    rows: list[tuple[str | int | float | None, ...]] = []
    for atom in _order(maps, matches)[:MOST_ROWS]:
        row: list[str | int | float | None] = [
            atom_name(atom),
            number(use[atom]),
            number(maps.usage[:, atom].max()),
            number(steadiness[atom]),
        ]
        if matches is not None:
            best = int(matches.best[atom])
            row += ["" if best < 0 else subject.class_names[best]]
            row += [number(matches.best_score[atom]), number(matches.best_chance[atom])]
            row += ["yes" if bool(matches.clear[atom]) else "no"]
        if effects is not None:
            row += _effect(effects, atom, None if matches is None else int(matches.best[atom]))
        rows.append(tuple(row))
    columns = ["atom", "carries, mean", "carries, most", "keeps its number"]
    units = ["", "%", "%", "%"]
    caption = (
        "Atoms are numbered from 1 through all heads. Carries: share of the answer, by the parts' squared lengths. "
        "Keeps its number: share of the samples on which it is closest to the atom of its number on the others."
    )
    if matches is not None:
        score = "IoU" if matches.measure == "iou" else "AUC"
        columns += ["closest class", score, "by chance", "follows it"]
        units += ["", *(("%", "%") if score == "IoU" else ("", "")), ""]
        caption += (
            f" Class and threshold are chosen on {count(len(matches.chosen_on), 'sample')}, {score} is that of the "
            f"{len(matches.scored_on)} others. It follows the class where the {score} lies further above chance than "
            "that of any atom when labels of other samples are taken."
        )
    if effects is not None:
        columns += ["changes", "of its class"]
        units += ["%", "%"]
        caption += (
            f" Changes: share of the {'pixels' if subject.dense else 'answers'} on the shown samples that become "
            "another class when the atom is left out; of its class: among those answered with the closest class."
        )
    if len(rows) < maps.atoms:
        caption += f" The first {len(rows)} of {maps.atoms} are listed."
    return Table(
        title="The atoms in numbers", columns=tuple(columns), rows=tuple(rows), units=tuple(units), caption=caption
    )


def _effect(effects: AtomEffects, atom: int, best: int | None) -> list[Number]:
    """Return which share of all answers, and of those with a class, changes without an atom."""
    place = (effects.atoms == atom).nonzero()
    if not len(place):
        return [None, None]
    row = int(place[0, 0])
    own = None if best is None or best < 0 else number(effects.by_class[row, best])
    return [number(effects.changed[row]), own]


def _steps(maps: ConceptMaps) -> Curve:
    heads = min(maps.heads, MOST_HEADS)
    x = numbers(range(maps.steps + 1))
    lines = []
    for head in range(heads):
        each = maps.residual[:, head].double()
        low, high = each.quantile(0.025, dim=0), each.quantile(0.975, dim=0)
        name = "residual" if maps.heads == 1 else f"head {head + 1}"
        several = len(each) > 1
        lines.append(
            Line(
                name=name,
                x=x,
                y=numbers(each.mean(0)),
                low=numbers(low) if several else (),
                high=numbers(high) if several else (),
            )
        )
    return Curve(
        title="How the factors settle",
        x=Axis("step"),
        y=Axis("share of the features' length left unexplained", "%"),
        lines=tuple(lines),
        caption="Mean over the samples; the band holds 95% of them."
        + (f" The first {heads} of {maps.heads} heads." if heads < maps.heads else ""),
    )


def _use(maps: ConceptMaps) -> Curve:
    order = maps.usage.mean(0).argsort(descending=True, stable=True).tolist()
    each = maps.usage[:, order].double()
    x = numbers(range(len(order)))
    return Curve(
        title="How much each atom carries",
        x=Axis("atom, by rank"),
        y=Axis("share of the answer", "%"),
        lines=(
            Line(name="mean over the samples", x=x, y=numbers(each.mean(0))),
            Line(name="an even share", x=x, y=(1 / maps.atoms,) * len(order), role="reference"),
        ),
        bars=True,
        categories=tuple(str(atom + 1) for atom in order),
        caption="The atoms from the most to the least used; those far below an even share could be left out.",
    )
