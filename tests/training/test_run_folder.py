"""Who may write in a run folder, and what is refused before anything is written."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
import yaml

from dist_advss.config.changes import differences
from dist_advss.config.compose import as_yaml
from dist_advss.errors import RunError, UserError
from dist_advss.files import locked, only_process
from dist_advss.runs.metrics import parse
from dist_advss.tracking import Tracker
from dist_advss.training.folder import claim
from dist_advss.training.loop import Trainer
from dist_advss.training.made_from import MadeFrom, survey

if TYPE_CHECKING:
    from tests.training.conftest import Runs


def refusal(runs: Runs, *words: str, **where: Any) -> str:
    with pytest.raises(UserError) as caught:
        runs.train(*words, **where)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def made_from(config: Any) -> MadeFrom:
    return MadeFrom(survey(config.data, "train"), {})


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_folder_holds_its_configuration_metrics_checkpoints_and_result(runs: Runs) -> None:
    out = runs.train()
    assert {path.name for path in out.iterdir()} - {"code.patch"} == {  # which a clone with changes of its own adds
        ".lock",
        "config.yaml",
        "made_from.json",
        "metrics.jsonl",
        "checkpoints",
        "result.json",
    }
    assert {p.name for p in (out / "checkpoints").iterdir()} == {"last.pt", "previous.pt", "best_ra.pt", "best_ta.pt"}
    assert (out / "config.yaml").read_text() == as_yaml(runs.config())
    result = runs.result()
    assert (result["kind"], result["objective"], result["epochs"], result["steps"]) == ("pretrain", "rotation", 2, 8)
    trained = [t for name, t in runs.load()["model"].items() if name.endswith((".weight", ".bias"))]
    assert result["parameters"] == sum(t.numel() for t in trained)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["seed=1"], "seed=1"),
        (["attack.eps=0.2"], "attack.eps=0.2"),
        (["schedule.epochs=3"], "schedule.epochs=3"),
        (["objective=jigsaw"], "objective.name=jigsaw"),
        (["train.batch_size=8"], "train.batch_size=8"),
    ],
)
def test_another_configuration_in_the_same_folder_is_refused_by_its_key(runs: Runs, words: list[str], key: str) -> None:
    out = runs.train("schedule.epochs=1")
    before = snapshot(out)
    if words != ["schedule.epochs=3"]:
        words = [*words, "schedule.epochs=1"]
    text = refusal(runs, *words)
    assert text.startswith(f"{key}: {out} holds a run with ")
    assert "choose another out" in text
    assert snapshot(out) == before


@pytest.mark.parametrize("content", ["", "- a\n", "{: ", "hello", "\x00"])
def test_a_folder_with_somebody_elses_config_is_left_alone(runs: Runs, content: str) -> None:
    runs.folder("run").mkdir()
    (runs.folder("run") / "config.yaml").write_text(content)
    before = snapshot(runs.root)
    assert refusal(runs).startswith(f"out={runs.folder('run')}: its config.yaml was not written by dist-advss")
    assert snapshot(runs.root) == before


@pytest.mark.parametrize(
    ("words", "command", "said"),
    [
        (["data.limit=null", "data.validation=0.5", "train.batch_size=5001"], "pretrain", "5000"),
        (["objective=selfie", "objective.heads=7"], "pretrain", "objective.heads=7"),
        (["data.labels=20", "train.batch_size=16", "init=NOWHERE"], "finetune", "NOWHERE"),
    ],
)
def test_what_only_the_data_the_model_or_the_checkpoint_reveal_is_refused_before_anything_is_written(
    runs: Runs, words: list[str], command: str, said: str
) -> None:
    assert said in refusal(runs, *words, command=command)
    assert list(runs.root.iterdir()) == []


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert refusal(runs, "device=cuda").startswith("device=cuda: ")
    assert list(runs.root.iterdir()) == []


def test_a_place_that_cannot_be_a_folder_is_named(runs: Runs) -> None:
    runs.folder("file").write_text("in the way")
    assert refusal(runs, name="file").startswith(f"out={runs.folder('file')}: cannot be written")
    assert refusal(runs, name="file/below").startswith(f"out={runs.folder('file')}/below: cannot be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else_is_named(runs: Runs) -> None:
    runs.folder("run").mkdir(mode=0o500)
    assert refusal(runs).startswith(f"out={runs.folder('run')}: cannot be written")


def test_a_claim_is_for_one_process_at_a_time_and_ends_with_it(runs: Runs) -> None:
    config, out = runs.config(), runs.folder("run")
    refused = pytest.raises(UserError, match="another process is running in this folder")
    with claim(out, config, made_from(config)), refused, claim(out, config, made_from(config)):
        raise AssertionError("claimed twice")
    with claim(out, config, made_from(config)):
        assert yaml.safe_load((out / "config.yaml").read_text())["seed"] == 0


def test_a_configuration_written_while_one_waited_for_the_folder_is_respected(runs: Runs) -> None:
    with claim(runs.folder("run"), (config := runs.config("seed=1")), made_from(config)):
        pass
    with (
        pytest.raises(UserError, match=r"seed=2: .* holds a run with seed=1"),
        claim(runs.folder("run"), (config := runs.config("seed=2")), made_from(config)),
    ):
        raise AssertionError("claimed with another configuration")


def test_what_a_crash_left_half_written_is_cleared_away_and_nothing_of_anybody_else(runs: Runs) -> None:
    left = [".config.yaml.7.tmp", "checkpoints/.next.pt.123.tmp"]
    foreign = [".notes.tmp", "notes.tmp", "other/.editor.tmp", "other/checkpoints/.next.pt.123.tmp", ".config.yaml.7"]
    for name in left + foreign:
        path = runs.folder("run") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    runs.train()
    assert not any((runs.folder("run") / name).exists() for name in left)
    assert all((runs.folder("run") / name).read_text() == "half" for name in foreign)


def test_differences_name_every_leaf_that_changed() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "gone": 3}
    new = {"a": 1, "b": {"c": [1, 3], "d": {"e": 4}}, "new": 5}
    found = [("b.c", [1, 2], [1, 3]), ("b.d", None, {"e": 4}), ("gone", 3, None), ("new", None, 5)]
    assert list(differences(old, new)) == found
    assert list(differences(old, old)) == []


def test_a_file_system_without_locks_is_told_apart_from_a_folder_in_use(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(UserError, match="cannot be locked \\(No locks available\\)"),
        claim(runs.folder("run"), (config := runs.config()), made_from(config)),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("checkpoints", "checkpoints there is no folder that can be written"),
        ("result.json", "result.json is a folder there"),
        ("metrics.jsonl", "metrics.jsonl is a folder there"),
        ("code.patch", "code.patch is a folder there"),
    ],
)
def test_what_could_not_be_written_later_is_refused_before_the_first_step(runs: Runs, name: str, said: str) -> None:
    place = runs.folder("run") / name
    if name == "checkpoints":
        place.parent.mkdir()
        place.write_text("in the way")
    else:
        place.mkdir(parents=True)
    assert said in refusal(runs)


def test_a_folder_that_is_removed_under_a_run_ends_it_in_one_line(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(*arguments: Any) -> None:
        shutil.rmtree(runs.folder("run"))

    monkeypatch.setattr("dist_advss.tracking.Tracker.validation_line", remove)
    with pytest.raises(RunError, match="was removed while the run was writing to it"):
        runs.train()
    assert not runs.folder("run").exists()


def test_checkpoints_that_are_removed_under_a_run_are_written_again(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, removed = Tracker.validation_line, False

    def remove(self: Tracker, *arguments: Any) -> None:
        nonlocal removed
        if not removed:
            shutil.rmtree(runs.folder("run") / "checkpoints")
        removed = True
        line(self, *arguments)

    monkeypatch.setattr(Tracker, "validation_line", remove)
    runs.train()
    runs.train(name="whole")
    assert runs.outcome("run") == runs.outcome("whole")


def test_locks_of_a_disk_that_has_none_can_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to a folder is the same folder; another folder has another lock."""
    real = fcntl.flock
    folder, link, other = tmp_path / "run", tmp_path / "link", tmp_path / "other"
    link.symlink_to(folder)

    def refuse(file: IO[str], operation: int) -> None:
        if str(folder) in file.name:
            raise OSError(errno.ENOLCK, "No locks available")
        real(file, operation)

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"No locks available.*DIST_ADVSS_LOCKS"), only_process(folder, ".lock", str):
        pass
    monkeypatch.setenv("DIST_ADVSS_LOCKS", str(tmp_path / "locks"))
    assert not locked(folder / ".lock")
    with only_process(folder, ".lock", str) as lock:
        lock.write("process 7")
        lock.flush()
        assert locked(folder / ".lock") and locked(link / ".lock") and not locked(other / ".lock")
        with pytest.raises(UserError, match="process 7"), only_process(link, ".lock", str):
            pass
        with only_process(other, ".lock", str), only_process(folder, ".launch.lock", str):
            pass
    assert not locked(folder / ".lock")


