"""A file of somebody else can be wrong, but it runs nothing, reads no variable and changes nothing outside its folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from dist_advss.cli import main
from dist_advss.config.compose import compose
from dist_advss.config.inherit import configure
from dist_advss.errors import UserError
from dist_advss.evaluation.others import load_model
from dist_advss.models import build
from dist_advss.runs.folders import walk
from dist_advss.training.run import pretrain
from launch import graph
from launch.graph import Stage

SMALL = ["model.width=4", "data.limit=40", "train.batch_size=20", "schedule.epochs=1", "attack=none", "device=cpu"]
SMALL += ["validation.steps=1", "validation.limit=20", "train.threads=1"]
CODE = """
from pathlib import Path
from typing import Any
from dist_advss.config.objectives import RotationKeys
from dist_advss.objectives import Rotation
Path(__file__).with_suffix(".ran").touch()
class Mine(Rotation):
    def __init__(self, config, backbone):
        super().__init__(RotationKeys(), backbone)
"""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a pre-training on rotation."""
    return pretrain(compose("pretrain", [*SMALL, f"out={tmp_path_factory.mktemp('honest') / 'run'}"]))


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A user's file that leaves a mark, mine.ran, when it runs."""
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    return file


@pytest.fixture
def foreign(honest: Path, code: Path, tmp_path: Path) -> Path:
    """A copy of that run whose config.yaml names code: objective.name = FILE.py:Mine."""
    run = tmp_path / "foreign"
    shutil.copytree(honest, run)
    change(run, lambda config: config.update(objective={"name": f"{code}:Mine"}))
    return run


