"""The setting of an evaluation: everything that moves its numbers, except for the model and its training."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any, TypeVar

from ..config.attack import CASCADE, PGD_SUITE, Attack
from ..config.commands import COMMANDS
from ..config.flags import says_where
from ..config.keys import grey_levels
from ..config.source_run import CHECKPOINTS, NODES
from ..text import one_line
from .folders import lookup
from .metrics import number
from .read import Run, flatten

UNKNOWN = "unknown"
NOTHING = "[]"  # a list without entries, such as the points of an evaluation without a sweep
HASHES = ("images", "published files")  # their values
SHOWN = 8  # letters of such a value
LONGEST = 200  # letters of a value
MOST_KEYS = 100  # of an attack
# keys of an evaluation that name the model, have their own place in a Setting, or do not move a number
# fmt: off
ELSEWHERE = (
    "checkpoint", "seed", "split", "batch_size", "data.name", "data.limit", "data.labels", "data.root", "data.download",
    "data.jpeg", "data.quality", "data.max_side", "model.name", "model.members",
)
# fmt: on
OF_DESCRIPTION = ("norm", "eps", "steps", "restarts", "keep", "name")  # in `describe_attack`
OF_CASCADE = ("cascade", "targets", "queries", "eot")  # which no other attack reads
OF_TRAINING = (
    "noise",
    "eps_ramp",
    "steps_ramp",
    "batch_norm",
)  # an evaluation stays in the ball, and uses running statistics


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What moves the numbers of a measurement: the text that a subclass gives, and in `others` what is not in the text.

    others: by key. None where a value is not known.
    """

    others: tuple[tuple[str, str | None], ...] = ()

    @property
    def unknown(self) -> int:
        """How many values are not known."""
        return sum(value is None for _, value in self.others)

    def get(self, name: str) -> str | None:
        """The value of one of `others`."""
        return dict(self.others).get(name)

    def fits(self, other: Conditions) -> bool:
        """Whether both may be the same: they agree in everything that both know."""
        if replace(self, others=()) != replace(other, others=()) or len(self.others) != len(other.others):
            return False
        pairs = zip(self.others, other.others, strict=True)
        return all(a[0] == b[0] and (a[1] == b[1] or None in (a[1], b[1])) for a, b in pairs)


C = TypeVar("C", bound=Conditions)


@dataclass(frozen=True)
class Setting(Conditions):
    """The conditions of an evaluation. Evaluations are averaged, compared and paired only within one setting.

    labels: labelled images of the fine-tuning; None: all
    attack: its name, radius, restarts and which iterate counts
    others: `n` (images judged), `images` (fingerprint of the set), `pixels` (how they were decoded), `pick`, the rest of the
            attack, of `data` and of `model`
    """

    data: str
    model: str
    labels: int | None
    split: str
    attack: str

    def __str__(self) -> str:
        labels = f"{self.labels:,} labels" if self.labels else "all labels"
        return f"{self.data}, {self.model}, {labels}; {self.split} images under {self.attack}"

    @property
    def full(self) -> str:
        """The setting with everything that it holds."""
        return ", ".join([str(self), *(described(name, value) for name, value in self.others if value != NOTHING)])


def apart(settings: Iterable[C]) -> dict[C, list[str]]:
    """For each setting where it is not as most of the same text are: `pick=last instead of best_ra`."""
    by_text: dict[str, list[C]] = {}
    for setting in settings:
        by_text.setdefault(str(setting), []).append(setting)
    words: dict[C, list[str]] = {}
    for alike in by_text.values():
        held = [dict(setting.others) for setting in alike]
        names = dict.fromkeys(name for values in held for name in values)
        usual = {name: Counter(values.get(name) for values in held).most_common(1)[0][0] for name in names}
        for setting, values in zip(alike, held, strict=True):
            pairs = [(name, values.get(name), usual[name]) for name in names]
            words[setting] = [described(name, a, b) for name, a, b in pairs if a != b]
    return words


def unlike(setting: Setting, usual: Setting, but: tuple[str, ...] = ()) -> list[str]:
    """Where `others` are not as those of `usual`: `n=500 instead of 1000`. Without names that begin with one of `but`."""
    ours = dict(usual.others)
    pairs = [(name, value, ours.get(name)) for name, value in setting.others if not name.startswith(but)]
    return [described(name, a, b) for name, a, b in pairs if a != b]


def captions(settings: Iterable[C]) -> dict[C, str]:
    """The text of each setting, with what distinguishes it from the others."""
    return {setting: "; ".join(filter(None, (str(setting), ", ".join(of)))) for setting, of in apart(settings).items()}


