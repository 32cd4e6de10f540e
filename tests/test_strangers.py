"""A file of somebody else can be wrong, but it runs nothing, reads no variable and changes nothing outside its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from dist_advss.cli import main
from dist_advss.config.compose import compose
from dist_advss.config.inherit import configure
from dist_advss.errors import UserError
from dist_advss.evaluation.transfer import load_model
from dist_advss.models import build
from dist_advss.training.run import pretrain

SMALL = ["model.width=4", "data.limit=40", "train.batch_size=20", "schedule.epochs=1", "attack=none", "device=cpu"]
SMALL += ["validation.steps=1", "validation.limit=20", "train.threads=1"]
CODE = """
from pathlib import Path
from dist_advss.objectives import Rotation
Path(__file__).with_suffix(".ran").touch()
class Mine(Rotation):
    pass
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
    change(run, lambda config: config["objective"].update(name=f"{code}:Mine"))
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
    change(foreign, lambda config: config["objective"].update(name="rotation"))
    assert configure("finetune", [f"init={foreign}", *SMALL, "out=OUT"]).data.root == text


def test_names_in_a_list_are_as_written() -> None:
    words = ["model=ensemble", "model.members=[8,010,1:30,yes,2020-01-01,1e3,~/x]", "data=fashion_mini", "out=OUT"]
    with pytest.raises(UserError, match=r"model\.members=8: no such run folder"):
        configure("finetune", words)
    config = compose("finetune", words)
    assert config.model.members == ["8", "010", "1:30", "yes", "2020-01-01", "1e3", "~/x"]


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
