"""The page in a real browser: nothing refused, nothing requested, everything drawn and reachable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(samples: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    return {
        "audit": samples.report().save(folder / "audit").as_uri(),
        "comparison": samples.comparison().save(folder / "comparison").as_uri(),
    }


@pytest.fixture
def opened(browser: Chrome, pages: dict[str, str]) -> Callable[..., Chrome]:
    def open_page(name: str = "audit", *, width: int = 1280, height: int = 900, dark: bool = False) -> Chrome:
        media = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(pages[name])
        return browser

    return open_page


def scroll_through(chrome: Chrome) -> None:
    height = chrome.execute_script("return document.documentElement.scrollHeight")
    for y in range(0, height, 600):
        chrome.execute_script(f"scrollTo({{top: {y}, behavior: 'instant'}})")
        time.sleep(0.05)
    wait(lambda: not undrawn(chrome))


def undrawn(chrome: Chrome) -> int:
    return int(chrome.execute_script("return document.querySelectorAll('.chart-canvas:not([data-drawn])').length"))


def wait(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def requests(chrome: Chrome) -> list[str]:
    """The addresses asked for since the log was last read."""
    events = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def complaints(chrome: Chrome) -> list[str]:
    """What the console says, less the remark on how these tests themselves read canvases."""
    return [entry["message"] for entry in chrome.get_log("browser") if "getImageData" not in entry["message"]]


INK = """
  const pixels = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return [...document.querySelectorAll(".chart-canvas canvas")].map((canvas) => {
    let inked = 0;
    const data = pixels(canvas);
    for (let k = 3; k < data.length; k += 4) inked += data[k] > 0;
    return inked;
  });
"""


@pytest.mark.parametrize(("name", "dark"), [("audit", False), ("audit", True), ("comparison", False)])
def test_no_error_no_request_and_every_chart_drawn(opened: Callable[..., Chrome], name: str, dark: bool) -> None:
    chrome = opened(name, dark=dark)
    scroll_through(chrome)
    assert complaints(chrome) == []  # a refused style, script or request would be said here
    assert all(url.startswith(("file:", "data:")) for url in requests(chrome))
    assert undrawn(chrome) == 0
    inked = chrome.execute_script(INK)
    assert len(inked) >= 1
    assert min(inked) > 500


def test_only_charts_in_view_are_drawn_at_first_and_soon(opened: Callable[..., Chrome]) -> None:
    chrome = opened()
    wait(lambda: chrome.execute_script("return performance.getEntriesByName('pellucid-ready').length") > 0)
    assert undrawn(chrome) > 3
    ready = chrome.execute_script("return performance.getEntriesByName('pellucid-ready')[0].startTime")
    painted = chrome.execute_script("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert max(ready, painted) < 1000 * 2  # it takes about 0.2 s; the bound leaves room for a busy machine


def test_hostile_names_do_nothing(opened: Callable[..., Chrome]) -> None:
    from selenium.webdriver.support import expected_conditions

    chrome = opened()
    scroll_through(chrome)
    assert not expected_conditions.alert_is_present()(chrome)
    assert chrome.execute_script("return document.querySelectorAll('img, iframe, object, embed').length") == 0


def test_the_theme_can_be_changed(opened: Callable[..., Chrome]) -> None:
    chrome = opened()
    chrome.execute_script("localStorage.clear()")
    scroll_through(chrome)
    background = "return getComputedStyle(document.body).backgroundColor"
    light, ink = chrome.execute_script(background), chrome.execute_script(INK)
    button = chrome.find_element("id", "theme")
    assert button.text == "Dark"
    chrome.execute_script("arguments[0].click()", button)
    assert chrome.execute_script(background) != light
    assert button.text == "Light"
    wait(lambda: min(chrome.execute_script(INK)) > 500)
    assert len(chrome.execute_script(INK)) == len(ink)
    chrome.refresh()
    assert chrome.execute_script(background) != light  # remembered
    chrome.execute_script("localStorage.clear()")
    assert complaints(chrome) == []


def test_the_keyboard_reaches_everything(opened: Callable[..., Chrome]) -> None:
    from selenium.webdriver import ActionChains, Keys

    chrome = opened()
    reached: list[dict[str, Any]] = []
    for _ in range(200):
        ActionChains(chrome).send_keys(Keys.TAB).perform()
        here = chrome.execute_script(
            "const e = document.activeElement; const s = getComputedStyle(e);"
            "return {tag: e.tagName, cls: e.className, copy: e.dataset.copy || '', href: e.getAttribute('href') || '',"
            " outline: s.outlineStyle}"
        )
        if here["tag"] == "BODY":
            break
        reached.append(here)
    assert reached[0]["href"] == "#main"  # the skip link comes first
    copies = chrome.execute_script("return [...document.querySelectorAll('[data-copy]')].map((b) => b.dataset.copy)")
    assert set(copies) <= {here["copy"] for here in reached}
    assert any("mark-button" in here["cls"] for here in reached)
    assert all(here["outline"] != "none" for here in reached)


def test_copying_a_command_says_so(opened: Callable[..., Chrome]) -> None:
    chrome = opened()
    button = chrome.find_element("css selector", "[data-copy]")
    chrome.execute_script("arguments[0].click()", button)
    wait(lambda: button.text == "Copied")
    assert button.text == "Copied"


def test_marks_can_be_chosen(opened: Callable[..., Chrome]) -> None:
    chrome = opened()
    shown = (
        "return [...document.querySelector('.picture .mark-button').closest('.picture')"
        ".querySelectorAll('.mark.on')].map((m) => m.dataset.mark)"
    )
    first, second = chrome.find_elements("css selector", ".mark-button")[:2]
    assert chrome.execute_script(shown) == ["0"]
    chrome.execute_script("arguments[0].click()", second)
    assert chrome.execute_script(shown) == ["1"]
    assert (first.get_attribute("aria-pressed"), second.get_attribute("aria-pressed")) == ("false", "true")


LIT = """
  const lit = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length);
  return {
    nodes: lit(".parse-scroll.wide .lit.node").map((e) => e.dataset.node),
    here: document.activeElement.dataset.node || "",
    players: (document.activeElement.dataset.players || "").split(" ").filter(Boolean),
    cells: [...document.querySelectorAll(".parse .lit.cell")].map((e) => e.dataset.player),
    kind: document.activeElement.classList.contains("for") ? "for" : "against",
    colored: [...document.querySelectorAll(".parse .lit.cell.for")].length,
    said: document.querySelector(".parse .readout").textContent,
    label: document.activeElement.getAttribute("aria-label"),
  };
