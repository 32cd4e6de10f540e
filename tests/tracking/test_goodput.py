"""Goodput: where the wall-clock time of a run went, over sessions that a fake clock kills and resumes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dist_advss.config.compose import compose
from dist_advss.runs.goodput import Goodput, goodput
from dist_advss.runs.metrics import parse
from dist_advss.tracking import Tracker, session
from launch.job.sessions import eligible


class Life:
    """A run on a fake clock. It adds up on its own where the time goes, the kept work only when a checkpoint is written."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, submitted: float | None = None) -> None:
        self.folder, self.monkeypatch, self.submitted = folder, monkeypatch, submitted
        self.clock = 1000.0 if submitted is None else submitted
        self.step, self.logged = 0, 0
        self.expected = dict.fromkeys(("queued", "starting", "training", "validating", "saving", "lost"), 0.0)
        self.unsaved = {"training": 0.0, "validating": 0.0}

    def begin(self, queued: float, starting: float, step: int) -> None:
        """A process starts after `queued` seconds and resumes at a checkpoint's step. What was not saved is lost."""
        self.expected["lost"] += sum(self.unsaved.values())
        self.unsaved = dict.fromkeys(self.unsaved, 0.0)
        self.pass_time("queued", queued)
        described = {"began": self.clock} | ({} if self.submitted is None else {"submitted": self.submitted})
        self.monkeypatch.setattr(session, "describe", lambda command, world_size: described)
        self.pass_time("starting", starting)
        config = compose("pretrain", ["train.batch_size=1", f"out={self.folder}"])
        self.tracker = Tracker(self.folder, config, "pretrain", 10, lambda: self.clock - 7, now=lambda: self.clock)
        self.tracker.start(step)
        self.step = step

    def train(self, seconds: float, steps: int = 1) -> None:
        """Steps with a line of metrics after each."""
        for _ in range(steps):
            self.pass_time("training", seconds)
            self.step += 1
            self.tracker.advance(1)
            self.tracker.meter.add({"loss": 1.0})
            self.tracker.train_line(self.step, 0, 0.1, waited=0.0, memory=1.0)

    def validate(self, seconds: float) -> None:
        with self.tracker.spending("validating"):
            self.pass_time("validating", seconds)

    def save(self, seconds: float) -> None:
        with self.tracker.spending("saving"):
            self.pass_time("saving", seconds)
            self.tracker.saved(self.step)()
        for name, value in self.unsaved.items():
            self.expected[name] += value
        self.unsaved = dict.fromkeys(self.unsaved, 0.0)

    def pass_time(self, name: str, seconds: float) -> None:
        self.clock += seconds
        if name in self.unsaved:
            self.unsaved[name] += seconds
        else:
            self.expected[name] += seconds

    def found(self) -> Goodput:
        account = goodput(parse((self.folder / "metrics.jsonl").read_bytes()))
        assert account is not None
        return account

    def agrees(self) -> None:
        """The parts are those added up here, and their sum is the time since the submission."""
        expected = {name: value + self.unsaved.get(name, 0.0) for name, value in self.expected.items()}
        parts = dataclasses.asdict(self.found())
        assert {name: parts[name] for name in expected} == pytest.approx(expected, abs=0.01)
        assert self.found().wall == pytest.approx(sum(expected.values()), abs=0.01)


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    return Life(tmp_path, monkeypatch, submitted=500.0)


def test_a_run_without_a_kill_spends_all_its_time_on_what_it_did(life: Life) -> None:
    life.begin(queued=40.0, starting=15.0, step=0)
    life.train(2.0, steps=10)
    life.save(3.0)
    life.validate(20.0)
    life.save(1.0)
    life.agrees()
    assert life.found().share == pytest.approx(40 / 99)
    assert str(life.found()) == "goodput 40% of 99 s: queued 40%, starting 15%, training 20%, validating 20%, saving 4%"


def test_killed_twice_the_steps_done_again_are_lost_and_the_sum_is_the_wall_clock(life: Life) -> None:
    life.begin(queued=40.0, starting=15.0, step=0)
    life.train(2.0, steps=4)
    life.save(3.0)
    life.train(2.0, steps=3)  # killed here
    life.begin(queued=100.0, starting=12.0, step=4)
    life.train(4.0, steps=2)  # killed while it repeats steps that have their lines
    life.begin(queued=50.0, starting=11.0, step=4)
    life.train(2.0, steps=4)
    life.validate(5.0)
    life.save(2.0)
    life.agrees()
    assert life.expected["lost"] == 3 * 2.0 + 2 * 4.0
    assert life.found().sessions == 3


