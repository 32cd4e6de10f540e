"""`dist-advss verify` compares run folders with what they were made from, and names everything that no longer fits.

A run's `made_from.json` records its images and the weights that it loaded. `verify` hashes both again. It also loads each
checkpoint of the folder and recomputes the rates in `result.json` from the verdicts. It reads only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.text import Text

from . import __version__
from .arrays import read_arrays
from .config.backbones import is_own
from .config.commands import COMMANDS, trains
from .config.compose import compose_node
from .config.pseudo import FILE as PSEUDO_LABELS
from .config.schema import Data
from .data.identity import Identity, difference, identify, is_here, restore
from .errors import EXIT_FAILED, RunError, UserError
from .runs.folders import lookup, mapping
from .runs.metrics import number
from .runs.read import Launch, Run, follow, read
from .text import plural
from .training import checkpoint
from .training.made_from import digest_of, other_published

PICKS = ("best_ra", "best_ta", "last")
ROUNDING = 1e-3  # percentage points; result.json holds four decimals


@dataclass(frozen=True)
class Finding:
    """A sentence about one run. wrong: something no longer fits; unknown: it cannot be compared, such as missing images."""

    kind: Literal["wrong", "unknown"]
    text: str


def verify(directory: Path) -> int:
    """Prints the findings on every run of a launch folder, a folder of runs or one run folder.

    Returns 1 if anything no longer fits, else 0. Raises UserError where there is no run.
    """
    launch = read(directory, time.time())
    runs = [run for run in launch.runs.values() if run.command in COMMANDS and run.path.is_dir()]
    console = Console(highlight=False, soft_wrap=True)
    identities: dict[str, Identity] = {}
    counts = {"wrong": 0, "unknown": 0}
    for run in runs:
        findings = list(examine(run, launch, identities))
        wrong = [finding.text for finding in findings if finding.kind == "wrong"]
        fits = "fits" if run.state == "finished" else f"fits so far ({run.state})"
        console.print(Text(f"{run.stage}: {'does not fit' if wrong else fits}", style="red" if wrong else "green"))
        for text in wrong:
            console.print(Text(f"  {text}"))
        for finding in findings:
            counts[finding.kind] += 1
            if finding.kind == "unknown":
                console.print(Text(f"  not compared: {finding.text}", style="dim"))
    for text in _reports(launch):
        counts["wrong"] += 1
        console.print(Text(text, style="red"))
    summary = f"{counts['wrong']} no longer fit" if counts["wrong"] else "nothing has changed"
    console.print(f"{plural(len(runs), 'run')}: {summary}, {counts['unknown']} not compared")
    return EXIT_FAILED if counts["wrong"] else 0


def examine(run: Run, launch: Launch, identities: dict[str, Identity]) -> Iterator[Finding]:
    """Every finding about one run of `launch`. `identities` keeps the image sets that were hashed, as runs share them."""
    for problem in run.problems:
        yield Finding("wrong", problem)
    record = mapping(run.path / "made_from.json", [])
    if not record and run.config and not run.planned:
        yield Finding("unknown", "no made_from.json: the run is older than that record, or was converted")
    written = record.get("version", __version__)
    if written != __version__:
        yield Finding("unknown", f"version {written} of dist-advss wrote it, and this is {__version__}")
    yield from _images(run, record.get("data"), identities)
    yield from _published(run, record.get("published"))
    yield from _sources(run, record.get("weights"), launch)
    if trains(run.command):
        yield from _checkpoints(run)
    elif run.result.get("kind") == "suite":
        yield from _parts(run)
    elif run.result:
        yield from _verdicts(run)
    if run.result and run.result.get("made_from", record) != record:
        yield Finding("wrong", "result.json and made_from.json name other images, weights or versions")


def _images(run: Run, record: Any, identities: dict[str, Identity]) -> Iterator[Finding]:
    """The images that data.root contains now, against those that the run was made from."""
    before = restore(record)
    if before is None:
        return
    configured = run.config.get("data")
    raw = {k: v for k, v in configured.items() if k != "download"} if isinstance(configured, dict) else {}
    data = Data()
    try:
        data = compose_node("data", Data(), {**raw, "stage": None}, [])
        key = f"{data} {before.part}"
        if key not in identities:
            identities[key] = identify(data, before.part)
    except (UserError, RunError) as error:
        yield Finding("wrong" if is_here(data) else "unknown", f"images: {error}")
        return
    now = identities[key]
    changed = difference(before, now)
    if changed:
        yield Finding("wrong", f"images: data.root={now.root} has changed since: {changed}")


def _published(run: Run, record: Any) -> Iterator[Finding]:
    """The files of published corrupted images, against their digests."""
    folder = run.config.get("published")
    if not (isinstance(record, dict) and isinstance(folder, str)):
        return
    if not os.path.isdir(folder):  # unlike Path.is_dir, never raises
        yield Finding("unknown", f"images: {folder} no longer exists")
        return
    changed = other_published({PurePath(str(name)).name: str(digest) for name, digest in record.items()}, Path(folder))
    if changed:
        yield Finding("wrong", f"images: published={folder} has changed since: {changed}")


def _sources(run: Run, record: Any, launch: Launch) -> Iterator[Finding]:
    """The checkpoints that the run loaded, against their digests. It looks for them where the launch is now first."""
    for link, before in (record if isinstance(record, dict) else {}).items():
        if is_own(link):
            yield Finding("unknown", f"weights: those that {link} makes, as verify does not run it")
            continue
        source = follow(run, link, launch)
        inside = Path(link).name if Path(link).name == PSEUDO_LABELS else f"checkpoints/{Path(link).name}"
        moved = source.path / inside if source else None
        file = moved if moved is not None and moved.exists() else Path(link)
        if not file.exists():
            yield Finding("unknown", f"weights: {link} no longer exists")
            continue
        try:
            now = digest_of(file)
        except UserError as error:
            yield Finding("wrong", f"weights: {error}")
            continue
        if now != before:
            yield Finding("wrong", f"weights: {file} holds other weights since (digest {before}, now {now})")


def _checkpoints(run: Run) -> Iterator[Finding]:
    """The run's own checkpoints: undamaged, finite, and those that its result names."""
    for name in (*PICKS, "previous"):
        file = checkpoint.file_of(run.path, name)
        recorded = lookup(run.result, f"{name}.weights")
        if not file.exists():
            if recorded:
                yield Finding("wrong", f"{file.name}: result.json names its weights, and the file is missing")
            continue
        try:
            weights = checkpoint.judged(checkpoint.load(file))
        except UserError as error:
            yield Finding("wrong", str(error))
            continue
        broken = [key for key, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
        if broken:
            yield Finding("wrong", f"{file.name}: {broken[0]} is not finite")
        now = checkpoint.digest(weights)
        if recorded and now != recorded:
            yield Finding("wrong", f"{file.name}: its digest is {now}, and result.json names {recorded}")


def _verdicts(run: Run) -> Iterator[Finding]:
    """The rates in result.json, computed again from the verdicts of every image."""
    file = run.path / "verdicts.npz"
    try:
        columns = read_arrays(file)
        if run.command == "transfer":
            means = 100 * columns["correct"].mean(0, dtype=np.float64)
            rates = {"ra": means[:-1].tolist(), "ta": means[-1].tolist()}
        elif run.command == "corruptions":
            right = columns["prediction"] == columns["label"][:, None, None]
            accuracy = zip(run.config["kinds"], 100 * right.mean(0, dtype=np.float64), strict=True)
            clean = 100 * float((columns["clean_prediction"] == columns["label"]).mean())
            rates = {"ta": clean, "mean": 100 * float(right.mean())}
            rates |= {f"accuracy.{kind}": values.tolist() for kind, values in accuracy}
        elif run.result.get("kind") == "sanity":
            rates = {"attacks.ra": (100 * columns["right"].mean(0, dtype=np.float64)).tolist()}
        elif run.command == "unforeseen":
            right = columns["prediction"] == columns["label"][:, None, None]
            attacked = 100 * right.mean(0, dtype=np.float64)
            rates = {"ta": 100 * float((columns["clean_prediction"] == columns["label"]).mean())}
            rates |= {"mean": attacked.mean(0).tolist()}
            rates |= {f"accuracy.{kind}": row.tolist() for kind, row in zip(run.config["kinds"], attacked, strict=True)}
            if "medium" in run.config["strengths"]:
                rates["ua2"] = float(attacked[:, run.config["strengths"].index("medium")].mean())
        else:
            rates = {
                "ta": 100 * float((columns["clean_prediction"] == columns["label"]).mean()),
                "ra": 100 * float((columns["adversarial_prediction"] == columns["label"]).mean()),
            }
            if "felled_at" in columns:
                axis = "steps" if run.config["sweep"].get("steps") else "eps"
                points = np.unique(np.asarray([0, *run.config["sweep"][axis], run.config["attack"][axis]], float))
                at = np.sort(columns["felled_at"])
                fallen = np.searchsorted(at, np.arange(len(points)), side="right") - (at < 0).sum()
                rates |= {f"sweep.{axis}": points.tolist(), "sweep.ra": (100 * (1 - fallen / len(at))).tolist()}
        count = len(columns["index"])
    except (OSError, LookupError, TypeError, ValueError) as error:  # a column is missing, or has another shape
        reason = error.strerror if isinstance(error, OSError) else str(error)
        yield Finding("wrong", f"verdicts.npz: cannot be read ({reason}), so result.json has no evidence")
        return
    if number(run.result.get("n")) != count:
        yield Finding("wrong", f"result.json: n is {run.result.get('n')}, and verdicts.npz holds {count} images")
    for name, rate in rates.items():
        if not _equal(lookup(run.result, name), rate):
            yield Finding("wrong", f"result.json: {name} is {lookup(run.result, name)}, and the verdicts give {rate}")


def _parts(run: Run) -> Iterator[Finding]:
    """The rates that a suite repeats, against the results of its parts."""
    parts = run.result.get("parts")
    for part, rates in parts.items() if isinstance(parts, dict) else ():
        own = mapping(run.path / PurePath(part).name / "result.json", [])  # inside the run folder, whatever it says
        if not isinstance(rates, dict) or any(own.get(name) != value for name, value in rates.items()):
            yield Finding("wrong", f"result.json: {part} is not what {part}/result.json says")


def _equal(recorded: Any, computed: Any) -> bool:
    """Whether two rates, or two lists of rates, agree within result.json's rounding."""
    try:
        return bool(np.allclose(np.asarray(recorded, float), np.asarray(computed, float), rtol=0, atol=ROUNDING))
    except (TypeError, ValueError):
        return False


def _reports(launch: Launch) -> Iterator[str]:
    """A report that is older than a result beside it."""
    report = launch.root / "report.html"
    if not report.is_file():
        return
    for run in launch.runs.values():
        result = run.path / "result.json"
        if result.is_file() and result.stat().st_mtime > report.stat().st_mtime:
            yield f"report.html is older than the result of {run.stage}; write it again with dist-advss report"
            return
