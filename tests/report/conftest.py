"""Launch folders as training and evaluation would leave them, made up from a seed."""

from __future__ import annotations

import json
import math
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
START = 1_770_000_000.0  # 2026-02-02 02:40 UTC
EPS = 0.1
# final (TA, RA) in percent of each P, and what each F takes from or adds to it
LEVELS = {"P1": (56.0, 43.0), "P2": (63.2, 47.9), "P3": (69.9, 56.4)}
TUNING = {"F1": (-12.0, -30.0), "F2": (-14.0, -9.0), "F3": (9.0, -38.0), "F4": (0.0, 0.0)}


def wilson(percent: float, n: int) -> list[float]:
    """The 95% score interval of a rate, percent."""
    p, z = percent / 100, 1.959964
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [100 * (centre - half) / (1 + z * z / n), 100 * (centre + half) / (1 + z * z / n)]


@dataclass
class Folder:
    """A launch folder under construction. Each stage added is a finished run until `unfinish` or `forget` says otherwise."""

    root: Path
    images: np.ndarray | None = None
    labels: np.ndarray | None = None
    n: int = 1000
    stages: dict[str, Any] = field(default_factory=dict)
    clock: float = START

    def grid(self, tasks: tuple[str, ...] = ("rotation",), kinds: tuple[str, ...] = ("F4",), seed: int = 0) -> Folder:
        """P1, P2 and P3 of each task with each kind of fine-tuning, evaluated, and a report."""
        suffix = f"_s{seed}" if seed else ""
        for kind in kinds:
            if kind in ("F3", "F4"):
                self.method("P1", None, kind, "p1" + ("" if len(kinds) == 1 else f"_{kind.lower()}") + suffix, seed)
        for t, task in enumerate(tasks):
            for p in ("P2", "P3"):
                name = p.lower() + ("" if len(tasks) == 1 else f"_{task}")
                self.pretrain(f"{name}_pretrain{suffix}", task, adversarial=p == "P3", seed=seed)
                for kind in kinds:
                    tail = ("" if len(kinds) == 1 else f"_{kind.lower()}") + suffix
                    self.method(p, f"{name}_pretrain{suffix}", kind, f"{name}{tail}", seed, shift=-1.7 * t)
        self.plan("report", "report", [])
        return self

    def pretrain(self, stage: str, task: str, adversarial: bool, seed: int = 0, epochs: int = 6) -> None:
        config = self.config(stage, seed, task, 5 if adversarial else 0, epochs)
        self.plan(
            stage,
            "pretrain",
            [f"objective={task}", "attack=pgd5" if adversarial else "attack=none", f"attack.eps={EPS}"],
        )
        self.run(stage, config)
        self.train(stage, (71.0, 55.0) if adversarial else (82.0, 9.0), epochs, seed, kind="pretrain")

    def method(self, p: str, init: str | None, kind: str, name: str, seed: int = 0, shift: float = 0.0) -> None:
        """A fine-tuning and its evaluation, `name`_finetune and `name`_evaluate."""
        ta, ra = (level + change for level, change in zip(LEVELS[p], TUNING[kind], strict=True))
        drift = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.8, 2) if seed else (0.0, 0.0)
        ta, ra = max(ta + shift + drift[0], 5.0), max(ra + shift + drift[1], 0.4)
        tuned, epochs = f"{name}_finetune", 12
        config = self.config(tuned, seed, "classify", 10 if kind in ("F2", "F4") else 0, epochs)
        config["init"] = str(self.root / init) if init else None
        config["freeze"] = "encoder" if kind in ("F1", "F2") else "none"
        config["data"]["labels"] = 1000
        words = [f"init=@{init}"] if init else []
        words += [
            "attack=pgd10" if kind in ("F2", "F4") else "attack=none",
            f"freeze={config['freeze']}",
            f"attack.eps={EPS}",
        ]
        self.plan(tuned, "finetune", [*words, "data.labels=1000"], [init] if init else [])
        self.run(tuned, config)
        self.train(tuned, (ta + 1.5, ra + 0.8), epochs, seed, kind="finetune", fast=p == "P3")
        self.evaluate(f"{name}_evaluate", tuned, ta, ra, seed)

    def evaluate(self, stage: str, tuned: str, ta: float, ra: float, seed: int = 0, **attack: Any) -> None:
        against = {"norm": "linf", "eps": EPS, "steps": 20, "step_size": EPS / 4, "random_start": True}
        against = {**against, "restarts": 1, "keep": "last", **attack}
        base = self.config(stage, seed, "classify", 20, 1)
        config: dict[str, Any] = {
            "checkpoint": str(self.root / tuned),
            "pick": "best_ra",
            "out": str(self.root / stage),
        }
        config |= {
            "split": "test",
            "seed": seed,
            "data": base["data"],
            "model": base["model"],
            "attack": against,
            "sweep": {"eps": []},
        }
        words = [
            f"checkpoint=@{tuned}",
            "attack=pgd20",
            f"attack.eps={EPS}",
            *(f"attack.{k}={v}" for k, v in attack.items()),
        ]
        self.plan(stage, "evaluate", words, [tuned])
        self.run(stage, config)
        rng = np.random.default_rng(zlib.crc32(stage.encode()))
        spread = rng.normal(0, 14, len(CLASSES))
        per_class = [
            {"class": c, "n": 100, "ta": float(np.clip(ta + s, 0, 100)), "ra": float(np.clip(ra + s, 0, 100).round(1))}
            for c, s in zip(CLASSES, spread - spread.mean(), strict=True)
        ]
        result = {
            "kind": "evaluate",
            "ta": round(ta, 1),
            "ra": round(ra, 1),
            "n": self.n,
            "split": "test",
            "seed": seed,
        }
        result |= {"ta_interval": wilson(ta, self.n), "ra_interval": wilson(ra, self.n), "per_class": per_class}
        result |= {"attack": against, "checkpoint": str(self.root / tuned), "seconds": 21.4}
        self.write_json(stage, result)
        self.verdicts(stage, round(ta, 1), round(ra, 1))
        self.samples(stage, ta / 100, ra / 100, rng)

    def verdicts(self, stage: str, ta: float, ra: float) -> None:
        """verdicts.npz with just these rates; images are of the same difficulty to every model, but for some noise."""
        difficulty = np.random.default_rng(7).random(self.n)
        noise = np.random.default_rng(zlib.crc32(stage.encode())).normal(0, 0.15, self.n)
        order = np.argsort(difficulty + noise)
        label = np.random.default_rng(8).integers(0, 10, self.n)
        predictions: dict[str, Any] = {}
        for name, rate in (("clean", ta), ("adversarial", ra)):
            wrong = np.ones(self.n, dtype=np.int64)
            wrong[order[: round(rate * self.n / 100)]] = 0
            predictions[f"{name}_prediction"] = (label + wrong) % 10
        np.savez(self.root / stage / "verdicts.npz", index=np.arange(self.n), label=label, **predictions)

    def plant(self, stage: str, right: np.ndarray, clean: np.ndarray | None = None) -> None:
        """The evaluation has just these verdicts under attack, (N,) bool, and on clean images these or the same."""
        n, result = len(right), json.loads((self.root / stage / "result.json").read_text())
        label, predictions = np.random.default_rng(8).integers(0, 10, n), {}  # as in `verdicts`
        for name, rate, mask in (("adversarial", "ra", right), ("clean", "ta", right if clean is None else clean)):
            predictions[f"{name}_prediction"] = np.where(mask, label, (label + 1) % 10)
            percent = 100 * float(mask.mean())
            result |= {"n": n, rate: round(percent, 4), f"{rate}_interval": wilson(percent, n)}
        np.savez(self.root / stage / "verdicts.npz", index=np.arange(n), label=label, **predictions)
        self.write_json(stage, result)

    def autoattack(self, stage: str, tuned: str, ta: float, ra: float, seed: int = 0, **attack: Any) -> None:
        """An evaluation by standard AutoAttack."""
        cascade = ["apgd-ce", "apgd-t", "fab-t", "square"]
        self.evaluate(
            stage, tuned, ta, ra, seed, **{"algorithm": "autoattack", "cascade": cascade, "steps": 100, **attack}
        )

    def radii(self, name: str, radii: tuple[float, ...], ta: float, ra: float) -> None:
        """Evaluations of NAME_finetune at other radii; RA falls from `ta` at 0 through `ra` at EPS."""
        for eps in radii:
            stage = f"{name}_eps{round(1000 * eps)}"
            self.evaluate(stage, f"{name}_finetune", ta, ta * (ra / ta) ** (eps / EPS), eps=eps, step_size=eps / 4)

    def average(self, stage: str, models: list[str], ta: float, ra: float, **attack: Any) -> None:
        """An evaluation of several fine-tunings as one model."""
        self.evaluate(stage, models[0], ta, ra, **attack)
        members = [str(self.root / model) for model in models]
        config = yaml.safe_load((self.root / stage / "config.yaml").read_text())
        config |= {"checkpoint": None, "model": {"name": "ensemble", "members": members}}
        (self.root / stage / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        result = json.loads((self.root / stage / "result.json").read_text())
        self.write_json(stage, {**result, "checkpoint": None, "members": members})

    def transfer(self, stage: str, models: list[str], ra: list[list[float]], n: int = 500) -> None:
        """A transfer of attacks between models."""
        runs = [str(self.root / model) for model in models]
        self.plan(stage, "transfer", [], models)
        self.run(stage, {"out": str(self.root / stage)})
        self.write_json(stage, {"kind": "transfer", "sources": runs, "targets": runs, "ra": ra, "n": n})

    def fail(self, stage: str, error: str, log: list[str], lines: int = 12) -> None:
        """As if the stage had failed with this error, after printing these lines."""
        self.unfinish(stage, lines)
        state = {"state": "failed", "error": error, "started": self.clock, "ended": time.time()}
        (self.root / stage / "state.json").write_text(json.dumps(state))
        (self.root / stage / "log.txt").write_text("\n".join(log) + "\n")

    def samples(self, stage: str, ta: float, ra: float, rng: np.random.Generator) -> None:
        k = 8
        clean = self.images[:k] if self.images is not None else rng.random((k, 28, 28, 1), dtype=np.float32)
        label = self.labels[:k] if self.labels is not None else np.arange(k)
        noise = np.sign(rng.normal(size=clean.shape)) * EPS * rng.choice([1, 1, 0.5], size=clean.shape)
        draw = rng.random(k)
        wrong = (label + rng.integers(1, 10, k)) % 10
        (self.root / stage / "samples").mkdir()
        np.savez(
            self.root / stage / "samples" / "samples.npz",
            clean=clean,
            adversarial=np.clip(clean + noise, 0, 1).astype(np.float32),
            label=label,
            clean_prediction=np.where(draw < ta, label, wrong),
            adversarial_prediction=np.where(draw < ra, label, wrong),
            classes=np.array(CLASSES),
        )

    def train(
        self, stage: str, final: tuple[float, float], epochs: int, seed: int, kind: str, fast: bool = False
    ) -> None:
        per_epoch, rng = 70, np.random.default_rng(zlib.crc32(stage.encode()))
        floor = 1.25 - final[0] / 100
        lines: list[dict[str, Any]] = [self.event("start", 0, "")]
        best: dict[str, Any] = {"ra": -1.0}
        rows = []
        for epoch in range(epochs):
            for step in range(epoch * per_epoch + 10, (epoch + 1) * per_epoch + 1, 10):
                self.clock += 0.9
                loss = floor + 1.4 * math.exp(-3 * step / (epochs * per_epoch)) + rng.normal(0, 0.04)
                lines.append(
                    {"kind": "train", "epoch": epoch, "step": step, "loss": loss, "lr": 0.1, "time": self.clock}
                )
            done = (epoch + 1) / epochs
            rise = 1 - math.exp(-(6 if fast else 3.2) * done)
            ta = final[0] * rise / (1 - math.exp(-3.2)) + rng.normal(0, 0.9)
            ra = final[1] * rise / (1 - math.exp(-3.2)) - (2.5 * done if fast else 0) + rng.normal(0, 0.7)
            row = {"epoch": epoch + 1, "ta": float(np.clip(ta, 0, 100)), "ra": float(np.clip(ra, 0, 100))}
            rows.append(row)
            step = (epoch + 1) * per_epoch
            lines.append({"kind": "validation", **row, "step": step, "images": step * 128, "time": self.clock})
            best = row if row["ra"] > best["ra"] else best
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (self.root / stage / "metrics.jsonl").write_text(text)
        result = {"kind": kind, "seed": seed, "epochs": epochs, "steps": epochs * per_epoch, "best_ra": best}
        result |= {"best_ta": max(rows, key=lambda r: r["ta"]), "last": rows[-1], "seconds": 0.9 * 7 * epochs}
        config = yaml.safe_load((self.root / stage / "config.yaml").read_text())
        looks = 1 + config["attack"]["steps"]  # the steps of the attack, and the update
        result["passes"] = {"forward": looks, "backward": looks}
        result["transferred"] = {"matched": 62, "total": 62} if kind == "finetune" and "p1" not in stage else None
        self.write_json(stage, result)

    def config(self, stage: str, seed: int, objective: str, steps: int, epochs: int) -> dict[str, Any]:
        return {
            "out": str(self.root / stage),
            "seed": seed,
            "init": None,
            "freeze": "none",
            "data": {"name": "fashion_mini", "size": 28, "channels": 1, "classes": 10, "labels": None},
            "model": {"name": "preact_small", "width": 16},
            "objective": {"name": objective, "flip": True, "pad": 4 if objective != "classify" else 2},
            "attack": {"norm": "linf", "eps": EPS, "steps": steps, "step_size": None, "random_start": True},
            "schedule": {"epochs": epochs, "lr": 0.1, "weight_decay": 3e-4},
            "train": {"batch_size": 128},
        }

    def event(self, event: str, step: int, text: str) -> dict[str, Any]:
        return {"kind": "event", "event": event, "step": step, "text": text, "time": self.clock}

    def plan(self, stage: str, command: str, overrides: list[str], needs: list[str] | None = None) -> None:
        self.stages[stage] = {"command": command, "overrides": overrides, "needs": needs or []}
        graph = {"name": self.root.name, "stages": self.stages}
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "experiment.yaml").write_text(yaml.safe_dump(graph, sort_keys=False))

    def run(self, stage: str, config: dict[str, Any]) -> None:
        (self.root / stage).mkdir(parents=True)
        (self.root / stage / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def write_json(self, stage: str, result: dict[str, Any]) -> None:
        (self.root / stage / "result.json").write_text(json.dumps(result))

    def unfinish(self, stage: str, lines: int = 30, events: tuple[tuple[str, str], ...] = ()) -> None:
        """As if the run were on its way: no result, its first `lines` lines of metrics, then these events."""
        (self.root / stage / "result.json").unlink()
        file = self.root / stage / "metrics.jsonl"
        kept = file.read_text().splitlines(keepends=True)[:lines] if file.exists() else []
        kept += [json.dumps(self.event(event, 0, text)) + "\n" for event, text in events]
        file.write_text("".join(kept))

    def forget(self, stage: str) -> None:
        """As if the stage had not begun."""
        shutil.rmtree(self.root / stage)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty launch folder called `quickstart`."""
    return Folder(tmp_path / "quickstart")


@pytest.fixture
def quickstart(folder: Folder) -> Folder:
    """P1, P2 and P3 on rotation with F4, all finished."""
    return folder.grid()


@pytest.fixture
def interval_of() -> Callable[[float, int], list[float]]:
    """The 95% score interval of a rate in percent."""
    return wilson


@pytest.fixture
def folder_at() -> Callable[[Path], Folder]:
    """Makes an empty launch folder at a path."""
    return Folder
