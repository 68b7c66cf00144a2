from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import jinja2
import pytest

from pellucid.reports import _html, write_html
from pellucid.reports._bibliography import WORKS, bibliography, is_arxiv

VENDOR = Path(_html.__file__).parent / "vendor"


class Page(HTMLParser):
    """What is in a page: its elements with attributes, and the text of scripts, styles and everything else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.words: list[str] = []
        self._open: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.raw.append((*self._open, data))
        else:
            self.words.append(data)

    @property
    def policy(self) -> dict[str, list[str]]:
        content = next(
            a["content"] for t, a in self.elements if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
        )
        assert content is not None
        return {part.split()[0]: part.split()[1:] for part in content.split(";")}

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def audit(samples: ModuleType) -> str:
    return write_html(samples.report(complete=False))


@pytest.fixture(scope="module")
def comparison(samples: ModuleType) -> str:
    return write_html(samples.comparison())


@pytest.fixture(scope="module", params=["audit", "comparison"])
def page(request: pytest.FixtureRequest) -> Page:
    return Page(request.getfixturevalue(request.param))


def test_the_policy_allows_nothing_but_what_is_in_the_page(page: Page) -> None:
    assert page.policy["default-src"] == ["'none'"]
    assert page.policy["base-uri"] == page.policy["form-action"] == ["'none'"]
    assert page.policy["img-src"] == ["data:"]
    assert not any("unsafe" in source for sources in page.policy.values() for source in sources)
    first = [tag for tag, _ in page.elements].index("meta")
    assert page.elements[first + 1][1].get("http-equiv") == "Content-Security-Policy"  # before anything it governs


def test_the_hashes_are_those_of_the_scripts_and_styles(page: Page) -> None:
    for kind, directive in (("script", "script-src"), ("style", "style-src")):
        texts = [text for tag, attributes, text in page.raw if tag == kind and "type" not in attributes]
        hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts]
        assert hashes == page.policy[directive]


def test_no_inline_styles_and_no_handlers(page: Page) -> None:
    for tag, attributes in page.elements:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for tag, attributes in page.elements:
        assert "src" not in attributes
        for name in ("href", "xlink:href", "srcset", "poster", "action", "data"):
            value = attributes.get(name) or ""
            if tag != "a":
                assert "//" not in value.partition(",")[0], (tag, name, value[:80])
        if tag in ("image", "link"):
            assert (attributes["href"] or "").startswith("data:")
    assert not re.search(r"url\(|@import|@font-face", next(t for tag, _, t in page.raw if tag == "style"))


def test_links_go_to_places_that_exist_or_to_arxiv(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        if tag == "a":
            href = attributes["href"] or ""
            assert href[1:] in ids if href.startswith("#") else href.startswith("https://arxiv.org/abs/")
        if tag == "use":
            assert (attributes["href"] or "")[1:] in ids


def test_the_comparison_leads_nowhere_else(comparison: str) -> None:
    assert all((a["href"] or "").startswith("#") for tag, a in Page(comparison).elements if tag == "a")


def test_hostile_names_are_shown_and_not_executed(samples: ModuleType, audit: str) -> None:
    page = Page(audit)
    assert samples.HOSTILE in page.text
    assert samples.HOSTILE not in audit
    assert not [attributes for tag, attributes in page.elements if tag == "img"]
    assert len([1 for tag, _ in page.elements if tag == "script"]) == 3 + len(data_blocks(page))


def data_blocks(page: Page) -> list[str]:
    return [t for tag, attributes, t in page.raw if tag == "script" and attributes.get("type") == "application/json"]


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!-- <script>", "]]>", "&lt;", "\u2028", "{{ 7 * 7 }}", "{% x %}"]
)
def test_every_text_of_a_report_may_hold_anything(samples: ModuleType, text: str) -> None:
    report = samples.report(classes=tuple(f"{text}{k}" for k in range(10)), model=text)
    html = write_html(report)
    page = Page(html)
    assert len(data_blocks(page)) == len(data_blocks(Page(write_html(samples.report()))))
    assert "49" not in page.text.partition("Findings")[0]
    for block in data_blocks(page):
        assert "<" not in block
        json.loads(block)
    options = [json.loads(block)["options"] for block in data_blocks(page)]
    assert [f"{text}{k}" for k in range(10)] in [o[axis].get("data") for o in options for axis in ("xAxis", "yAxis")]


def test_script_json_gives_back_the_value() -> None:
    value = {"a": ["</script>", "<!--", "&amp;", "\u2028\u2029", None, 1.5]}
    text = _html.script_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_the_same_report_gives_the_same_page(samples: ModuleType, audit: str) -> None:
    assert write_html(samples.report(complete=False)) == audit


def test_a_page_stays_small(audit: str, comparison: str) -> None:
    assert len(audit.encode()) < 1.2e6
    assert len(comparison.encode()) < 1.0e6


def test_a_page_with_sixty_pictures_and_twenty_charts_stays_below_the_limit(samples: ModuleType) -> None:
    import msgspec

    report = samples.report()
    findings = tuple(
        msgspec.structs.replace(finding, name=f"{finding.name}-{k}") for k in range(3) for finding in report.findings
    )
    assert len(write_html(msgspec.structs.replace(report, findings=findings)).encode()) < 3e6


def test_everything_is_said(samples: ModuleType, audit: str) -> None:
    report, text = samples.report(complete=False), re.sub(r"\s+", " ", Page(audit).text)
    for finding in report.findings:
        for words in (finding.question, finding.answer, finding.reason, finding.measure.label, *finding.cautions):
            assert re.sub(r"\s+", " ", words) in text
        if finding.advice:
            assert finding.advice.text in text
        for exhibit in finding.exhibits:
            assert exhibit.title in text
    for entry in (*report.skipped, *report.failed):
        assert entry.question in text
    assert report.skipped[0].reason in text
    assert report.failed[0].error in text
    assert report.subject.notes[0] in text
    assert "This audit is not complete." in text
    assert "1 weak" in text


def test_commands_can_be_copied_as_they_are(samples: ModuleType, audit: str) -> None:
    found = re.findall(r'<code id="command-\d+">(.*?)</code>', audit)
    commands = [re.sub("<[^>]*>", "", text) for text in found]
    report = samples.report()
    assert report.command in commands
    assert report.findings[2].advice.command in commands


def test_the_worst_comes_first(audit: str) -> None:
    cards = re.findall(r'<article class="card (\w+)">', audit)
    assert cards == ["weak", "watch", "fine", "fine", "fine", "fine"]


def test_a_card_leads_with_the_first_sentence() -> None:
    assert _html.lead("It is 0.5 by 3. Half is left. More.") == ("It is 0.5 by 3.", "Half is left. More.")
    assert _html.lead("One sentence") == ("One sentence", "")


@pytest.mark.parametrize(("count", "columns"), [(1, 6), (6, 6), (7, 4), (8, 4), (10, 5), (12, 6), (13, 5), (20, 5)])
def test_rows_of_a_gallery_are_full(count: int, columns: int) -> None:
    assert _html.per_row(count, widest=6) == columns


def test_an_audit_without_findings_says_so(samples: ModuleType) -> None:
    import msgspec

    html = write_html(msgspec.structs.replace(samples.report(), findings=(), plan=(), command="", skipped=()))
    assert "No question was answered" in html
    assert 'id="works"' not in html


def test_planned_questions_that_were_not_reached_are_listed(samples: ModuleType) -> None:
    import msgspec

    report = samples.report(complete=False)
    html = write_html(msgspec.structs.replace(report, findings=report.findings[:4], failed=()))
    text = re.sub(r"\s+", " ", Page(html).text)
    assert "2 planned questions were not reached" in text
    assert html.count(">Not reached<") == 2
    assert report.findings[5].question in text


def test_the_comparison_shows_every_verdict(comparison: str) -> None:
    text = re.sub(r"\s+", " ", Page(comparison).text)
    for words in ("Worse", "Better", "Changed", "No clear difference", "p < 0.0001", "+53.6 points", "no test"):
        assert words in text
    assert text.index("keeps 53.6 points more") < text.index("Differences")


def test_findings_that_only_one_audit_has_are_said_so(samples: ModuleType) -> None:
    import msgspec

    comparison = samples.comparison()
    after = msgspec.structs.replace(comparison.after, findings=comparison.after.findings[:2])
    html = write_html(msgspec.structs.replace(comparison, after=after, differences=(), exhibits=()))
    assert html.count("Not asked in this audit.") == 4
    assert "The two audits share no measure." in html


def test_templates_do_not_forgive_missing_names() -> None:
    with pytest.raises(jinja2.UndefinedError):
        _html._environment().from_string("{{ nothing }}").render()


def test_headings_do_not_skip_a_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_button_says_that_it_is_one(page: Page) -> None:
    assert all(attributes.get("type") == "button" for tag, attributes in page.elements if tag == "button")


def test_vendored_files_are_what_the_readme_says() -> None:
    readme = (VENDOR / "README.md").read_text()
    for path in VENDOR.glob("*.js"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme
    for name in re.findall(r"`((?:LICENSE|NOTICE)-\w+)`", readme):
        assert (VENDOR / name).read_text().strip()


def test_the_bibliography_lists_each_work_once() -> None:
    works = bibliography(["2111.06236", "arXiv:1706.06083", "2111.06236", "9999.99999", "A book"])
    assert [work.number for work in works] == [1, 2, 3, 4]
    assert works[0].text.endswith("Representation Bottleneck of DNNs (2022).")
    assert (works[1].arxiv, works[2].arxiv, works[3].arxiv) == ("1706.06083", "9999.99999", "")
    assert (works[2].text, works[3].text) == ("", "A book")
    assert all(map(is_arxiv, WORKS))
    assert not is_arxiv("1234.abcd")
