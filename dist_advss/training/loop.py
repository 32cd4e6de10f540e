"""The training loop: the same few lines for every objective, attack and engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..attacks import Attack
from ..config.schema import TrainConfig
from ..data import Batch, Loader, training_views
from ..engines import Engine, State
from ..errors import RunError, Stopped
from ..rng import Rng
from ..tracking import Silent, Tracker
from . import checkpoint
from .interrupt import Interrupt
from .passes import Passes
from .schedules import learning_rate
from .utilisation import peak_memory
from .validation import validate


class Trainer:
    """One run from wherever its checkpoint stands to its last epoch, in every process of it alike.

    `done` and `step` say where it is: `done` whole epochs and, of the one under way, `step` updates. `best` holds the
    validation with the highest RA and TA so far. `transferred` says what the run began with; `clock` is monotonic.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        engine: Engine,
        attack: Attack,
        loader: Loader,
        held_out: Loader,
        tracker: Tracker | Silent,
        transferred: dict[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.engine, self.attack, self.world = config, engine, attack, engine.world
        self.loader, self.held_out, self.tracker = loader, held_out, tracker
        self.checkpoints = folder / "checkpoints"
        self.rng = Rng(config.seed, "train")
        self.done = self.step = 0
        self.best: dict[str, dict[str, Any]] = {}
        self.last: dict[str, Any] = {}
        self.transferred = transferred
        self._clock, self._started, self._before = clock, clock(), 0.0
        self.passes = Passes(engine.module.encoder)
        self._window: list[tuple[int, dict[str, torch.Tensor]]] = []
        self._waited = 0.0

    @property
    def global_step(self) -> int:
        return self.done * len(self.loader) + self.step

    def seconds(self) -> float:
        """Seconds spent on the run, over all its resumptions, as far as they are in a checkpoint."""
        return self._before + self._clock() - self._started

    def run(self, interrupt: Interrupt) -> None:
        """Trains to the end. Raises Stopped after a signal and RunError when a loss is not finite; both after saving."""
        self.engine.module.train()
        while self.done < self.config.schedule.epochs:
            self._train_epoch(interrupt)
            self._end_epoch()

    def resume(self) -> bool:
        """Takes up the newest whole checkpoint of the folder; False when there is none."""
        found = self.world.on_rank_zero(lambda: checkpoint.load_latest(self.checkpoints))
        if found is None:
            return False
        state, path, complaints = found
        self.engine.load(state)
        progress = state["progress"]
        self.done, self.step, self.best, self.last = (progress[k] for k in ("done", "step", "best", "last"))
        self.transferred, self._before = progress["transferred"], progress["seconds"]
        self.passes.load(progress["passes"])
        self.tracker.meter.load(state["meter"])
        for complaint in complaints:
            self.tracker.event("damaged", self.global_step, complaint)
        self.tracker.event("resume", self.global_step, f"resumed from {path.name} at step {self.global_step}")
        return True

    def _train_epoch(self, interrupt: Interrupt) -> None:
        engine, objective = self.engine, self.engine.module
        for batch in self._waiting(self.loader.epoch(self.done, self.step)):
            lr = learning_rate(self.config.schedule, self.global_step, len(self.loader), self.config.train.batch_size)
            engine.set_lr(lr)
            terms = []
            for part in batch.split(engine.accumulate):
                rng = self.rng.at(self.done, self.step).rows(part.row)
                images = training_views(part.images, rng, self.config.objective)

                task = objective.prepare(images, part.labels, rng)
                x_adv = self.attack(objective.attack_loss, task)
                outcome = engine(task, x_adv)
                engine.step(outcome.loss)
                ascended = {f"attack_loss.{i}": loss for i, loss in enumerate(self.attack.losses)}
                terms.append({**outcome.terms(), **ascended})

            means = {name: torch.stack([part[name] for part in terms]).mean() for name in terms[0]}
            self._window.append((self.global_step, {**means, "grad_norm": engine.grad_norm}))
            self.step += 1
            self.tracker.advance(self.config.train.batch_size)
            self.world.heartbeat()
            self.passes.end_step()
            self._after_step(lr, interrupt)

    def _waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, while the time spent waiting for them is added up."""
        while True:
            begin = self._clock()
            batch = next(batches, None)
            self._waited += self._clock() - begin
            if batch is None:
                return
            yield batch

    def _after_step(self, lr: float, interrupt: Interrupt) -> None:
        step, every = self.global_step, self.config.train.checkpoint_every
        if step % self.config.train.log_every == 0 or self.step == len(self.loader):
            self._empty_window()
            self.tracker.train_line(step, self.done, lr, self._waited, peak_memory(self.world.device))
            self._waited = 0.0
        if every and step % every == 0 and self.step < len(self.loader):
            self.save()
        signum = self.world.stop_requested(interrupt.signum or 0)
        if signum:
            self.save()
            self.tracker.event("stop", step, f"stopped by signal {signum} at step {step}")
            raise Stopped(signum, f"stopped at step {step}, saved; the same command goes on from there")

    def _empty_window(self) -> None:
        """Moves the steps since last time into the means, over all processes in one collective.

        Raises RunError at the first value that is not finite.
        """
        if not self._window:
            return
        table = torch.stack([torch.stack(list(terms.values())) for _, terms in self._window])
        rows = self.world.mean(table.to(torch.float32)).tolist()
        for (step, terms), row in zip(self._window, rows, strict=True):
            values = dict(zip(terms, row, strict=True))
            self._refuse_non_finite(step, values)
            self.tracker.meter.add(values)
        self._window = []

    def _refuse_non_finite(self, step: int, values: dict[str, float]) -> None:
        """Raises RunError at the first value that is NaN or infinite."""
        for name, value in values.items():
            if not math.isfinite(value):
                last = self.checkpoints / "last.pt"
                good = f"the last good checkpoint is {last}" if last.exists() else "there was no checkpoint yet"
                self.tracker.event("nan", step, f"{name} is {value}")
                raise RunError(f"step {step}: {name} is {value}, {good}; try a lower schedule.lr")

    def _whole_state(self) -> State:
        """The engine's state, on rank 0.

        Raises RunError everywhere when an update has left a NaN or an infinity in the model; its loss may still have been
        finite.
        """
        self._empty_window()
        state = self.engine.state()
        self.world.on_rank_zero(lambda: self._refuse_broken_weights(state["model"]))
        return state

    def _refuse_broken_weights(self, model: dict[str, torch.Tensor]) -> None:
        tensors = {name: t for name, t in model.items() if t.is_floating_point()}
        largest = torch.stack([t.abs().max().float() for t in tensors.values()]).tolist()
        self._refuse_non_finite(
            self.global_step, {f"model {name}": v for name, v in zip(tensors, largest, strict=True)}
        )

    def _end_epoch(self) -> None:
        self.done, self.step = self.done + 1, 0
        state = self._whole_state()
        if self.done % self.config.validation.every == 0 or self.done == self.config.schedule.epochs:
            share = max(1, self.config.train.batch_size // self.world.size)
            result = validate(self.engine.module, self.held_out, share, self.config, self.world)
            values = {name: value for name, value in asdict(result).items() if value != []}
            self._refuse_non_finite(
                self.global_step, {f"validation {name}": v for name, v in values.items() if isinstance(v, float)}
            )
            self.last = {"epoch": self.done, "ta": result.ta, "ra": result.ra}
            self.tracker.validation_line(self.global_step, self.done, values)
            for name, key in (("best_ra", "ra"), ("best_ta", "ta")):
                if name not in self.best or self.last[key] > self.best[name][key]:
                    self.best[name] = self.last
                    self._write(partial(checkpoint.save, self.checkpoints / f"{name}.pt", self._weights(state)))
        self._write(lambda: checkpoint.save_last(self.checkpoints, {**state, **self._content()}))

    def save(self) -> None:
        """Writes `last.pt`, after making sure that it holds no NaN and nothing that came from one."""
        state = self._whole_state()
        self._write(lambda: checkpoint.save_last(self.checkpoints, {**state, **self._content()}))

    def _write(self, write: Callable[[], None]) -> None:
        """Done by rank 0; when its disk is full, all processes know."""
        self.world.on_rank_zero(write)
        self.world.heartbeat()

    def _weights(self, state: State) -> State:
        return {"model": state.get("model"), **self._content()}

    def _content(self) -> State:
        progress = {"done": self.done, "step": self.step, "best": self.best, "last": self.last}
        progress |= {"transferred": self.transferred, "seconds": self.seconds(), "passes": self.passes.counts}
        return {"progress": progress, "config": asdict(self.config), "meter": self.tracker.meter.state()}
