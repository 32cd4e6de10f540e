"""metrics.jsonl keeps whole lines, each step once, whatever happens to the process that writes it."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from dist_advss.config.tracking import Tracking
from dist_advss.errors import RunError
from dist_advss.runs.metrics import parse
from dist_advss.tracking import Log, Meter, MetricsFile, read
from dist_advss.tracking.alerts import Alerts
from dist_advss.tracking.rows import row
from dist_advss.tracking.wandb_run import sent


def write(path: Path, *steps: int, kind: str = "train", **values: float) -> None:
    file = MetricsFile(path, now=lambda: 1000.12345)
    for step in steps:
        file.write(kind, step, **values)
    file.close()


def steps(path: Path, kind: str = "train") -> list[int]:
    return [line["step"] for line in read(path) if line["kind"] == kind]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.jsonl"


def test_a_line_is_one_json_object_with_kind_step_values_and_time(path: Path) -> None:
    write(path, 20, loss=0.5, accuracy_clean=1.0)
    assert path.read_bytes().count(b"\n") == 1
    assert json.loads(path.read_text()) == {
        "kind": "train",
        "step": 20,
        "loss": 0.5,
        "accuracy_clean": 1.0,
        "time": 1000.123,
    }


def test_a_line_is_on_file_as_soon_as_it_is_written(path: Path) -> None:
    file = MetricsFile(path)
    for step in range(1, 4):
        file.write("train", step)
        assert steps(path)[-1] == step
    file.close()


def test_a_file_that_is_not_there_has_no_lines(path: Path) -> None:
    assert read(path) == []


@pytest.mark.parametrize(
    "half", [b"{", b'{"kind": "train", "step": 4, "lo', b'{"kind": "train", "step": 4, "time": 1.', b"\0\0\0"]
)
def test_a_half_written_last_line_is_cut_off_and_its_step_written_again(path: Path, half: bytes) -> None:
    write(path, 1, 2, 3)
    whole = path.read_bytes()
    path.write_bytes(whole + half)
    assert steps(path) == [1, 2, 3]
    write(path, 4)
    assert path.read_bytes().startswith(whole)
    assert steps(path) == [1, 2, 3, 4]


def test_steps_on_file_are_not_written_twice_by_a_run_that_goes_on(path: Path) -> None:
    write(path, 20, 40, 60)
    write(path, 60, kind="validation")
    before = path.read_bytes()
    write(path, 40, 60, 80)
    write(path, 60, 120, kind="validation")
    assert path.read_bytes().startswith(before)
    assert steps(path) == [20, 40, 60, 80]
    assert steps(path, "validation") == [60, 120]


def test_after_a_rollback_the_steps_that_follow_are_written_again_by_this_session_and_the_next(path: Path) -> None:
    file = MetricsFile(path)
    for step in (1, 2, 3):
        file.write("train", step, loss=1.0)
    file.write("event", 1, event="rollback", text="back to step 1")
    assert file.write("train", 1, loss=2.0) is None
    assert file.write("train", 2, loss=2.0) is not None
    file.close()
    later = MetricsFile(path)
    assert later.write("train", 2, loss=3.0) is None
    assert later.write("train", 3, loss=2.0) is not None
    assert later.write("train", 3, loss=2.0) is None
    later.close()
    assert parse(path.read_bytes()).train.column("loss").tolist() == [1.0, 2.0, 2.0]


def test_events_are_always_written(path: Path) -> None:
    write(path, 20)
    write(path, 0, 0, kind="event")
    write(path, 0, kind="event")
    assert steps(path, "event") == [0, 0, 0]


def test_lines_are_only_ever_appended(path: Path) -> None:
    file, content = MetricsFile(path), b""
    for step in range(50):
        file.write("train", step)
        assert path.read_bytes().startswith(content)
        content = path.read_bytes()
    file.close()
    assert steps(path) == list(range(50))


KILLER = """
import json, os, signal, sys, time
from pathlib import Path
from dist_advss.tracking.metrics import MetricsFile

def write(path, tell):
    file, step = MetricsFile(path), len(path.read_bytes().splitlines())
    while True:
        step += 1
        file.write("train", step, text="x" * (300_000 if step % 3 else 10))
        os.write(tell, step.to_bytes(8, "big"))

for kill in range(50):
    path = Path(sys.argv[1]) / f"{kill // 5}.jsonl"  # each file is reopened four times
    told, tell = os.pipe()
    writer = os.fork()
    if writer == 0:
        write(path, tell)
    os.close(tell)
    os.read(told, 8)
    time.sleep(0.0007 * (kill % 7))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    flushed = b"".join(iter(lambda: os.read(told, 1 << 16), b""))[-8:]
    os.close(told)
    *whole, half = path.read_bytes().split(b"\\n")
    steps = [json.loads(line)["step"] for line in whole]
    print(json.dumps([steps == list(range(1, len(steps) + 1)), int.from_bytes(flushed, "big") <= len(steps), len(half)]))
