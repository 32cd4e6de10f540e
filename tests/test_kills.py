"""A hundred SIGKILLs over all commands: whatever a kill interrupts, the same command then leaves the same products."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dist_advss.tracking import read
from dist_advss.training import checkpoint
from tests import kills
from tests.tracking.conftest import RETRY
from tests.tracking.standin import KEY, StandIn

pytestmark = pytest.mark.slow

# fmt: off
TRAINING = ["attack=fgsm", "attack.eps=0.02", "schedule.epochs=2", "train.batch_size=16", "train.threads=1", "train.log_every=1",
            "train.checkpoint_every=1", "validation.steps=1", "validation.limit=4", "device=cpu"]
SMALL = ["model=preact_small", "model.width=4"]
JUDGING = ["attack=fgsm", "attack.eps=0.02", "batch_size=2", "threads=1", "device=cpu"]
OBJECTIVES = {
    "rotation": ["objective=rotation"],
    "selfie": ["objective=selfie", "objective.layers=1", "objective.heads=2", "objective.ffn=16"],
    "joint": ["objective=joint", "objective.selfie.layers=1", "objective.selfie.heads=2", "objective.selfie.ffn=16"],
}
EXPERIMENT = """
name: tiny
common:
  pretrain: [attack=fgsm, attack.eps=0.02, schedule.epochs=1, train.batch_size=16, validation.steps=1, validation.limit=4]
  finetune: [attack=fgsm, attack.eps=0.02, schedule.epochs=1, train.batch_size=16, validation.steps=1, validation.limit=4]
stages:
  p3_pretrain: {command: pretrain, overrides: [objective=rotation, model=preact_small, model.width=4]}
  p3_finetune: {command: finetune, overrides: [init=@p3_pretrain]}
  p3_evaluate: {command: evaluate, overrides: [checkpoint=@p3_finetune, attack=fgsm, attack.eps=0.02]}
  report: {command: report}
"""
ONE_STAGE = """
name: one
stages:
  p1_finetune:
    command: finetune
    overrides: [attack=fgsm, attack.eps=0.02, model=preact_small, model.width=4, schedule.epochs=1, train.batch_size=16,
                validation.steps=1, validation.limit=4]
  report: {command: report}
