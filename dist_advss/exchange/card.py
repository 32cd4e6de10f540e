"""The card of an exported network: config.json for programs, README.md for people and for Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__
from ..config.attack import Attack
from ..config.commands import COMMANDS
from ..config.keys import shown
from ..config.paths import is_path
from ..config.suites import NONE
from ..data.betons.beton import SQUARES
from ..errors import UserError
from ..runs.folders import lookup
from ..runs.methods import before_init, method_of
from ..runs.read import Launch, flatten, read_run
from ..runs.settings import SHOWN, describe_attack, described, moving_keys, setting_of, value_text
from .network import Trained

FORMAT = "dist_advss 1"
# Conditions of an evaluation that the card shows anyway, with the network's configuration or in the name of the attack.
ON_CARD = (
    "model.", "data.size", "data.channels", "data.classes", "attack.algorithm", "attack.cascade", "attack.eot", "sweep.",
)  # fmt: skip
JUDGED = ("ta", "ra", "ta_interval", "ra_interval", "n", "sweep", "attack", "split", "seed")  # of result.json


def card_of(run: Trained, evaluations: Sequence[Path]) -> dict[str, Any]:
    """What config.json says of a network: plain values, and no path of this machine.

    Raises UserError for an evaluation of other weights, or an unfinished one.
    """
    data = run.source.data.as_record() | {"root": None} if run.source.data else None
    folder = run.source.path.parent.parent
    trained = read_run(folder, now=0.0)
    launch = Launch(folder.parent, "", {trained.stage: trained})
    before = before_init(trained, launch) if run.config.init else None
    return {
        "format": FORMAT,
        "command": run.command,
        "input": f"images (N, {run.config.data.channels}, H, W), float32 in [0,1]; the network normalises them",
        "output": "logits (N, classes)"
        if COMMANDS[run.command].labelled
        else "means of the feature maps (N, channels)",
        "classes": run.source.classes,
        "weights": run.source.digest,
        "data": data,
        "method": method_of(trained, launch).full,
        "pretraining": before and {name: getattr(before, name) for name in ("pretrain", "task", "joint")},
        "evaluations": [_evaluation(path, run.source.digest) for path in evaluations],
        "version": __version__,
        "revision": next((s["git"] for s in reversed(trained.metrics.sessions) if s.get("git")), None),
        "config": without_paths(asdict(run.config)),
    }


def without_paths(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration whose paths are null. Of `init` the last name stays, so that the network does not pass for one of
    random initial weights."""
    kept: dict[str, Any] = {}
    for name, value in config.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            kept[name] = without_paths(value, f"{path}.")
        elif path == "init" and value is not None:
            kept[name] = Path(value).name
        else:
            kept[name] = None if is_path(path) else value
    return kept


def _evaluation(path: Path, digest: str) -> dict[str, Any]:
    """TA, RA and the attack of one evaluation."""
    run = read_run(path, now=0.0)
    if run.command != "evaluate" or run.suite != NONE or not run.result:
        raise UserError(f"--evaluation {path}: no finished evaluation there; give the out=… of dist-advss evaluate")
    judged = lookup(run.result, "made_from.weights")
    if not isinstance(judged, dict) or list(judged.values()) != [digest]:
        raise UserError(f"--evaluation {path}: it judged other weights; give one of the checkpoint that you export")
    found = {name: run.result[name] for name in JUDGED if name in run.result}
    setting = setting_of(run, None, together=False)
    return {**found, "data": setting.data, "conditions": dict(setting.others)}


def _images(evaluation: Mapping[str, Any]) -> str:
    """The images that an evaluation judged: `fashion_mini (0123abcd), test, 1,000 images`."""
    fingerprint = evaluation["conditions"]["images"]
    which = f" ({fingerprint[:SHOWN]})" if fingerprint else ""
    return f"{evaluation['data']}{which}, {evaluation['split']}, {evaluation['n']:,} images"


def _attack(evaluation: Mapping[str, Any]) -> str:
    """The attack of an evaluation, with every other condition that is not as by default."""
    attack = {f"attack.{name}": value for name, value in asdict(Attack()).items()}
    usual = {name: value_text(value) for name, value in (moving_keys() | attack).items()}
    usual |= {"attack.step_size": "default", "pixels": SQUARES, "seed": "0"}
    found = {**evaluation["conditions"], "seed": value_text(evaluation["seed"])}
    unusual = [
        described(name, value)
        for name, value in found.items()
        if name in usual and value not in (None, usual[name]) and not name.startswith(ON_CARD)
    ]
    return ", ".join([describe_attack(evaluation["attack"]), *unusual])


def readme(card: Mapping[str, Any], name: str) -> str:
    """README.md with the front matter of a Hugging Face model card."""
    config = card["config"]
    classifier = card["classes"] is not None and card["output"].startswith("logits")
    rows = [
        f"| {_images(judged)} | {_attack(judged)} | {judged['ta']:.1f} | {judged['ra']:.1f} |"
        for judged in card["evaluations"]
    ]
    table = (
        ["| images | attack | TA | RA |", "|---|---|---|---|", *rows]
        if rows
        else ["No evaluation was exported with it."]
    )
    trained = [
        f"- {key}: `{value}`"
        for key, value in flatten(config)
        if key.split(".")[0] in ("objective", "attack", "schedule", "model") and value is not None
    ]
    return "\n".join(
        [
            "---",
            f"pipeline_tag: {'image-classification' if classifier else 'image-feature-extraction'}",
            "tags: [adversarial-robustness, pytorch]",
            "---",
            "",
            f"# {name}",
            "",
            f"A {config['model']['name']}, trained by `dist-advss {card['command']}` on {config['data']['name']}. Its method is "
            f"{card['method']}.",
            f"Input: {card['input']}. Output: {card['output']}.",
            "",
            "TA is the accuracy on clean images and RA the accuracy on attacked images, in percent.",
            "",
            *table,
            "",
            *(line for evaluation in card["evaluations"] if "sweep" in evaluation for line in _curve(evaluation)),
            "## Use",
            "",
            "With torch alone (`model.pt2`; load programs only from people whom you trust):",
            "",
            "```python",
            "from load import load    # load.py of this folder; it compares outputs with probe.pt",
            "network = load()",
            "```",
            "",
            "With dist_advss: `dist-advss import FOLDER RUN`, then `evaluate checkpoint=RUN` or `finetune init=RUN`.",
            "",
            "## Training",
            "",
            *trained,
            "",
        ]
    )


def _curve(evaluation: Mapping[str, Any]) -> list[str]:
    """RA along the sweep of an evaluation, as lines of README.md."""
    sweep = evaluation["sweep"]
    axis = next(name for name in ("eps", "steps") if name in sweep)
    points = zip(sweep[axis], sweep["ra"], sweep["ra_interval"], strict=True)
    return [
        f"RA against {axis}, on {_images(evaluation)}, with the other settings of {_attack(evaluation)}:",
        "",
        f"| {axis} | RA | 95% interval |",
        "|---|---|---|",
        *(
            f"| {shown(at) if at else '0 (clean)'} | {ra:.1f} | {low:.1f} to {high:.1f} |"
            for at, ra, (low, high) in points
        ),
        "",
    ]
