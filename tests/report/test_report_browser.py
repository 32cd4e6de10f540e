"""The page in a real browser: it opens from a file, asks the network for nothing, and behaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dist_advss.report.page import render, write
from dist_advss.runs.read import read

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VISIBLE = "id => Bokeh.documents.map(d => d.get_model_by_id(id)).find(m => m).visible"
# centre of the first point of the named series, in page coordinates
POINT = """name => {
  for (const doc of Bokeh.documents) for (const plot of doc.roots()) for (const r of plot.renderers)
    if (r.name === name) {
      const view = Bokeh.index.get_by_id(plot.id), box = view.el.getBoundingClientRect(), data = r.data_source.data;
      const at = (scale, values) => scale.compute(values[0]);
      return [box.x + at(view.frame.x_scale, data.x), box.y + at(view.frame.y_scale, data.y)];
    }
}"""
PAINTED = """() => [...document.querySelectorAll("[data-root-id]")].map(div => {
  const canvas = Bokeh.index.get_by_id(div.dataset.rootId).canvas_view.primary.canvas;
  return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(x => x > 0);
})"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="NO BROWSER TEST: chromium is not installed (apt-get install chromium)"
    ),
]


@dataclass
class Opened:
    """A page in the browser, with what it complained of and asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TEST: playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


def show(browser: Any, file: Path, width: int = 1000, **options: Any) -> Opened:
    opened = Opened(browser.new_page(viewport={"width": width, "height": 900}, **options))
    opened.page.on("console", lambda m: opened.complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.page.on("request", lambda request: opened.requests.append(request.url))
    opened.page.goto(file.as_uri())
    opened.page.wait_for_function("() => window.Bokeh && document.querySelectorAll('[data-root-id]').length > 0")
    opened.page.wait_for_function(f"() => ({PAINTED})().every(Boolean)")
    return opened


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (900, "dark"), (1400, "light")])
def test_the_page_opens_offline_and_fits_the_window(
    browser: Any, quickstart: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    opened = show(browser, write(quickstart.root, tmp_path / "r.html"), width, color_scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    last_row = page.locator("#results tbody tr").last.inner_text().split()
    assert last_row[:7] == ["P3→F4", "rotation", "69.9", "67.0–72.7", "56.4", "53.3–59.4", "+13.9"]
    assert page.locator("#images img").count() == 3 * 8 * 3
    assert page.evaluate("[...document.images].every(i => !i.closest('details').open || i.naturalWidth === 28)")
    shot = page.screenshot(full_page=True, path=tmp_path / f"{width}-{scheme}.png")
    assert len(shot) > 50_000
    assert opened.complaints == []
    assert {url.partition(":")[0] for url in opened.requests} <= {"file", "data", "blob"}
    page.close()


def test_a_legend_entry_hides_its_curves_in_every_panel_and_shows_them_again(
    browser: Any, quickstart: Any, tmp_path: Path
) -> None:
    page = show(browser, write(quickstart.root, tmp_path / "r.html")).page
    entry = page.locator("#curves .legend button", has_text="p3_finetune")
    models = entry.get_attribute("data-models").split()
    assert len(models) == 5  # three lines, and the points of TA and RA
    assert [page.evaluate(VISIBLE, model) for model in models] == [True] * 5
    entry.click()
    assert entry.get_attribute("aria-pressed") == "false"
    assert [page.evaluate(VISIBLE, model) for model in models] == [False] * 5
    other = page.locator("#curves .legend button", has_text="p1_finetune").get_attribute("data-models").split()
    assert all(page.evaluate(VISIBLE, model) for model in other)
    entry.press("Enter")
    assert [page.evaluate(VISIBLE, model) for model in models] == [True] * 5
    page.close()


def test_many_curves_can_be_hidden_at_once(browser: Any, folder: Any, tmp_path: Path) -> None:
    folder.grid(("rotation", "jigsaw"), ("F2", "F4"))
    opened = show(browser, write(folder.root, tmp_path / "r.html"))
    legend = opened.page.locator("#curves .legend").last
    legend.locator("button.all").click()
    assert set(legend.locator("button").evaluate_all("bs => bs.map(b => b.getAttribute('aria-pressed'))")) == {"false"}
    legend.locator("button", has_text="p3_rotation_f4_finetune").click()
    pressed = legend.locator("button[aria-pressed=true]")
    assert pressed.all_inner_texts() == ["p3_rotation_f4_finetune"]
    assert opened.complaints == []
    opened.page.close()


def test_hovering_over_a_point_tells_its_numbers_as_text(browser: Any, quickstart: Any, tmp_path: Path) -> None:
    name = "<i>p3&lt;"
    (quickstart.root / "experiment.yaml").unlink()
    (quickstart.root / "p3_evaluate").rename(quickstart.root / f"{name}_evaluate")
    opened = show(browser, write(quickstart.root, tmp_path / "r.html"))
    page = opened.page
    page.locator("#results figure.scatter").scroll_into_view_if_needed()
    page.mouse.move(*page.evaluate(POINT, "P3→F4 rotation"))
    tooltip = page.locator(".bk-Tooltip", has_text="RA 56.4").first
    tooltip.wait_for()
    text = tooltip.evaluate("tooltip => tooltip.shadowRoot.querySelector('.bk-tooltip-content').textContent")
    assert "TA 69.9 [67.0, 72.7]" in text
    assert f"{name}_evaluate" in text
    assert opened.complaints == []
    page.close()


def test_printing_unfolds_everything_and_folds_it_back(browser: Any, quickstart: Any, tmp_path: Path) -> None:
    page = show(browser, write(quickstart.root, tmp_path / "r.html"), color_scheme="dark").page
    folded = "document.querySelectorAll('details:not([open])').length"
    before = page.evaluate(folded)
    assert before == 2  # every method against every other, and the images
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(folded) == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(folded) == before
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert len(page.pdf(format="A4")) > 20_000
    page.close()


def test_typing_into_a_legend_leaves_the_runs_with_these_letters(browser: Any, folder: Any, tmp_path: Path) -> None:
    folder.grid(("rotation", "jigsaw", "selfie"), ("F2", "F4"))
    opened = show(browser, write(folder.root, tmp_path / "r.html"))
    legend = opened.page.locator("#curves .legend").last
    legend.locator(".filter").fill("P3_jig")
    left = legend.locator("button:not(.all):not([hidden])")
    assert left.all_inner_texts() == ["p3_jigsaw_f2_finetune", "p3_jigsaw_f4_finetune"]
    hidden = legend.locator("button", has_text="p1_f4_finetune").get_attribute("data-models").split()
    assert [opened.page.evaluate(VISIBLE, model) for model in hidden] == [False] * len(hidden)
    legend.locator(".filter").fill("")
    assert legend.locator("button[aria-pressed=false]").count() == 0
    assert opened.page.evaluate(VISIBLE, hidden[0])
    assert opened.complaints == []
    opened.page.close()


def test_a_page_under_way_reloads_and_keeps_what_was_chosen(browser: Any, quickstart: Any, tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    file.write_text(render(read(quickstart.root, 0.0), 0.0, reload=600.0))
    opened = show(browser, file, 390)
    page = opened.page
    page.locator("#curves .legend button", has_text="p3_finetune").click()
    page.locator("#images details").last.locator("summary").click()
    page.evaluate("scrollTo(0, 1500)")
    file.write_text(render(read(quickstart.root, 0.0), 0.0).replace("<h1>quickstart", "<h1>later"))
    page.evaluate("keep(), location.reload()")  # what the timer does
    page.locator("h1", has_text="later").wait_for()
    entry = page.locator("#curves .legend button[aria-pressed=false]")
    entry.wait_for()
    assert entry.all_inner_texts() == ["p3_finetune"]
    model = entry.get_attribute("data-models").split()[0]
    assert not page.evaluate(VISIBLE, model)
    assert page.locator("#images details").last.evaluate("d => d.open")
    assert abs(page.evaluate("scrollY") - 1500) < 5
    assert opened.complaints == []
    page.close()


def test_every_section_fits_a_phone_and_a_stage_leads_to_its_row(browser: Any, folder: Any, tmp_path: Path) -> None:
    folder.grid(("rotation", "jigsaw"), ("F2", "F4"))
    folder.radii("p1_f4", (0.05, 0.2), 56.0, 43.0)
    folder.transfer("transfer", ["p3_rotation_f4_finetune", "p3_jigsaw_f4_finetune"], [[56.4, 61.2], [63.0, 54.7]])
    folder.fail("p2_jigsaw_f4_finetune", "loss is nan", ["a line " * 50, "loss is nan"])
    opened = show(browser, write(folder.root, tmp_path / "r.html"), 390, color_scheme="dark")
    page = opened.page
    sections = page.locator("section").evaluate_all("found => found.map(s => s.id)")
    assert sections[:3] == ["failures", "stages", "results"]
    assert {"ranks", "protocols", "front", "paper", "cost", "radii", "transfer", "curves", "images", "classes"} <= set(
        sections
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    outside = """texts => texts.filter(t => {
      const box = t.closest("a").querySelector("rect").getBBox(), text = t.getBBox();
      return text.x + text.width > box.width;
    }).length"""
    assert page.locator(".graph text").evaluate_all(outside) == 0  # names stay inside their boxes
    page.locator(".graph a", has_text="p2_jigsaw_f4_finetune").click()
    assert "loss is nan" in page.locator("tr:target").inner_text()
    page.locator("#radii figure").scroll_into_view_if_needed()
    page.mouse.move(*page.evaluate(POINT, "P1→F4"))
    assert opened.complaints == []
    page.close()
