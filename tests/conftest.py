"""Fixtures of every test: one thread, a private home folder, no network, and fixed hypothesis examples."""

from __future__ import annotations

import os

# torch and its libraries read these at their first import. Child processes inherit them.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import ipaddress
import multiprocessing
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder for the session, so that your logins, caches and settings do not affect the tests."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
        patch.setenv("WANDB_CACHE_DIR", str(home / "wandb"))
        patch.setenv("WANDB_CONFIG_DIR", str(home / "wandb"))
        patch.setenv("WANDB_DATA_DIR", str(home / "wandb"))
        yield home


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Sockets of this process connect to this machine only."""
    connect = socket.socket.connect

    def local_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
            raise OSError(f"tests have no network: {address[0]}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_connect)
        yield


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Every test starts with one torch thread, even if an earlier test has changed it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def hang_up_as_in_a_terminal() -> Iterator[None]:
    """SIGHUP has its usual effect, also if the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top of the clone."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def processes(repository: Path, own_home: Path) -> ForkServerContext:
    """Child processes that start in a moment: preload.py is imported once, in the server that forks them.

    Python starts one such server for all tests of a process, with what the first of them asks for.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preload"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)  # the server looks for modules in its own folder only
        forkserver.ensure_running()
    return context


@pytest.fixture(scope="session")
def own_task(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine.py with the objective `Colorize`, copied from docs/methods.md."""
    blocks = re.findall(r"```python\n(.*?)```", (repository / "docs" / "methods.md").read_text(), re.S)
    (code,) = [block for block in blocks if "(Objective)" in block]
    assert len(code.splitlines()) <= 32
    file = tmp_path_factory.mktemp("own") / "mine.py"
    file.write_text(code)
    return file


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The `key=value` words for a folder of images whose quarters each have one strong colour."""
    root, draw = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for label in ("a", "b"):
        for split, count in (("train", 40), ("test", 4)):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                strong = np.eye(3)[draw.integers(3, size=(2, 2))].repeat(14, 0).repeat(14, 1)
                pixels = 200 * strong + draw.integers(0, 50, strong.shape)
                Image.fromarray(pixels.astype("uint8")).save(root / split / label / f"{i}.png")
    return f"data=folder data.root={root} data.size=28 data.classes=2"


@pytest.fixture
def dist_advss(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`dist_advss("pretrain", "seed=1", cwd=…)` runs the command line in a child process, by default in tmp_path."""

    def run(*words: str, cwd: Path = tmp_path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dist_advss", *words]
        return subprocess.run(command, cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`disk(200)` returns a folder on a file system of 200 KiB. A second call resizes the file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def size(kilobytes: int) -> Path:
        nonlocal mounted
        option = f"{'remount,' if mounted else ''}size={kilobytes}k"
        command = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("NOT TESTED: a full disk; there is no mount command here")
        if done.returncode != 0:
            pytest.skip(f"NOT TESTED: a full disk; root has to mount a small tmpfs ({done.stderr.splitlines()[0]})")
        mounted = True
        return folder

    yield size
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