def test_a_stop_that_saved_loses_nothing(life: Life) -> None:
    life.begin(queued=0.0, starting=5.0, step=0)
    life.train(2.0, steps=3)
    life.save(1.0)
    life.tracker.event("stop", 3, "stopped")
    life.begin(queued=130.0, starting=5.0, step=3)
    life.train(2.0, steps=1)
    life.save(1.0)
    life.agrees()
    assert life.found().lost == 0


def test_what_a_rollback_drops_is_lost_and_its_process_stays_one_session(life: Life) -> None:
    life.begin(queued=0.0, starting=5.0, step=0)
    life.train(2.0, steps=3)
    life.validate(6.0)
    life.save(1.0)
    life.train(2.0, steps=2)
    life.validate(3.0)
    life.tracker.saved(2)  # what it says of its time is not on file
    life.expected["lost"] += life.unsaved["training"] + life.unsaved["validating"]
    life.unsaved = dict.fromkeys(life.unsaved, 0.0)
    life.tracker.rolled_back(3, "back to step 3")
    life.step = 3
    life.save(1.5)
    life.train(2.0, steps=4)
    life.validate(7.0)
    life.save(1.0)
    found = life.found()
    assert found.sessions == 1
    assert found.wall == pytest.approx(sum(life.expected.values()), abs=0.01)
    # The validation that found the collapse has no line of its own: it counts as training until then, not after it.
    assert found.lost == pytest.approx(life.expected["lost"], abs=0.01)
    assert found.training + found.validating == pytest.approx(
        life.expected["training"] + life.expected["validating"], abs=0.01
    )


def test_work_before_the_first_checkpoint_is_lost_whole(life: Life) -> None:
    life.begin(queued=0.0, starting=5.0, step=0)
    life.train(2.0, steps=3)
    life.begin(queued=10.0, starting=5.0, step=0)
    life.train(2.0, steps=1)
    life.agrees()
    assert life.found().lost == 6.0


def test_a_resume_from_the_checkpoint_before_a_damaged_one_loses_the_work_of_both(life: Life) -> None:
    life.begin(queued=0.0, starting=5.0, step=0)
    life.train(2.0, steps=2)
    life.save(1.0)
    life.train(2.0, steps=2)
    life.save(1.0)
    life.begin(queued=10.0, starting=5.0, step=2)
    found = life.found()
    assert (found.training, found.lost, found.saving) == pytest.approx((4.0, 4.0, 2.0))
    assert found.wall == pytest.approx(life.clock - 500.0)


def test_without_a_launcher_the_time_begins_with_the_first_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(tmp_path, monkeypatch)
    life.begin(queued=0.0, starting=5.0, step=0)
    life.train(2.0)
    life.agrees()
    assert (life.found().queued, life.found().wall) == (0.0, 7.0)


def test_a_record_of_an_earlier_version_has_no_goodput() -> None:
    old = b'{"kind": "session", "step": 0, "time": 5.0}\n{"kind": "train", "step": 1, "loss": 1.0, "time": 9.0}\n'
    assert goodput(parse(old)) is None
    assert goodput(parse(b"")) is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind": "spent", "step": 1, "validating": 1e300, "saving": "x", "time": 7}',
        b'{"kind": "spent", "time": null}',
        b'{"kind": "session", "step": -5, "began": 1, "time": 8.0}',
        b'{"kind": "session", "step": 1, "began": 99, "time": 8.0}',
        b'{"kind": "session", "step": [], "began": {}, "time": "now"}',
    ],
)
def test_damaged_lines_never_raise(line: bytes) -> None:
    good = b'{"kind": "session", "step": 0, "began": 2.0, "time": 5.0}\n'
    for content in (good + line, line + b"\n" + good, line):
        found = goodput(parse(content))
        assert found is None or found.wall >= 0


def test_a_stage_waits_for_slurm_only_after_what_it_needs_has_finished(tmp_path: Path) -> None:
    assert eligible(tmp_path, ["p3_pretrain"], 50.0) == 50.0
    (tmp_path / "p3_pretrain").mkdir()
    result = tmp_path / "p3_pretrain" / "result.json"
    result.write_text("{}")
    assert eligible(tmp_path, ["p3_pretrain"], 50.0) == result.stat().st_mtime
