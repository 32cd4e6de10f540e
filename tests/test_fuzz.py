"""Two thousand wrong inputs: words, and the bytes of every kind of file that is read.

Each ends with exit code 0, 1 or 2, in one line without a traceback or a control character, and 2 leaves nothing behind. The
runs themselves are replaced, because only the reading of the input is tested. The seed is fixed: a failure repeats, and its message
shows the words and the content.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import dist_advss.cli.runs as cli_runs
from dist_advss.cli import main
from dist_advss.config.commands import COMMANDS
from dist_advss.config.compose import config_dir, key_names, options
from tests.fuzzer import NASTY, Fuzzer


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Fuzzer]:
    """In a folder with a launch of every command (L) and one of every file."""
    desk = tmp_path_factory.mktemp("desk") / "of" / "inputs"  # `../..` stays among few files
    shutil.copytree(repository / "tests" / "earlier" / "0.1.0", desk / "L")
    shutil.copy(repository / "tests" / "earlier" / "tiny.yaml", desk / "tiny.yaml")
    shutil.copy(config_dir() / "cluster" / "slurm.yaml", desk / "profile.yaml")
    implementation = cli_runs.implementation
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        made = Fuzzer(desk, random.Random(0))
        patch.setattr(cli_runs, "implementation", lambda name: made.replaced or implementation(name))
        yield made


@pytest.fixture(autouse=True)
def nothing_wrong(fuzzer: Fuzzer) -> Iterator[None]:
    """Each test fails with the inputs that ended wrongly."""
    fuzzer.wrong.clear()
    fuzzer.count = 0
    fuzzer.replaced = lambda config: None
    yield
    assert not fuzzer.wrong, f"{len(fuzzer.wrong)} of the inputs:\n" + "\n".join(fuzzer.wrong[:40])


def keys_of(command: str) -> list[str]:
    if command != "pretrain":
        return sorted(key_names(command, []))
    return sorted(key_names(command, ["objective=joint"]) | key_names(command, [ANCHOR]))


ANCHOR = "objective=anchor"
OF_ANCHOR = key_names("pretrain", [ANCHOR]) - key_names("pretrain", ["objective=joint"])


def test_words(fuzzer: Fuzzer) -> None:
    """Commands of runs: keys x values, two words at a time, some with a wrong name."""
    draw = fuzzer.draw
    needed: dict[str, list[str]] = {
        "pretrain": [],
        "finetune": [],
        "evaluate": ["checkpoint=L/p1_finetune"],
        "corruptions": ["checkpoint=L/p1_finetune"],
        "unforeseen": ["checkpoint=L/p1_finetune"],
        "transfer": ["sources=[L/p1_finetune]"],
    }
    keys = {command: keys_of(command) for command in COMMANDS}
    for _ in range(700):
        command = draw.choice(list(COMMANDS))
        words = [*needed[command], "out=OUT"]
        for _ in range(draw.choice([1, 1, 2])):
            name, value = draw.choice(keys[command]), draw.choice(NASTY)
            if (config_dir() / name).is_dir() and draw.random() < 0.7:
                value = draw.choice(options(name))
            if name in OF_ANCHOR:
                words.append(ANCHOR)
            if draw.random() < 0.05:
                name = draw.choice(NASTY)
            words.append(draw.choice([f"{name}={value}"] * 20 + [name, value]))
        fuzzer.run([command, *words, *draw.choice([[], [], ["--print"]])])
    assert fuzzer.count == TRIED["words"]


def test_other_commands(fuzzer: Fuzzer) -> None:
    """Commands on folders, files and launches."""
    draw = fuzzer.draw
    lines: list[Callable[[str], list[str]]] = [
        lambda x: ["status", x],
        lambda x: ["report", x],
        lambda x: ["report", "L/p1_finetune", "-o", x],
        lambda x: ["sync", x],
        lambda x: ["verify", "L/p1_evaluate", x],
        lambda x: ["verify", f"L/p1_finetune/{x}"],
        lambda x: ["watch", f"L/p1_finetune/{x}"],
        lambda x: ["dashboard", x],
        lambda x: ["logs", "L", x],
        lambda x: ["logs", x, "p3_pretrain"],
        lambda x: ["attach", x, "p3_pretrain"],
        lambda x: ["cancel", x],
        lambda x: ["launch", f"experiment={x}", "out=OUT", "--print"],
        lambda x: ["launch", f"cluster={x}", "experiment=tiny.yaml", "out=OUT", "--dry-run"],
        lambda x: ["launch", "experiment=tiny.yaml", f"out={x}", "--print"],
        lambda x: ["launch", "experiment=tiny.yaml", "out=OUT", "--print", "--only", x],
        lambda x: ["launch", "experiment=tiny.yaml", "out=OUT", "--print", x],
        lambda x: ["data", "show", x],
        lambda x: ["data", "write", f"out={x}", "data=folder", f"data.root={x}"],
        lambda x: ["export", x, "OUT"],
        lambda x: ["export", f"L/{x}", "OUT", "--evaluation", x],
        lambda x: ["import", x, "OUT"],
        lambda x: ["leaderboard", x],
        lambda x: ["leaderboard", "L", "-o", x],
        lambda x: ["plan", "pretrain", f"gpu={x}"],
        lambda x: ["plan", "pretrain", "gpu=h100", f"nodes={x}"],
        lambda x: [x],
        lambda x: ["pretrain", x],
    ]
    for line in lines:
        for value in draw.sample(NASTY, 12):
            fuzzer.run(line(value))
    assert fuzzer.count == TRIED["other commands"]


def changes(fuzzer: Fuzzer, file: Path, count: int) -> Iterator[bytes]:
    """Contents near that of the file: other bytes, and for YAML and JSON other values."""
    content = file.read_bytes()
    for k in range(count):
        if k % 2 and file.suffix in (".yaml", ".json"):
            tree = fuzzer.changed_tree(yaml.safe_load(content))
            text = yaml.safe_dump(tree, allow_unicode=False) if file.suffix == ".yaml" else json.dumps(tree)
            yield text.encode("utf-8", "surrogatepass")
        elif k % 2 and file.suffix == ".jsonl":
            lines = content.splitlines()
            at = fuzzer.draw.randrange(len(lines))
            lines[at] = json.dumps(fuzzer.changed_tree(json.loads(lines[at]))).encode("utf-8", "surrogatepass")
            yield b"\n".join(lines) + b"\n"
        else:
            yield fuzzer.mutated(content)


TEXTS: list[tuple[str, int, list[list[str]]]] = [
    ("L/p3_pretrain/config.yaml", 120, [["finetune", "init=L/p3_pretrain", "out=OUT"]]),
    ("L/p3_finetune/config.yaml", 80, [["evaluate", "checkpoint=L/p3_finetune", "out=OUT"]]),
    ("L/p1_finetune/config.yaml", 60, [["transfer", "sources=[L/p1_finetune,L/p3_finetune]", "out=OUT"]]),
    (
        "L/p1_finetune/config.yaml",
        40,
        [["evaluate", "model=ensemble", "model.members=[L/p1_finetune,L/p3_finetune]", "out=OUT"]],
    ),
    ("L/p1_evaluate/config.yaml", 30, [["status", "L"]]),
    ("L/p1_evaluate/result.json", 60, [["status", "L"]]),
    ("L/p3_pretrain/state.json", 40, [["status", "L"], ["cancel", "L"]]),
    ("L/broken/state.json", 60, [["status", "L"], ["cancel", "L"]]),
    ("L/broken/metrics.jsonl", 40, [["status", "L"]]),
    ("L/_slurm/jobs.jsonl", 40, [["status", "L"], ["logs", "L", "broken"]]),
    ("L/experiment.yaml", 60, [["status", "L"]]),
    ("L/_slurm/sessions/p3_pretrain.jsonl", 10, [["status", "L"]]),
    ("L/_slurm/ranks/18_0.1/0.json", 10, [["status", "L"]]),
    ("L/p1_evaluate/result.json", 20, [["verify", "L/p1_evaluate"]]),
    ("L/p1_evaluate/config.yaml", 20, [["verify", "L/p1_evaluate"]]),
    ("L/p1_evaluate/verdicts.npz", 10, [["verify", "L/p1_evaluate"]]),
    ("L/experiment.yaml", 20, [["launch", "experiment=tiny.yaml", "out=L", "--dry-run"]]),
    ("tiny.yaml", 80, [["launch", "experiment=tiny.yaml", "out=OUT", "--print"]]),
    ("profile.yaml", 80, [["launch", "experiment=tiny.yaml", "cluster=profile.yaml", "out=OUT", "--print"]]),
]


@pytest.mark.parametrize(("file", "count", "lines"), TEXTS)
def test_texts(fuzzer: Fuzzer, file: str, count: int, lines: list[list[str]]) -> None:
    for changed in changes(fuzzer, fuzzer.desk / file, count):
        fuzzer.over(fuzzer.desk / file, changed, lines)


REPORT_OF = [["report", "L/p3_evaluate"]]


PAGES: list[tuple[str, int, list[list[str]]]] = [
    ("L/p3_evaluate/verdicts.npz", 10, REPORT_OF),
    ("L/p3_evaluate/samples/samples.npz", 15, REPORT_OF),
    ("L/p3_evaluate/result.json", 20, REPORT_OF),
    ("L/p3_evaluate/config.yaml", 8, REPORT_OF),
    ("L/p3_evaluate/metrics.jsonl", 6, REPORT_OF),
    ("L/p3_finetune/metrics.jsonl", 6, [["report", "L/p3_finetune"]]),
    ("L/p3_finetune/result.json", 6, [["report", "L/p3_finetune"]]),
    ("L/experiment.yaml", 4, [["report", "L"]]),
    ("L/weak/result.json", 6, [["report", "L/weak"]]),
]


@pytest.mark.parametrize(("file", "count", "lines"), PAGES)
def test_pages(fuzzer: Fuzzer, file: str, count: int, lines: list[list[str]]) -> None:
    for changed in changes(fuzzer, fuzzer.desk / file, count):
        fuzzer.over(fuzzer.desk / file, changed, lines)
    assert fuzzer.count == count * len(lines)


FEW = ["data.limit=10", "attack=fgsm", "attack.eps=0.1", "device=cpu"]
TUNED = [
    "data.limit=64",
    "train.batch_size=32",
    "schedule.epochs=1",
    "model.width=4",
    "attack=none",
    "validation.limit=20",
]


def saved_with(fuzzer: Fuzzer, file: Path) -> bytes:
    """The checkpoint with another value, or with bytes of its archive changed."""
    draw, content = fuzzer.draw, file.read_bytes()
    if draw.random() < 0.5:
        return fuzzer.mutated(content)
    tree = torch.load(io.BytesIO(content), weights_only=True)
    name = draw.choice(list(tree["model"]))
    kind = draw.randrange(6)
    tensor = tree["model"][name]
    if kind == 0:
        tree["model"][name] = tensor.double().flatten()[:1].expand(3, 4)
    elif kind == 1:
        tree["model"][name] = tensor.to(draw.choice([torch.int64, torch.bool, torch.complex64, torch.float64]))
    elif kind == 2:
        tree["model"][name] = tensor * float("nan")
    elif kind == 3:
        tree = fuzzer.changed_tree(tree)
    elif kind == 4 and "progress" in tree:
        tree["progress"] = fuzzer.changed_tree(tree["progress"])
    elif "optimizer" in tree:
        tree["optimizer"] = fuzzer.changed_tree(tree["optimizer"])
    written = io.BytesIO()
    torch.save(tree, written)
    return written.getvalue()


def test_checkpoints(fuzzer: Fuzzer) -> None:
    """Evaluating, starting from, attacking and resuming damaged and hand-made checkpoints."""
    fuzzer.replaced = None
    lines = {
        "L/p1_finetune/checkpoints/best_ra.pt": ["evaluate", "checkpoint=L/p1_finetune", *FEW, "out=OUT"],
        "L/p3_pretrain/checkpoints/last.pt": ["finetune", "init=L/p3_pretrain", *TUNED, "out=OUT"],
        "L/p3_finetune/checkpoints/best_ra.pt": ["transfer", "sources=[L/p3_finetune,L/p1_finetune]", *FEW, "out=OUT"],
    }
    for file, words in lines.items():
        for _ in range(15):
            fuzzer.over(fuzzer.desk / file, saved_with(fuzzer, fuzzer.desk / file), [words])
    words = ["pretrain", *TUNED, "schedule.epochs=2", "out=R"]
    assert main(words) == 0
    result = fuzzer.desk / "R" / "result.json"
    result.unlink()
    (fuzzer.desk / "R" / "checkpoints" / "previous.pt").unlink()
    for _ in range(25):
        last = fuzzer.desk / "R" / "checkpoints" / "last.pt"
        fuzzer.over(last, saved_with(fuzzer, last), [words])
    record = fuzzer.desk / "R" / "made_from.json"
    for changed in changes(fuzzer, record, 24):
        fuzzer.over(record, changed, [words, ["verify", "R"]])
    for _ in range(10):
        result.write_bytes(fuzzer.mutated(b'{"kind": "pretrain", "best_ra": {"ra": 1.0}}'))
        fuzzer.run(words, result.read_bytes())
    assert fuzzer.count == TRIED["checkpoints"]


def test_exports(fuzzer: Fuzzer) -> None:
    """Importing a damaged or hand-made export."""
    assert main(["export", "L/p1_finetune", "shared"]) == 0
    for name, count in (("config.json", 40), ("model.safetensors", 15)):
        file = fuzzer.desk / "shared" / name
        for changed in changes(fuzzer, file, count):
            fuzzer.over(file, changed, [["import", "shared", "OUT"]])
    probe = fuzzer.desk / "shared" / "probe.pt"
    for _ in range(25):
        written = io.BytesIO()
        torch.save(fuzzer.changed_tree(torch.load(probe, weights_only=True)), written)
        fuzzer.over(probe, written.getvalue(), [["import", "shared", "OUT"]])
    assert fuzzer.count == TRIED["exports"]


def sets(desk: Path) -> None:
    """A small set of every kind that is not verified by a known checksum: images, IDX, npz, pickles, a beton."""
    draw = np.random.default_rng(0)
    kinds = {"png": "RGB", "jpg": "RGB", "tif": "I;16", "bmp": "L", "gif": "P", "webp": "RGBA"}
    for part in ("train", "test"):
        for label in ("a", "b"):
            folder = desk / "tree" / part / label
            folder.mkdir(parents=True)
            for k, (ending, mode) in enumerate(kinds.items()):
                pixels = draw.integers(0, 255, (20, 20, 3), np.uint8)
                image = (
                    Image.fromarray(pixels[..., 0].astype(np.uint16))
                    if mode == "I;16"
                    else Image.fromarray(pixels).convert(mode)
                )
                image.save(folder / f"{k}.{ending}")
    (desk / "idx").mkdir()
    for part, ending in (("train", ""), ("t10k", ".gz")):
        images = struct.pack(">IIII", 2051, 30, 28, 28) + draw.bytes(30 * 784)
        labels = struct.pack(">II", 2049, 30) + bytes(k % 10 for k in range(30))
        for name, content in (("images-idx3", images), ("labels-idx1", labels)):
            file = desk / "idx" / f"{part}-{name}-ubyte{ending}"
            file.write_bytes(gzip.compress(content) if ending else content)
    (desk / "batches").mkdir()
    for k in range(1, 12):
        batch = {"data": draw.integers(0, 255, (4, 3 * 64), np.uint8), "labels": [1, 2, 3, 4 + k]}
        name = "val_data" if k == 11 else f"train_data_batch_{k}"
        if k % 2:
            np.savez(desk / "batches" / f"{name}.npz", **batch)
        else:
            (desk / "batches" / name).write_bytes(pickle.dumps(batch, protocol=2))


TREE_WORDS = ["data=folder", "data.root=tree", "data.size=16", "data.classes=2"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged tags
def test_images_and_betons(fuzzer: Fuzzer) -> None:
    desk = fuzzer.desk
    sets(desk)
    folder = ["data", "show", *TREE_WORDS]
    assert main([*folder, "--png", "first.png"]) == 0
    for file in sorted((desk / "tree" / "train" / "a").iterdir()):
        for _ in range(12):
            fuzzer.over(file, fuzzer.mutated(file.read_bytes()), [folder])
    idx = ["data", "show", "data=fashion_mnist", "data.root=idx"]
    assert main(idx) == 0
    for file in sorted((desk / "idx").iterdir()):
        for _ in range(10):
            fuzzer.over(file, fuzzer.mutated(file.read_bytes()), [idx])
    batches = ["data", "show", "data=imagenet32", "data.root=batches", "data.size=8"]
    assert main(batches) == 0
    for name in ("train_data_batch_1.npz", "train_data_batch_2"):
        for _ in range(20):
            file = desk / "batches" / name
            fuzzer.over(file, fuzzer.mutated(file.read_bytes()), [batches])
    assert main(["data", "write", *TREE_WORDS, "out=betons"]) == 0
    for _ in range(60):
        file = desk / "betons" / "train.beton"
        fuzzer.over(file, fuzzer.mutated(file.read_bytes()), [["data", "show", "betons/train.beton", "--png", "x.png"]])
    assert fuzzer.count == TRIED["images and betons"]


TRIED = {
    "words": 700,
    "other commands": 336,
    "texts": sum(count * len(lines) for _, count, lines in TEXTS),
    "pages": sum(count * len(lines) for _, count, lines in PAGES),
    "checkpoints": 128,
    "exports": 80,
    "images and betons": 212,
}


def test_two_thousand_inputs_are_tried() -> None:
    """Each test above tries as many as it says, in whatever process pytest runs it."""
    assert sum(TRIED.values()) >= 2000