def setting_of(run: Run, tuned: Run | None, together: bool) -> Setting:
    """The setting of an evaluation of `tuned`. `together`: of several models, the first of which is `tuned`."""
    of_model = tuned.config if tuned else {}
    configs = {node: [run.config, of_model] for node in NODES}
    if run.planned:  # a run that has not started has the data of what it evaluates
        configs["data"].reverse()
    if run.planned or together:  # and this one, and one of several models, its network
        configs["model"].reverse()
    attack = run.result.get("attack") or lookup(run.config, "attack")
    labels = number(lookup(of_model, "data.labels"))
    split = value_text(run.result.get("split") or lookup(run.config, "split", "test"))
    return Setting(
        data=_first(configs["data"], "data.name"),
        model=_first(configs["model"], "model.name"),
        labels=None if labels is None else int(labels),
        split=split,
        attack=describe_attack(attack),
        others=tuple({**_others(run, configs, split), **_of_attack(attack)}.items()),
    )


def filled(settings: Iterable[C]) -> dict[C, C]:
    """For each setting with unknown values the one setting that it may be; itself where none or several fit.

    So a run that is still waiting, or that an earlier version wrote, counts with the finished ones that it agrees with.
    """
    different = sorted(dict.fromkeys(settings), key=lambda setting: setting.unknown)
    found: dict[C, C] = {}
    for setting in different:  # those that know most come first
        fitting = {found[other] for other in found if other.unknown < setting.unknown and other.fits(setting)}
        found[setting] = fitting.pop() if len(fitting) == 1 else setting
    return found


def conditions(run: Run) -> tuple[tuple[str, str | None], ...]:
    """What moves the numbers of a transfer, except for its models: split, attack, images and the rest of `Setting.others`."""
    attack = run.result.get("attack") or lookup(run.config, "attack")
    split = value_text(run.result.get("split") or lookup(run.config, "split", "test"))
    found = {
        "split": split,
        "attack": describe_attack(attack),
        **_others(run, {}, split),
        **_of_attack(attack),
    }
    return tuple(found.items())


def _others(run: Run, configs: Mapping[str, list[dict[str, Any]]], split: str) -> dict[str, str | None]:
    """Everything of an evaluation but its attack and what `Setting` names, with defaults for keys of later versions."""
    n = number(run.result.get("n"))
    if n is None and not run.result:
        n = number(lookup(run.config, "data.limit"))
    found: dict[str, str | None] = {
        "n": None if n is None else f"{n:.0f}",
        "images": fingerprint(run),
        "pixels": pixels_in(run.made_from),
        "pick": pick_of(run, run.result.get("checkpoint"), lookup(run.config, "checkpoint")),
    }
    for name, default in moving_keys().items():
        if name == "data.validation" and split != "validation":
            continue
        group = name.partition(".")[0]
        node = next((config for config in configs.get(group, [run.config]) if lookup(config, group) is not None), None)
        found[name] = None if node is None else value_text(lookup(node, name, default))
    return found


@functools.cache
def moving_keys() -> dict[str, Any]:
    """The keys of an evaluation that move its numbers, except for the attack, with their defaults."""
    keys = flatten(asdict(COMMANDS["evaluate"].schema()))
    return {
        k: v
        for k, v in keys
        if not (says_where(k) or k in ELSEWHERE or k == "pick" or k.startswith(("attack.", "suite.")))
    }


def pick_of(run: Run, *links: Any) -> str | None:
    """Which checkpoint of a model was judged: that of the file, where one of the links to it names one."""
    for link in links:
        if isinstance(link, str) and link.endswith(CHECKPOINTS):
            return one_line(PurePath(link).stem, LONGEST)
    return value_text(lookup(run.config, "pick", "best_ra")) if run.config else None


def _of_attack(attack: Any) -> dict[str, str | None]:
    """What `describe_attack` leaves out. A step size that follows from radius and steps is "default"."""
    if not isinstance(attack, dict) or number(attack.get("steps")) == 0:
        return {}
    ours = attack if attack.get("name") else {**asdict(Attack()), **attack}
    unread = () if ours.get("algorithm") == "autoattack" else OF_CASCADE
    found = {name: value for name, value in ours.items() if name not in (*OF_DESCRIPTION, *OF_TRAINING, *unread)}
    if "step_size" in found:
        step, usual = number(found["step_size"]), usual_step(attack)
        follows = found["step_size"] is None or (step and usual and abs(step / usual - 1) < 1e-6)
        found["step_size"] = "default" if follows else found["step_size"]
    texts = {one_line(f"attack.{name}", LONGEST): value_text(value) for name, value in found.items()}
    if len(texts) <= MOST_KEYS:
        return dict(texts)
    # More keys than any attack has: they count by their hash.
    return {"attack": hashlib.sha256(repr(sorted(texts.items())).encode(errors="replace")).hexdigest()[:16]}


