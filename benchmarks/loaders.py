"""Compares loaders: images per second, time to the first batch, and memory of the process and its workers.

Every contender yields shuffled, mirrored and cropped float batches of the same images: small ones (32x32, padded by 4 and
cropped) from memory or raw files, large ones (JPEG of 500x375, RandomResizedCrop to 224). Each runs in a separate process,
in turn. `memory` cannot crop large images at random and crops their centre.

    python -m benchmarks.loaders --json loaders.json
    python -m benchmarks.loaders --million      # writes and reads 1,000,000 small images and measures the memory
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_advss.config.schema import Data
from dist_advss.data import as_float, augment, make_loader
from dist_advss.data.betons.origin import write_betons
from dist_advss.data.betons.write import describe, write_source
from dist_advss.data.image_set import Source
from dist_advss.rng import Rng

from .table import Figure, parser, publish

SMALL, LARGE = "32x32", "224x224 JPEG"
COUNT = {SMALL: 50_000, LARGE: 1_500}
EPOCHS = {SMALL: 4, LARGE: 3}
BATCH = {SMALL: 512, LARGE: 125}
CONTENDERS = ("DataLoader", "memory", "ffcv", "ffcv, not augmented", "FFCV's own Loader")


def small_images(count: int) -> np.ndarray:
    """Images (count, 32, 32, 3) uint8 of noise."""
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def photograph(number: int) -> np.ndarray:
    """An image (375, 500, 3) uint8 with detail at every scale, which JPEG compresses about as well as a photograph."""
    from PIL import Image

    draw = np.random.default_rng(number)
    total = np.zeros((375, 500, 3), np.float32)
    for octave in range(8):
        cells = draw.normal(size=(3 * 2**octave, 4 * 2**octave, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(cells[..., channel]).resize((500, 375), Image.Resampling.BICUBIC)
            total[..., channel] += np.asarray(layer) / 1.7**octave
    return np.clip(128 + 50 * total, 0, 255).astype(np.uint8)


def prepare(case: str, folder: Path) -> Data:
    """Writes the files of a case, as a tree of images or an array, and as betons."""
    from PIL import Image

    if case == SMALL:
        np.save(folder / "small.npy", small_images(COUNT[SMALL]))
        data = Data(name="cifar10", beton=str(folder), validation=0.01)
        images, names = np.load(folder / "small.npy", mmap_mode="r"), [str(k) for k in range(10)]
        source = Source(np.arange(len(images)) % 10, names, lambda rows: images[rows])
        write_source(source, describe(data, "train", names, 8 * "f00d"), folder / "train.beton")
        return data
    for number in range(COUNT[LARGE]):
        file = folder / "tree" / ("test" if number < 10 else "train") / str(number % 10) / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(number)).save(file, quality=90)
    data = Data(name="folder", root=str(folder / "tree"), size=224, crop="random", beton=str(folder), validation=0.01)
    write_betons(data, folder, "train")
    return data


def dataloader(case: str, folder: Path, data: Data) -> Callable[[int], Iterable[Any]]:
    """torchvision's transforms in torch's DataLoader, two workers."""
    from PIL import Image
    from torchvision import datasets, transforms

    class Small(torch.utils.data.Dataset[Any]):
        images = np.load(folder / "small.npy") if case == SMALL else np.zeros(0)
        change = transforms.Compose(
            [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, row: int) -> Any:
            return self.change(Image.fromarray(self.images[row])), row % 10

    crop = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    images = Small() if case == SMALL else datasets.ImageFolder(folder / "tree" / "train", transforms.Compose(crop))
    loader = torch.utils.data.DataLoader(
        images, BATCH[case], shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )
    return lambda epoch: loader


def ours(case: str, folder: Path, data: Data, contender: str) -> Callable[[int], Iterable[Any]]:
    """make_loader, with the augmentation that training adds on the device, here the CPU."""
    kind = contender.split(",")[0]
    if kind == "memory" and case == SMALL:
        from dist_advss.data import ImageSet, MemoryLoader

        images = torch.from_numpy(np.load(folder / "small.npy"))
        labels = torch.arange(len(images)) % 10
        loader: Any = MemoryLoader(ImageSet(images, labels, labels, []), BATCH[case], Rng(0))
    else:
        from dataclasses import replace

        chosen = replace(data, loader=kind, crop="centre" if kind == "memory" else data.crop)
        loader = make_loader(chosen, "train", BATCH[case], Rng(0), labelled=True)

    def batches(epoch: int) -> Iterator[Any]:
        for step, batch in enumerate(loader.epoch(epoch)):
            rng = Rng(0).at(epoch, step).rows(batch.row)
            if "not augmented" in contender:
                yield batch.images, batch.labels
            else:
                yield augment(batch.images, rng, flip=True, pad=4 if case == SMALL else 0), batch.labels

    return batches


def stock(case: str, folder: Path, data: Data) -> Callable[[int], Iterable[Any]]:
    """FFCV's Loader with FFCV's augmentations, as in its documentation."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, RandomTranslate, ToTensor, ToTorchImage

    if case == SMALL:
        first = [SimpleRGBImageDecoder(), RandomHorizontalFlip(), RandomTranslate(4)]
    else:
        first = [RandomResizedCropRGBImageDecoder((224, 224)), RandomHorizontalFlip()]
    pipelines = {"image": [*first, ToTensor(), ToTorchImage()], "label": [IntDecoder(), ToTensor()]}
    file = str(folder / "train.beton")
    loader = Loader(file, BATCH[case], 2, order=OrderOption.RANDOM, seed=0, pipelines=pipelines)
    return lambda epoch: ((as_float(images), labels) for images, labels in loader)


