"""Memory and FFCV give the same batches; an error in a thread is raised; nothing is aliased, padded or left behind."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_advss.config.schema import Data
from dist_advss.data import Batch, Loader, make_loader
from dist_advss.data.betons.beton import JPEG, RAW, open_beton
from dist_advss.data.betons.write import describe, write_source
from dist_advss.data.image_set import Source
from dist_advss.errors import RunError
from dist_advss.rng import Rng
from tests.data.conftest import find_beton, noise

pytestmark = pytest.mark.usefixtures("ffcv")
RNG = Rng(3)


def joined(batches: Iterable[Batch]) -> Batch:
    parts = list(batches)
    return Batch(*(torch.cat([getattr(p, name) for p in parts]) for name in ("images", "labels", "row", "index")))


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "labels", "row", "index"))


def loader_of(data: Data, kind: str = "ffcv", split: str = "train", rank: int = 0, world_size: int = 1) -> Loader:
    data = replace(data, loader=kind)
    return make_loader(data, split, 60, RNG, labelled=True, rank=rank, world_size=world_size)


def raw_beton(folder: Path, images: np.ndarray, jpeg: float = 0.0) -> Data:
    """A beton of these images (N, S, S, 3) with labels 0..9 in turn, and the configuration that reads it."""
    data = Data(name="cifar10", size=images.shape[1], classes=10, jpeg=jpeg, beton=str(folder), validation=0.1)
    names = [str(k) for k in range(10)]
    source = Source(np.arange(len(images)) % 10, names, lambda rows: images[rows])
    write_source(source, describe(data, "train", names, 8 * "f00d"), folder / "train.beton")
    return data


@pytest.mark.parametrize("world_size", [1, 2])
def test_two_epochs_are_those_of_the_memory_loader_on_each_process(mini: Data, world_size: int) -> None:
    for rank in range(world_size):
        ffcv, memory = (loader_of(mini, kind, rank=rank, world_size=world_size) for kind in ("ffcv", "memory"))
        assert (ffcv.name, memory.name) == ("ffcv", "memory")
        assert len(ffcv) == len(memory) == 150
        for epoch in (0, 1):
            for ours, theirs in zip(ffcv.epoch(epoch), memory.epoch(epoch), strict=True):
                assert equal(ours, theirs)
                assert ours.images.dtype == torch.uint8
                assert ours.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("split", "labels"), [("train", 100), ("validation", None), ("test", None)])
def test_every_split_in_order_is_that_of_the_memory_loader_without_padding(
    mini: Data, split: str, labels: int | None
) -> None:
    data = replace(mini, labels=labels)
    memory = joined(loader_of(data, "memory", split).in_order(77))
    shares = [b for rank in range(3) for b in loader_of(data, "ffcv", split, rank, 3).in_order(77)]
    assert equal(joined(shares), memory)


def test_an_epoch_resumed_in_its_middle_decodes_only_what_is_left(mini: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    from dist_advss.data.betons import decode

    shown: list[int] = []
    original = decode.decode

    def counting(file: np.ndarray, start: np.ndarray, *rest: object) -> int:
        shown.append(len(start))
        return int(original(file, start, *rest))

    whole = list(loader_of(mini).epoch(4))
    monkeypatch.setattr(decode, "decode", counting)
    tail = list(loader_of(mini).epoch(4, 147))
    assert all(equal(a, b) for a, b in zip(whole[147:], tail, strict=True))
    assert sum(shown) == 3 * 60


def test_two_processes_that_start_together_write_one_beton_and_see_the_same_set(tmp_path: Path) -> None:
    script = f"""
import hashlib, sys, torch
from dist_advss.config.schema import Data
from dist_advss.data import make_loader
from dist_advss.rng import Rng
data = Data(name="fashion_mini", size=28, channels=1, loader="ffcv", beton={str(tmp_path)!r})
loader = make_loader(data, "train", 100, Rng(3), labelled=True, rank=int(sys.argv[1]), world_size=2)
for epoch in (0, 1):
    for batch in loader.epoch(epoch):
        print(batch.row[0].item(), hashlib.sha256(batch.images.numpy().tobytes()).hexdigest(), batch.labels.tolist())