def usual_step(attack: dict[str, Any]) -> float | None:
    """The length of a step that `attack.step_size=null` stands for; None without a radius."""
    eps, steps = number(attack.get("eps")), number(attack.get("steps"))
    return None if eps is None else eps * max(1 / 4, 1.25 / max(steps or 1.0, 1.0))


def fingerprint(run: Run) -> str | None:
    """The fingerprint of the images that a run was made from; None where it has not recorded any."""
    return fingerprint_in(run.made_from)


def fingerprint_in(made_from: Mapping[str, Any]) -> str | None:
    """The same of the content of a made_from.json."""
    return _text_in(made_from, "data.fingerprint")


def pixels_in(made_from: Mapping[str, Any]) -> str | None:
    """How the loader made pixels of these images; None for a record of an earlier version."""
    return _text_in(made_from, "data.pixels")


def _text_in(made_from: Mapping[str, Any], name: str) -> str | None:
    found = lookup(made_from, name)
    return one_line(found, LONGEST) if isinstance(found, str) and found else None


def value_text(value: Any) -> str:
    """A value as `key=value` words have it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.6g}" if isinstance(value, float) else one_line(str(value), LONGEST)


def described(name: str, value: str | None, usual: str | None = "") -> str:
    """`pick=last`, or with another value than the `usual` one `pick=last instead of best_ra`.

    A list without entries is left out: `sweep.steps=[1, 5]`, and `no sweep.steps` where it is the value itself.
    """
    if value == NOTHING:
        return f"no {name}"
    values = [UNKNOWN if value is None else value[:SHOWN] if name in HASHES else value for value in (value, usual)]
    more = f" instead of {values[1]}" if usual not in ("", NOTHING) else ""
    return f"{name} {values[0]}{more}" if name in HASHES else f"{name}={values[0]}{more}"


def _first(configs: list[dict[str, Any]], name: str) -> str:
    found = (lookup(config, name) for config in configs)
    return next((one_line(str(value), LONGEST) for value in found if value), UNKNOWN)


def describe_attack(attack: Any) -> str:
    """`{"norm": "linf", "eps": 0.0314, "steps": 20, …}` as "PGD-20, l∞ eps 8/255"."""
    if not isinstance(attack, Mapping):
        return "an unknown attack"
    steps, eps = number(attack.get("steps")), number(attack.get("eps"))
    restarts, norm = number(attack.get("restarts")) or 1, value_text(attack.get("norm", "linf"))
    single = "N-FGSM" if number(attack.get("noise")) else None
    usual = _cascade(attack, steps) or single or ("no attack" if steps == 0 else f"PGD-{steps:g}" if steps else "PGD")
    name = value_text(attack.get("name") or usual)
    radius = "" if eps is None else f", {describe_ball(norm, eps)}"
    more = f", {restarts:g} restarts" if restarts > 1 else ""
    return name + radius + more + (", any iterate" if attack.get("keep") == "any" else "")


def _cascade(attack: Mapping[str, Any], steps: float | None) -> str | None:
    """ "AutoAttack" or "PGD suite", with what is not standard about it; None for another attack."""
    if attack.get("algorithm") != "autoattack":
        return None
    cascade = attack.get("cascade")
    names = [str(name) for name in cascade] if isinstance(cascade, list) else [UNKNOWN]
    kind, usual, whole = "AutoAttack", 100, list(CASCADE)
    if set(names) & set(PGD_SUITE):
        kind, usual, whole = "PGD suite" if set(names) <= set(PGD_SUITE) else "cascade", 20, list(PGD_SUITE)
    which = "" if names == whole else f" of {', '.join(names)}"
    passes = number(attack.get("eot")) or 1
    averaged = f" over {passes:g} passes" if passes > 1 else ""
    return f"{kind}{which}{averaged}" + ("" if steps == usual else f" with {value_text(steps)} steps")


def describe_ball(norm: str, eps: float) -> str:
    """ "l∞ eps 8/255", "l2 eps 0.5" or "l1 eps 12". A radius of 0.03137 is one of 8/255."""
    return f"{describe_norm(norm)} eps {grey_levels(eps, within=1e-3) or f'{eps:g}'}"


def describe_norm(norm: str) -> str:
    """ "l∞" or "l2"."""
    return "l∞" if norm == "linf" else norm
