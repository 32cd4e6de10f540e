"""Folders of strangers: whatever is in them, there is a page within seconds, and nothing of it runs or escapes."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import dist_advss
from dist_advss.report.charts.draw import Charts
from dist_advss.report.charts.graph import draw_graph
from dist_advss.report.page import render
from dist_advss.runs.read import read
from dist_advss.runs.settings import MOST_KEYS
from dist_advss.runs.table import as_text, rows_of, summary_rows

# fmt: off
ODD: list[Any] = [
    None, True, 0, -1, 1.5, 1e308, float("nan"), float("inf"), 10**400, 2**63, "", "x", "1e5", "\x1b[31mred", "a\nb\r\tc",
    "\0", "../../..", "<script>alert(1)</script>", "</td></table><b>", "${oc.env:HOME}", "{{ 7*7 }}", "A" * 5000, "@p1_finetune",
    [], [[]], [1, 2], ["a", None, {}], {}, {"": {}}, {"name": [1]}, {"<i>": "\x1b"}, list(range(3000)),
]
# fmt: on


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a tree of mappings and lists."""
    below = tree.items() if isinstance(tree, dict) else enumerate(tree[:4]) if isinstance(tree, list) else ()
    return [path, *(place for key, value in below for place in places(value, (*path, key)))]


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = replaced(tree[path[0]], path[1:], value)
    return copy


def damage(file: Path, rng: random.Random) -> None:
    """Replaces one value of a file by something odd."""
    value = rng.choice(ODD)
    if file.suffix == ".npz":
        with np.load(file) as archive:
            arrays = dict(archive)
        name = rng.choice(sorted(arrays))
        kinds: list[Any] = [
            arrays[name][:0],
            arrays[name].astype("U8"),
            arrays[name][..., None],
            np.array(1.5),
            np.array("a"),
        ]
        if arrays[name].dtype.kind in "fiu":
            with np.errstate(all="ignore"):
                kinds += [arrays[name] * 1e300 * 1e300, arrays[name] * np.nan, arrays[name].astype(bool)]
        np.savez(file, **{**arrays, name: rng.choice(kinds)})
    elif file.suffix == ".jsonl":
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        key = rng.choice([*lines[-1], "x"])
        file.write_text("\n".join(json.dumps({**line, key: value}) for line in lines))
    else:
        as_json = file.suffix == ".json"
        tree = json.loads(file.read_text()) if as_json else yaml.safe_load(file.read_text())
        tree = replaced(tree, rng.choice(places(tree)), value)
        file.write_text(json.dumps(tree) if as_json else yaml.safe_dump(tree, sort_keys=False))


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A launch with every kind of run, and with one sample in each evaluation."""
    from .conftest import Folder

    folder = Folder(tmp_path_factory.mktemp("hostile") / "launch")
    folder.method("P1", None, "F4", "p1")
    for seed, suffix in enumerate(("", "_s1")):
        folder.pretrain(f"pre{suffix}", "rotation", adversarial=True, seed=seed)
        folder.method("P3", f"pre{suffix}", "F4", f"p3{suffix}", seed)
    folder.average("average", ["p1_finetune", "p3_finetune"], 72.0, 60.0)
    folder.transfer("transfer", ["p1_finetune", "p3_finetune"], [[1.0, 2.0], [3.0, 4.0]])
    for file in folder.root.rglob("samples.npz"):
        with np.load(file) as archive:
            np.savez(file, **{name: array[:1] if name != "classes" else array for name, array in archive.items()})
    return folder.root


@pytest.mark.parametrize("seed", range(8))
def test_odd_values_in_any_file_still_give_a_page(
    launches: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed:  # charts take most of the time
        monkeypatch.setattr("dist_advss.report.charts.draw.draw", lambda *_: Charts())
    rng = random.Random(seed)
    root = shutil.copytree(launches, tmp_path / "launch")
    files = [file for file in sorted(root.rglob("*")) if file.suffix in (".json", ".yaml", ".npz", ".jsonl")]
    for file in rng.sample(files, 6):
        damage(file, rng)
    launch = read(root, time.time())
    assert "\x1b" not in as_text(rows_of(launch))
    page = render(launch, time.time())
    assert "<script>alert" not in page and "</td></table><b>" not in page and "\x1b" not in page
    dist_advss.load_runs(root)


def put(folder: Any, stage: str, **values: Any) -> None:
    file = folder.root / stage / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_thousand_keys_of_an_attack_count_as_one_and_still_move_the_setting(folder: Any) -> None:
    folder.method("P1", None, "F4", "p1")
    folder.evaluate("again", "p1_finetune", 56.0, 43.0)
    many = {f"k{number}": number for number in range(10 * MOST_KEYS)}
    attack = {"norm": "linf", "eps": 0.1, "steps": 20}
    put(folder, "p1_evaluate", attack={**attack, **many})
    put(folder, "again", attack={**attack, **many, "k7": 8})
    rows = summary_rows(folder.root)
    assert len({row.setting for row in rows}) == 2
    assert all(len(row.setting.others) < 2 * MOST_KEYS for row in rows)


def test_long_chains_of_stages_long_notes_and_many_weights_are_cut(folder: Any) -> None:
    folder.method("P1", None, "F4", "p1")
    put(folder, "p1_evaluate", made_from={"weights": {f"/x/{n}/checkpoints/last.pt": "a" for n in range(3000)}})
    with (folder.root / "p1_finetune" / "metrics.jsonl").open("a") as file:
        for _ in range(500):
            file.write(json.dumps({"kind": "event", "event": "nan", "text": "<b>\x1b" * 1000}) + "\n")
    stages = {f"s{n}": {"command": "report2", "overrides": [], "needs": [f"s{n - 1}"]} for n in range(1, 1500)}
    (folder.root / "experiment.yaml").write_text(yaml.safe_dump({"stages": {**folder.stages, **stages}}))
    launch = read(folder.root, 0.0)
    assert draw_graph(launch) is None
    assert len(render(launch, 0.0)) < 4_000_000


@pytest.mark.parametrize("name", ["verdicts.npz", "samples/samples.npz"])
def test_arrays_that_inflate_to_more_than_a_bound_are_not_read(quickstart: Any, name: str) -> None:
    zeros = np.zeros((40, 3000, 3000, 1), np.uint8)
    file = quickstart.root / "p3_evaluate" / name
    np.savez_compressed(file, clean=zeros, adversarial=zeros[:1], index=zeros[:1], label=zeros[:1])
    assert file.stat().st_size < 2_000_000
    launch = read(quickstart.root, 0.0)
    assert 'id="results"' in render(launch, 0.0)