"""
# fmt: on
NOT_COMPARED = {"time", "seconds", "images_per_s", "data_wait", "memory", "started", "ended", "pid", "born", "host"}
NOT_COMPARED |= {"_runtime", "_timestamp", "goodput"}  # the first two of wandb's rows


# how often each command is killed; pretrain so often for each objective
KILLS = {
    "pretrain": 8,
    "finetune": 10,
    "evaluate": 16,
    "transfer": 14,
    "data": 18,
    "report": 4,
    "launch inline": 6,
    "launch local": 4,
    "sync": 4,
}


class Killer:
    """Runs commands in child processes, and kills them at events drawn at random. `kills` is the number of processes killed."""

    def __init__(self, processes: ForkServerContext, root: Path, images: list[str]) -> None:
        self.processes, self.root, self.images = processes, root, images
        self.log = root / "log.txt"
        self.environment: dict[str, str] = {}
        self.draw = random.Random(0)
        self.kills = 0

    def run(self, words: list[str], folder: Path, kill_at: int | None = None) -> int | None:
        """The number of events of a command that ended; None if it was killed."""
        arguments = (words, str(folder), kill_at, str(self.log), self.environment)
        process = self.processes.Process(target=kills.run, args=arguments)
        process.start()
        process.join(120)
        printed = self.log.read_text()
        if process.exitcode == -signal.SIGKILL:
            self.kills += 1
            return None
        assert process.exitcode == 0, f"{' '.join(words)}: {printed}"
        return int(printed.splitlines()[-1])

    def check(
        self,
        words: list[str],
        folder: Path,
        times: int,
        reset: Callable[[], Any] = lambda: None,
        products: Callable[[Path], Any] | None = None,
    ) -> None:
        """Kills the command `times` times, and compares what it has left each time when it ended with an undisturbed run.

        Each run resumes what was killed before. `reset` is called, and `folder` is removed, before a command starts anew.
        """
        products = products or files_of
        reset()
        events = self.run(words, folder)
        assert events
        expected = products(folder)
        left, before = times, self.kills
        while left:
            shutil.rmtree(folder)
            reset()
            moments: list[int] = []
            while True:
                moments.append(self.draw.randrange(events))
                ended = self.run(words, folder, moments[-1] if left else None)
                if ended is not None:
                    break
                left -= 1
            found = products(folder)
            assert set(found) == set(expected), f"killed at events {moments}"
            for name in expected:
                assert found[name] == expected[name], f"{name}, killed at events {moments}"
        assert self.kills - before == times


def files_of(folder: Path) -> dict[str, Any]:
    """The files below a folder by name, and what in them does not depend on the time."""
    return {str(path.relative_to(folder)): content(path) for path in folder.rglob("*") if path.is_file()}


def content(path: Path) -> Any:
    if path.suffix == ".pt":
        return plain(checkpoint.load(path))
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return {name: (archive[name].dtype, archive[name].shape, archive[name].tobytes()) for name in archive}
    if path.name == "metrics.jsonl":
        return [plain(line) for line in read(path) if line["kind"] in ("train", "validation")]
    if path.suffix == ".json":
        return plain(json.loads(path.read_text()))
    if path.suffix == ".html":
        return path.read_text().rstrip().endswith("</html>")
    return path.read_bytes() if path.suffix in (".beton", ".yaml") else None


def plain(node: Any) -> Any:
    """The same tree with each tensor as its type, shape and bytes, so that == compares bit for bit."""
    if isinstance(node, torch.Tensor):
        return str(node.dtype), tuple(node.shape), node.contiguous().numpy().tobytes()
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items() if key not in NOT_COMPARED}
    return [plain(value) for value in node] if isinstance(node, list) else node


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory, processes: ForkServerContext) -> Killer:
    """Data are noise: two classes, each of 20 training and 4 test images."""
    root, draw = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for label in ("a", "b"):
        for part, count in (("train", 20), ("test", 4)):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (28, 28, 3)).astype("uint8")
                Image.fromarray(pixels).save(root / part / label / f"{i}.png")
    images = ["data=folder", f"data.root={root}", "data.size=28", "data.classes=2"]
    return Killer(processes, tmp_path_factory.mktemp("kills"), images)


@pytest.fixture(scope="module")
def runs(killer: Killer) -> Path:
    """The folder of two finished runs: `pretrained`, and `finetuned` from it."""
    folder = killer.root / "runs"
    words = [*killer.images, "data.loader=memory", *SMALL, *OBJECTIVES["rotation"], *TRAINING]
    killer.run(["pretrain", *words, f"out={folder / 'pretrained'}"], folder)
    killer.run(["finetune", f"init={folder / 'pretrained'}", *TRAINING, f"out={folder / 'finetuned'}"], folder)
    return folder


@pytest.fixture
def out(killer: Killer) -> Iterator[Path]:
    folder = killer.root / "out"
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pretrain(killer: Killer, out: Path, objective: str) -> None:
    words = [*killer.images, "data.loader=memory", *SMALL, *OBJECTIVES[objective], *TRAINING]
    killer.check(["pretrain", *words, f"out={out}"], out, KILLS["pretrain"])


def test_finetune(killer: Killer, runs: Path, out: Path) -> None:
    killer.check(["finetune", f"init={runs / 'pretrained'}", *TRAINING, f"out={out}"], out, KILLS["finetune"])


def test_evaluate(killer: Killer, runs: Path, out: Path) -> None:
    killer.check(["evaluate", f"checkpoint={runs / 'finetuned'}", *JUDGING, f"out={out}"], out, KILLS["evaluate"])


def test_transfer(killer: Killer, runs: Path, out: Path) -> None:
    sources = f"sources=[{runs / 'finetuned'},{runs / 'pretrained'}]"
    killer.check(["transfer", sources, *JUDGING, f"out={out}"], out, KILLS["transfer"])


def test_data_write(killer: Killer, out: Path) -> None:
    killer.check(["data", "write", *killer.images, f"out={out}"], out, KILLS["data"])


def test_report(killer: Killer, runs: Path, out: Path) -> None:
    def reset() -> None:
        shutil.copytree(runs, out)

    killer.check(["report", str(out)], out, KILLS["report"], reset)


def test_launch_inline(killer: Killer, out: Path) -> None:
    file = killer.root / "tiny.yaml"
    file.write_text(EXPERIMENT)
    words = [f"experiment={file}", *killer.images, "data.loader=memory", "device=cpu", f"out={out}"]
    killer.check(["launch", *words], out, KILLS["launch inline"])


def test_launch_local(killer: Killer, out: Path) -> None:
    file = killer.root / "local.yaml"
    file.write_text(ONE_STAGE)
    words = [f"experiment={file}", *killer.images, "data.loader=memory", "device=cpu", f"out={out}"]
    killer.check(["launch", *words, "cluster=local"], out, KILLS["launch local"])


def test_sync(killer: Killer, runs: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = StandIn()
    killer.environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false", **RETRY}

    def reset() -> None:
        shutil.copytree(runs, out)
        server.runs.clear()

    def received(folder: Path) -> dict[str, Any]:
        assert not any(run.overwritten for run in server.runs.values())
        return {run.bucket["displayName"]: (plain(run.history), run.exits[-1]) for run in server.runs.values()}

    killer.check(["sync", str(out)], out, KILLS["sync"], reset, received)
    server.stop()


def test_all_commands_together_are_killed_a_hundred_times() -> None:
    """`check` kills as often as it is told, in whatever process pytest runs it."""
    assert sum(KILLS.values()) + (len(OBJECTIVES) - 1) * KILLS["pretrain"] == 100
