"""data.loader=auto needs no cache: where none can be made or written, it keeps the images in memory and says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dist_advss.config.schema import Data
from dist_advss.data import located
from dist_advss.data.located import locate
from dist_advss.errors import UserError


def mini(**values: object) -> Data:
    return Data(name="fashion_mini", size=28, channels=1, classes=10, **values)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def ffcv_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(located, "ffcv_missing", lambda: None)


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A cache folder that cannot be used. The tests may run as root, whom permissions do not stop."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    if request.param == "a file in the way":
        (tmp_path / ".cache").write_text("")
        monkeypatch.setenv("HOME", str(tmp_path))
    elif request.param == "a home that cannot be made":
        monkeypatch.setenv("HOME", "/dev/null/home")
    elif request.param == "read-only":
        monkeypatch.setenv("HOME", "/proc/self")
    else:  # as in a container, whose user is in no table

        def unknown() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", unknown)


WITHOUT_CACHE = ["a file in the way", "a home that cannot be made", "read-only", "no home"]


@pytest.mark.parametrize("no_cache", WITHOUT_CACHE, indirect=True)
@pytest.mark.usefixtures("no_cache")
def test_without_a_cache_auto_keeps_the_images_in_memory_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert locate(mini(), "train").data.loader == "memory"
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("data.loader=auto: using the memory loader, because ")
    assert "data.beton=FOLDER" in said


@pytest.mark.parametrize("no_cache", ["a home that cannot be made"], indirect=True)
@pytest.mark.usefixtures("no_cache")
def test_a_loader_that_was_asked_for_is_refused_instead() -> None:
    with pytest.raises(UserError, match=r"give data\.beton=FOLDER"):
        locate(mini(loader="ffcv"), "train")


def test_a_folder_of_betons_that_cannot_be_written_leaves_auto_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert locate(mini(beton=os.path.join(tmp_path, "file", "betons")), "test").data.loader == "memory"
    assert "because" in capsys.readouterr().err
