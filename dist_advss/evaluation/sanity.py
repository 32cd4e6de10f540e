"""`evaluate suite=sanity`: is the robustness real? Checks of a model, of its gradients, and of the attacks on it.

The order of the checks matters. A fault in the outputs spoils every gradient, and a fault in the gradients every attack. So the
checks behind a failed one are not done, and the first failure names the cause.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from .. import attacks
from ..config.attack import CASCADE, Attack, check_autoattack
from ..config.backbones import is_own
from ..config.schema import EvaluateConfig
from ..config.source_run import config_of
from ..config.suites import check_radius, largest_radius
from ..data import Located, as_float
from ..data.identity import Identity
from ..engines import World
from ..errors import UserError
from ..files import write_json, write_whole
from ..images import Images, alone
from ..objectives import Classify
from ..objectives.base import Judgement, Task, cross_entropy
from ..rng import Rng
from ..training import folder
from ..training.made_from import MadeFrom
from . import probes
from .any_model import refuse_no_gradient
from .checks import Check, falls, gap, queries, skipped, stronger
from .classifier import checkpoint_files, judged, open_whole
from .others import Judged, Other, file_of, load_other, weights_of

STEPS = 20  # of PGD
RADII = (0.5, 1.0, 2.0)  # times attack.eps
# AutoAttack in small, on the images that PGD leaves: enough to see a gap, not to quote
SHORT = Attack(algorithm="autoattack", steps=30, targets=3, queries=200)
PHASES: Sequence[Sequence[Callable[[probes.Probed], Check]]] = (
    (probes.finite,),
    (probes.logits, probes.scale, probes.deterministic),
    (probes.resolution, probes.precision),
    (probes.gradients,),
    (probes.uphill,),
)
NAMES = (
    ("finite outputs",),
    ("outputs are logits", "scale of the logits", "same image, same answer"),
    ("small changes count", "bf16 agrees with fp32"),
    ("gradients are there",),
    ("gradients lead uphill",),
)
OF_ATTACKS = (
    "RA falls with eps to 0",
    "PGD beats one step",
    "PGD is near AutoAttack",
    "white box beats queries",
    "white box beats transfer",
)


@dataclass
class Examined:
    """The answers, and what each attack left: its name and radius, and which images are still right, (N,) bool."""

    checks: list[Check]
    attacks: list[tuple[str, float, np.ndarray]] = field(default_factory=list)

    @property
    def failed(self) -> list[str]:
        return [check.name for check in self.checks if check.verdict == "fail"]


class Logits(nn.Module):
    """A classifier as a map from images to logits."""

    def __init__(self, model: Classify) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.logits(x)


def examine(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    batch_size: int = 250,
    transferred: Callable[[Attack], Tensor] | None = None,
    on_check: Callable[[Check], Any] = lambda check: None,
    seed: int = 0,
) -> Examined:
    """All checks of a network that maps images (N, C, H, W) in [0,1] to logits (N, K), with labels (N,) int64.

    Norm, radius and precision of `attack` count. `transferred(attack)` gives the images that this attack finds on another
    model. `on_check` gets each answer at once. The network is put in eval mode.
    Raises UserError for images outside [0,1], for labels that the network has no output for, and for a radius beyond the
    distance of any two images.
    """
    check_radius(attack, images.shape[1:])
    network.eval()
    rng = Rng(seed, "evaluation").rows(torch.arange(len(images), device=images.device))
    probed = probes.Probed(network, images, labels, rng, batch_size)
    found = Examined([])

    def note(checks: Sequence[Check]) -> None:
        for check in checks:
            found.checks.append(check)
            on_check(check)

    # 1. The model and its gradients, the cause before its effects.
    for phase, names in zip(PHASES, NAMES, strict=True):
        why = _first_failure(found.checks)
        note(skipped(names, why) if why else [ask(probed) for ask in phase])
    # 2. The attacks, which mean something only on a model without these faults.
    why = _first_failure(found.checks, "bf16 agrees with fp32")
    if why:
        note(skipped(OF_ATTACKS, why))
        return found
    for ask_attacks in (_by_radius, _one_step, _autoattack, partial(_transfer, transferred)):
        note(ask_attacks(probed, attack, found))
    return found


def _first_failure(checks: Sequence[Check], but: str = "") -> str | None:
    failed = next((c.name for c in checks if c.verdict == "fail" and c.name != but), None)
    return None if failed is None else f"first mend “{failed}”"


def _right(probed: probes.Probed, attack: Attack, index: Tensor | None = None) -> tuple[Tensor, Any]:
    """Which images (M,) bool are right under an attack, of those at `index` (M,), and the attack."""
    rows = torch.arange(len(probed.images), device=probed.images.device) if index is None else index
    fooling, right = attacks.build(attack, probed.network), []

    def judge(x: Images, task: Task) -> Judgement:
        return cross_entropy(probed.network(alone(x)), task.targets)

    felled = []
    for part in rows.split(probed.batch_size):
        task = Task(probed.images[part], probed.labels[part], probed.rng.select(part))
        x_adv = alone(fooling.fool(judge, task))
        with torch.no_grad():
            right.append(probed.of(x_adv).argmax(1) == task.targets)
        felled.append(getattr(fooling, "felled_by", torch.empty(0)))
    return torch.cat(right), torch.cat(felled)


def _rate(right: Tensor) -> float:
    return 100 * float(right.float().mean())


def _pgd(attack: Attack, eps: float) -> Attack:
    return Attack(norm=attack.norm, eps=eps, steps=STEPS, keep="any", precision=attack.precision)


def _note(found: Examined, name: str, eps: float, right: Tensor) -> float:
    found.attacks.append((name, eps, right.cpu().numpy()))
    return _rate(right)


def _by_radius(probed: probes.Probed, attack: Attack, found: Examined) -> list[Check]:
    free = largest_radius(attack.norm, probed.images.shape[1:])
    points = []
    for eps in sorted({min(factor * attack.eps, free) for factor in RADII}):
        points.append((eps, _note(found, f"PGD-{STEPS}", eps, _right(probed, _pgd(attack, eps))[0])))
    largest = _note(found, f"PGD-{STEPS}", free, _right(probed, _pgd(attack, free))[0])
    return [falls(points, len(probed.images), largest)]


def _of_pgd(attack: Attack, found: Examined) -> tuple[float, np.ndarray]:
    """RA under PGD at attack.eps, and which images are right there."""
    right = next(right for name, eps, right in found.attacks if name == f"PGD-{STEPS}" and eps == attack.eps)
    return 100 * float(right.mean()), right


def _one_step(probed: probes.Probed, attack: Attack, found: Examined) -> list[Check]:
    one = replace(_pgd(attack, attack.eps), steps=1, step_size=attack.eps, random_start=False, keep="last")
    fgsm = _note(found, "FGSM", attack.eps, _right(probed, one)[0])
    pgd, _ = _of_pgd(attack, found)
    return [stronger("PGD beats one step", (f"PGD-{STEPS}", pgd), ("FGSM", fgsm), len(probed.images))]


def _autoattack(probed: probes.Probed, attack: Attack, found: Examined) -> list[Check]:
    """AutoAttack in small on the images that PGD leaves: its gradient attacks, then Square, which must find next to nothing."""
    classes, names = probed.logits.shape[1], ("PGD is near AutoAttack", "white box beats queries")
    cascade = [name for name in CASCADE if name != "fab-t" and not (name == "apgd-t" and classes < 4)]
    short = replace(SHORT, norm=attack.norm, eps=attack.eps, precision=attack.precision, cascade=cascade)
    short = replace(short, targets=min(SHORT.targets, classes - 1))
    try:
        check_autoattack(short, classes)
    except UserError as error:
        return skipped(names, str(error))
    pgd, before = _of_pgd(attack, found)
    stood = torch.from_numpy(before).to(probed.images.device)
    index, left = stood.nonzero()[:, 0], stood.clone()
    felled = torch.empty(0)
    if len(index):
        left[index], felled = _right(probed, short, index)
    ra = _note(found, "AutoAttack in small", attack.eps, left)
    by_square = int((felled == 1 + cascade.index("square")).sum())
    return [
        gap((f"PGD-{STEPS}", pgd), ("AutoAttack in small", ra)),
        queries(by_square, len(probed.images)),
    ]


def _transfer(
    transferred: Callable[[Attack], Tensor] | None, probed: probes.Probed, attack: Attack, found: Examined
) -> list[Check]:
    name = "white box beats transfer"
    if transferred is None:
        return skipped([name], "needs another model: give suite.source=RUN, or FILE.py:FUNCTION")
    with torch.no_grad():
        # The last iterates: what only just fools the other model, or is wrong there from the start, carries over less.
        right = probed.of(transferred(replace(_pgd(attack, attack.eps), keep="last"))).argmax(1) == probed.labels
    moved, (pgd, _) = _note(found, "transfer", attack.eps, right), _of_pgd(attack, found)
    return [stronger(name, (f"PGD-{STEPS}", pgd), ("transfer", moved), len(probed.images))]


def sanity(config: EvaluateConfig, located: Located, out: Path, world: World) -> None:
    """The checks of `config.checkpoint`, which rank 0 computes. Writes verdicts.npz and, last, result.json."""
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=world.rank > 0)
    # 1. Everything that may raise a UserError comes first, before anything is written.
    images = located.identity
    model, sources, made_from = judged(config, images, world)
    other = source_of(config, images, world)
    if other is not None:
        made_from = MadeFrom(images, weights_of([other], made_from.weights))
    count = min(config.suite.images, config.data.limit or config.suite.images)
    loader = open_whole(config, located, sources, world, count)
    with contextlib.ExitStack() as stack:
        record = stack.enter_context(folder.claimed(world, out, config, made_from, starts_over=True))

        # 2. A bounded number of images, so rank 0 does it alone.
        def work() -> None:
            started = time.monotonic()
            batch = next(iter(loader.in_order(loader.count)))
            x, labels = as_float(batch.images), batch.labels
            transferred = None if other is None else partial(_found_on, other.judged, x, labels, config)
            found = examine(
                Logits(model),
                x,
                labels,
                config.attack,
                config.batch_size,
                transferred,
                lambda check: console.print(f"sanity  {check.name}: {check.verdict} ({check.figure})"),
                config.seed,
            )
            console.print(as_table(found.checks))
            _write(config, out, found, batch.index, labels, record, time.monotonic() - started)

        world.long_on_rank_zero(work)


def source_of(config: EvaluateConfig, images: Identity, world: World) -> Other | None:
    """The model of suite.source; None without one. Raises UserError where it is no classifier of these images."""
    source = config.suite.source
    if source is None:
        return None
    key = f"suite.source={source}"
    shape = {} if is_own(source) else world.on_rank_zero(lambda: config_of("suite.source", source).get("data", {}))
    for name in ("size", "channels"):
        if shape and shape.get(name) != getattr(config.data, name):
            raise UserError(
                f"{key}: takes images of data.{name}={shape.get(name)}, and these have {getattr(config.data, name)}; choose "
                "another run"
            )
    other = load_other(key, source, config.pick, config.data, images, config.seed, world=world)
    if not isinstance(other.judged.model, Classify):
        raise UserError(f"{key}: pre-trained only, and has no classes; choose a fine-tuned run")
    if is_own(source):
        refuse_no_gradient(key, other.judged.model, config.data.shape)
    return other


def files_with_source(config: EvaluateConfig) -> list[Path]:
    """The files of the judged model, and that of suite.source, each once."""
    source = [] if config.suite.source is None else [file_of(config.suite.source, config.pick)]
    return list(dict.fromkeys([*checkpoint_files(config), *source]))


def _found_on(other: Judged, x: Tensor, labels: Tensor, config: EvaluateConfig, attack: Attack) -> Tensor:
    """The images (N, C, H, W) that `attack` finds on another model."""
    model, rng = other.searched, Rng(config.seed, "evaluation")
    rows = torch.arange(len(x), device=x.device)
    fooling = attacks.build(attack, model)
    found = [
        alone(fooling.fool(model.judge, Task(x[part], other.labels(labels[part]), rng.rows(part))))
        for part in rows.split(config.batch_size)
    ]
    return torch.cat(found)


def _write(
    config: EvaluateConfig, out: Path, found: Examined, index: Tensor, labels: Tensor, record: MadeFrom, seconds: float
) -> None:
    right = np.stack([right for _, _, right in found.attacks], 1) if found.attacks else np.empty((len(index), 0), bool)
    columns = {"index": index.cpu().numpy(), "label": labels.cpu().numpy(), "right": right}
    write_whole(out / "verdicts.npz", lambda file: np.savez_compressed(file, allow_pickle=False, **columns))
    rates = {
        "name": [name for name, _, _ in found.attacks],
        "eps": [eps for _, eps, _ in found.attacks],
        "ra": [round(100 * float(left.mean()), 4) for _, _, left in found.attacks],
    }
    write_json(
        out / "result.json",
        {
            "kind": "sanity",
            "checks": [check.as_record() for check in found.checks],
            "failed": found.failed,
            "n": len(index),
            "attacks": rates,
            "attack": asdict(config.attack),
            "split": config.split,
            "checkpoint": config.checkpoint,
            "members": config.model.members,
            "source": config.suite.source,
            "seed": config.seed,
            "made_from": record.as_record(),
            "seconds": round(seconds, 1),
        },
    )


def as_table(checks: Sequence[Check]) -> Table:
    """The checks for a terminal. What a failure means is shown for failures only."""
    table = Table("is it real?", "verdict", "measured", box=None, header_style="bold", pad_edge=False)
    styles = {"pass": "green", "fail": "bold red", "not done": "dim"}
    for check in checks:
        measured = f"{check.figure}. {check.meaning}" if check.verdict == "fail" else check.figure
        table.add_row(Text(check.name), Text(check.verdict, style=styles[check.verdict]), Text(measured))
    return table