def change(run: Path, edit) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    edit(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("key", ["sources", "targets"])
def test_a_transfer_runs_no_code_that_only_a_run_folder_names(
    key: str, honest: Path, foreign: Path, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"sources": f"sources=[{honest}]", key: f"{key}=[{foreign}]"}
    assert main(["transfer", *words.values(), f"out={tmp_path / 'out'}"]) == 2
    assert f"add trust=[{code}:Mine]" in last_line(capsys)
    assert not code.with_suffix(".ran").exists()
    assert not (tmp_path / "out").exists()


def test_a_transfer_runs_the_code_that_its_words_name(foreign: Path, code: Path, tmp_path: Path) -> None:
    (tmp_path / "link.py").symlink_to(code)
    for named in (code, tmp_path / "link.py"):
        config = configure("transfer", [f"sources=[{foreign}]", f"trust=[{named}:Mine]", "out=OUT"])
        assert type(load_model("sources", str(foreign), "last", config.trust)[0]).__name__ == "Mine"
    assert code.with_suffix(".ran").exists()


@pytest.mark.parametrize("trust", ["mine.py:Mine", "{code}:Other", "{code}"])
def test_another_file_or_class_does_not_count_as_trusted(trust: str, foreign: Path, code: Path) -> None:
    named = trust.format(code=code)
    with pytest.raises(UserError, match="trust"):
        configure("transfer", [f"sources=[{foreign}]", f"trust=[{named}]", "out=OUT"])
    with pytest.raises(UserError, match="trust"):
        load_model("sources", str(foreign), "last", [named])


def test_a_config_that_changes_after_the_check_is_checked_again(foreign: Path) -> None:
    with pytest.raises(UserError, match="trust"):
        load_model("sources", str(foreign), "last")


def test_no_other_command_runs_the_code_of_a_run_folder(
    foreign: Path, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (foreign / "checkpoints" / "best_ra.pt").unlink()  # else the evaluation would be one of a classifier
    words = [f"init={foreign}", *SMALL, f"out={tmp_path / 'tuned'}"]
    assert main(["finetune", *words]) == 0
    assert main(["evaluate", f"checkpoint={foreign}", f"out={tmp_path / 'ev'}"]) == 2
    ensemble = configure("finetune", ["model=ensemble", f"model.members=[{foreign},{foreign}]", "out=OUT"])
    build(ensemble.model, ensemble.data)
    assert main(["report", str(foreign)]) == 0
    assert main(["plan", "finetune", f"init={foreign}", "gpu=h100"]) == 0
    assert main(["status", str(foreign.parent)]) in (0, 2)
    assert not code.with_suffix(".ran").exists()


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${seed}", "a ${tracking.project} b", "\\${x}", "${", "???x"])
def test_a_value_is_its_text_in_words_and_in_the_config_of_another_run(
    text: str, foreign: Path, tmp_path: Path
) -> None:
    config = compose("pretrain", [*SMALL, f"tracking.notes={text}", f"data.root={text}", "out=OUT"])
    assert (config.tracking.notes, config.data.root) == (text, text)
    change(foreign, lambda config: config["data"].update(root=text))
    change(foreign, lambda config: config.update(objective={"name": "rotation"}))
    assert Path(configure("finetune", [f"init={foreign}", *SMALL, "out=OUT"]).data.root).name == text


def test_a_variable_counts_only_in_the_words_of_the_command(foreign: Path) -> None:
    change(foreign, lambda config: config["data"].update(stage="$HOME/x"))
    change(foreign, lambda config: config.update(objective={"name": "rotation"}))
    words = [f"init={foreign}", *SMALL, "out=OUT"]
    assert configure("finetune", words).data.stage is None
    assert configure("finetune", [*words, "data.stage=$HOME/x"]).data.stage == "$HOME/x"


def test_names_in_a_list_are_as_written() -> None:
    words = ["model=ensemble", "model.members=[8,010,1:30,yes,2020-01-01,1e3]", "data=fashion_mini", "out=OUT"]
    with pytest.raises(UserError, match=r"model\.members=8: no such run folder"):
        configure("finetune", words)
    config = compose("finetune", words)
    assert config.model.members == ["8", "010", "1:30", "yes", "2020-01-01", "1e3"]


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("transfer", ["sources=[]"], "sources=[]: no run to attack"),
        ("transfer", ["sources=[x]", "targets=[]"], "no such run folder"),
        ("pretrain", ["out=" + "a" * 300], "not usable as a folder"),
        ("pretrain", ["out=" + "a/" * 3000], "not usable as a folder"),
        ("pretrain", ["out=a\nb"], "not usable as a folder"),
        ("pretrain", ["out=\udcff"], "not UTF-8"),
        ("pretrain", ["tracking.notes=\x1b[2J"], r"tracking.notes='\x1b[2J': holds a control character"),
        ("finetune", ["init=" + "a" * 300], "no such run folder"),
        ("evaluate", ["checkpoint=" + "a" * 5000 + ".pt"], "no such checkpoint"),
        ("pretrain", ["objective=" + "a" * 300 + ".py:X"], "no such file"),
    ],
)
def test_names_that_cannot_be_are_one_line(
    command: str, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if words[0].startswith("out=") else [f"out={tmp_path / 'out'}"]
    assert main([command, *words, *out]) == 2
    assert said in last_line(capsys)
    assert not list(tmp_path.iterdir())


def test_a_named_file_is_written_where_its_link_leads(honest: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "pages" / "mine.html", tmp_path / "link.html"
    target.parent.mkdir()
    link.symlink_to(target)
    for _ in range(2):  # a link to nothing yet, then to a file
        assert main(["report", str(honest), "-o", str(link)]) == 0
        assert link.is_symlink()
        assert target.read_text().startswith("<!")
    image, link = tmp_path / "sheet.png", tmp_path / "link.png"
    link.symlink_to(image)
    assert main(["data", "show", "data=fashion_mini", "--png", str(link)]) == 0
    assert link.is_symlink()
    assert image.read_bytes().startswith(b"\x89PNG")


def special(kind: str, place: Path) -> Path:
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "device":
        place.symlink_to("/dev/null")
    else:
        place.symlink_to(place)
    return place


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "circle"])
@pytest.mark.parametrize(
    "words", [["report", "{run}", "-o"], ["dashboard", "{run}", "-o"], ["data", "show", "data=fashion_mini", "--png"]]
)
def test_only_a_regular_file_can_be_named(
    words: list[str], kind: str, honest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = special(kind, tmp_path / "place")
    assert main([*(word.format(run=honest) for word in words), str(place)]) == 2
    assert f"{words[-1]} {place}: " in last_line(capsys)
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "config.yaml", "checkpoints/next.pt", "result.json"])
def test_a_run_writes_through_no_link_in_its_folder(name: str, tmp_path: Path) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.write_text("untouched")
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(outside)
    main(["pretrain", *SMALL, f"out={out}"])
    assert outside.read_text() == "untouched"


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "config.yaml", "state.json", "result.json"])
def test_a_pipe_in_a_folder_stops_nothing(name: str, tmp_path: Path) -> None:
    run = tmp_path / "launch" / "run"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("")
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    assert main(["report", str(run.parent)]) in (0, 2)
    assert main(["status", str(run.parent)]) in (0, 2)
    assert main(["pretrain", *SMALL, f"out={run}"]) in (0, 1, 2)


