"""`dist-advss sync`: what runs have recorded, sent once from elsewhere; repeated, interrupted, watching."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_advss.config.schema import EvaluateConfig
from dist_advss.errors import RunError, UserError
from dist_advss.files import only_process, write_json
from dist_advss.tracking.sync import run_folders, sync
from tests.tracking.conftest import Recorder
from tests.tracking.standin import StandIn
from tests.tracking.test_wandb_online import shows_all


def test_a_launch_arrives_as_one_run_a_stage_and_is_not_sent_again(
    server: StandIn, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = recorder.folder()
    for name in ("run/p2", "run/p3"):
        recorder.session(range(1, 9), name=name)
    (launch / "experiment.yaml").touch()
    assert sync(launch) == 0
    assert {run.bucket["displayName"] for run in server.runs.values()} == {"p2", "p3"}
    assert {run.bucket["groupName"] for run in server.runs.values()} == {"run"}
    assert all(shows_all(server, recorder, name) for name in ("run/p2", "run/p3"))
    assert capsys.readouterr().out.count("11 new lines, finished") == 2
    asked = len(server.requests)
    assert sync(launch) == 0
    assert len(server.requests) == asked
    assert capsys.readouterr().out == ""


def test_a_run_that_goes_on_is_continued_where_the_server_is(server: StandIn, recorder: Recorder) -> None:
    recorder.session(range(1, 7), end="stop")
    sync(recorder.folder())
    before = list(server.runs[recorder.id()].history)
    recorder.session(range(5, 13))
    sync(recorder.folder())
    assert server.runs[recorder.id()].history[: len(before)] == before
    assert shows_all(server, recorder)


def test_what_has_arrived_is_asked_of_the_server_where_nothing_is_known_here(
    server: StandIn, recorder: Recorder
) -> None:
    recorder.session(range(1, 9))
    sync(recorder.folder())
    history = list(server.runs[recorder.id()].history)
    (recorder.folder() / "wandb" / "sent.json").unlink()
    sync(recorder.folder())
    assert server.runs[recorder.id()].history == history


def test_one_run_that_does_not_go_through_does_not_keep_back_the_others(
    server: StandIn, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run/a", "run/b", "run/c"):
        recorder.session(range(1, 5), name=name)
    (recorder.folder("run/b") / "config.yaml").write_text("tracking: [")
    with pytest.raises(RunError, match=f"1 run not sent to {server.url}"):
        sync(recorder.folder())
    assert {run.bucket["displayName"] for run in server.runs.values()} == {"a", "c"}
    assert "\nb: " in capsys.readouterr().out


def test_watching_goes_on_until_nothing_runs_and_all_has_arrived(server: StandIn, recorder: Recorder) -> None:
    folder = recorder.session(range(1, 5), end=None)
    claim = only_process(folder, ".lock", str)
    claim.__enter__()
    seen = []

    def sleep(seconds: float) -> None:
        seen.append(
            (seconds, len(server.runs[recorder.id()].curve("train/loss")), list(server.runs[recorder.id()].exits))
        )
        if len(seen) == 2:
            recorder.session(range(5, 9))
            claim.__exit__(None, None, None)

    assert sync(folder, watch=30.0, sleep=sleep) == 0
    assert [(seconds, steps) for seconds, steps, _ in seen] == [(30.0, 4), (30.0, 4)]
    assert shows_all(server, recorder)


def test_an_evaluation_shows_images_and_verdicts(server: StandIn, tmp_path: Path) -> None:
    from dist_advss.config.compose import as_yaml

    out = tmp_path / "eval"
    (out / "samples").mkdir(parents=True)
    (out / "config.yaml").write_text(as_yaml(EvaluateConfig(checkpoint="x", out=str(out))))
    images = np.random.default_rng(0).random((3, 8, 8, 3), dtype=np.float32)
    labels: dict[str, Any] = {"label": [0, 1, 1], "clean_prediction": [0, 1, 1], "adversarial_prediction": [0, 0, 1]}
    np.savez(out / "samples" / "samples.npz", clean=images, adversarial=images, classes=["cat", "dog"], **labels)
    np.savez(out / "verdicts.npz", index=[0, 1, 2], **labels)
    per_class = [{"class": name, "n": 1, "ta": 100.0, "ra": 50.0} for name in ("cat", "dog")]
    write_json(out / "result.json", {"kind": "evaluate", "ta": 100.0, "ra": 66.7, "n": 3, "per_class": per_class})
    sync(out)
    ((_, run),) = server.runs.items()
    assert run.bucket["jobType"] == "evaluate"
    assert run.summary["eval/ra"] == 66.7
    assert run.history[-1]["eval/samples"]["captions"] == ["cat: cat → cat", "dog: dog → cat", "dog: dog → dog"]
    assert len([name for name in run.files if name.endswith(".png")]) == 3
    assert run.history[-1]["eval/verdicts"]["nrows"] == 3
    assert [a["committed"] for a in server.artifacts.values()] == [True]


def test_without_runs_or_key_it_is_the_users_mistake(
    tmp_path: Path, recorder: Recorder, dist_advss: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    with pytest.raises(UserError, match="holds no run folder"):
        sync(tmp_path)
    ran = dist_advss("sync", str(recorder.session(range(1, 3))))
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith("dist-advss: sync: no API key for https://")


def test_run_folders_are_found_two_levels_down(recorder: Recorder) -> None:
    for name in ("all/launch1/p2", "all/launch1/p3", "all/launch2/p2"):
        recorder.session((), name=name, end=None)
    found = [str(folder.relative_to(recorder.root)) for folder in run_folders(recorder.folder("all"))]
    assert found == ["all/launch1/p2", "all/launch1/p3", "all/launch2/p2"]
    assert list(run_folders(recorder.folder("all/launch1/p2"))) == [recorder.folder("all/launch1/p2")]
