"""A newcomer adds one entry to one table, and the files behind it; every room then knows the name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ENTRIES = {
    "sets.py": ("SETS: dict[str, Set] = {", '"toys": Set("toy:files", "toy:read", size=28, channels=1, classes=10, images=9),'),
    "backbones.py": ("BACKBONES: dict[str, Network] = {", '"toynet": Network("dist_advss.toy:network", free_width=True),'),
    "engines.py": ("ENGINES: dict[str, EngineKind] = {", '"toyengine": EngineKind("dist_advss.toy:Engine", shards=SHARDED),'),
    "objectives.py": ("OBJECTIVES: dict[str, type[Objective]] = {", '"toytask": ToyTask, "toyloss": ToyLoss,'),
    "commands.py": (
        "COMMANDS: dict[str, Command] = {",
        '"toycheck": Command("checks a toy", "checkpoint=RUN out=RUN2", "dist_advss.toy_keys:ToyConfig", "dist_advss.toy:run",'
        ' source="checkpoint", classifiers=True),',
    ),
}  # fmt: skip
KEYS = """
@dataclass
class ToyTask(Objective):
    build: ClassVar[str] = "dist_advss.toy:Task"
    name: str = key("toytask", "what to learn", choices=("toytask",))


@dataclass
class ToyLoss(Objective):
    build: ClassVar[str] = "dist_advss.toy:Loss"
    labelled: ClassVar[bool] = True
    name: str = key("toyloss", "what to learn", choices=("toyloss",))


"""
CONFIG = """
from dataclasses import dataclass
from .config.keys import REQUIRED, group, key
from .config.schema import Data, Model


@dataclass
class ToyConfig:
    checkpoint: str | None = key(None, "the run that is checked", per_run=True)
    out: str = key(REQUIRED, "folder of the result", where=True, per_run=True)
    toys: int = key(3, "how many toys")
    data: Data = group(Data, inherited=True)
    model: Model = group(Model, inherited=True)
"""
YAML = {
    "data/toys": "name: toys\nsize: 28\nchannels: 1\nclasses: 10\n",
    "model/toynet": "name: toynet\n",
    "engine/toyengine": "name: toyengine\n",
    "objective/toytask": "name: toytask\n",
    "objective/toyloss": "name: toyloss\n",
    "toycheck": "defaults:\n  - data: fashion_mini\n  - model: preact_small\n  - _self_\n",
}


@pytest.fixture(scope="module")
def clone(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with one entry more in each table."""
    top = tmp_path_factory.mktemp("clone")
    for part in ("dist_advss", "launch", "configs"):
        shutil.copytree(repository / part, top / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file, (opening, entry) in ENTRIES.items():
        path = top / "dist_advss" / "config" / file
        text = path.read_text()
        assert text.count(opening) == 1
        above = KEYS if file == "objectives.py" else ""
        path.write_text(text.replace(opening, f"{above}{opening}\n    {entry}"))
    (top / "dist_advss" / "toy_keys.py").write_text(CONFIG)
    for name, text in YAML.items():
        (top / "configs" / f"{name}.yaml").write_text(text)
    return top


def run(clone: Path, *words: str) -> str:
    """What the copy's front door prints."""
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    ran = subprocess.run(
        [sys.executable, "-m", "dist_advss", *words],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout + ran.stderr


def test_help_shows_every_addition(clone: Path) -> None:
    assert "toycheck" in run(clone, "--help")
    pretrain, finetune = run(clone, "pretrain", "--help"), run(clone, "finetune", "--help")
    for name in ("toys", "toynet", "toyengine"):
        assert name in pretrain and name in finetune
    assert "toytask" in pretrain and "toytask" not in finetune
    assert "toyloss" in finetune and "toyloss" not in pretrain
    assert "how many toys" in run(clone, "toycheck", "--help")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("pretrain data=toys out=x", "data.root: missing; give data.root=FOLDER, the folder that contains toys"),
        ("pretrain data=toys data.root=. data.size=32 out=x", "toys has 28"),
        ("pretrain model=toynet model.width=8 out=x --print", "width: 8"),
        ("pretrain engine=toyengine objective=joint out=x", "engine=toyengine: objective=joint differentiates"),
        ("finetune objective=toytask out=x", "a pretext task; finetune takes"),
        ("pretrain objective=toyloss out=x", "learns from labels"),
        ("pretrain objective=toytask out=x --print", "name: toytask"),
    ],
)
def test_checks_know_every_addition(words: str, expected: str, clone: Path) -> None:
    assert expected in run(clone, *words.split())


def test_launch_report_and_wandb_know_every_addition(clone: Path) -> None:
    program = """
from dataclasses import asdict
from dist_advss.config.commands import command_of, of_one_model
from dist_advss.config.compose import compose
from launch.graph import STAGES
from launch.profile import choose
assert "toycheck" in STAGES
assert choose("slurm", ["cluster.toycheck.minutes=9"]).of("toycheck").minutes == 9
assert command_of(asdict(compose("toycheck", ["out=x"]))) == "toycheck" and of_one_model("toycheck")
assert command_of(asdict(compose("finetune", ["objective=toyloss", "out=x"]))) == "finetune"
assert command_of(asdict(compose("pretrain", ["objective=toytask", "out=x"]))) == "pretrain"
from dist_advss.tracking.rows import result_row
assert result_row({"kind": "toycheck", "score": 3.0}) == {"result/score": 3.0}
print("all known")
"""
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.stdout == "all known\n", ran.stderr