def test_cancel_ends_only_a_process_that_works_in_the_folder(repository: Path, tmp_path: Path) -> None:
    launch = tmp_path / "L"
    shutil.copytree(repository / "tests" / "earlier" / "0.1.0", launch)
    shutil.rmtree(launch / "_slurm")
    (launch / "broken" / "log.txt").touch()
    for log, ends in ((tmp_path / "elsewhere.txt", False), (launch / "broken" / "log.txt", True)):
        with log.open("a") as output:
            process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=output)
        try:
            born = psutil.Process(process.pid).create_time()
            status = {"state": "running", "pid": process.pid, "host": socket.gethostname(), "born": born}
            (launch / "broken" / "state.json").write_text(json.dumps(status))
            assert main(["cancel", str(launch)]) == 0
            if ends:
                assert process.wait(timeout=30) == -15
            assert (process.poll() is not None) == ends
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", ["../../outside", "/outside", "..", "", "a/b"])
def test_a_stage_is_a_folder_inside_its_launch(name: str, tmp_path: Path) -> None:
    launch = tmp_path / "a" / "launch"
    launch.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "config.yaml").write_text("{}")
    stage = {"command": "pretrain", "overrides": [], "needs": []}
    (launch / "experiment.yaml").write_text(yaml.safe_dump({"name": "x", "stages": {name: stage, "good": stage}}))
    assert [place.path for place in walk(launch, [])] == [launch / "good"]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{one}: &{one} [{', '.join([f'*{before}'] * 10)}]\n" for before, one in zip("abcdefgh", "bcdefghi", strict=True)
)
STAGE = "stages: {{{name}: {{command: pretrain, overrides: [objective=rotation]{more}}}}}\n"
AXIS = "[" + ", ".join(map(str, range(40))) + "]"
MATRIX = ", matrix: {" + ", ".join(f"{axis}: {AXIS}" for axis in "abcdef") + "}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 500,000 values"),
        ("[" * 3000, "nested more than 40 levels"),
        ("{a: " * 3000, "nested more than 40 levels"),
        ("- " * 3000, "nested more than 40 levels"),
        ("a: &a [*a]", "a part of itself"),
        (STAGE.format(name='"{a}{b}{c}{d}{e}{f}"', more=MATRIX), "4,096,000,000 combinations"),
        (STAGE.format(name='"a\\n"', more=""), "not usable as a folder name"),
        (STAGE.format(name='"a\\e[2J"', more=""), r"\x1b"),
        (STAGE.format(name="../a", more=""), "not usable as a folder name"),
        (STAGE.format(name='""', more=""), "not usable as a folder name"),
        (STAGE.format(name="a", more=", matrix: {x: [[1], {y: 2}]}"), "give single values"),
        (STAGE.format(name="a", more=", matrix: {x: 3}"), "not a mapping"),
        (STAGE.format(name="a", more=", needs: {x: 3}"), "not a list"),
        ("stages: {a: {command: [pretrain]}}", "not a text"),
        ("stages: {a: {command: pretrain}, a: {command: pretrain}}", "'a' is defined twice"),
        ("stages: !!python/object/apply:os.system [id]", "is a tag"),
        ("name: x\n3: y", "unknown key"),
        ("\0", "not valid YAML"),
        ("stages:\n" + "".join(f"  s{k}: {{command: report}}\n" for k in range(10_100)), "10,100 stages"),
    ],
)
def test_a_hostile_experiment_is_one_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    for end in ("--print", "--dry-run"):
        assert main(["launch", f"experiment={file}", f"out={tmp_path / 'out'}", end]) == 2
        assert said in last_line(capsys)
    file.write_text(text if "stages" not in text else text.replace("stages", "slurm"))
    assert main(["launch", f"cluster={file}", "experiment=quickstart", f"out={tmp_path / 'out'}", "--print"]) == 2
    last_line(capsys)
    assert not (tmp_path / "out").exists()


def test_numbers_of_an_experiment_are_as_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = 'stages: {"s{n}": {command: pretrain, matrix: {n: [010, 1_0, 0x1F]}, overrides: ["tracking.notes={n}"]}}'
    (tmp_path / "x.yaml").write_text(stage)
    assert main(["launch", f"experiment={tmp_path / 'x.yaml'}", "out=OUT", "--print"]) == 0
    assert list(yaml.safe_load(capsys.readouterr().out)["stages"]) == ["s010", "s1_0", "s0x1F"]


def test_a_long_chain_of_stages_is_put_in_order(tmp_path: Path) -> None:
    stages = [Stage(f"s{k}", "pretrain", (), (f"s{k + 1}",) if k < 1999 else ()) for k in range(2000)]
    assert list(graph.build("x", "", stages).stages) == [f"s{k}" for k in reversed(range(2000))]
    circle = [Stage(f"s{a}", "pretrain", (), (f"s{b}",)) for a, b in ((0, 1), (1, 2), (2, 1))]
    with pytest.raises(UserError, match="circle: s1 -> s2 -> s1"):
        graph.build("x", "", circle)


def test_texts_of_files_are_printed_without_control_characters(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = tmp_path / "L"
    shutil.copytree(repository / "tests" / "earlier" / "0.1.0", launch)
    evil = "\x1b]0;title\x07\x1b[2J\u202e"
    (launch / "broken" / "state.json").write_text(json.dumps({"state": "failed", "error": evil}))
    (launch / "broken" / "log.txt").write_text(f"{evil}\na\tb\r\n")
    (launch / f"x{evil}").mkdir()
    (launch / f"x{evil}" / "metrics.jsonl").write_text(
        json.dumps({"kind": "event", "step": 1, "event": "nan", "text": evil, "time": 1.0}) + "\n"
    )
    for words in (
        ["status", str(launch)],
        ["logs", str(launch), "broken"],
        ["status", evil],
        ["logs", str(launch), evil],
    ):
        main(words)
        shown = "".join(capsys.readouterr())
        assert not {c for c in shown if not c.isprintable()} - set("\n\r\t")
        assert "\\x1b" in shown
