"""Profiles: what they accept, and what reaches the shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_advss.errors import UserError
from launch.graph import Stage
from launch.profile import Slurm, choose
from launch.queue import batches, script


def text(settings: Slurm, directory: Path = Path("/work space/out"), *stages: Stage) -> str:
    planned = batches.plan(stages or [Stage("a", "pretrain", (), ())], settings, {})
    return script.text(directory, planned[0], directory / "code", {})


def flags(shown: str) -> dict[str, str]:
    """The #SBATCH lines of a script."""
    lines = [line.removeprefix("#SBATCH --") for line in shown.splitlines() if line.startswith("#SBATCH")]
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}


def test_a_profile_becomes_the_flags_of_a_job() -> None:
    settings = Slurm(
        partition="gpu", account="lab", qos="high", constraint="a100&nvlink", nodes=2, gpus_per_node=4, gpu_type="a100",
        cpus_per_task=6, mem_gb=1.5, minutes=90, signal_seconds=150, exclude="n[1-3],n9", mail="me@x.org",
    )  # fmt: skip
    found = flags(text(settings))
    expected = {
        "partition": "gpu", "account": "lab", "qos": "high", "constraint": "a100&nvlink", "nodes": "2",
        "gpus-per-node": "a100:4", "ntasks-per-node": "4", "cpus-per-task": "6", "mem": "1536M", "time": "90",
        "signal": "USR2@150", "exclude": "n[1-3],n9", "mail-user": "me@x.org", "requeue": "",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_an_array_says_which_of_its_members_there_are() -> None:
    stages = [Stage(f"p{n}", "pretrain", (), ()) for n in range(3)]
    assert flags(text(Slurm(at_a_time=2), Path("/out"), *stages))["array"] == "0-2%2"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("partition", "gpu; reboot"),
        ("partition", "gpu\n#SBATCH --uid=root"),
        ("account", "$(reboot)"),
        ("qos", "`reboot`"),
        ("constraint", "a100' --wrap='reboot"),
        ("exclude", "n1 n2"),
        ("exclude", "n1;reboot"),
        ("mail", "me@x.org;reboot"),
        ("modules", ["cuda; reboot"]),
        ("modules", ["--help"]),
        ("source", "x.sh; reboot"),
        ("container", "image reboot"),
        ("mounts", ["/a:/b;reboot"]),
        ("environment", ["A=1\nreboot"]),
        ("environment", ["A B=1"]),
        ("environment", ["A;reboot=1"]),
    ],
)
def test_a_value_with_shell_characters_is_refused_in_one_line(key: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"name": "slurm", key: value}))
    with pytest.raises(UserError, match=rf"cluster\.{key}=.*not fit for a job script") as caught:
        choose(str(file))
    assert "\n" not in str(caught.value)


def test_what_may_hold_any_character_reaches_the_shell_as_it_is(tmp_path: Path) -> None:
    nasty = "a b'c\"d$HOME`id`;e&f|g*\\"
    shown = text(Slurm(environment=[f"NASTY={nasty}"]), tmp_path / "with 'quotes'")
    lines = [line for line in shown.splitlines() if line.startswith("export NASTY")]
    done = subprocess.run(["bash", "-c", f'{lines[0]}\nprintf %s "$NASTY"'], capture_output=True, text=True, check=True)
    assert done.stdout == nasty
    assert subprocess.run(["bash", "-n"], input=shown, text=True, check=False).returncode == 0


def test_set_up_stands_in_front_of_the_run_and_the_file_to_source_in_front_of_the_modules(tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_text("")
    settings = Slurm(
        modules=["cuda/12.4"],
        source=str(tmp_path / "setup.sh"),
        container="img#x:1",
        mounts=["/a:/b"],
        tasks_per_node=2,
    )
    shown = text(settings)
    parts = ("source ", "module load cuda/12.4", "/launch/job' port", "export PYTHONPATH", "srun ", "/launch/job' end")
    order = [shown.index(part) for part in parts]
    assert order == sorted(order)
    assert "--container-image=img#x:1" in shown and "--container-mounts=/a:/b" in shown
    assert " port " not in text(Slurm())  # a single process needs none


@pytest.mark.parametrize(
    ("file", "failed"),
    [
        ("module() { true; }", None),
        ("module() { [ $2 = good/1 ]; }", "module load bad/2"),
        ("module() { true; }; false", "source FILE"),
        ("true", "module load good/1"),  # no such command
        # an old Tcl module returns 0 whatever happens, and a name may be loaded already or stand for a version
        (
            "LOADEDMODULES=; module() { [ $2 = bad/2 ] && echo ERROR:105 >&2 || LOADEDMODULES=$2; true; }",
            "module load bad/2",
        ),
        ("LOADEDMODULES=; module() { LOADEDMODULES+=:$2.7; }", None),
        ("LOADEDMODULES=good/1:bad/2.3; module() { true; }", None),
        ("LOADEDMODULES=good/1:bad/20; module() { true; }", "module load bad/2"),
    ],
)
def test_a_set_up_that_fails_runs_nothing_and_is_recorded(file: str, failed: str | None, tmp_path: Path) -> None:
    source = tmp_path / "setup.sh"
    source.write_text(file + "\n")
    shown = text(Slurm(modules=["good/1", "bad/2"], source=str(source)), tmp_path / "out")
    recorder = tmp_path / "python"
    recorder.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >> {tmp_path}/called\n')
    recorder.chmod(0o755)
    shown = shown.replace(sys.executable, str(recorder)).replace("srun ", f"echo srun >> {tmp_path}/called; true ")
    done = subprocess.run(["bash"], input=shown, capture_output=True, text=True, check=False)
    called = (tmp_path / "called").read_text().splitlines()
    if failed is None:
        assert "srun" in called and "end" in called and "set-up" not in called
    else:
        assert done.returncode == 1
        assert called[2:3] == ["set-up"] and called[-1] == failed.replace("FILE", str(source))
        assert "srun" not in called


@pytest.mark.parametrize("name", ["a100", "apptainer", "cpu", "h100"])
def test_the_examples_are_profiles(
    name: str, repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = choose(str(repository / "slurm" / "profiles" / f"{name}.yaml"))
    assert isinstance(settings, Slurm)
    assert subprocess.run(["bash", "-n"], input=text(settings), text=True, check=False).returncode == 0


@pytest.mark.parametrize("name", ["pretrain", "evaluate"])
def test_the_plain_scripts_are_bash(name: str, repository: Path) -> None:
    file = repository / "slurm" / f"{name}.sbatch"
    assert subprocess.run(["bash", "-n", str(file)], check=False).returncode == 0


def test_words_set_what_a_command_takes() -> None:
    settings = choose("slurm", ["cluster.pretrain.nodes=3", "cluster.modules=[a,b]", "cluster.partition=x"])
    assert isinstance(settings, Slurm)
    assert (settings.by_command["pretrain"].nodes, settings.modules, settings.partition) == (3, ["a", "b"], "x")
    with pytest.raises(UserError, match=r"cluster\.pretrain\.node: no such key"):
        choose("slurm", ["cluster.pretrain.node=3"])
    with pytest.raises(
        UserError, match=r"cluster\.pretrain=3: a group of keys, not a value; set cluster\.pretrain\.minutes=…"
    ):
        choose("slurm", ["cluster.pretrain=3"])
