"""The report as Chromium shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from sebenza_ops.evidence.report import render_report
from tests.evidence import samples

pytestmark = pytest.mark.browser

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1200, "height": 900}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(
        render_report(samples.collect(samples.rolled_back_facts()), samples.header(104, run_state="failed")),
        encoding="utf-8",
    )
    return file


def opened(browser: Browser, report: Path, viewport: dict[str, int], color_scheme: str = "light") -> Page:
    page = browser.new_page(viewport=viewport, color_scheme=color_scheme)  # type: ignore[arg-type]
    page.goto(report.as_uri())
    return page


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_one_chart_is_shown_and_nothing_overflows(browser: Browser, report: Path, viewport: dict[str, int]) -> None:
    page = opened(browser, report, viewport)
    shown = page.locator(".chart svg:visible")
    assert shown.count() == 1
    box = shown.bounding_box()
    assert box is not None
    assert box["width"] > 0.8 * min(viewport["width"], 900)
    assert box["height"] > 150
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.locator(".verdict .sentence").bounding_box()["y"] < viewport["height"] / 3  # type: ignore[index]
    page.close()


def test_labels_of_the_chart_can_be_read_on_a_phone(browser: Browser, report: Path) -> None:
    page = opened(browser, report, PHONE)
    heights = page.eval_on_selector_all(
        ".chart.narrow svg text", "texts => texts.map(text => text.getBoundingClientRect().height)"
    )
    assert min(heights) >= 9
    page.close()


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_words_stand_out_from_their_paper(browser: Browser, report: Path, color_scheme: str) -> None:
    page = opened(browser, report, DESKTOP, color_scheme)
    # WCAG 2.2, 1.4.3: contrast of 4.5 to 1 for text.
    contrasts = page.evaluate(
        """() => {
          const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
          const light = color => {
            const [red, green, blue] = color.match(/[\\d.]+/g).map(Number);
            return 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
          };
          const paper = element => {
            for (let at = element; at; at = at.parentElement) {
              const color = getComputedStyle(at).backgroundColor;
              if (!/, 0\\)$/.test(color)) return color;
            }
          };
          return [...document.querySelectorAll("main :is(p, td, dt, dd, h2, .tag, .what, .word)")]
            .filter(element => element.textContent.trim())
            .map(element => {
              const [ink, back] = [light(getComputedStyle(element).color), light(paper(element))];
              const ratio = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
              return [ratio, element.className + ": " + element.textContent.trim().slice(0, 40)];
            });
        }"""
    )
    assert len(contrasts) > 50
    assert [found for found in contrasts if found[0] < 4.5] == []
    page.close()


def test_dark_is_dark_and_paper_is_white(browser: Browser, report: Path) -> None:
    page = opened(browser, report, DESKTOP, "dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(20, 24, 31)"
    page.emulate_media(media="print")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.close()
