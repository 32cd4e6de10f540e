"""torch's flight recorder: what a job that hangs leaves of its last collectives."""

from __future__ import annotations

import mmap
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss.config.compose import compose
from dist_advss.engines import flight, watchdog
from dist_advss.errors import EXIT_HANG

from . import jobs


def two_sums_then_stuck(folder: Path) -> None:
    """All ranks make two sums, then rank 1 does not come to the third."""
    watchdog.GRACE_S = 1.0
    config = compose("pretrain", ["engine=ddp", "guard.hang_s=3", "out=RUN"])
    with jobs.engines.init("cpu", 1, config.guard, jobs.engines.find_place(), False, folder) as world:
        world.heartbeat()
        for _ in range(2):
            world.sum(torch.ones(5))
        if world.rank == 1:
            time.sleep(60)
        world.sum(torch.ones(7))


def test_a_hang_leaves_the_last_collectives_of_each_rank(start: Any, tmp_path: Path) -> None:
    folder = tmp_path / "stacks"
    ranks = start(2, two_sums_then_stuck, folder)
    assert ranks.wait() == [EXIT_HANG] * 2, ranks.said()
    shapes = []
    for rank in range(2):
        content = pickle.loads((folder / f"flight_{rank}").read_bytes())
        sums = [entry for entry in content["entries"] if entry["profiling_name"] == "gloo:all_reduce"]
        shapes.append([entry["input_sizes"] for entry in sums])
    assert shapes == [[[[5]], [[5]], [[7]]], [[[5]], [[5]]]]  # rank 1 lacks the last one


def test_nccl_writes_to_the_same_place_and_what_you_have_set_stays(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    flight.set_environment(tmp_path / "stacks", environ)
    assert environ == {"TORCH_NCCL_DUMP_ON_TIMEOUT": "1", "TORCH_FR_DUMP_TEMP_FILE": f"{tmp_path}/stacks/flight_"}
    assert (tmp_path / "stacks").is_dir()  # torch does not create it
    for name in flight.NAMES:
        own = {name: "/scratch/trace_", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}
        flight.set_environment(tmp_path / "other", before := dict(own))
        assert before == own
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", [*flight.NAMES, "TORCH_NCCL_DUMP_ON_TIMEOUT", "TORCH_FR_BUFFER_SIZE"])
def test_torch_reads_variables_of_these_names(name: str) -> None:
    """Another version of torch may rename them, and would then ignore ours."""
    libraries = list((Path(torch.__file__).parent / "lib").glob("libtorch_c*.so"))
    if name.startswith("TORCH_NCCL_DUMP") and not torch.distributed.is_nccl_available():
        pytest.skip("torch without NCCL")
    found = []
    for library in libraries:
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found.append(content.find(name.encode()) >= 0)
    assert any(found)


def test_a_recorder_that_is_locked_does_not_keep_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "PATIENCE_S", 0.1)
    monkeypatch.setattr(flight, "_recorded", lambda: time.sleep(30))
    monkeypatch.setattr(flight.dist, "is_initialized", lambda: True)
    begun = time.monotonic()
    flight.dump(tmp_path, 0)
    assert time.monotonic() - begun < 20
    assert not list(tmp_path.iterdir())
