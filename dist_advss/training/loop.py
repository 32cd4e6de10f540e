"""The training loop, which is the same for every objective, attack and engine."""

from __future__ import annotations

import copy
import math
import time
from collections import ChainMap
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..config.growing import size_at
from ..config.schema import TrainConfig
from ..data import Batch, Loader, training_views
from ..data.identity import Identity
from ..engines import Engine, State
from ..engines.shares import is_share
from ..errors import RunError, Stopped
from ..precision import tf32
from ..rng import Rng
from ..tracking import Silent, Tracker
from . import checkpoint
from .attacking import TrainingAttack
from .averaging import fit_average
from .interrupt import Interrupt
from .overfitting import Guard, Rollback
from .pace import Pace, Ranks, meets_early
from .passes import Passes
from .profiler import Profiler
from .saver import Saver
from .schedules import learning_rate
from .utilisation import peak_memory
from .validation import out_of_patience, validate


class Trainer:
    """Trains a run from its last checkpoint to its last epoch. Every process has a trainer and makes the same calls.

    done         number of finished epochs; `step` is the number of updates in the current one
    unvalidated  whether the last finished epoch still needs its validation
    best         the validations with the highest RA and TA so far, each with the digest of its weights
    images       the images that the run trains on, kept in every checkpoint
    transferred  how many tensors of theta_p the run began with; None for random weights
    checked      the held-out images on which overfitting.every looks; None without it
    clock        seconds of a monotonic clock
    profiler     records a window of steps; None for none
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        engine: Engine,
        loader: Loader,
        held_out: Loader,
        tracker: Tracker | Silent,
        images: Identity,
        transferred: dict[str, int] | None = None,
        checked: Loader | None = None,
        clock: Callable[[], float] = time.monotonic,
        profiler: Profiler | None = None,
    ) -> None:
        self.config = config
        self.engine = engine
        self.world = engine.world
        self.loader = loader
        self.held_out = held_out
        self.tracker = tracker
        self.checkpoints = folder / "checkpoints"
        self.saver = Saver(self.checkpoints, engine.sharded, self.world)
        self.rng = Rng(config.seed, "train")
        self.done = 0
        self.step = 0
        self.unvalidated = False
        self.best: dict[str, dict[str, Any]] = {}
        self.last: dict[str, Any] = {}
        self.images = images
        self.transferred = transferred
        self.attacks = TrainingAttack(config, engine.module, len(loader))
        self.guard = Guard(config, engine, self.attacks, checked, self.saver, tracker)
        self.passes = Passes(engine)
        self.profiler = profiler
        self._clock = clock
        self._started = clock()
        self._seconds_before = 0.0  # of the processes that this one resumed
        self._window: list[tuple[int, dict[str, torch.Tensor]]] = []  # (step, values) since the last line of metrics
        self._waited, self._since = 0.0, clock()  # waiting for batches since the last line, and when that was
        # Processes that meet in the forward pass compute alone only until then, the others until the backward pass.
        self.pace, self.ranks = Pace(self.world.device, clock), Ranks(self.world)
        self._meets_early = meets_early(config)
        if not self._meets_early:
            engine.after_forward = self.pace.alone

    @property
    def global_step(self) -> int:
        return self.done * len(self.loader) + self.step

    def seconds(self) -> float:
        """Seconds of training, over all resumptions; work lost since a checkpoint is not counted."""
        return self._seconds_before + self._clock() - self._started

    def run(self, interrupt: Interrupt) -> None:
        """Trains to the end. Raises Stopped after a signal and RunError when a loss is not finite; both after saving.

        When it returns or raises, all checkpoints are written. A write that failed is raised in every process.
        """
        self.engine.module.train()
        with self.saver:
            if self.unvalidated:
                self._validate(interrupt)
            if self.guard.on and self.global_step == 0:
                self.save()  # a rollback in the first epoch needs a beginning
            while self.done < self.config.schedule.epochs and not self._ends_early():
                if self._train_epoch(interrupt):
                    self._end_epoch(interrupt)
            self._finish_writes()

    def resume(self) -> bool:
        """Loads the newest undamaged checkpoint of the folder. Returns False when there is none.

        Raises RunError for one that is not of this run.
        """
        latest = self.world.long_on_rank_zero(lambda: checkpoint.load_latest(self.checkpoints))
        if latest is None:
            return False
        state, path, complaints = latest
        try:
            self._load(state)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = str(error).split("\n")[0] or type(error).__name__
            raise RunError(f"{path}: not a checkpoint of this run ({reason}); start again in another folder") from error
        for complaint in complaints:
            self.tracker.event("damaged", self.global_step, complaint)
        self.tracker.event("resume", self.global_step, f"resumed from {path.name} at step {self.global_step}")
        return True

    def _load(self, state: State) -> None:
        """Continues from the content of a checkpoint. Raises an error of almost any type where it is of another run."""
        progress = state["progress"]
        if not all(type(progress[name]) is int and progress[name] >= 0 for name in ("done", "step")):
            raise ValueError("its epoch and step are no whole numbers")
        if not all(isinstance(best, dict) for best in (progress["best"], *progress["best"].values(), progress["last"])):
            raise ValueError("its best validations are no mappings")
        self.engine.load(state)
        self.done = progress["done"]
        self.step = progress["step"]
        self.unvalidated = progress.get("unvalidated", False)  # no key: saved by an older version, after the validation
        self.best = progress["best"]
        self.last = progress["last"]
        self.transferred = progress["transferred"]
        self._seconds_before = float(progress["seconds"])
        self.passes.load(progress["passes"])
        self.guard.load(progress.get("overfitting", {}))  # no key: saved by an older version
        self.tracker.meter.load(state["meter"])

    def _train_epoch(self, interrupt: Interrupt) -> bool:
        """Trains to the end of the epoch. Returns False where the run rolled back to the end of an earlier one instead."""
        engine, objective = self.engine, self.engine.module
        self._since = self._clock()
        size = size_at(self.config, self.done)
        perturbed = self.config.train.awp > 0 and self.done >= self.config.train.awp_after
        for batch in self._waiting(self.loader.epoch(self.done, self.step)):
            lr = learning_rate(self.config.schedule, self.global_step, len(self.loader), self.config.train.batch_size)
            engine.set_lr(lr)
            attack = self.attacks.at(self.global_step)
            terms = []
            if self._meets_early:
                self.pace.alone()
            # Draws are named by epoch, step and row, so a part gets the same ones on any number of processes.
            for part in batch.split(engine.accumulate):
                rng = self.rng.at(self.done, self.step).rows(part.row)
                images = training_views(part.images, rng, self.config.objective, self.config.schedule.epochs, size)

                # The four lines of a step. The attack works on the bare module, the engine wraps the update only.
                task = objective.prepare(images, part.labels, rng)
                for x_adv in attack.examples(objective.attack_loss, task):  # one, or attack.steps with attack=free
                    if perturbed:
                        engine.perturb(task, x_adv)
                    outcome = engine(task, x_adv)
                    engine.step(outcome.loss)
                    ascended = {f"attack_loss.{i}": loss for i, loss in enumerate(attack.losses)}
                    terms.append({**outcome.terms(), **ascended})

            # Values stay on the device until the next line of metrics: reading them here would make the GPU wait.
            means = {name: torch.stack([part[name] for part in terms]).mean() for name in terms[0]}
            self._window.append((self.global_step, {**means, "grad_norm": engine.grad_norm}))
            self.step += 1
            self.tracker.advance(self.config.train.batch_size)
            self.world.heartbeat()
            self.passes.end_step(images)
            self.pace.end()
            if self.profiler and self.profiler.end(self.global_step):
                self.tracker.event("profile", self.global_step, f"rank {self.world.rank}: {self.profiler.written}")
            rollback = self.guard.look(self.global_step, epoch_ends=self.step == len(self.loader))
            if rollback is not None:
                self._roll_back(rollback)
                return False
            self._after_step(lr, interrupt)
        return True

    def _roll_back(self, rollback: Rollback) -> None:
        seconds = self.seconds()
        self._load(rollback.state)
        self._seconds_before += seconds - self.seconds()  # the run has taken the time of the steps that it drops
        self._window = []
        self.tracker.rolled_back(self.global_step, rollback.text)
        self.save()

    def _ends_early(self) -> bool:
        text = out_of_patience(self.config.validation, self.best, self.done)
        if text:
            self.tracker.event("early", self.global_step, text)
        return bool(text)

    def _waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches. Adds up the time spent waiting for them."""
        while True:
            if self.profiler and self.step < len(self.loader):
                self.profiler.begin(self.global_step + 1)
            begin = self._clock()
            self.pace.begin()
            batch = next(batches, None)
            self._waited += self._clock() - begin
            if batch is None:
                return
            yield batch

    def _after_step(self, lr: float, interrupt: Interrupt) -> None:
        step, every = self.global_step, self.config.train.checkpoint_every
        if step % self.config.train.log_every == 0 or self.step == len(self.loader):
            more = self._empty_window(with_ranks=True) | self.guard.as_line()
            more |= self.config.objective.of_epoch(self.done, self.config.schedule.epochs)
            self.tracker.train_line(step, self.done, lr, self._waited, peak_memory(self.world.device), more)
            self._waited, self._since = 0.0, self._clock()
        if every and step % every == 0 and self.step < len(self.loader):
            self.save()
        signum = self.world.stop_requested(interrupt.signum or 0)
        if signum:
            self.save()
            raise self._stopped(signum)

    def _finish_writes(self) -> None:
        with self.tracker.spending("saving"):
            self.saver.finish()

    def _stopped(self, signum: int) -> Stopped:
        """The error of a run that has saved its state, after its event. Raises RunError when it could not be saved."""
        self._finish_writes()
        step = self.global_step
        self.tracker.event("stop", step, f"stopped by signal {signum} at step {step}")
        return Stopped(signum, f"stopped at step {step}, saved; rerun the command to resume")

    def _empty_window(self, with_ranks: bool = False) -> dict[str, Any]:
        """Moves the steps since last time into the means, over all processes in one collective.

        Returns what a line says of each process, which the same collective collects; {} without `with_ranks`.
        Raises RunError at the first value that is not finite.
        """
        if not self._window:
            return {}
        table = torch.stack([torch.stack(list(terms.values())) for _, terms in self._window]).to(torch.float32)
        parts = [table.flatten(), self._mine()] if with_ranks else [table.flatten()]
        total = self.world.sum(torch.cat(parts)).tolist()
        size, width = self.world.size, table.shape[1]
        rows = [[value / size for value in total[at : at + width]] for at in range(0, table.numel(), width)]
        for (step, terms), row in zip(self._window, rows, strict=True):
            values = dict(zip(terms, row, strict=True))
            self._refuse_non_finite(step, values)
            self.tracker.meter.add(values)
        self._window = []
        return self.ranks.line(total[table.numel() :]) if with_ranks else {}

    def _mine(self) -> torch.Tensor:
        """What this process adds to the table of all since the last line."""
        waited = self._waited / max(self._clock() - self._since, 1e-9)
        return self.ranks.mine(self.pace.take(), waited, peak_memory(self.world.device))

    def _refuse_non_finite(self, step: int, values: dict[str, float]) -> None:
        """Raises RunError at the first value that is NaN or infinite. All processes call it with the same values."""
        if not all(map(math.isfinite, values.values())):
            self.world.on_rank_zero(lambda: self._refuse_first(step, values))

    def _refuse_first(self, step: int, values: dict[str, float]) -> None:
        """`_refuse_non_finite` on rank 0, which alone knows what is written."""
        for name, value in values.items():
            if not math.isfinite(value):
                unwritten = self.saver.failure()  # waits: afterwards `last` is the checkpoint that it is going to be
                last = checkpoint.states(self.checkpoints)
                good = f"the last good checkpoint is {last[0]}" if last else "there was no checkpoint yet"
                also = f" · {unwritten}" if unwritten is not None else ""
                self.tracker.event("nan", step, f"{name} is {value}")
                raise RunError(f"step {step}: {name} is {value}, {good}; try a lower schedule.lr{also}")

    def _state(self) -> State:
        """What this process holds of the engine's state. It stays as it is until the next call, which waits until it is written.

        Raises RunError in every process when an earlier state could not be written, or when the model contains a NaN or an
        infinity. The loss of the update that caused it may still have been finite.
        """
        self._empty_window()
        self.saver.wait()
        state = self.engine.state()
        self._refuse_broken_weights(checkpoint.judged(state) if "model" in state else {})
        return state

    def _refuse_broken_weights(self, model: State) -> None:
        """Raises RunError in every process when any process holds a weight that is not finite."""
        held = {name: value["part"] if is_share(value) else value for name, value in model.items()}
        tensors = {name: t for name, t in held.items() if t.is_floating_point() and t.numel()}
        largest = torch.stack([t.abs().max().float() for t in tensors.values()]).tolist() if tensors else []
        broken = {f"model {n}": v for n, v in zip(tensors, largest, strict=True) if not math.isfinite(v)}
        if self.world.sum(torch.tensor(float(len(broken)))):
            found = self.world.gather(broken) or []
            self.world.on_rank_zero(lambda: self._refuse_first(self.global_step, dict(ChainMap(*found))))

    def _end_epoch(self, interrupt: Interrupt) -> None:
        self.done += 1
        self.step = 0
        self.unvalidated = self.done % self.config.validation.every == 0 or self.done == self.config.schedule.epochs
        # A validation judges one model, so the batch-norm statistics of all processes become their means.
        self.engine.reconcile()
        with self.tracker.spending("validating"):
            fit_average(self.engine, self.attacks.at(self.global_step - 1), self.loader, self.config, self.done - 1)
        # The epoch is saved before its validation, which may take long and be interrupted.
        if self.unvalidated:
            self._validate(interrupt)
        else:
            self.save()

    def _validate(self, interrupt: Interrupt) -> None:
        """Saves the finished epoch, validates it, and saves what follows from that.

        Raises Stopped after a signal. A resumed run begins with the same validation.
        """
        with self.tracker.spending("saving"):
            state = self._state()
            self._save_last(state)
            weights = self.saver.weights(state)
        share = max(1, self.config.train.batch_size // self.world.size)

        def stop_after_signal() -> None:
            signum = self.world.stop_requested(interrupt.signum or 0)
            if signum:
                raise self._stopped(signum)

        with self.tracker.spending("validating"), self.engine.judged(), tf32(False):
            result = validate(self.engine.module, self.held_out, share, self.config, self.world, stop_after_signal)
        values = {name: value for name, value in asdict(result).items() if value != []}
        numbers = {f"validation {name}": v for name, v in values.items() if isinstance(v, float)}
        numbers |= {f"validation attack_loss.{i}": loss for i, loss in enumerate(result.attack_loss)}
        self._refuse_non_finite(self.global_step, numbers)
        self.unvalidated = False
        # best_ra.pt and best_ta.pt keep weights only: they are for transfer and evaluation, not for a resume.
        digest = self.world.on_rank_zero(lambda: weights.result().digest if weights is not None else None)
        self.last = {"epoch": self.done, "ta": result.ta, "ra": result.ra, "weights": digest}
        self.tracker.validation_line(self.global_step, self.done, values)
        with self.tracker.spending("saving"):
            for name, key in (("best_ra", "ra"), ("best_ta", "ta")):
                if name not in self.best or self.last[key] > self.best[name][key]:
                    self.best[name] = self.last
                    self.saver.save_weights(name, weights, self._content())
            self._save_last(state)

    def save(self) -> None:
        """Saves the state, but raises RunError instead when a loss or the model is not finite."""
        with self.tracker.spending("saving"):
            self._save_last(self._state())

    def _save_last(self, state: State) -> None:
        epoch_ends = self.step == 0 and not self.unvalidated
        keep = max(self.config.train.keep_last_epochs, self.guard.on) if epoch_ends else 0
        self.saver.save_last(state, self._content(), keep, self.tracker.saved(self.global_step))
        self.world.heartbeat()

    def _content(self) -> State:
        """What a checkpoint holds besides the engine's state. Training may continue while it is written: it is a copy."""
        progress: State = {"done": self.done, "step": self.step, "unvalidated": self.unvalidated}
        progress |= {"best": self.best, "last": self.last, "overfitting": self.guard.state()}
        progress |= {"transferred": self.transferred, "seconds": self.seconds(), "passes": self.passes.counts}
        about = {"config": asdict(self.config), "data": self.images.as_record()}
        return {"progress": copy.deepcopy(progress), **about, "meter": self.tracker.meter.state()}
