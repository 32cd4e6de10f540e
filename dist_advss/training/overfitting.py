"""A guard against catastrophic overfitting (Wong et al. 2020, arXiv 2001.03994): a run rolls back and changes its attack.

A network that trains on a single-step attack may learn, within a few hundred steps, to resist this one and no other. Then RA
under the training attack rises, and RA under PGD falls to zero. A check measures both on the same few held-out images.

Checks change nothing but the record: until the first finding, a run with the guard has the weights of one without. Every
state at the end of an epoch is checked before it is saved as epoch_N.pt, so a run rolls back to the newest of these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from .. import attacks
from ..config.schema import TrainConfig
from ..data import Loader, held_out_views
from ..engines import Engine, State
from ..errors import RunError, UserError
from ..images import Images
from ..objectives.base import Task
from ..rng import Rng
from ..tracking import Silent, Tracker
from . import checkpoint
from .attacking import TrainingAttack
from .saver import Saver
from .validation import held_out_batches


@dataclass(frozen=True)
class Check:
    """Percent of the checked images that are right under the training attack, and under PGD of the same radius."""

    ra_attack: float
    ra_pgd: float


@dataclass(frozen=True)
class Rollback:
    """The content of the checkpoint to continue from, with the next fallback in it, and the sentence about it."""

    state: State
    text: str


class Guard:
    """Finds catastrophic overfitting, and where to roll back to. All processes have one and make the same calls.

    attack  the training attack, which it checks
    images  the held-out images of a check; None where overfitting.every is 0
    """

    def __init__(
        self,
        config: TrainConfig,
        engine: Engine,
        attack: TrainingAttack,
        images: Loader | None,
        saver: Saver,
        tracker: Tracker | Silent,
    ) -> None:
        self.config = config
        self.keys = config.overfitting
        self._engine, self._attack, self._images = engine, attack, images
        self._saver, self._tracker = saver, tracker
        self._rng = Rng(config.seed, "overfitting")
        self._latest: dict[str, float] = {}

    @property
    def on(self) -> bool:
        return self._images is not None

    def look(self, step: int, epoch_ends: bool) -> Rollback | None:
        """Checks the network after `step` updates where a check is due. None without a finding.

        Raises RunError, in every process, where no fallback is left.
        """
        if not self.on or not (step % self.keys.every == 0 or epoch_ends):
            return None
        with self._tracker.spending("validating"):
            found = self.check()
        self._latest = {"check_ra_attack": found.ra_attack, "check_ra_pgd": found.ra_pgd}
        if found.ra_attack - found.ra_pgd <= self.keys.gap:
            return None
        text = (
            f"step {step}: catastrophic overfitting, RA {found.ra_attack:.1f} under the training attack and "
            f"{found.ra_pgd:.1f} under PGD-{self.keys.steps}"
        )
        used, names = self._attack.fallbacks, self.keys.fallbacks
        self._saver.wait()
        if used == len(names):
            self._end(step, text)
        state, path = self._engine.world.long_on_rank_zero(lambda: load_good(self._saver.folder))
        state["progress"]["overfitting"]["fallbacks"] = used + 1
        return Rollback(state, f"{text}; rolled back to {path.name}, continues with {names[used]}")

    def check(self) -> Check:
        """Measures both accuracies in eval mode, not augmented, with the same draws in every check.

        Neither weights nor statistics change. Processes take their shares, and all get the result.
        """
        assert self._images is not None
        objective, world = self._engine.module, self._engine.world
        keys, coupled = self._attack.keys, self.config.objective.couples_rows
        usual = replace(keys, algorithm="pgd", noise=0.0, step_size=None, restarts=1, random_start=True)
        strong = replace(usual, steps=self.keys.steps)
        trained_on, pgd = (attacks.build_pgd(one, objective, coupled) for one in (keys, strong))

        def judged_loss(x: Images, task: Task) -> torch.Tensor:
            return objective.judge(x, task).loss

        sums = torch.zeros(3, dtype=torch.float64)
        share = max(1, self.config.train.batch_size // world.size)
        objective.eval()
        for batch, counts in held_out_batches(self._images, share, self.config, world):
            rows = self._rng.rows(batch.row)
            task = objective.prepare(held_out_views(batch.images, rows, self.config.objective), batch.labels, rows)
            with self._attack.parts.standing_in("eval"):
                attacked = [trained_on(objective.attack_loss, task), pgd(judged_loss, task)]
            with torch.no_grad():
                right = [objective.judge(x, task).correct.double() for x in attacked]
            if counts:
                sums += torch.stack([torch.ones_like(right[0]).sum(), *(rows.sum() for rows in right)]).cpu()
            world.heartbeat()
        objective.train()
        count, *totals = world.sum(sums).tolist()
        return Check(*(round(100 * total / count, 4) for total in totals))

    def as_line(self) -> dict[str, float]:
        """What a line of metrics says of the last check; {} before the first one."""
        return self._latest

    def state(self) -> State:
        return {"fallbacks": self._attack.fallbacks, "latest": self._latest}

    def load(self, state: State) -> None:
        self._attack.fallbacks, self._latest = int(state.get("fallbacks", 0)), dict(state.get("latest", {}))

    def _end(self, step: int, text: str) -> NoReturn:
        good = good_states(self._saver.folder)
        names = ",".join(self.keys.fallbacks)
        text += f", and overfitting.fallbacks=[{names}] has no other attack left"
        self._tracker.event("overfitting", step, text)
        raise RunError(f"{text}; the last good checkpoint is {good[0] if good else 'missing'}; train with attack=pgd10")


def good_states(folder: Path) -> list[Path]:
    """The checkpoints of the ends of epochs in `folder`, newest first."""
    numbers = [path.stem.removeprefix("epoch_") for path in folder.glob("epoch_*.pt")]
    return [folder / f"epoch_{n}.pt" for n in sorted((int(n) for n in numbers if n.isdecimal()), reverse=True)]


def load_good(folder: Path) -> tuple[dict[str, Any], Path]:
    """The newest undamaged one of `good_states`, its content and its path. Raises RunError when there is none."""
    complaints = []
    for path in good_states(folder):
        try:
            return checkpoint.load(path), path
        except UserError as error:
            complaints.append(str(error))
    reason = " · ".join(complaints) or f"{folder}: no epoch_N.pt"
    raise RunError(f"{reason}; there is nothing to roll back to, start again in another folder")
