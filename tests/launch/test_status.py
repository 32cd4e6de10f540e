"""The status table says what the folders say."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_advss.errors import UserError
from dist_advss.files import only_process
from dist_advss.live.glance import Row, as_text, row
from dist_advss.runs import state
from dist_advss.runs.state import Status
from launch.experiment import load
from launch.graph import store
from launch.status import read, status

NOW = 1_800_000_000.0


@pytest.fixture
def directory(chain: str, tmp_path: Path) -> Path:
    """A launch folder in which nothing has run."""
    folder = tmp_path / "out"
    folder.mkdir()
    store(folder, load(chain, folder))
    return folder


def lines_of(folder: Path, *lines: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def rows(directory: Path) -> dict[str, Row]:
    return {stage: row(run, NOW) for stage, run in read(directory, NOW).runs.items()}


def test_stages_that_have_not_begun_are_waiting(directory: Path) -> None:
    assert {row.state for row in rows(directory).values()} == {"waiting"}


def test_a_running_stage_shows_epoch_rates_speed_and_time(directory: Path) -> None:
    folder = directory / "p3_pretrain"
    state.write(directory / "p3_pretrain", state.running(os.getpid(), NOW - 125))
    (folder / "config.yaml").write_text(yaml.safe_dump({"schedule": {"epochs": 12}}))
    lines_of(
        folder,
        {"kind": "train", "epoch": 0, "step": 20, "images_per_s": 900.0, "time": NOW - 100},
        {"kind": "validation", "epoch": 1, "step": 70, "ta": 61.25, "ra": 43.0, "time": NOW - 60},
        {"kind": "train", "epoch": 1, "step": 80, "images_per_s": 1234.4, "time": NOW - 50},
    )
    shown = rows(directory)["p3_pretrain"]
    assert (shown.state, shown.epoch, shown.ta, shown.ra, shown.speed, shown.time) == (
        "running",
        "1/12",
        "61.2",
        "43.0",
        "1,129",  # of the whole run: 80 steps in 20/900 + 60/1234.4
        "2:05",
    )


def test_a_half_written_line_of_metrics_is_passed_over(directory: Path) -> None:
    folder = directory / "p1_finetune"
    lines_of(folder, {"kind": "validation", "epoch": 1, "step": 7, "ta": 50.0, "ra": 40.0, "time": NOW})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "valid')
    assert rows(directory)["p1_finetune"].ta == "50.0"


def test_a_finished_stage_shows_its_result(directory: Path) -> None:
    for stage, result in {
        "p1_finetune": {"best_ra": {"epoch": 3, "ta": 55.0, "ra": 41.5}, "seconds": 3725},
        "p1_evaluate": {"ta": 54.0, "ra": 40.5, "seconds": 61},
    }.items():
        (directory / stage).mkdir()
        (directory / stage / "result.json").write_text(json.dumps(result))
    found = rows(directory)
    tuned, judged = found["p1_finetune"], found["p1_evaluate"]
    assert (tuned.state, tuned.ta, tuned.ra, tuned.time) == ("finished", "55.0", "41.5", "1:02:05")
    assert (judged.state, judged.ta, judged.ra, judged.time) == ("finished", "54.0", "40.5", "1:01")


def test_a_failed_stage_shows_its_last_line_and_its_dependants_are_skipped(directory: Path) -> None:
    state.write(directory / "p3_pretrain", Status("failed", 1, "h", 1.0, NOW - 10, NOW - 5, "loss is nan"))
    found = rows(directory)
    assert (found["p3_pretrain"].note, found["p3_pretrain"].time) == ("loss is nan", "0:05")
    assert (found["p3_finetune"].state, found["p3_finetune"].note) == ("skipped", "needs p3_pretrain, which failed")
    assert found["p1_finetune"].state == "waiting"


def test_a_reused_process_id_is_not_taken_for_the_stage(directory: Path) -> None:
    running = state.running(os.getpid(), time.time())
    assert running.born is not None
    earlier = Status("running", running.pid, running.host, running.born - 1000, running.started)
    state.write(directory / "p1_finetune", earlier)
    assert rows(directory)["p1_finetune"].state == "died"


def test_a_stage_of_another_machine_runs_while_its_folder_is_locked(directory: Path) -> None:
    import fcntl

    state.write(directory / "p1_finetune", Status("running", 1, "elsewhere", 1.0, NOW))
    assert rows(directory)["p1_finetune"].state == "died"
    with (directory / "p1_finetune" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert rows(directory)["p1_finetune"].state == "running"


def test_a_damaged_state_file_counts_as_none(directory: Path) -> None:
    (directory / "p1_finetune").mkdir()
    for text in ("", "{", "[]", '{"stat": 1}'):
        (directory / "p1_finetune" / "state.json").write_text(text)
        assert rows(directory)["p1_finetune"].state == "waiting"


def test_the_plain_table_has_a_header_and_one_line_a_stage(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(directory) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["stage", "state", "epoch"]
    assert [line.split()[0] for line in lines[1:-1]] == list(rows(directory))
    assert len(as_text(list(rows(directory).values())).splitlines()) == 6


def test_a_folder_without_a_launch_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no experiment\.yaml in it"):
        status(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        status(tmp_path / "nowhere")


def test_the_folder_of_a_stage_that_has_not_begun_is_listed_and_no_file_in_it_is_looked_for(
    directory: Path, chain: str, looked_for: Callable[[], list[str]]
) -> None:
    for stage in ("p1_finetune", "p3_finetune"):
        (directory / stage).mkdir()
        (directory / stage / "code.json").write_text("{}")
    looked_for().clear()
    assert {row.state for row in rows(directory).values()} == {"waiting"}
    inside = [path for path in looked_for() if path.startswith(f"{directory}/p")]
    assert set(inside) <= {f"{directory}/{stage}" for stage in load(chain, directory).stages}


@pytest.fixture
def looked_for() -> Iterator[Callable[[], list[str]]]:
    """The files that this process opens and the folders that it lists."""
    found: list[str] = []
    watching = True

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "os.listdir", "os.scandir"):
            found.append(str(arguments[0]))

    sys.addaudithook(record)
    yield lambda: found
    watching = False


@pytest.mark.parametrize("file", ["state.json", "metrics.jsonl", "result.json", "config.yaml"])
def test_one_file_of_a_run_is_enough_to_be_looked_at(directory: Path, file: str) -> None:
    (directory / "p1_finetune").mkdir()
    assert state.untouched(directory / "p1_finetune")
    (directory / "p1_finetune" / file).write_text("{}")
    assert not state.untouched(directory / "p1_finetune")


def test_a_lock_in_another_folder_tells_that_a_stage_runs(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIST_ADVSS_LOCKS", str(tmp_path / "locks"))
    assert rows(directory)["p1_finetune"].state == "waiting"
    with only_process(directory / "p1_finetune", ".lock", str):
        assert rows(directory)["p1_finetune"].state == "running"
