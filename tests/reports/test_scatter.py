"""Scatters that can be turned: what is drawn without scripts, what the page holds, what is refused."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from PIL import Image

from pellucid.core import Dot, Scatter
from pellucid.reports import Report, write_html
from pellucid.reports._scatter import drawn_scatter

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def scatter(count: int = 30, **changes: object) -> Scatter:
    draw = np.random.default_rng(0)
    places = draw.normal(size=(count, 3)) * (1.0, 0.5, 0.2)
    dots = tuple(
        Dot(
            at=tuple(map(float, place)),
            group=k % 3,
            label=f"sample {k} <b>bold</b>",
            path=((1.0, 1.0, 1.0), (2.0, 1.0, 0.0)) if k == 4 else (),
        )
        for k, place in enumerate(places)
    )
    pictures = tuple(np.full((8, 8, 3), 8 * k, np.uint8) for k in range(count))
    made = Scatter(
        title="Where samples lie", groups=("cat", "<script>", "dog"), dots=dots, arrows=AXES, thumbnails=pictures
    )
    return msgspec.structs.replace(made, **changes)


def report_with(samples: ModuleType, exhibit: Scatter) -> Report:
    report = samples.report()
    finding = msgspec.structs.replace(report.findings[0], exhibits=(exhibit,))
    return msgspec.structs.replace(report, findings=(finding,))


def test_the_drawing_is_complete_without_scripts():
    drawn = drawn_scatter(scatter())
    assert drawn.svg.count('class="dot ') == 30
    assert drawn.svg.count('class="ray ') == 3
    assert drawn.svg.count('class="trail ') == 1
    assert "&lt;script&gt;" in drawn.svg
    assert "<script>" not in drawn.svg
    assert [row[:2] for row in drawn.rows] == [("cat", "10"), ("<script>", "10"), ("dog", "10")]


def test_the_first_view_keeps_angles_and_shows_most_across_the_page():
    drawn = drawn_scatter(scatter())
    arrows = np.array(drawn.spec["arrows"])
    np.testing.assert_allclose(arrows @ arrows.T, 84.0**2 * np.eye(3), atol=40)  # turned, not bent
    assert np.linalg.det(arrows) > 0  # and not mirrored
    at = np.array(drawn.spec["at"])
    assert at[:, 0].var() > at[:, 1].var() > at[:, 2].var()


def test_groups_differ_by_color_or_shape():
    many = scatter(groups=tuple(f"class {k}" for k in range(24)), arrows=())
    looks = [(style, shape) for _, style, shape in drawn_scatter(many).keys]
    assert len(set(looks)) == 24


def test_thumbnails_become_one_picture():
    drawn = drawn_scatter(scatter())
    sheet = Image.open(io.BytesIO(base64.b64decode(drawn.sprite.partition(",")[2])))
    width, height, across = drawn.spec["thumb"]
    assert (width, height, across) == (8, 8, 6)
    assert sheet.size == (48, 40)
    assert abs(sheet.getpixel((4 + 8 * 5, 4 + 8 * 2))[0] - 8 * 17) < 6  # the 17th lies in the third row


def test_equal_points_and_a_single_point_can_be_drawn():
    for count in (1, 2):
        dots = tuple(Dot(at=(0.0, 0.0, 0.0), group=0) for _ in range(count))
        drawn = drawn_scatter(Scatter(title="t", groups=("a",), dots=dots))
        assert "nan" not in drawn.svg


def test_the_script_is_only_in_pages_that_need_it(samples: ModuleType):
    plain, with_one = write_html(samples.report()), write_html(report_with(samples, scatter()))
    assert ".cloud-card" not in plain.partition("</style>")[2]
    assert "setPointerCapture" not in plain
    assert "setPointerCapture" in with_one
    spec = re.search(r'<script type="application/json">(\{"at".*?)</script>', with_one, re.DOTALL)
    assert spec is not None
    assert len(json.loads(spec[1])["at"]) == 30


def test_a_report_with_one_comes_back_as_it_was(samples: ModuleType, tmp_path: Path):
    report_with(samples, scatter()).save(tmp_path)
    found = Report.load(tmp_path).findings[0].exhibits[0]
    assert isinstance(found, Scatter)
    assert found.dots == scatter().dots
    assert np.array_equal(found.thumbnails[3], scatter().thumbnails[3])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"groups": ("one",), "arrows": ()}, "one of the 1 groups"),
        ({"arrows": AXES[:2]}, "3 arrows"),
        ({"thumbnails": ()}, ""),
        ({"thumbnails": (np.zeros((2, 2), np.uint8),)}, "30 thumbnails"),
        ({"thumbnails": (np.zeros((2, 2, 4), np.uint8),) * 30}, "uint8"),
        ({"dots": (Dot(at=(1.0, 2.0, float("inf")), group=0),), "thumbnails": ()}, "finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(samples: ModuleType, tmp_path: Path, changes: dict[str, object], text: str):
    report = report_with(samples, scatter(**changes))
    if not text:
        report.save(tmp_path)
        return
    with pytest.raises(ValueError, match=text):
        report.save(tmp_path)


@pytest.mark.browser
def test_it_turns_and_shows_samples_by_pointer_and_keys(browser: Chrome, samples: ModuleType, tmp_path: Path):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.get(report_with(samples, scatter()).save(tmp_path).as_uri())
    view = browser.find_element("css selector", ".cloud-view")
    browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", view)
    card = browser.find_element("css selector", ".cloud-card")
    first = browser.find_element("css selector", '.dot[data-dot="0"]')
    assert not card.is_displayed()

    before = first.get_attribute("transform")
    view.send_keys(Keys.ARROW_LEFT)
    time.sleep(0.2)
    assert first.get_attribute("transform") != before
    view.send_keys(Keys.HOME)
    view.send_keys(Keys.ENTER)
    time.sleep(0.2)
    assert card.is_displayed()
    assert "sample 0 <b>bold</b>" in card.text
    assert "sample 0" in browser.find_element("css selector", ".cloud-said").get_attribute("textContent")
    view.send_keys(Keys.ESCAPE)
    time.sleep(0.2)
    assert not card.is_displayed()

    ActionChains(browser).move_to_element(first).perform()
    time.sleep(0.2)
    assert card.is_displayed()
    before = first.get_attribute("transform")
    ActionChains(browser).move_to_element(view).click_and_hold().move_by_offset(40, 25).release().perform()
    time.sleep(0.2)
    assert first.get_attribute("transform") != before
    key = browser.find_element("css selector", '.cloud-key[data-group="0"]')
    browser.execute_script("arguments[0].click()", key)
    assert not first.is_displayed()
