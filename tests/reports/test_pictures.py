from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from pellucid.core import NOBODY, Mark, Picture
from pellucid.reports import _pictures as pictures

MINUS = "\N{MINUS SIGN}"


def decoded(url: str) -> np.ndarray:
    kind, data = url.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def area(path: str) -> float:
    """The area inside closed paths of straight lines, by the shoelace formula."""
    total = 0.0
    for loop in re.findall(r"M([^z]*)z", path):
        points: list[tuple[float, float]] = []
        for command, text in re.findall(r"([LHV]?)([-\d. ]+)", loop):
            numbers = [float(n) for n in text.split()]
            if command == "H":
                points.append((numbers[0], points[-1][1]))
            elif command == "V":
                points.append((points[-1][0], numbers[0]))
            else:
                points.append((numbers[0], numbers[1]))
        rolled = [*points[1:], points[0]]
        total += sum(x * v - u * y for (x, y), (u, v) in zip(points, rolled, strict=True)) / 2
    return total


def blank(height: int, width: int, **other: object) -> Picture:
    return Picture(pixels=np.zeros((height, width), np.uint8), title="p", **other)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1)])
def test_pictures_keep_their_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(decoded(pictures.data_url(pixels)), pixels)


def test_large_pictures_are_shrunk() -> None:
    url = pictures.data_url(np.zeros((1000, 2000, 3), dtype=np.uint8))
    assert decoded(url).shape == (192, 384, 3)


def test_marks_cover_their_cells() -> None:
    marks = (
        Mark(cells=(1, 3), weight=-2.0, label="m"),
        Mark(cells=(0,), weight=1.0, label="+1.0"),
        Mark(cells=(), weight=None),
    )
    drawing = pictures.overlay(blank(6, 9, grid=(2, 3), marks=marks))
    assert (drawing.width, drawing.height, drawing.crisp, drawing.glyph) == (9, 6, True, (24, 16))
    assert drawing.lines == "M0 3H9M3 0V6M6 0V6"
    first, second, third = drawing.marks
    assert first.shape == "M3 0H6V3H3zM0 3H3V6H0z"
    assert (first.positive, first.length, first.text) == (False, 20, f"{MINUS}2")
    assert (second.positive, second.length, second.text) == (True, 10, "+1")
    assert [mark.label for mark in drawing.marks] == ["m", "", ""]
    assert (third.shape, third.length, third.text) == ("", 0, "")


def test_cells_tile_a_picture_whose_size_the_grid_does_not_divide() -> None:
    drawing = pictures.overlay(blank(28, 28, grid=(3, 4)))
    assert sum(map(area, drawing.shapes)) == pytest.approx(28 * 28, rel=1e-3)


def test_a_picture_without_players_is_only_a_picture() -> None:
    drawing = pictures.overlay(blank(200, 9))
    assert (drawing.lines, drawing.shapes, drawing.marks, drawing.heat, drawing.crisp) == ("", (), (), (), False)


# -- heat maps -----------------------------------------------------------------------------------------------------


def test_marks_without_labels_on_every_cell_are_a_heat_map() -> None:
    marks = tuple(Mark(cells=(k,), weight=w) for k, w in enumerate((1.0, -2.0, None, 0.0)))
    drawing = pictures.overlay(blank(4, 4, grid=(2, 2), marks=marks))
    assert [h.style for h in drawing.heat] == ["for", "against", "unknown", "for"]
    assert [h.opacity for h in drawing.heat] == [0.4, 0.8, 0.6, 0]
    assert [h.text for h in drawing.heat] == ["+1", f"{MINUS}2", "not measured", "0"]
    assert drawing.ends == (f"{MINUS}2", "+2")
    assert drawing.diverging
    assert drawing.marks == ()


def test_a_heat_map_without_numbers_below_zero_has_a_scale_from_zero() -> None:
    marks = tuple(Mark(cells=(k,), weight=w) for k, w in enumerate((1.0, 2.0, None, 0.0)))
    drawing = pictures.overlay(blank(4, 4, grid=(2, 2), marks=marks))
    assert drawing.ends == ("0", "2")
    assert not drawing.diverging
    assert [h.text for h in drawing.heat] == ["1", "2", "not measured", "0"]
    assert [h.opacity for h in drawing.heat] == [0.4, 0.8, 0.6, 0]


