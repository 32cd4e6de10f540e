"""The command `evaluate`: one evaluation, or what its suite names.

A suite of several parts runs each in a folder of its own inside the suite's folder. A part is a run like any other: it resumes from
its own verdicts, is done once, and is found by the report, the leaderboard and verify.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config.backbones import is_own
from ..config.schema import CorruptionsConfig, EvaluateConfig, JudgeConfig, UnforeseenConfig
from ..config.suites import IMAGES, NONE, PARTS, Suite, part_attack
from ..data import Located, as_float
from ..engines import World
from ..errors import RunError
from ..files import read_text, write_json
from ..text import duration
from ..training import folder
from ..training.made_from import MadeFrom
from .any_model import refuse_no_gradient
from .by_image import run_unless_finished
from .classifier import checkpoint_files, judged, open_whole
from .corruptions import corruptions_once
from .forecast import IMAGES as TIMED
from .forecast import Passes, corrupting_s, filled, pace_of, passes_of, searching_s
from .others import weights_of
from .run import evaluate_once
from .sanity import files_with_source, sanity, source_of
from .unforeseen import unforeseen_once

Work = Callable[[EvaluateConfig, Located, Path, World], None]

OF_SANITY = Passes(forward=300, both=200)  # of an image, at most
SPOILS = ("finite outputs", "outputs are logits")  # without these no attack means anything
# What a suite repeats of the results of its parts.
RATES = ("ta", "ta_interval", "ra", "ra_interval", "ra_after", "mean", "mce", "ua2", "n", "failed", "seconds")


def evaluate_or_suite(config: EvaluateConfig) -> Path:
    """Every process calls this. Returns the folder. If it holds a result already, nothing is done.

    Raises UserError before anything is written.
    """
    return run_unless_finished(config, lambda: files_with_source(config), WORK[config.suite.name])


def part_config(part: str, config: EvaluateConfig) -> Any:
    """The configuration of a part: its own `evaluate`, `corruptions` or `unforeseen` run, in the folder OUT/PART."""
    out = str(Path(config.out) / part)
    data = replace(config.data, limit=config.data.limit or IMAGES[config.suite.name])
    if part == "sanity":
        return replace(config, out=out, data=data, suite=replace(config.suite, name="sanity"))
    if part in ("corruptions", "unforeseen"):
        shared = {field.name: getattr(config, field.name) for field in fields(JudgeConfig)}
        keys = CorruptionsConfig if part == "corruptions" else UnforeseenConfig
        return keys(**{**shared, "out": out, "data": data})
    return replace(config, out=out, data=data, suite=Suite(), attack=part_attack(part, config))


def _suite(config: EvaluateConfig, located: Located, out: Path, world: World) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=world.rank > 0)
    # 1. Everything that may raise a UserError comes first, before anything is written.
    images = located.identity
    model, sources, made_from = judged(config, images, world)
    if is_own(config.model.name):  # most parts follow gradients
        refuse_no_gradient(f"model={config.model.name}", model, config.data.shape)
    other = source_of(config, images, world)
    if other is not None:
        made_from = MadeFrom(images, weights_of([other], made_from.weights))
    parts = {part: part_config(part, config) for part in PARTS[config.suite.name]}
    whole = open_whole(config, located, sources, world, parts["pgd20"].data.limit)

    with contextlib.ExitStack() as stack:
        record = stack.enter_context(folder.claimed(world, out, config, made_from, starts_over=True))

        def open_parts() -> list[str]:
            files = {part: (files_with_source if part == "sanity" else checkpoint_files)(config) for part in parts}
            return [p for p, c in parts.items() if not folder.finished_as_asked(out / p, c, config.split, files[p])]

        todo = world.long_on_rank_zero(open_parts)

        # 2. What it will take, at most.
        def forecast() -> None:
            batch = next(iter(whole.in_order(min(TIMED, whole.count))))
            pace, total = pace_of(model, as_float(batch.images)), 0.0
            for part in todo:
                n = count = min(whole.count, config.suite.images) if part == "sanity" else whole.count
                if part == "sanity":
                    seconds = n * OF_SANITY.seconds(pace)
                elif part == "corruptions":
                    seconds = n * (5 * corrupting_s(batch.images[0]) + 76 * pace.forward) / world.size
                elif part == "unforeseen":
                    own = parts[part]
                    each = searching_s(as_float(batch.images), own.kinds, own.strengths, own.steps, pace)
                    seconds = filled(n, config.batch_size, world.device) * each / world.size
                else:
                    n = filled(n, config.batch_size, world.device) if part == "autoattack" else n
                    seconds = n * passes_of(parts[part].attack).seconds(pace) / world.size
                total += seconds
                console.print(f"{part}: {count:,} images, at most {duration(seconds)}")
            console.print(
                f"suite={config.suite.name}: at most {duration(total)} here. Images that fall drop out early."
            )

        if todo:
            world.long_on_rank_zero(forecast)

        # 3. The parts, each in its folder. The sanity checks come first.
        for part, own in parts.items():
            if part in todo:
                console.print(f"{config.suite.name}: {part}", style="bold")
                OF_PART[part](own, located, out / part, world)
            if part == "sanity":
                world.on_rank_zero(lambda: _refuse_spoilt(config, out))

        # 4. Their results side by side.
        def gather() -> None:
            results = {part: json.loads(read_text(out / part / "result.json")) for part in parts}
            console.print(as_table(results))
            write_json(out / "result.json", _result(config, results, record))

        world.on_rank_zero(gather)


def _refuse_spoilt(config: EvaluateConfig, out: Path) -> None:
    checks = json.loads(read_text(out / "sanity" / "result.json"))["checks"]
    for check in checks:
        if check["name"] in SPOILS and check["verdict"] == "fail":
            judged = f"model={config.model.name}" if config.checkpoint is None else f"checkpoint={config.checkpoint}"
            raise RunError(
                f"{judged}: no “{check['name']}” ({check['figure']}): no attack on it means anything. "
                f"{check['meaning']}"
            )


def _result(config: EvaluateConfig, results: Mapping[str, Any], record: MadeFrom) -> dict[str, Any]:
    return {
        "kind": "suite",
        "suite": config.suite.name,
        "parts": {part: {name: r[name] for name in RATES if name in r} for part, r in results.items()},
        "attack": asdict(config.attack),
        "split": config.split,
        "checkpoint": config.checkpoint,
        "members": config.model.members,
        "seed": config.seed,
        "made_from": record.as_record(),
        "seconds": round(sum(r["seconds"] for r in results.values()), 1),
    }


def as_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """The results of the parts for a terminal."""
    table = Table("part", "images", "TA %", "RA %", "", box=None, header_style="bold", pad_edge=False)
    for part, r in results.items():
        ta, ra = ("" if name not in r else _rate(r, name) for name in ("ta", "ra"))
        said = ""
        if r["kind"] == "corruptions":
            said = f"accuracy {r['mean']:.1f} under corruptions"
        if r["kind"] == "unforeseen":
            said = f"UA2 {r['ua2']:.1f}"
        if "failed" in r:
            said = "; ".join(r["failed"]) + " failed" if r["failed"] else "no check failed"
        table.add_row(*map(Text, (part, f"{r['n']:,}", ta, ra, said)))
    return table


def _rate(result: Mapping[str, Any], name: str) -> str:
    low, high = result.get(f"{name}_interval", (None, None))
    return f"{result[name]:.1f}" + ("" if low is None else f" [{low:.1f}, {high:.1f}]")


OF_PART: dict[str, Callable[[Any, Located, Path, World], None]] = {
    "sanity": sanity,
    "pgd20": evaluate_once,
    "autoattack": evaluate_once,
    "corruptions": corruptions_once,
    "unforeseen": unforeseen_once,
}
WORK: dict[str, Work] = {NONE: evaluate_once, "sanity": sanity, **dict.fromkeys(PARTS, _suite)}