"""


def test_the_keyboard_lights_up_a_parse_and_its_cells(opened: Callable[..., Chrome]) -> None:
    from selenium.webdriver import ActionChains, Keys

    def press(*keys: str) -> dict[str, Any]:
        ActionChains(chrome).send_keys(*keys).perform()
        return dict(chrome.execute_script(LIT))

    chrome = opened()
    graph = chrome.find_element("css selector", ".parse")
    chrome.execute_script("arguments[0].scrollIntoView({block: 'start', behavior: 'instant'})", graph)
    root = graph.find_element("css selector", '.parse-scroll.wide [tabindex="0"]')
    chrome.execute_script("arguments[0].focus()", root)
    everything = dict(chrome.execute_script(LIT))
    every = chrome.find_elements("css selector", ".parse:first-of-type .parse-scroll.wide .node")
    assert (everything["here"], everything["cells"]) == ("0", [])
    pattern = press(Keys.ARROW_DOWN)
    assert pattern["here"] in pattern["nodes"]
    assert "0" in pattern["nodes"]
    assert len(pattern["nodes"]) < len(every)
    assert sorted(pattern["cells"]) == sorted(pattern["players"])
    assert pattern["colored"] == (len(pattern["cells"]) if pattern["kind"] == "for" else 0)
    assert pattern["said"].strip() == pattern["label"]
    reached = {pattern["here"]}
    for _ in range(13):
        reached.add(press(Keys.ARROW_RIGHT)["here"])
    assert len(reached) == 14  # every pattern
    player = press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert len(player["cells"]) == 1
    press(Keys.ENTER)
    assert chrome.execute_script("return document.querySelectorAll('.node[aria-selected=true]').length") == 2
    press(Keys.ESCAPE, Keys.TAB)
    assert chrome.execute_script("return document.querySelector('.parse').classList.contains('lighting')") is False
    assert complaints(chrome) == []


def test_a_pointer_lights_up_what_it_touches(opened: Callable[..., Chrome]) -> None:
    chrome = opened()
    said = chrome.execute_script(
        "const parse = document.querySelector('.parse');"
        "parse.querySelector('.cell').dispatchEvent(new Event('pointerenter'));"
        "const lit = parse.querySelector('.player.lit');"
        "const text = parse.querySelector('.readout').textContent;"
        "parse.querySelector('.cell').dispatchEvent(new Event('pointerleave'));"
        "return [lit && lit.dataset.players, text.trim(), parse.classList.contains('lighting')]"
    )
    assert said[0] == "0"
    assert said[1].startswith("r1c1")
    assert said[2] is False


def test_legends_hide_and_show(opened: Callable[..., Chrome]) -> None:
    chrome = opened()
    scroll_through(chrome)
    key = chrome.find_element("css selector", ".key")
    before = chrome.execute_script(INK)
    chrome.execute_script("arguments[0].click()", key)
    wait(lambda: chrome.execute_script(INK) != before)
    assert key.get_attribute("aria-pressed") == "false"
    assert chrome.execute_script(INK) != before
    assert complaints(chrome) == []


@pytest.mark.parametrize(("name", "width"), [("audit", 320), ("audit", 400), ("comparison", 400)])
def test_narrow_screens_scroll_only_down(opened: Callable[..., Chrome], name: str, width: int) -> None:
    chrome = opened(name, width=width)
    scroll_through(chrome)
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width


def test_without_scripts_the_numbers_are_there(opened: Callable[..., Chrome], browser: Chrome) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chrome = opened()
        text = chrome.find_element("tag name", "main").text
        notes = chrome.find_elements("css selector", "noscript")
        assert len(notes) == 1
        assert "Numbers of this chart" in text
        assert not chrome.find_element("id", "theme").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_printing_draws_every_chart(opened: Callable[..., Chrome]) -> None:
    chrome = opened(dark=True)
    assert undrawn(chrome) > 0
    pdf = chrome.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(pdf["data"]) > 100_000
    assert undrawn(chrome) == 0
    assert complaints(chrome) == []
    assert chrome.execute_script("return document.documentElement.dataset.theme") is None  # as it was


def test_the_page_opens_from_a_folder_with_an_odd_name(samples: ModuleType, browser: Chrome, tmp_path: Path) -> None:
    page = samples.comparison().save(tmp_path / "100% # ünïcode & more")
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert "compared" in browser.title
    assert complaints(browser) == []
