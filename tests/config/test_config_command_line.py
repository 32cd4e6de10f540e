"""At the front door a mistake costs one line on stderr and exit code 2, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from dist_advss.cli import main
from dist_advss.config.compose import as_yaml, compose

Run = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize(
    "line",
    [
        "pretrain out=RUN objective=rotatoin",
        "pretrain out=RUN attack.eps=8",
        "finetune out=RUN init=NOWHERE",
        "evaluate out=RUN checkpoint=NOWHERE",
        "pretrian out=RUN",
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(line: str, dist_advss: Run, tmp_path: Path) -> None:
    ran = dist_advss(*line.split())
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert ran.stderr.startswith("dist-advss: ")
    assert line.split()[-1].split("=")[-1] in ran.stderr or "pretrain" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_that_only_the_images_reveal_writes_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "out=RUN", "train.batch_size=100000", "data.loader=memory"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "train.batch_size=100000: more than the 9000 training images" in said.err
    assert list(tmp_path.iterdir()) == []


def test_print_shows_the_whole_configuration_and_does_nothing(dist_advss: Run, tmp_path: Path) -> None:
    words = ["objective=jigsaw", "attack.eps=8/255", "out=RUN"]
    ran = dist_advss("pretrain", *words, "--print")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == as_yaml(compose("pretrain", words))
    assert list(tmp_path.iterdir()) == []