def own_memory(pid: int) -> int:
    """Memory of this process and its children in bytes: shared pages in proportion, without mapped files."""
    import psutil

    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
    return total


def one(case: str, contender: str, folder: Path, data: Data) -> dict[str, float]:
    """Runs one contender in this process."""
    import os

    torch.set_num_threads(2)
    own_memory(os.getpid())
    before, peak, done = own_memory(os.getpid()), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], own_memory(os.getpid()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.perf_counter()
    if contender == "DataLoader":
        epochs = dataloader(case, folder, data)
    elif contender == "FFCV's own Loader":
        epochs = stock(case, folder, data)
    else:
        epochs = ours(case, folder, data, contender)
    next(iter(epochs(0)))
    first = time.perf_counter() - started
    speeds = []
    for epoch in range(1, 1 + EPOCHS[case]):
        images, started = 0, time.perf_counter()
        for batch, _ in epochs(epoch):
            images += len(batch)
        speeds.append(images / (time.perf_counter() - started))
    done.set()
    watcher.join()
    return {"speed": statistics.median(speeds[1:]), "first": first, "memory": (peak[0] - before) / 1e6}


def million(folder: Path) -> list[Figure]:
    """Writes 1,000,000 raw images of 32x32, reads them for two epochs, and measures how much this process grows."""
    import os

    count, pattern, names = 1_000_000, small_images(1000), [str(k) for k in range(10)]
    data = Data(name="cifar10", beton=str(folder), validation=0.01, loader="ffcv")
    about, path = describe(data, "train", names, 8 * "f00d"), folder / "train.beton"
    source = Source(np.arange(count) % 10, names, lambda rows: pattern[rows % 1000])
    write_source(Source(source.labels[:1000], names, source.pixels), about, folder / "warm.beton")
    before, figures = own_memory(os.getpid()), []

    def note(name: str, since: float) -> None:
        grown = (own_memory(os.getpid()) - before) / 1e6
        figures.append(Figure("1,000,000 images", f"{name}: memory grown by", grown, "MB"))
        figures.append(Figure("1,000,000 images", f"{name}: took", time.perf_counter() - since, "s"))

    started = time.perf_counter()
    write_source(source, about, path, lambda part, done, of: note("half written", started) if done == 499_968 else None)
    note("written", started)
    started = time.perf_counter()
    loader = make_loader(data, "train", 500, Rng(0), labelled=True)
    note("opened", started)
    for epoch in (0, 1, 2):
        started = time.perf_counter()
        for batch in loader.epoch(epoch):
            assert batch.images[0, 0, 0, 0] == pattern[int(batch.index[0]) % 1000, 0, 0, 0]
        note(f"epoch {epoch}", started)
    return figures


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--million", action="store_true", help="1,000,000 images through one contender instead")
    options.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.one:
        case, contender, folder = args.one
        data = Data(**json.loads((Path(folder) / "data.json").read_text()))
        print(json.dumps(one(case, contender, Path(folder), data)))
        return
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        if args.million:
            publish(million(Path(folder)), args.json)
            return
        for case in (SMALL, LARGE):
            place = Path(folder) / case.split()[0]
            place.mkdir()
            (place / "data.json").write_text(json.dumps(vars(prepare(case, place))))
            for contender in CONTENDERS:
                command = [sys.executable, "-m", "benchmarks.loaders", "--one", case, contender, str(place)]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found = json.loads(said.splitlines()[-1])
                figures += [
                    Figure(f"{case}: images a second", contender, found["speed"], "images/s"),
                    Figure(f"{case}: first batch", contender, found["first"], "s"),
                    Figure(f"{case}: peak memory", contender, found["memory"], "MB"),
                ]
    figures.sort(key=lambda figure: figure.case)
    publish(figures, args.json)


if __name__ == "__main__":
    main()