def test_groups_stay_marks_over_a_heat_map() -> None:
    cells = tuple(Mark(cells=(k,), weight=1.0) for k in range(4))
    drawing = pictures.overlay(blank(4, 4, grid=(2, 2), marks=(Mark(cells=(0, 1), weight=3.0, label="both"), *cells)))
    assert (len(drawing.heat), [mark.label for mark in drawing.marks]) == (4, ["both"])


def test_marks_on_some_cells_are_no_heat_map() -> None:
    marks = tuple(Mark(cells=(k,), weight=1.0) for k in (0, 1, 1, 3))
    assert pictures.overlay(blank(4, 4, grid=(2, 2), marks=marks)).heat == ()


# -- segments ------------------------------------------------------------------------------------------------------


def test_segments_are_outlined_by_their_corners() -> None:
    owners = np.array([[0, 0, 1], [0, 1, 1]], np.uint8)
    first, second = pictures.players(blank(20, 30, owners=owners))
    assert first.count("L") == 5  # six corners
    assert (area(first), area(second)) == (300, 300)


@pytest.mark.parametrize("size", [(13, 17), (300, 200)])
def test_segments_have_the_area_of_their_pixels(size: tuple[int, int]) -> None:
    owners = np.random.default_rng(0).integers(0, 4, (13, 17)).astype(np.uint8)
    owners[3, 4] = NOBODY
    shapes = pictures.players(blank(*size, owners=owners))
    pixel = size[0] * size[1] / owners.size
    for player, shape in enumerate(shapes):
        assert area(shape) == pytest.approx(pixel * (owners == player).sum(), rel=1e-2)


def test_holes_are_left_out() -> None:
    owners = np.zeros((5, 5), np.uint8)
    owners[2, 2] = 1
    ring, hole = pictures.players(blank(5, 5, owners=owners))
    assert (area(ring), area(hole)) == (24, 1)


def test_boxes_enclose_players() -> None:
    owners = np.array([[0, 0, 2], [0, 2, 2]], np.uint8)
    assert pictures.boxes(blank(20, 30, owners=owners)) == ((0, 0, 20, 20), (0, 0, 0, 0), (10, 0, 20, 20))
    assert pictures.boxes(blank(20, 30, grid=(1, 2))) == ((0, 0, 15, 20), (15, 0, 15, 20))
    assert pictures.boxes(blank(20, 30)) == ()


def test_a_map_of_nobody_has_no_players() -> None:
    assert pictures.overlay(blank(4, 4, owners=np.full((4, 4), NOBODY, np.uint8))).shapes == ()


def test_a_large_map_is_outlined_coarsely() -> None:
    owners = (np.indices((600, 600)).sum(0) // 100).astype(np.uint8)
    shapes = pictures.players(blank(600, 600, owners=owners))
    assert sum(map(area, shapes)) == pytest.approx(360_000, rel=1e-3)
    assert sum(map(len, shapes)) < 40_000


# -- arrows --------------------------------------------------------------------------------------------------------


def test_short_arrows_are_lengthened_alike_and_it_is_said() -> None:
    drawing = pictures.overlay(
        blank(10, 10, arrows=((1.0, 2.0, 0.25, 0.0), (5.0, 5.0, 0.0, 0.0), (3.0, 3.0, 0.0, 0.1)))
    )
    assert drawing.arrows.startswith("M1 2L6 2")  # 20 times as long
    assert drawing.arrows.count("M") == 4  # two arrows, each a shaft and a head
    assert "M3 3L3 5" in drawing.arrows
    assert drawing.arrows_in_words == "The longest arrow moves 0.25 pixels; arrows are drawn 20 times as long."


def test_long_arrows_are_drawn_as_they_are() -> None:
    drawing = pictures.overlay(blank(10, 10, arrows=((1.0, 2.0, 7.0, 0.0),)))
    assert drawing.arrows.startswith("M1 2L8 2")
    assert drawing.arrows_in_words == "The longest arrow moves 7 pixels."


def test_arrows_of_no_length_are_said() -> None:
    drawing = pictures.overlay(blank(10, 10, arrows=((1.0, 2.0, 0.0, 0.0),)))
    assert (drawing.arrows, drawing.arrows_in_words) == ("", "Nothing moves.")
