"""Images under maps: what is drawn, what the page holds, how a map is chosen, what is refused."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from PIL import Image

from pellucid.core import NOBODY, Overlaid, Overlay, Overlays
from pellucid.reports import Report, write_html
from pellucid.reports._overlays import COLORS, NOTHING, class_colors, drawn_overlays

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

DRAW = np.random.default_rng(0)
MASK = np.array([[0, 1], [1, NOBODY]], np.uint8)
RAMP = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (8, 1))
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "path", "rect", "circle", "image", "use"}


def overlays(count: int = 3, **changes: object) -> Overlays:
    maps = (
        Overlay(label="mask", values=MASK, classes=True, caption="what the <b>data</b> say"),
        *(Overlay(label=f"atom {k}", values=RAMP, caption=f"{k}% of the answer") for k in range(count)),
    )
    pixels = DRAW.integers(0, 255, (16, 16, 3)).astype(np.uint8)
    pictures = tuple(Overlaid(pixels=pixels, title=f"sample {k} <i>", overlays=maps, caption="IoU") for k in range(2))
    made = Overlays(
        title="Where atoms are", pictures=pictures, classes=("sea", "<script>", "lake"), strength="its largest value"
    )
    return msgspec.structs.replace(made, **changes)


def report_with(samples: ModuleType, *exhibits: Overlays) -> Report:
    report = samples.report()
    finding = msgspec.structs.replace(report.findings[0], exhibits=exhibits)
    return msgspec.structs.replace(report, findings=(finding,))


def decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_a_map_of_classes_has_the_colors_of_its_legend():
    drawn = drawn_overlays(overlays())
    assert drawn.keys == (("sea", COLORS[0]), ("<script>", COLORS[1]), ("no label", NOTHING))  # lake is nowhere
    shown = np.asarray(decoded(drawn.images[0].maps[0].url).convert("RGB"))
    assert ["#" + bytes(color).hex() for color in shown.reshape(-1, 3)] == [COLORS[0], COLORS[1], COLORS[1], NOTHING]


def test_a_stronger_value_is_lighter_and_hides_more():
    image = decoded(drawn_overlays(overlays()).images[0].maps[1].url)
    row = np.asarray(image.convert("RGBA"))[4].astype(float)
    assert (np.diff(row[:, :3].mean(1)) > 0).all()
    assert (np.diff(row[:, 3]) >= 0).all()
    assert row[-1, 3] - row[0, 3] > 100


def test_named_colors_of_classes_all_differ_and_more_can_be_had():
    assert len(set(class_colors(60))) == 60
    assert len(class_colors(300)) == 300


def test_large_maps_and_images_are_shrunk():
    big = Overlay(label="big", values=np.zeros((512, 300), np.uint8))
    few = overlays(pictures=(Overlaid(pixels=np.zeros((9, 9), np.uint8), title="t", overlays=(big,)),))
    assert decoded(drawn_overlays(few).images[0].maps[0].url).size == (112, 192)
    fine = Overlay(label="fine", values=np.zeros((512, 300), np.uint8), classes=True)
    pixels = DRAW.integers(0, 255, (700, 600, 3)).astype(np.uint8)
    drawn = drawn_overlays(overlays(pictures=(Overlaid(pixels=pixels, title="t", overlays=(big, fine, *[big] * 8)),)))
    (image,) = drawn.images
    assert [decoded(url).size for url in (image.maps[0].url, image.maps[1].url, image.url)] == [
        (28, 48),
        (112, 192),
        (274, 320),
    ]
    assert image.url.startswith("data:image/jpeg")
    assert (image.width, image.height) == (600, 700)


@pytest.mark.parametrize("beside", [False, True])
def test_the_page_is_well_formed_and_needs_no_script(samples: ModuleType, beside: bool):
    page = write_html(report_with(samples, overlays(beside=beside), overlays(beside=True)))
    main = page.partition("<main")[2].partition("</main>")[0]
    opened: list[str] = []
    names: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            names.extend(value for name, value in attrs if name == "id" and value)
            assert not any(name == "style" or name.startswith("on") for name, _ in attrs)
            if tag not in VOID:
                opened.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            names.extend(value for name, value in attrs if name == "id" and value)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Reader().feed("<main" + main)
    assert opened == ["main"]
    assert len(names) == len(set(names))
    assert set(re.findall(r'href="#((?:chart)[^"]*)"', main)) <= set(names)
    assert "&lt;script&gt;" in main
    assert "<i>" not in main
    assert "<script" not in main
    assert main.count('type="radio"') == (0 if beside else 2 * 5)
    assert main.count(" checked>") == (0 if beside else 2 + 1)
    assert 'aria-label="mask of sample 0 &lt;i&gt;: what the &lt;b&gt;data&lt;/b&gt; say"' in main


def test_many_maps_make_a_small_page(samples: ModuleType):
    noise = DRAW.random((6, 64, 32, 32)) * np.linspace(0, 1, 32)
    pictures = tuple(
        Overlaid(
            pixels=np.asarray(Image.fromarray(DRAW.integers(0, 255, (32, 32, 3)).astype(np.uint8)).resize((256, 256))),
            title=f"sample {k}",
            overlays=tuple(Overlay(label=f"{j}", values=np.uint8(255 * noise[k, j])) for j in range(64)),
        )
        for k in range(6)
    )
    assert len(write_html(report_with(samples, overlays(pictures=pictures)))) < 2_000_000


def test_a_report_with_one_comes_back_as_it_was(samples: ModuleType, tmp_path: Path):
    report_with(samples, overlays()).save(tmp_path)
    found = Report.load(tmp_path).findings[0].exhibits[0]
    assert isinstance(found, Overlays)
    assert np.array_equal(found.pictures[1].overlays[0].values, MASK)
    assert found.pictures[1].overlays[1].caption == "0% of the answer"


def picture(**changes: object) -> Overlaid:
    return msgspec.structs.replace(overlays().pictures[0], **changes)


@pytest.mark.parametrize(
    ("exhibit", "text"),
    [
        (overlays(classes=("sea",)), "holds class 1, and there are 1 names"),
        (overlays(pictures=(picture(overlays=()),)), "has no map over it"),
        (overlays(pictures=(picture(pixels=np.zeros((2, 2, 4), np.uint8)),)), "must be uint8"),
        (overlays(pictures=(picture(overlays=(Overlay(label="a", values=np.zeros((2, 2))),)),)), "float64"),
        (overlays(pictures=()), ""),
    ],
)
def test_what_cannot_be_drawn_is_refused(samples: ModuleType, tmp_path: Path, exhibit: Overlays, text: str):
    report = report_with(samples, exhibit)
    if not text:
        assert "no picture to show" in report.save(tmp_path).read_text(encoding="utf-8")
        return
    with pytest.raises(ValueError, match=text):
        report.save(tmp_path)


@pytest.mark.browser
def test_maps_are_chosen_by_pointer_click_and_keys(browser: Chrome, samples: ModuleType, tmp_path: Path):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.get(report_with(samples, overlays()).save(tmp_path).as_uri())
    choosers = browser.find_elements("css selector", ".chooser")

    def shown(chooser: int) -> list[str]:
        parts = choosers[chooser].find_elements("css selector", ".big")
        return [part.text.split("\n")[0] for part in parts if part.is_displayed()]

    labels = choosers[0].find_elements("css selector", "label")
    browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", labels[2])
    assert shown(0) == shown(1) == ["atom 0 0% of the answer"]  # the first one of strengths
    ActionChains(browser).move_to_element(labels[1]).perform()
    assert shown(0) == ["mask what the <b>data</b> say"]
    assert shown(1) == ["atom 0 0% of the answer"]
    labels[3].click()
    assert shown(0) == shown(1) == ["atom 1 1% of the answer"]  # on all images at once
    ActionChains(browser).move_to_element(choosers[0].find_element("css selector", "legend")).perform()
    assert shown(0) == ["atom 1 1% of the answer"]
    browser.execute_script("arguments[0].click()", browser.find_element("css selector", ".how input"))
    choosers[0].find_element("css selector", "input:checked").send_keys(Keys.ARROW_LEFT)
    assert shown(0) == ["atom 0 0% of the answer"]
    assert shown(1) == ["atom 1 1% of the answer"]