"""


def test_fifty_kills_while_writing_leave_whole_lines_without_a_gap(path: Path) -> None:
    path.parent.mkdir()
    ran = subprocess.run([sys.executable, "-c", KILLER, str(path.parent)], capture_output=True, text=True, check=True)
    kills = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(kills) == 50
    assert all(contiguous and flushed for contiguous, flushed, _ in kills)
    assert any(half > 0 for *_, half in kills)  # some did strike in the middle of a line
    for file in path.parent.iterdir():
        MetricsFile(file).close()
        assert file.read_bytes().endswith(b"}\n")
        assert steps(file) == list(range(1, len(read(file)) + 1))


def test_a_meter_gives_means_since_it_was_emptied() -> None:
    meter = Meter()
    for loss, accuracy in ((1.0, 0.5), (2.0, 0.0), (6.0, 1.0)):
        meter.add({"loss": loss, "accuracy": accuracy})
    assert meter.take() == {"loss": 3.0, "accuracy": 0.5}
    meter.add({"loss": 7.0})
    assert meter.take() == {"loss": 7.0}


def test_a_meter_taken_up_from_its_state_gives_the_same_means_to_the_bit() -> None:
    values = [0.1 * i**1.5 for i in range(1, 20)]
    whole = Meter()
    for value in values:
        whole.add({"loss": value})
    for cut in (1, 7, 18):
        first, second = Meter(), Meter()
        for value in values[:cut]:
            first.add({"loss": value})
        state = json.loads(json.dumps(first.state()))
        first.add({"loss": 1e9})  # the state is a copy
        second.load(state)
        for value in values[cut:]:
            second.add({"loss": value})
        assert second.state() == whole.state()


def test_time_is_the_clock_that_was_given(path: Path) -> None:
    clock = count(5)
    file = MetricsFile(path, now=lambda: float(next(clock)))
    file.write("train", 1)
    file.write("event", 1)
    file.close()
    assert [line["time"] for line in read(path)] == [5.0, 6.0]


def test_a_last_line_that_lacks_its_line_feed_only_is_kept(path: Path) -> None:
    """As an editor may leave it."""
    write(path, 1, 2, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    write(path, 3, 4)
    assert path.read_bytes().startswith(whole)
    assert steps(path) == [1, 2, 3, 4]


DAMAGE = {
    "garbage": b"{garbage",
    "half a line": b'{"kind": "train", "st',
    "two halves": b'{"kind": "train", "st{"kind": "train", "step": 2, "time": 1.0}',
    "zeros": b"\0" * 40,
    "another encoding": '{"kind": "train", "step": 2, "time": 1.0}'.encode("utf-16"),
    "Latin-1": b'{"kind": "event", "event": "start", "text": "\xe9", "step": 2, "time": 1.0}',
    "no object": b"[1, 2]",
    "no step": b'{"kind": "train", "time": 1.0}',
    "a step that is no number": b'{"kind": "train", "step": "2", "time": 1.0}',
    "a step out of range": b'{"kind": "train", "step": ' + b"9" * 30 + b', "time": 1.0}',
    "digits without end": b'{"kind": "train", "step": 2, "time": ' + b"9" * 9999 + b"}",
    "nested without end": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_stays_where_it_is_and_is_skipped_by_every_reader(path: Path, damage: str) -> None:
    write(path, 1, 2)
    path.write_bytes(path.read_bytes() + DAMAGE[damage] + b"\n")
    write(path, 2, 3)
    assert steps(path) == [1, 2, 3]
    assert DAMAGE[damage] in path.read_bytes()
    file = MetricsFile(path)
    assert file.damaged == [3]
    file.close()
    lines = read(path)
    assert len(lines) == 4  # wandb counts lines, so a damaged one has its number
    assert Alerts(lines).see({"kind": "train", "step": 4}) is None
    assert all(row(line) == {} for line in lines if line["kind"] == "damaged")


def test_zero_bytes_before_a_good_line_do_not_damage_it(path: Path) -> None:
    """As a file system may leave them after the machine has crashed."""
    write(path, 1)
    path.write_bytes(path.read_bytes() + b"\0" * 100 + b'{"kind": "train", "step": 2, "time": 1.0}\n')
    assert steps(path) == [1, 2]
    assert parse(path.read_bytes()).unreadable == 0


def test_a_file_that_cannot_be_opened_is_one_line(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(RunError, match=r"metrics\.jsonl: could not be opened \(Is a directory\)"):
        MetricsFile(path)


def log(folder: Path) -> list[str]:
    """A session of a run, and the sentences that it told."""
    told: list[str] = []
    with Log(folder, Tracking(), told.append) as log:
        log.begin(0, "pretrain")
    return told


def test_damage_is_reported_in_one_event_once(path: Path) -> None:
    write(path, 1)
    assert log(path.parent) == []
    path.write_bytes(b"{garbage\n" + path.read_bytes() + b"more\n")
    said = "metrics.jsonl: 2 damaged lines skipped (number 1, 4)"
    assert log(path.parent) == [said]
    assert said not in log(path.parent)
    assert [line["text"] for line in read(path) if line.get("event") == "damaged"] == [said]
    path.write_bytes(path.read_bytes() + b"\xff\n")
    assert any("3 damaged lines" in text for text in log(path.parent))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"lines": "7"}', "\0", '{"lines": null, "result": 3}'])
def test_a_damaged_record_of_what_wandb_received_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "sent.json").write_text(content)
    found = sent(tmp_path)
    assert (found["lines"], found["result"]) == (0, False)