def test_a_run_whose_checkpoints_were_removed_records_the_training_that_follows(runs: Runs) -> None:
    def lines() -> tuple[list[float], list[float]]:
        found = parse((runs.folder("run") / "metrics.jsonl").read_bytes())
        return found.train.column("loss").tolist(), found.validation.column("ra").tolist()

    runs.train("train.log_every=1")
    first, folder = lines(), runs.folder("run")
    runs.train("train.log_every=2", "train.accumulate=4", name="other")
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    before = (folder / "metrics.jsonl").read_bytes()
    runs.train("train.log_every=1", "train.accumulate=4")
    written = (folder / "metrics.jsonl").read_bytes()
    assert written.startswith(before), "nothing is lost"
    again = lines()
    assert len(again[0]) == len(first[0]) == 8 and again[0] != first[0]
    assert [line["loss"] for line in runs.metrics("run")[8:]] == again[0]
    assert again[1] == [line["ra"] for line in runs.metrics("other", "validation")]
    events = [line["event"] for line in runs.metrics("run", "event")]
    assert events.count("restart") == 1 and events.count("start") == 2


def test_a_training_that_dies_before_its_first_checkpoint_repeats_its_numbers_and_no_line(runs: Runs) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "_end_epoch", lambda *_: (_ for _ in ()).throw(SystemExit("power cut")))
        runs.train("train.log_every=1")
    begun = runs.metrics("run")
    assert len(begun) == 4
    runs.train("train.log_every=1")
    assert runs.metrics("run")[:4] == begun and len(runs.metrics("run")) == 8
    assert "restart" not in [line["event"] for line in runs.metrics("run", "event")]
