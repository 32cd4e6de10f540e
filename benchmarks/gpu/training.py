"""A short robust training of a ResNet-18 on the included images (28x28), by the product's own commands, and RA by precision."""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_advss import attacks
from dist_advss.cli import main
from dist_advss.config.compose import compose
from dist_advss.config.schema import EvaluateConfig
from dist_advss.data import as_float, locate, make_loader
from dist_advss.evaluation.classifier import load_classifier
from dist_advss.precision import tf32
from dist_advss.rng import Rng

from .bench import Outcome

SET = ["data=fashion_mini", "data.loader=memory"]
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


def run(device: torch.device, small: bool, folder: Path, outcome: Outcome) -> None:
    """Pre-trains and fine-tunes in bf16 (fp32 on a CPU), then judges the same images under PGD-20 in each precision."""
    half = "bf16" if device.type == "cuda" else "fp32"  # a CPU without bf16 instructions is slower in it
    common = [*SET, f"device={device.type}", f"train.precision={half}", f"attack.precision={half}"]
    model, limit = ("model.width=4", ["data.limit=400"]) if small else ("model=preact_resnet18", [])
    epochs, images = (1, 50) if small else (4, 1000)
    pretrain, finetune = folder / "pretrain", folder / "finetune"
    _command(
        "pretrain", *common, model, *limit, "objective=rotation", "attack=pgd3", "attack.eps=0.1", "train.batch_size=128",
        f"schedule.epochs={epochs}", "validation.limit=200", f"out={pretrain}",
    )  # fmt: skip
    labels = f"data.labels={200 if small else 4000}"
    _command(
        "finetune", *common, labels, f"init={pretrain}", "attack=pgd5", "attack.eps=0.1", "train.batch_size=128",
        f"schedule.epochs={2 * epochs}", "validation.limit=200", f"out={finetune}",
    )  # fmt: skip
    for stage in (pretrain, finetune):
        rates = [line["images_per_s"] for line in _lines(stage) if line["kind"] == "train"]
        outcome.figure("training", stage.name, statistics.median(rates), "images/s")
    verdicts = {p: _judged(p, finetune, model, images, device, outcome) for p in PRECISIONS if _possible(p, device)}
    for precision, right in verdicts.items():
        apart = int((right != verdicts["fp32"]).sum())
        claim = f"RA under PGD-20 in {precision} is that in fp32, within 1 point"
        difference = 100 * float(right.float().mean() - verdicts["fp32"].float().mean())
        outcome.check(
            claim, abs(difference) <= 1.0, f"{difference:+.1f} points, {apart} of {len(right)} verdicts differ"
        )


def _possible(precision: str, device: torch.device) -> bool:
    return device.type == "cuda" or precision in ("fp32", "bf16")


def _judged(
    precision: str, checkpoint: Path, network: str, images: int, device: torch.device, outcome: Outcome
) -> Tensor:
    """Which images stay right under attack (N,) bool. TF32 is fp32 with torch's switches on; in fp32 both are off."""
    words = [
        *SET,
        network,
        f"checkpoint={checkpoint}",
        "attack=pgd20",
        "attack.eps=0.1",
        f"data.limit={images}",
        "out=.",
    ]
    config = compose("evaluate", [*words, f"attack.precision={'fp32' if precision == 'tf32' else precision}"])
    assert isinstance(config, EvaluateConfig)
    located = locate(config.data, config.split)
    model, _ = load_classifier(config, located.identity.classes)
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    loader = make_loader(located, config.split, 1, Rng(0), first=images, device=device, labelled=True)
    attack, right = attacks.build(config.attack, model), []
    started = time.perf_counter()
    with tf32(precision == "tf32"):
        for batch in loader.in_order(250):
            task = model.prepare(as_float(batch.images), batch.labels, Rng(0).rows(batch.row))
            found = attack.fool(model.judge, task)
            right.append(model.judge(found, task).correct.cpu() == 1)
    taken = time.perf_counter() - started
    verdicts = torch.cat(right)
    outcome.figure("evaluation, PGD-20", precision, taken, f"s for {images} images")
    outcome.figure("evaluation, PGD-20", f"RA in {precision}", 100 * float(verdicts.float().mean()), "%")
    return verdicts


def _command(*words: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(list(words))
    if code:
        raise RuntimeError(f"dist-advss {' '.join(words)}: ended with {code}")


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
