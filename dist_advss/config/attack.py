"""The keys of an attack, and the checks that need no other part of the configuration. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .keys import key

PRECISIONS = ("fp32", "bf16", "fp16")
CASCADE = ("apgd-ce", "apgd-t", "fab-t", "square")  # standard AutoAttack
CASCADE_ALSO = ("apgd-dlr", "fab")  # further attacks that attack.cascade accepts
PGD_SUITE = ("pgd-ce", "pgd-cw", "pgd-dlr", "mi-fgsm", "pgd-t")  # linf and l2
TRAINING_ONLY = ("apgd", "free")  # values of attack.algorithm
TARGETED = ("apgd-t", "fab-t", "pgd-t")
RESTARTED = ("apgd-ce", "apgd-dlr", "fab", "pgd-ce", "pgd-cw", "pgd-dlr", "pgd-t")  # these start attack.restarts times


@dataclass
class Attack:
    norm: str = key("linf", "norm of the perturbation; l1 with attack=autoattack only", choices=("linf", "l2", "l1"))
    eps: float = key(
        8 / 255, "largest perturbation in attack.norm, for images in [0,1]; accepts a fraction such as 8/255", low=0.0
    )
    steps: int = key(
        10,
        "gradient steps; 0: no attack, but attack.eps still bounds the attack of the validation RA",
        low=0,
        high=10_000,
    )
    step_size: float | None = key(
        None,
        "length of a step in attack.norm; null: eps/4, or 1.25 eps/steps for fewer than five steps; eps with "
        "attack.noise and with attack.algorithm=free; 2 eps, the first one, with attack.algorithm=apgd",
        low=0.0,
    )
    random_start: bool = key(True, "start at a uniform random point within attack.eps; false: start at the clean image")
    clamp_start: bool = key(
        True,
        "clamp the random start to [0,1]; false: clamp from the first step on, as the published code (not with keep=any)",
    )
    noise: float = key(
        0.0,
        "in units of attack.eps; above 0: start at uniform noise of this radius and take one step that is not projected, so that "
        "the ball is left (N-FGSM, in training only)",
        low=0.0,
        high=16.0,
    )
    eps_ramp: float = key(
        0.0,
        "in training, epochs over which the attack's radius grows linearly up to attack.eps, and its step with it; validation has "
        "the full radius",
        low=0.0,
    )
    steps_ramp: float = key(
        0.0,
        "in training, epochs over which the attack's steps grow from 1 to attack.steps, at the start of each epoch",
        low=0.0,
    )
    restarts: int = key(
        1,
        "independent random starts; attack.keep=last keeps the one with the highest loss (autoattack: of "
        "apgd-ce, apgd-dlr, fab, pgd-ce, pgd-cw, pgd-dlr, pgd-t)",
        low=1,
        high=1000,
    )
    keep: str = key(
        "last",
        "last: keep the last iterate; any: keep the first that fools the model (not in training)",
        ("last", "any"),
    )
    batch_norm: str = key(
        "train",
        "attack in training: train (update running statistics, as the paper), batch (do not update them), eval (use them)",
        choices=("train", "batch", "eval"),
    )
    precision: str = key("fp32", "autocast type of the attack's forward and backward pass", choices=PRECISIONS)
    algorithm: str = key(
        "pgd",
        "pgd; apgd: steps with momentum that shrink for each image by itself, for the iterate with the highest loss (training "
        "only); free: attack.steps updates on each batch, whose backward passes move the images too (training only); "
        "autoattack: the attacks of attack.cascade, each on the images that are still right (evaluate only)",
        choices=("pgd", "apgd", "free", "autoattack"),
    )
    cascade: list[str] = key(
        list(CASCADE),
        "with attack.algorithm=autoattack: its attacks in order, some of apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square, pgd-ce, "
        "pgd-cw, pgd-dlr, mi-fgsm and pgd-t",
    )
    targets: int = key(
        9,
        "target classes of apgd-t, fab-t and pgd-t, the most likely wrong ones; fewer than data.classes. apgd-t has at most 5 in l1",
        low=1,
    )
    queries: int = key(5000, "queries of square for an image", low=1, high=1_000_000)
    eot: int = key(
        1,
        "in autoattack: forward passes that each gradient of APGD is the mean of; 20 for a model that is random (EOT)",
        low=1,
        high=1000,
    )


def check_attack(config: Any) -> None:
    attack = config.attack
    if attack.steps > 0 and attack.eps == 0:
        raise UserError(
            "attack.eps=0: an attack needs a radius above 0; set it to 8/255 for example, or choose attack=none"
        )
    if attack.norm == "linf" and attack.eps > 1:
        raise UserError(
            f"attack.eps={attack.eps:g}: images are in [0,1]; for 8 of 255 grey levels write attack.eps=8/255"
        )
    if attack.norm == "l1" and attack.algorithm != "autoattack":
        raise UserError(
            f"attack.norm=l1: {attack.algorithm.upper()} knows linf and l2; set attack.norm=l2, or evaluate with "
            "attack=autoattack_l1"
        )
    if attack.eot > 1 and attack.algorithm != "autoattack":
        raise UserError(f"attack.eot={attack.eot}: only attack=autoattack averages over forward passes; drop it")
    if attack.steps > 0 and attack.step_size == 0:
        raise UserError("attack.step_size=0: the attack would not move; set it above 0, or to null for the default")
    if attack.keep == "any" and not attack.clamp_start:
        raise UserError(
            "attack.clamp_start=false: attack.keep=any judges the start too, and it must be an image in [0,1]; set it to true"
        )
    if attack.algorithm in TRAINING_ONLY and not attack.clamp_start:
        raise UserError(
            f"attack.clamp_start=false: attack.algorithm={attack.algorithm} may train on the start itself, and it must be an image "
            "in [0,1]; set it to true"
        )
    if attack.noise > 0:
        _check_noise(attack)
    if attack.restarts > 1 and not attack.random_start:
        raise UserError(
            f"attack.restarts={attack.restarts}: without a random start all restarts are the same; set attack.random_start=true"
        )


def _check_noise(attack: Attack) -> None:
    """Refuses keys that N-FGSM, which takes one step from noise and stays outside the ball, has no use for."""
    text = f"attack.noise={attack.noise:g}"
    if attack.norm != "linf":
        raise UserError(f"{text}: knows attack.norm=linf only, not {attack.norm}; set attack.noise=0")
    if attack.algorithm != "pgd":
        raise UserError(f"{text}: not with attack.algorithm={attack.algorithm}; set attack.noise=0")
    if attack.steps != 1:
        raise UserError(f"{text}: takes one step, not attack.steps={attack.steps}; set it to 1, or attack.noise=0")
    if not attack.random_start or not attack.clamp_start:
        raise UserError(f"{text}: starts at random in [0,1]; drop attack.random_start and attack.clamp_start")
    if attack.restarts > 1:
        raise UserError(f"{text}: starts once, not attack.restarts={attack.restarts} times; set it to 1")


def check_ramps(attack: Attack, epochs: int) -> None:
    """Refuses an attack that grows over more epochs than a training has, or has nothing to grow. Raises UserError."""
    for name, grows, last in (("eps_ramp", attack.steps > 0, epochs), ("steps_ramp", attack.steps > 1, epochs - 1)):
        ramp = getattr(attack, name)
        if ramp and not grows:
            raise UserError(f"attack.{name}={ramp:g}: nothing grows with attack.steps={attack.steps}; drop it")
        if ramp > last:
            whole = "attack.eps" if name == "eps_ramp" else "attack.steps"
            raise UserError(
                f"attack.{name}={ramp:g}: no step of schedule.epochs={epochs} would have the whole of {whole}; set it to at most "
                f"{last}, or raise schedule.epochs"
            )


def refuse_training_only(attack: Attack, command: str) -> None:
    """Refuses what only training may do: to leave the ball, to grow over epochs, to be for training by name. Raises UserError."""
    if attack.noise > 0:
        raise UserError(
            f"attack.noise={attack.noise:g}: leaves the ball of attack.eps, and only training may; {command} with attack=pgd20"
        )
    if attack.algorithm in TRAINING_ONLY:
        raise UserError(f"attack.algorithm={attack.algorithm}: trains only; {command} with attack=pgd20")
    for name in ("eps_ramp", "steps_ramp"):
        value = getattr(attack, name)
        if value > 0:
            raise UserError(f"attack.{name}={value:g}: only training has epochs; drop it")


def check_autoattack(attack: Any, classes: int | None) -> None:
    known, suite = (*CASCADE, *CASCADE_ALSO, *PGD_SUITE), set(PGD_SUITE) & set(attack.cascade)
    unknown = [name for name in attack.cascade if name not in known]
    if unknown or not attack.cascade or len(set(attack.cascade)) < len(attack.cascade):
        wrong = (
            f"unknown attack '{unknown[0]}'" if unknown else "no attack" if not attack.cascade else "an attack twice"
        )
        raise UserError(f"attack.cascade=[{','.join(attack.cascade)}]: {wrong}; list some of {', '.join(known)}")
    if attack.steps == 0:
        raise UserError("attack.steps=0: attack=autoattack needs steps; set it to 100, or choose attack=none")
    if attack.keep != "last":
        raise UserError(
            f"attack.keep={attack.keep}: attack=autoattack keeps the first image that fools the model; drop it"
        )
    if attack.norm == "l1" and suite:
        raise UserError(f"attack.norm=l1: {', '.join(sorted(suite))} know linf and l2; set attack.norm=l2")
    if (attack.step_size is not None and not suite) or not attack.random_start or not attack.clamp_start:
        raise UserError("attack.step_size, random_start and clamp_start: attack=autoattack has its own; drop them")
    if attack.restarts > 1 and not set(RESTARTED) & set(attack.cascade):
        raise UserError(
            f"attack.restarts={attack.restarts}: only {', '.join(RESTARTED)} start again, and none is in attack.cascade; drop it"
        )
    if classes is None:
        return
    few = {"apgd-t": 4, "apgd-dlr": 3, "pgd-dlr": 3}  # classes that the losses compare
    for name in [name for name in few if name in attack.cascade and classes < few[name]]:
        others = ",".join(other for other in attack.cascade if classes >= few.get(other, 0)) or "apgd-ce"
        raise UserError(
            f"data.classes={classes}: the loss of {name} needs {few[name]} classes; set attack.cascade=[{others}], "
            f"and attack.targets={max(classes - 1, 1)} for fab-t"
        )
    if attack.targets >= classes and set(TARGETED) & set(attack.cascade):
        raise UserError(
            f"attack.targets={attack.targets}: there are {classes} classes, so {classes - 1} to target; set it to {classes - 1}"
        )