"""
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(rank)], stdout=-1, stderr=-1, text=True) for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert sum(error.count("writing train.beton") for _, error in said) == 1
    data = Data(name="fashion_mini", size=28, channels=1, loader="memory")
    alone = make_loader(data, "train", 100, Rng(3), labelled=True)
    lines = [out.splitlines() for out, _ in said]
    for step, batch in enumerate([*alone.epoch(0), *alone.epoch(1)]):
        for rank in (0, 1):
            part = slice(50 * rank, 50 * rank + 50)
            digest = hashlib.sha256(batch.images[part].numpy().tobytes()).hexdigest()
            assert lines[rank][step] == f"{50 * rank} {digest} {batch.labels[part].tolist()}"


def test_batches_are_tensors_of_their_own(mini: Data) -> None:
    loader = loader_of(mini)
    kept = list(loader.epoch(0))
    copies = [batch.images.clone() for batch in kept]
    for batch in loader.epoch(1):
        batch.images.zero_()
    assert all(torch.equal(batch.images, copy) for batch, copy in zip(kept, copies, strict=True))


def test_a_damaged_image_is_raised_within_seconds(tmp_path: Path) -> None:
    data = raw_beton(tmp_path, noise(400, 40), jpeg=1.0)
    path = tmp_path / "train.beton"
    beton = open_beton(path)
    with path.open("r+b") as file:
        file.seek(int(beton.start[123]))
        file.write(b"\xff" * int(beton.size[123]))
    loader = loader_of(data)
    started = time.monotonic()
    with pytest.raises(RunError, match=r"train\.beton: image 123 is damaged; write it again"):
        list(loader.epoch(0))
    assert time.monotonic() - started < 5
    assert len(joined(loader_of(replace(data, limit=100)).in_order(10)).row) == 100  # the others can be read


def decoders(at_most: int) -> int:
    """Threads that decode, once there are no more than `at_most` of them, or after some seconds."""
    end = time.monotonic() + 5
    while True:
        gc.collect()
        count = sum(thread.name.startswith("decode") for thread in threading.enumerate())
        if count <= at_most or time.monotonic() > end:
            return count
        time.sleep(0.01)


def test_iterators_that_nobody_reads_leave_no_threads(tmp_path: Path) -> None:
    assert decoders(0) == 0  # of the tests before
    loader, cores = loader_of(raw_beton(tmp_path, noise(200, 32), jpeg=1.0)), len(os.sched_getaffinity(0))
    for epoch in range(20):
        next(loader.epoch(epoch))
        next(loader.in_order(10))
    assert 0 < decoders(cores) <= cores
    del loader
    assert decoders(0) == 0


def test_a_task_of_srun_decodes_with_as_many_threads_as_it_has_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node where Slurm does not bind it to them."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for name, value in {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert decoders(0) == 0  # of the tests before
    loader = loader_of(raw_beton(tmp_path, noise(600, 32), jpeg=1.0))
    assert len(list(loader.epoch(0))) == 9
    assert decoders(1) == 1


def test_the_number_of_torch_threads_stays_as_it_was(mini: Data) -> None:
    torch.set_num_threads(3)
    next(loader_of(mini).epoch(0))
    assert torch.get_num_threads() == 3


def test_a_share_of_jpeg_images_is_close_to_the_pixels_and_the_others_are_equal(tmp_path: Path) -> None:
    smooth = torch.nn.functional.interpolate(torch.from_numpy(noise(300, 4)).permute(0, 3, 1, 2), 32, mode="bicubic")
    images = smooth.permute(0, 2, 3, 1).contiguous().numpy()
    data = raw_beton(tmp_path, images, jpeg=0.4)
    beton = find_beton(data, "train")
    assert 0.3 < (beton.mode == JPEG).mean() < 0.5
    batch = joined(loader_of(data, split="train").in_order(50))
    wrong = (batch.images.permute(0, 2, 3, 1).numpy().astype(int) - images[batch.index]).__abs__().mean((1, 2, 3))
    raw = beton.mode[batch.index] == RAW
    assert (wrong[raw] == 0).all()
    assert (0 < wrong[~raw]).all() and (wrong[~raw] < 12).all()


def test_large_images_are_read_at_random_parts_that_do_not_depend_on_the_world_size(photographs: Data) -> None:
    data = replace(photographs, crop="random")

    def loader(rank: int = 0, world_size: int = 1) -> Loader:
        return make_loader(data, "train", 12, RNG, labelled=True, rank=rank, world_size=world_size)

    alone = [list(loader().epoch(epoch)) for epoch in (0, 1)]
    assert [batch.images.shape for batch in alone[0]] == [(12, 3, 224, 224)] * 2
    shares = [list(loader(rank, 2).epoch(1)) for rank in (0, 1)]
    for step in range(2):
        assert equal(joined(share[step] for share in shares), alone[1][step])
    assert equal(next(loader().epoch(1, 1)), alone[1][1])
    first, second = (joined(batches) for batches in alone)
    pictures = [dict(zip(part.index.tolist(), part.images, strict=True)) for part in (first, second)]
    both = pictures[0].keys() & pictures[1].keys()
    assert len(both) > 10
    assert not any(torch.equal(pictures[0][k], pictures[1][k]) for k in both)


def test_a_random_part_is_what_pillow_cuts_out_and_scales(photographs: Data) -> None:
    from PIL import Image

    from dist_advss.data.betons import crops

    data = replace(photographs, crop="random", crop_area=0.3)
    loader = make_loader(data, "train", 24, RNG, labelled=True)
    batch = next(loader.epoch(0))
    beton = find_beton(data, "train")
    height, width = (torch.from_numpy(side[batch.index].astype(np.int64)) for side in (beton.height, beton.width))
    boxes = crops.random(height, width, 0.3, RNG.at(0, 0).rows(batch.row))
    for shown, position, (top, left, tall, wide) in zip(
        batch.images, batch.index.tolist(), boxes.tolist(), strict=True
    ):
        part = Image.fromarray(beton.picture(position)).crop((left, top, left + wide, top + tall))
        expected = np.asarray(
            part.resize((224, 224), Image.Resampling.BOX if tall > 224 else Image.Resampling.BILINEAR)
        )
        assert np.abs(shown.permute(1, 2, 0).numpy().astype(int) - expected).mean() < 6


def test_evaluation_sees_the_centre(photographs: Data) -> None:
    from PIL import Image

    loader = make_loader(replace(photographs, crop="random"), "test", 1, RNG, labelled=True)
    batch = joined(loader.in_order(4))
    beton = find_beton(photographs, "test")
    assert batch.index.tolist() == list(range(10))
    for shown, position in zip(batch.images, range(10), strict=True):
        picture = Image.fromarray(beton.picture(position))
        side = round(0.875 * min(picture.size))
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        part = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BILINEAR)
        assert np.abs(shown.permute(1, 2, 0).numpy().astype(int) - np.asarray(part)).mean() < 4


def test_a_file_larger_than_memory_is_read_by_announced_pieces(mini: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    from dist_advss.data.betons import ffcv_loader

    expected = list(loader_of(mini).epoch(0))
    monkeypatch.setattr(ffcv_loader, "memory_available", lambda: 1000)
    assert all(equal(a, b) for a, b in zip(loader_of(mini).epoch(0), expected, strict=True))


def memory_of_this_process() -> int:
    """Bytes of main memory that are this process's own: without the pages of mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no RssAnon")


def test_many_images_are_written_and_read_twice_in_little_memory(tmp_path: Path) -> None:
    count, size = 60_000, 16
    pattern = noise(256, size)
    data = Data(name="cifar10", size=size, beton=str(tmp_path), validation=0.01)
    names = [str(k) for k in range(10)]
    source = Source(np.arange(count) % 10, names, lambda rows: pattern[rows % 256])
    write_source(
        Source(source.labels[:1], names, source.pixels), describe(data, "train", names, 8 * "f00d"), tmp_path / "warm"
    )
    before = memory_of_this_process()
    write_source(source, describe(data, "train", names, 8 * "f00d"), tmp_path / "train.beton")
    assert memory_of_this_process() - before < 30e6  # 46 MB of images
    loader = loader_of(data)
    growth = []
    for epoch in (0, 1, 2):
        for batch in loader.epoch(epoch):
            position = int(batch.index[0])
            assert (batch.images[0].permute(1, 2, 0).numpy() == pattern[position % 256]).all()
        growth.append(memory_of_this_process() - before)
    assert max(growth) < 40e6
    assert growth[2] - growth[1] < 2e6
