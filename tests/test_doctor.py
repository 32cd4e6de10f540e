"""The doctor finds what is here, names what is missing with its fix, and never shows a key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dist_advss import doctor as room
from dist_advss.doctor import Finding, Trial, as_line, data_sets, disk, doctor, extra, ffcv, package, slurm, wandb_login

SECRET = "0123456789abcdef0123456789abcdef01234567"


def test_a_package_is_found_with_its_version_or_missed_with_the_fix() -> None:
    assert package("numpy").verdict == "ok"
    assert package("numpy").found[0].isdigit()
    missing = package("no-such-package")
    assert missing.verdict == "missing"
    assert "make setup" in missing.fix


def test_every_dependency_of_the_package_is_looked_for(repository: Path) -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    declared = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {line.split(">")[0].split("=")[0].strip().lower() for line in declared}
    assert {"torch", *room.REQUIRED} == names


def test_an_extra_that_cannot_be_imported_is_told_with_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_built.py").write_text("raise ImportError('libfoo.so: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = extra(Trial("half_built"), "is fast", "build it")
    assert (broken.verdict, broken.fix) == ("optional", "build it")
    assert "libfoo.so: cannot open" in broken.found
    assert "not installed (is fast)" in extra(Trial("no_such_module"), "is fast", "build it").found
    assert extra(Trial("json"), "", "").verdict == "ok"


def test_missing_ffcv_is_told_with_what_this_system_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "library.so").write_text("not a library")
    (tmp_path / "no_decoder.py").write_text(f"import ctypes\nctypes.CDLL({str(tmp_path / 'library.so')!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    debian = ffcv(Trial("no_decoder"), {"apt-get": "/usr/bin/apt-get"}.get, {})
    assert debian.verdict == "optional"
    assert "invalid ELF header" in debian.found or "file too short" in debian.found
    assert "apt-get install g++ python3-dev pkg-config libopencv-dev libturbojpeg0-dev" in debian.fix
    assert "dnf install" in ffcv(Trial("no_decoder"), {"dnf": "/usr/bin/dnf"}.get, {}).fix
    apt = {"apt-get": "/usr/bin/apt-get"}
    assert "conda install" in ffcv(Trial("no_decoder"), apt.get, {"CONDA_PREFIX": "/opt/conda"}).fix


def test_a_package_that_crashes_the_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import os, signal\nos.write(1, b'loading')\nos.kill(os.getpid(), signal.SIGKILL)"
    (tmp_path / "crashes.py").write_text(program)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "cannot be imported: loading" in extra(Trial("crashes"), "is fast", "build it").found


def fake(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_slurm_is_told_by_its_commands_and_by_whether_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "sbatch, sinfo, squeue not installed" in slurm(lambda name: None).found
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fake(
        tmp_path,
        "sinfo",
        "echo Welcome; echo CLUSTER: main; echo; echo 'gpu* 4 gpu:4'; echo 'cpu 2 (null)'; echo See our site",
    )
    answering = slurm(lambda name: f"/usr/bin/{name}")
    assert (answering.verdict, answering.found) == ("ok", "partitions: gpu (4 nodes, gpu:4), cpu (2 nodes, (null))")
    fake(tmp_path, "sinfo", "echo 'slurm_load_partitions: Unable to contact controller' >&2; exit 1")
    silent = slurm(lambda name: f"/usr/bin/{name}")
    assert silent.verdict == "optional"
    assert "Unable to contact controller" in silent.found


def test_a_wandb_key_is_found_and_not_shown(tmp_path: Path) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {SECRET}\n")
    netrc.chmod(0o600)
    nowhere = tmp_path / "nobody"
    found = [
        wandb_login({"WANDB_API_KEY": SECRET}, nowhere),
        wandb_login({}, tmp_path),
        wandb_login({"NETRC": str(netrc)}, nowhere),
    ]
    assert {finding.verdict for finding in found} == {"ok"}
    assert all(SECRET not in as_line(finding) for finding in found)


def test_a_missing_wandb_key_is_no_obstacle(tmp_path: Path) -> None:
    assert wandb_login({}, tmp_path).verdict == "optional"
    (tmp_path / ".netrc").write_text("machine elsewhere.org\n  login user\n  password x\n")
    assert wandb_login({}, tmp_path).verdict == "optional"
    assert wandb_login({"WANDB_BASE_URL": "https://elsewhere.org"}, tmp_path).verdict == "ok"
    (tmp_path / ".netrc").write_text("not a netrc")
    assert wandb_login({}, tmp_path).verdict == "optional"


def test_little_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk(tmp_path).verdict == "ok"
    monkeypatch.setattr(room, "ROOM", float("inf"))
    assert "another disk" in disk(tmp_path).fix


def test_the_embedded_images_are_found_and_their_damage_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dist_advss.data.sets import fashion

    found = {finding.what: finding for finding in data_sets()}
    assert (found["data fashion_mini"].verdict, found["data fashion_mini"].found) == ("ok", "2,000 test images")
    monkeypatch.setattr(fashion, "MINI", tmp_path / "nothing.npz.xz")
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path)
    found = {finding.what: finding for finding in data_sets()}
    assert found["data fashion_mini"].verdict == "missing"
    assert found["data fashion_mnist"].verdict == "optional"
    assert "dataset-fashion-mnist" in found["data fashion_mnist"].fix


@pytest.mark.parametrize(("verdict", "code"), [("ok", 0), ("optional", 0), ("missing", 1)])
def test_only_what_is_required_changes_the_exit_code(
    verdict: Any, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "examine", lambda: iter([Finding("thing", verdict, "as it is", "do this")]))
    assert doctor() == code
    said = capsys.readouterr().out
    assert "as it is; do this" in said
    assert ("missing: thing" in said) == bool(code)


def test_what_is_known_is_printed_before_a_check_that_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def examine() -> Iterator[Finding]:
        yield Finding("first", "ok", "here")
        assert capsys.readouterr().out == f"ok        first{' ' * (room.WIDTH - 5)}  here\n"
        yield Finding("slow", "optional", "none", "get one")

    monkeypatch.setattr(room, "examine", examine)
    assert doctor() == 0
    assert capsys.readouterr().out.startswith("optional  slow")


def test_the_doctor_examines_this_machine_in_plain_lines() -> None:
    ran = subprocess.run([sys.executable, "-m", "dist_advss", "doctor"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for what in (
        "Python",
        "torch ",
        "torchvision",
        "GPU",
        "ffcv",
        "deepspeed",
        "submitit",
        "Slurm",
        "wandb login",
        "CPU",
        "memory",
    ):
        assert f"  {what}" in ran.stdout
    assert "all requirements are installed" in ran.stdout
