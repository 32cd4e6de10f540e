"""Estimates memory, time and traffic from a configuration and a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from ..config.averaging import BATCHES
from ..config.checks import check, check_world
from ..config.commands import command_of
from ..config.engines import ENGINES
from ..config.objectives import is_pretext
from ..config.schema import TrainConfig
from ..config.sets import SETS
from ..errors import UserError
from ..gpus import GBIT
from .machine import Machine
from .machines import MACHINES, find
from .memory import Memory, memory
from .step import Step, count
from .traffic import Traffic, traffic


@dataclass(frozen=True)
class Cluster:
    """`nodes` nodes of `gpus_per_node` GPUs (None: all of the node), and their network in Gbit/s a node."""

    gpu: str = "here"
    nodes: int = 1
    gpus_per_node: int | None = None
    network: float | None = None


@dataclass(frozen=True)
class Seconds:
    """The seconds of one step of one process. `waiting` is the communication that computation does not hide."""

    prepare: float
    attack: float
    forward: float
    backward: float
    update: float
    waiting: float

    @property
    def computing(self) -> float:
        return self.prepare + self.attack + self.forward + self.backward + self.update

    @property
    def total(self) -> float:
        return self.computing + self.waiting


@dataclass(frozen=True)
class Estimate:
    """Memory, time and traffic of a run. Counts are exact, times are estimates; docs/performance.md explains both.

    steps       updates of an epoch
    validation  seconds of one validation
    averaging   seconds at the end of an epoch in which train.ema counts batch-norm statistics
    would_fit   changes that make the run fit into memory, each by itself; empty when it fits
    """

    machine: Machine
    nodes: int
    gpus_per_node: int
    batch_size: int
    step: Step
    memory: Memory
    traffic: list[Traffic]
    seconds: Seconds
    steps: int
    epochs: int
    validation: float
    validations: int
    averaging: float
    would_fit: list[str]

    @property
    def world(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.machine.room

    @property
    def images_per_s(self) -> float:
        return self.batch_size / self.seconds.total

    @property
    def efficiency(self) -> float:
        """The share of a step that is computation: 1 where processes need not wait for each other."""
        return self.seconds.computing / self.seconds.total

    @property
    def hours(self) -> float:
        """Hours of the whole run, without start-up, data loading and checkpoints."""
        epoch = self.steps * self.seconds.total + self.averaging
        return (self.epochs * epoch + self.validations * self.validation) / 3600

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.world


def estimate(config: TrainConfig, cluster: Cluster, images: int | None = None) -> Estimate:
    """Estimates `config` on `cluster` in seconds, without data, GPU or processes.

    `images` is the number of training images, for a data set of unknown size. Raises UserError when the processes cannot
    share the batch equally, for an unknown GPU, and for a data set of unknown size without `images`.
    """
    machine = find(cluster.gpu)
    if cluster.network is not None:
        machine = replace(machine, network=cluster.network * GBIT)
    validating = replace(machine, tf32=0.0)
    machine = machine if config.train.tf32 else validating
    per_node = cluster.gpus_per_node or (machine.node if cluster.nodes > 1 or config.engine.kind.several else 1)
    world = cluster.nodes * per_node
    check_world(config, world)
    training, held_out = _images(config, images)
    if training < config.train.batch_size:
        raise UserError(
            f"train.batch_size={config.train.batch_size}: more than the {training} training images; lower it"
        )
    # Everything below follows from one step, counted at the number of images that a process computes at a time.
    step = count(config, config.train.batch_size // (world * config.train.accumulate))
    sent = traffic(config, step, world, per_node)
    needed = memory(config, step, world, per_node)
    # A validation of k attack steps takes k + 1 passes of each image, at the cost of one more step of the attack.
    passes = config.validation.steps + 1
    one_step = validating.seconds(step.second) - validating.seconds(step.first)
    pass_seconds = one_step / (step.images * config.attack.restarts)
    seconds, steps = _seconds(config, machine, step, sent, world, per_node), training // config.train.batch_size
    counted = min(BATCHES, steps) if config.train.ema else 0
    return Estimate(
        machine=machine,
        nodes=cluster.nodes,
        gpus_per_node=per_node,
        batch_size=config.train.batch_size,
        step=step,
        memory=needed,
        traffic=sent,
        seconds=seconds,
        steps=steps,
        epochs=config.schedule.epochs,
        validation=-(-held_out // world) * passes * pass_seconds,
        validations=-(-config.schedule.epochs // config.validation.every),
        averaging=counted * (seconds.prepare + seconds.attack + seconds.forward),
        would_fit=list(_would_fit(config, machine, step, world, per_node)) if needed.total > machine.room else [],
    )


def _images(config: TrainConfig, given: int | None) -> tuple[int, int]:
    """The number of training images in an epoch, and of held-out images in a validation."""
    data = config.data
    labelled = SETS[data.name].images if given is None else given
    if labelled is None:
        raise UserError(
            f"images: missing; the size of data={data.name} is unknown, set images=N, its number of training images"
        )
    held_out = round(labelled * data.validation)
    training = labelled - held_out
    unlabelled = is_pretext(config.objective.name) or config.pseudo.source is not None
    if unlabelled and given is None:
        training += SETS[data.name].unlabelled
    for limit in (data.limit, None if unlabelled else data.labels):
        training = min(training, limit or training)
    return training, min(held_out, config.validation.limit or held_out)


def _seconds(
    config: TrainConfig, machine: Machine, step: Step, sent: list[Traffic], world: int, per_node: int
) -> Seconds:
    parts, sharers = config.train.accumulate, config.engine.kind.sharers(world, per_node)
    # Each kind of communication overlaps with one part of the step. Only what exceeds that part is waiting.
    attack = step.over_attack(machine.seconds(step.first), machine.seconds(step.second))
    forward, backward = (step.replays * machine.seconds(work) for work in (step.forward, step.backward))
    prepare = parts * machine.seconds(step.prepare)
    update = parts * (forward + backward)
    beside = {"prepare": prepare, "attack": parts * attack, "update": update, "backward": backward, "": 0.0}
    waiting = 0.0
    for part in sent:
        seconds = machine.transfer_seconds(part, world, per_node)
        # The first gather and the last reduction overlap with nothing.
        waiting += max(seconds / part.calls, seconds - beside[part.behind])
    return Seconds(
        prepare=prepare,
        attack=parts * attack,
        forward=parts * forward,
        backward=parts * backward,
        update=step.replays * machine.seconds(step.update) / (sharers if config.engine.shards else 1),
        waiting=waiting,
    )


def _would_fit(config: TrainConfig, machine: Machine, step: Step, world: int, per_node: int) -> Iterator[str]:
    """Single changes that would make the run fit and that its checks accept, the cheapest first.

    Assumes that activations are proportional to images.
    """
    train, divisors = config.train, [n for n in range(2, step.images + 1) if step.images % n == 0]

    def fits(changed: TrainConfig, counted: Step, parts: int = 1) -> bool:
        needed = memory(changed, counted, world, per_node)
        return needed.fixed + needed.activations / parts <= machine.room

    for parts in divisors:
        less = replace(config, train=replace(train, accumulate=train.accumulate * parts))
        if fits(less, step, parts) and _accepted(less):
            yield f"train.accumulate={less.train.accumulate}"
            break
    if train.precision == "fp32" or config.attack.precision == "fp32":
        nodes = ("train",) if step.replays > 1 else ("train", "attack")  # attack=free has no passes of its own
        half = replace(config, **{node: replace(getattr(config, node), precision="bf16") for node in nodes})
        counted = _counted(half, step.images)
        if counted and fits(half, counted):
            yield " ".join(f"{node}.precision=bf16" for node in nodes)
    if not train.activation_checkpointing:
        again = replace(config, train=replace(train, activation_checkpointing=True))
        counted = _counted(again, step.images)
        if counted and fits(again, counted):
            yield "train.activation_checkpointing=true"
    for name, kind in ENGINES.items():
        if "weights" not in kind.shards or name == config.engine.name or world == (per_node if kind.within_node else 1):
            continue  # on one node, sharding within nodes is what fsdp does
        sharded = replace(config, engine=replace(config.engine, name=name))
        if fits(sharded, step) and _accepted(sharded):
            yield f"engine={name}"
    for times in divisors:
        needed = memory(config, step, world * times, per_node)
        if config.engine.kind.several and needed.fixed + needed.activations / times <= machine.room:
            yield f"{times} times the nodes"
            break
    larger = [m for m in MACHINES.values() if memory(config, step, world, per_node).total <= m.room]
    if larger:
        yield f"gpu={min(larger, key=lambda m: m.memory).name}"


def _accepted(config: TrainConfig) -> bool:
    """Whether a run may have this configuration."""
    try:
        check(command_of(asdict(config)), config)
    except UserError:
        return False
    return True


def _counted(config: TrainConfig, images: int) -> Step | None:
    """A step of this configuration; None if a run may not have it, or if its network cannot do what it asks for."""
    try:
        return count(config, images) if _accepted(config) else None
    except UserError:
        return None
