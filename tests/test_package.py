"""The wheel carries all that the program needs outside its clone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip builds it from this clone."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(repository)], check=True, cwd=folder)
    (built,) = folder.glob("dist_advss-*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_config_of_the_clone_is_in_the_wheel(names: set[str], repository: Path) -> None:
    configs = {
        f"dist_advss/configs/{p.relative_to(repository / 'configs')}" for p in repository.glob("configs/**/*.yaml")
    }
    assert len(configs) > 30
    assert configs <= names


@pytest.mark.parametrize("package", ["dist_advss", "launch"])
def test_every_module_and_its_data_are_in_the_wheel(names: set[str], repository: Path, package: str) -> None:
    tracked = {
        str(p.relative_to(repository))
        for p in repository.glob(f"{package}/**/*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert tracked
    assert tracked <= names


def test_the_wheel_holds_nothing_else(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} <= {"dist_advss", "launch", "slurm"}


def test_the_wheel_names_its_command_and_its_licence(wheel: Path, names: set[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entry = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert "dist-advss = dist_advss.cli:main" in entry
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_composes_a_config_and_loads_its_images_far_from_the_clone(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = """
import dist_advss, launch
from dist_advss.config.compose import compose, config_dir
from dist_advss.data import load_data
config = compose("pretrain", ["objective=jigsaw", "attack.eps=8/255", "out=RUN"])
images = load_data(config.data, "test", labelled=True)
print(dist_advss.__file__, launch.__file__, config_dir(), config.objective.name, len(images.labels), sep="\\n")
"""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    *places, objective, images = ran.stdout.split("\n")[:5]
    assert all(place.startswith(str(installed)) for place in places)
    assert objective == "jigsaw"
    assert int(images) == 2000
    assert not list(elsewhere.iterdir())
