"""The page: complete, self-contained, escaped, small, and there in every state of a launch."""

from __future__ import annotations

import json
import logging
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dist_advss.errors import RunError, UserError
from dist_advss.report.page import signed, write
from dist_advss.text import duration

VOID = {"meta", "link", "img", "br", "path", "rect", "circle", "input"}
EVIL = "<script>alert('x')</script>\"'&{{ 7*7 }}"


class Page(HTMLParser):
    """The page's text by section (scripts and styles apart, one space between words), its attributes, and whether its tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.section = ""
        self.text: dict[str, str] = {"": ""}
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = {section: " ".join(text.split()) for section, text in self.text.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
            self.text[self.section] = ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text[self.section] += data + " "


def page(folder: Path) -> Page:
    return Page(write(folder, folder.parent / "out.html").read_text())


def test_the_page_tells_the_whole_launch(quickstart: Any) -> None:
    text = page(quickstart.root).text
    assert "quickstart" in text[""]
    assert "fashion_mini · preact_small · 1,000 labels · l∞ eps 0.1 · seed 0" in text[""]
    assert "2026-02-02 02:40 UTC" in text[""]
    assert "all 8 stages finished" in text[""]
    assert "raised robust accuracy by 13.4 points" in text[""]
    interval = r"\+\d+\.\d to \+\d+\.\d"
    row = rf"P3→F4 rotation 69\.9 67\.0–72\.7 56\.4 53\.3–59\.4 \+13\.9 {interval} \+13\.4 {interval} \d+"
    assert re.search(row, text["results"])
    assert "compares both models’ verdicts on the same images" in text["results"]
    assert "test images under PGD-20, l∞ eps 0.1; n = 1,000" in text["results"]
    assert "Pretext accuracy, attacked (%)" in text["curves"]
    assert "Perturbation ×5 around mid grey" in text["images"]
    assert "ankle boot" in text["classes"]
    assert "attack.steps p2_pretrain 0 p3_pretrain 5" in text["configuration"]
    assert "p3_finetune P3→F4 rotation finished 12 76 s 62 of 62 encoder tensors loaded" in text["stages"]


def test_nothing_on_the_page_points_outside_it(quickstart: Any) -> None:
    attributes = page(quickstart.root).attributes
    links = [value for _, name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    policy = next(
        value for tag, name, value in attributes if (tag, name) == ("meta", "content") and "default-src" in value
    )
    assert "default-src 'none'" in policy


def test_names_from_users_are_text(folder: Any) -> None:
    name = "<b onclick=x>p3&'\""
    folder.grid()
    graph = yaml.safe_load((folder.root / "experiment.yaml").read_text())
    graph["name"] = EVIL
    (folder.root / "experiment.yaml").write_text(yaml.safe_dump(graph))
    for stage in ("finetune", "evaluate"):
        shutil.copytree(folder.root / f"p3_{stage}", folder.root / f"{name}{stage}")
    run = folder.root / f"{name}evaluate"
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["checkpoint"], config["note"] = str(folder.root / f"{name}finetune"), EVIL
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    result = json.loads((run / "result.json").read_text())
    result["per_class"][0]["class"] = result["attack"]["norm"] = EVIL
    (run / "result.json").write_text(json.dumps(result))
    with np.load(run / "samples" / "samples.npz") as archive:
        arrays = {**archive, "classes": np.array([EVIL] * 10)}
    np.savez(run / "samples" / "samples.npz", **arrays)
    folder.unfinish(f"{name}finetune", lines=200, events=(("nan", EVIL),))
    (run.parent / "p2_pretrain" / "config.yaml").write_text(yaml.safe_dump({"objective": {"name": EVIL}}))

    html = write(folder.root, folder.root / "out.html").read_text()
    assert EVIL not in html
    assert "<b onclick" not in html
    text = Page(html).text
    for section in ("", "results", "images", "classes", "configuration", "stages"):
        assert " ".join(EVIL.split()) in text[section]
    assert f"{name}finetune" in text["curves"]


def test_a_launch_on_its_way_shows_how_far_it_is(folder: Any) -> None:
    folder.grid(("rotation", "jigsaw"))
    folder.unfinish("p2_rotation_finetune", lines=40)
    folder.forget("p2_rotation_evaluate")
    folder.unfinish("p3_jigsaw_pretrain", lines=20, events=(("nan", "loss is nan"),))
    folder.forget("p3_jigsaw_finetune")
    folder.forget("p3_jigsaw_evaluate")
    file = folder.root / "p2_jigsaw_finetune" / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    text = page(folder.root).text
    assert "9 of 14 stages finished, 1 running, 1 failed, 2 skipped, 1 waiting" in text[""]
    assert "P2→F4 rotation waiting –" in text["results"]
    assert "p2_rotation_finetune P2→F4 rotation running 4 of 12" in text["stages"]
    assert "p3_jigsaw_pretrain P3 jigsaw failed 2 of 6" in text["stages"]
    assert "loss is nan" in text["stages"]
    assert "needs p3_jigsaw_pretrain, which failed" in text["stages"]
    assert "metrics.jsonl: 1 unreadable line skipped" in text["stages"]


def test_a_launch_that_has_only_a_plan_makes_a_page(quickstart: Any) -> None:
    for stage in list(quickstart.stages)[:-1]:
        quickstart.forget(stage)
    result = page(quickstart.root)
    assert "0 of 8 stages finished, 8 waiting" in result.text[""]
    assert "No effect of adversarial pre-training yet: the evaluation of P1→F4 is waiting" in result.text[""]
    assert "curves" not in result.text
    assert "images" not in result.text


@pytest.mark.parametrize("stage", ["p3_pretrain", "p3_finetune", "p3_evaluate"])
def test_a_single_run_makes_a_page(quickstart: Any, stage: str) -> None:
    text = page(quickstart.root / stage).text
    assert "P3" in text["stages"]
    assert ("results" in text) == (stage == "p3_evaluate")


def test_a_result_without_intervals_or_samples_is_shown_without_them(quickstart: Any) -> None:
    for stage in ("p1_evaluate", "p3_evaluate"):
        shutil.rmtree(quickstart.root / stage / "samples")
        (quickstart.root / stage / "verdicts.npz").unlink()
        file = quickstart.root / stage / "result.json"
        result = json.loads(file.read_text())
        for key in ("ta_interval", "ra_interval", "per_class"):
            del result[key]
        file.write_text(json.dumps(result))
    text = page(quickstart.root).text
    assert "P3→F4 rotation 69.9 56.4 +13.9 +13.4" in text["results"]
    assert "raised robust accuracy by 13.4 points and raised" in text[""]


def test_bokeh_has_nothing_to_complain_about(quickstart: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        page(quickstart.root)
    assert caplog.records == []


def test_thirty_runs_of_noisy_colour_images_weigh_less_than_five_megabytes(folder: Any, tmp_path: Path) -> None:
    folder.images = np.random.default_rng(0).random((8, 64, 64, 3), dtype=np.float32)
    folder.grid(("rotation", "jigsaw"), ("F2", "F4"))
    assert len(folder.stages) >= 22
    for i in range(10):
        shutil.copytree(folder.root / "p3_rotation_f4_evaluate", folder.root / f"again{i}_evaluate")
    assert write(folder.root, tmp_path / "r.html").stat().st_size < 5_000_000


def test_an_unwritable_file_is_one_line_and_leaves_no_rest(quickstart: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunError) as caught:
        write(quickstart.root, tmp_path / "taken" / "report.html")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        write(tmp_path / "nowhere", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_file_goes_where_it_was_asked_to_and_replaces_the_old_one(quickstart: Any, tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "r.html"
    assert write(quickstart.root, file) == file
    file.write_text("old")
    write(quickstart.root, file)
    assert file.read_text().startswith("<!doctype html>")
    assert [p.name for p in file.parent.iterdir()] == ["r.html"]


def test_numbers_read_as_a_person_writes_them() -> None:
    assert [signed(x) for x in (13.42, -0.2, 0.0)] == ["+13.4", "−0.2", "+0.0"]
    assert [duration(x) for x in (0.4, 76, 99.4, 600, 11_100)] == ["0 s", "76 s", "99 s", "10 min", "3 h 05 min"]
