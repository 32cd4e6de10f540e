"""The checks of a configuration whose types are right: ranges, combinations of keys, numbers of processes."""

from __future__ import annotations

import math
from typing import Any
from unicodedata import category

from ..errors import UserError, nearest
from .attack import check_attack, check_autoattack, check_ramps, refuse_training_only
from .averaging import check_averaging
from .backbones import BACKBONES, ENSEMBLE, LIBRARIES, MODELS, is_adopted, is_own, refuse_no_weights
from .classes import check_classes, refuse_labels
from .commands import COMMANDS
from .contrastive import check_contrastive, check_contrastive_ranks
from .engines import ENGINES, ZERO
from .growing import check_growing
from .implementation import implementation
from .keys import names_with, shown
from .objectives import OBJECTIVES, TASKS, JigsawKeys, Joint, SelfieKeys
from .overfitting import check_overfitting
from .profile import check_profile, check_profiled_ranks
from .protocols import check_protocol
from .pseudo import check_pseudo, classes_of
from .recomputing import check_recomputing
from .replays import check_replays
from .schema import Engine, Model
from .sets import SETS
from .suites import check_suite
from .sweep import check_sweep
from .teacher import check_anchor
from .training import check_gpu_keys, check_schedule


def check_value(name: str, value: Any, metadata: Any) -> None:
    """One value against its field's `choices`, `low` and `high`. Raises UserError."""
    choices, low, high = metadata.get("choices"), metadata.get("low"), metadata.get("high")
    if choices and value not in choices:
        raise UserError(f"{name}={shown(value)}: not accepted; {nearest(shown(value), map(shown, choices))}")
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str) or text.isprintable():
            continue
        if any(category(c) in ("Cc", "Cs") and c not in "\n\t" for c in text):
            raise UserError(f"{name}={text!r}: holds a control character, or bytes that are not UTF-8; rename it")
    if value is None or isinstance(value, (str, bool, list)):
        return
    if low is not None and value < low:
        raise UserError(f"{name}={value}: below the smallest accepted value, {low:g}")
    if high is not None and value > high:
        raise UserError(f"{name}={value}: above the largest accepted value, {high:g}")


def check(command: str, config: Any) -> None:
    """Refuses combinations that cannot work, before the run writes anything. Raises UserError."""
    # Several commands share these keys.
    check_out(config.out)
    check_data(config.data)
    if not COMMANDS[command].labelled:
        refuse_labels(command, config.data)
    if COMMANDS[command].labelled or COMMANDS[command].classifiers:
        check_classes(command, config.data)
    if hasattr(config, "attack"):
        check_attack(config)
    if hasattr(config, "model"):
        _check_model(command, config)
    if own := COMMANDS[command].check:
        implementation(own)(command, config)


def check_training(command: str, config: Any) -> None:
    """The checks of `pretrain` and `finetune`. Raises UserError."""
    check_protocol(command, config)
    check_pseudo(bool(COMMANDS[command].labelled), config)
    _check_objective(command, config)
    _check_batch(config)
    check_schedule(config.schedule)
    check_gpu_keys(config)
    check_growing(config)
    _check_engine(config)
    check_averaging(config.train, config.engine, config.schedule.epochs)
    check_ramps(config.attack, config.schedule.epochs)
    check_overfitting(config)
    check_replays(config)
    check_recomputing(config)
    check_profile(config.profile)


def check_evaluation(command: str, config: Any) -> None:
    """The checks of `evaluate`. Raises UserError."""
    if config.model.name != ENSEMBLE:
        refuse_no_weights(config, ", model=ensemble model.members=[RUN,RUN]")
    refuse_training_only(config.attack, command)
    check_suite(config)
    check_sweep(config)
    if config.attack.steps == 0 and config.attack.keep == "any":
        raise UserError("attack.keep=any: needs an attack; set attack.steps or choose attack=pgd20_any")
    if config.attack.algorithm == "autoattack":
        check_autoattack(config.attack, config.data.classes)


def check_transfer(command: str, config: Any) -> None:
    """The checks of `transfer`. Raises UserError."""
    if not config.sources or config.targets == []:
        key = "targets" if config.sources else "sources"
        raise UserError(f"{key}=[]: no run to {'test' if config.sources else 'attack'}; give {key}=[RUN,RUN]")
    if config.attack.steps == 0:
        raise UserError("attack=none: transfer needs adversarial images; choose attack=pgd20")
    refuse_training_only(config.attack, command)
    if config.attack.algorithm == "autoattack":
        raise UserError(
            "attack=autoattack: transfer attacks pretext tasks too, which have no classes; choose attack=pgd20"
        )


def check_world(config: Any, world_size: int) -> None:
    """Refuses a number of processes that cannot run this configuration. Raises UserError with the nearest numbers that can."""
    check_profiled_ranks(config.profile, world_size)
    name, batch, accumulate = config.engine.name, config.train.batch_size, config.train.accumulate
    if not config.engine.kind.several and world_size > 1:
        others = ", ".join(f"engine={other}" for other, kind in ENGINES.items() if kind.several)
        raise UserError(f"engine={name}: supports one process, not {world_size}; choose {others}")
    check_contrastive_ranks(config, world_size)
    if batch % (world_size * accumulate) == 0:
        return
    whole = [n for n in range(1, batch + 1) if batch % (n * accumulate) == 0]
    parts = f" in {accumulate} parts each (train.accumulate)" if accumulate > 1 else ""
    near = sorted(sorted(whole, key=lambda n: abs(n - world_size))[:2])
    step = world_size * accumulate
    below, above = batch // step * step, (batch // step + 1) * step
    sizes = f"{below} or {above}" if below else f"{above}"
    raise UserError(
        f"train.batch_size={batch}: does not divide evenly over {world_size} processes{parts}; "
        f"start {' or '.join(map(str, near))}, or set train.batch_size={sizes}"
    )


def check_data(data: Any) -> None:
    """The node `data` by itself. Raises UserError."""
    check_shape(data)
    if SETS[data.name].needs_root and data.root is None and data.beton is None:
        raise UserError(f"data.root: missing; give data.root=FOLDER, the folder that contains {data.name}")
    if data.crop == "random" and data.loader == "memory":
        raise UserError("data.crop=random: data.loader=memory supports data.crop=centre only; set data.loader=ffcv")
    if data.max_side < data.size and data.size > 96:
        raise UserError(f"data.max_side={data.max_side}: below data.size={data.size}; set it to about {2 * data.size}")
    if data.labels is not None and data.classes is not None and data.labels < data.classes:
        raise UserError(f"data.labels={data.labels}: fewer than one label for each of the {data.classes} classes")
    if data.labels is not None and data.limit is not None and data.labels > data.limit:
        raise UserError(f"data.labels={data.labels}: more than data.limit={data.limit} images; lower data.labels")


def check_shape(data: Any) -> None:
    """Refuses a shape that the image set does not have. Raises UserError."""
    facts = SETS[data.name]
    for key in ("size", "channels", "classes"):
        given, has = getattr(data, key), getattr(facts, key)
        if None not in (given, has) and given != has:
            raise UserError(f"data.{key}={given}: {data.name} has {has}; set data.{key}={has}")


def check_out(out: str) -> None:
    """The run folder. Raises UserError for a name that no folder can have."""
    parts = out.split("/")
    if any(c in out for c in "\n\t") or max(len(part.encode()) for part in parts) > 255 or len(out.encode()) > 4000:
        raise UserError(f"out={out}: not usable as a folder; give one line of at most 255 bytes between two slashes")


def _check_model(command: str, config: Any) -> None:
    model, data = config.model, config.data
    if model.name == ENSEMBLE:
        _check_ensemble(command, config)
        return
    if model.members is not None:
        raise UserError("model.members: only model=ensemble takes members; drop it or choose model=ensemble")
    if is_own(model.name):
        _check_own(command, config)
        return
    for key in ("mean", "std"):
        values = getattr(model, key)
        if values is not None and len(values) != data.channels:
            raise UserError(f"model.{key}={values}: one value per channel, and data.channels={data.channels}")
    if model.std is not None and min(model.std) <= 0:
        raise UserError(f"model.std={model.std}: every value must be above 0")
    if model.patch is not None and not is_adopted(model.name):
        raise UserError(f"model.patch={model.patch}: only model=timm:NAME has patches; drop it")
    if is_adopted(model.name):
        implementation("dist_advss.models.adopted:check")(config)
        return
    if model.name not in BACKBONES:
        accepted = (*MODELS, *(f"{library}:NAME" for library in LIBRARIES))
        raise UserError(f"model.name={model.name}: not accepted; {nearest(model.name, accepted)}")
    network = BACKBONES[model.name]
    if model.width is not None and not network.free_width:
        free = [name for name, other in BACKBONES.items() if other.free_width]
        raise UserError(
            f"model.width={model.width}: only {', '.join(free)} has a free width; drop it or choose model={free[0]}"
        )
    if not network.takes(data.size):
        limits = f"{network.smallest} to {network.largest}" if network.largest else f"{network.smallest} or more"
        others = [f"model={name}" for name, other in BACKBONES.items() if other.takes(data.size)]
        remedy = f"choose {_either(others)}" if others else f"set data.size={network.smallest} or more"
        raise UserError(f"model={model.name}: takes images of {limits} pixels, and data.size={data.size}; {remedy}")


def _check_own(command: str, config: Any) -> None:
    """A model in a user's file. A run folder may name one too, in its config.yaml, and must not have it run."""
    name = config.model.name
    if not hasattr(config, "checkpoint"):
        raise UserError(f"model={name}: {command} trains networks of configs/model, timm and torchvision; choose one")
    if config.checkpoint is not None:
        raise UserError(f"model={name}: brings its weights, and checkpoint={config.checkpoint} has others; drop one")
    for key in ("width", "patch", "mean", "std"):
        value = getattr(config.model, key)
        if value is not None:
            raise UserError(f"model.{key}={value}: {name} makes the whole model, normalisation included; drop it")


def _check_ensemble(command: str, config: Any) -> None:
    model = config.model
    if "model.members" not in COMMANDS[command].lists:
        raise UserError("model=ensemble: pre-training trains one encoder; pre-train each member in a separate run")
    if not model.members or len(model.members) < 2:
        raise UserError("model.members: an ensemble needs at least two members; give model.members=[RUN,RUN,RUN]")
    if getattr(config, "init", None) is not None:
        raise UserError(f"init={config.init}: an ensemble starts from model.members; drop init")
    for name in names_with(Model, "per_member"):
        if getattr(model, name) is not None:
            raise UserError(f"model.{name}={getattr(model, name)}: each member keeps its own value; drop it")


def _check_objective(command: str, config: Any) -> None:
    objective, data, attack = config.objective, config.data, config.attack
    labelled = COMMANDS[command].labelled
    if (labelled or config.pseudo.clusters is not None) != objective.labelled:
        others = [name for name, keys in OBJECTIVES.items() if keys.labelled == labelled]
        other = next(name for name, kind in COMMANDS.items() if kind.labelled == objective.labelled)
        what = "learns from labels" if objective.labelled else "is a pretext task"
        raise UserError(
            f"objective={objective.name}: {what}; {command} takes {_either(others)}, use dist-advss {other}"
        )
    if config.freeze != "none" and config.init is None:
        raise UserError(f"freeze={config.freeze}: needs a trained encoder; give init=RUN, or freeze=none")
    if attack.keep == "any":
        raise UserError("attack.keep=any: not available in training; set attack.keep=last")
    if attack.algorithm == "autoattack":
        raise UserError(
            "attack=autoattack: not available in training; choose attack=pgd10, and evaluate with autoattack"
        )
    if objective.couples_rows and config.train.accumulate > 1:
        raise UserError(
            f"train.accumulate={config.train.accumulate}: objective={objective.name} compares all images of a batch, so "
            "a batch cannot be split into parts; set it to 1 and start more processes"
        )
    _check_tasks(config)
    check_contrastive(config)
    check_anchor(config)
    if objective.needs_attack and attack.steps == 0:
        raise UserError(
            f"objective={objective.name}: needs adversarial examples; choose attack=pgd10, or objective=classify for attack=none"
        )
    if objective.needs_random_start and not attack.random_start:
        raise UserError(
            f"attack.random_start=false: {objective.name} attacks a divergence whose gradient is zero at the clean image; set it to true"
        )
    if objective.pad >= data.size:
        raise UserError(f"objective.pad={objective.pad}: must be below data.size={data.size}; lower it")
    classes = classes_of(config) if objective.labelled else None
    if None not in (classes, config.validation.limit) and config.validation.limit < classes:
        raise UserError(
            f"validation.limit={config.validation.limit}: fewer than one image for each of {classes} classes"
        )


def _check_tasks(config: Any) -> None:
    """Checks Jigsaw's and Selfie's keys, alone and in joint pre-training, and the tasks to learn together."""
    objective, size = config.objective, config.data.size
    parts = {"objective": objective}
    if isinstance(objective, Joint):
        _check_joint(objective, config)
        parts = {f"objective.{name}": getattr(objective, name) for name in objective.tasks if hasattr(objective, name)}
    for node, keys in parts.items():
        grid = getattr(keys, "grid", None)
        if grid is not None and size % grid:
            raise UserError(f"{node}.grid={grid}: does not divide data.size={size}; choose one that does")
        if isinstance(keys, SelfieKeys) and keys.masked >= keys.grid**2:
            raise UserError(
                f"{node}.masked={keys.masked}: at least one of {keys.grid**2} patches must stay visible; lower it"
            )
        if isinstance(keys, JigsawKeys) and keys.permutations >= math.factorial(keys.grid**2):
            raise UserError(
                f"{node}.permutations={keys.permutations}: {keys.grid}x{keys.grid} tiles have "
                f"{math.factorial(keys.grid**2) - 1} orders other than 'untouched'; choose fewer, or a larger {node}.grid"
            )


def _check_joint(objective: Joint, config: Any) -> None:
    tasks = objective.tasks
    shown = f"objective.tasks=[{','.join(tasks)}]"
    for task in tasks:
        if task not in TASKS:
            raise UserError(f"{shown}: {task}: joint pre-training does not accept this task; {nearest(task, TASKS)}")
    if len(set(tasks)) < len(tasks):
        raise UserError(f"{shown}: lists a task twice; list each once")
    if len(tasks) < 2:
        raise UserError(
            f"{shown}: joint pre-training needs at least two tasks; for one choose objective={tasks[0] if tasks else TASKS[0]}"
        )
    if config.attack.steps == 0 and objective.diversity.weight > 0:
        raise UserError(
            "objective.diversity.weight: the diversity term compares adversarial gradients, and attack=none computes none; "
            "set it to 0, or choose attack=pgd10"
        )
    patches = [name for name in TASKS if OBJECTIVES[name].looks_at_patches]
    if objective.patch_bn and not set(patches) & set(tasks):
        raise UserError(
            f"objective.patch_bn=true: only {' and '.join(patches)} uses patches, and {shown}; drop it or add {patches[0]}"
        )
    for node in (config.train, config.attack):
        if node.precision == "fp16" and objective.diversity.weight > 0:
            name = "train" if node is config.train else "attack"
            raise UserError(
                f"{name}.precision=fp16: the second derivatives of objective.diversity underflow; choose bf16 or fp32, "
                "or objective.diversity.weight=0"
            )


def _check_batch(config: Any) -> None:
    size, data = config.train.batch_size, config.data
    for key in ("limit", "labels") if config.pseudo.source is None else ("limit",):
        images = getattr(data, key)
        if images is not None and size > images:
            raise UserError(f"train.batch_size={size}: above data.{key}={images} training images; lower it")


def _check_engine(config: Any) -> None:
    engine, train = config.engine, config.train
    other_norms = "objective.dual_norms=true gives the network other batch norms in a call"
    for refused, what in (
        (config.objective.double_backward, f"objective={config.objective.name} differentiates twice"),
        (getattr(config.objective, "dual_norms", False), other_norms),
    ):
        if refused and "weights" in engine.shards:
            which = f"which does not work with sharded weights; choose {_engines('weights')}"
            raise UserError(f"engine={engine.name}: {what}, {which}")
    if getattr(config.objective, "momentum", 0) and "weights" in engine.shards:
        raise UserError(
            f"engine={engine.name}: objective.momentum={config.objective.momentum:g} averages whole weights after each update, "
            f"and this engine shards them; choose {_engines('weights')}"
        )
    if not engine.kind.zero and engine.zero != Engine().zero:
        staged = " or ".join(f"engine={name}" for name, kind in ENGINES.items() if kind.zero)
        raise UserError(f"engine.zero={engine.zero}: only {staged} uses ZeRO stages; drop it or choose {staged}")
    if config.schedule.optimizer == "lars" and engine.shards:
        raise UserError(
            f"schedule.optimizer=lars: needs the full weights of each layer, and engine={engine.name} shards training state; "
            "choose engine=ddp, or another optimizer"
        )
    if train.precision not in engine.kind.precisions:
        others = [f"engine={name}" for name, kind in ENGINES.items() if train.precision in kind.precisions]
        raise UserError(
            f"train.precision={train.precision}: engine={engine.name} takes {_either(list(engine.kind.precisions))}; "
            f"choose one of these, or {_either(others)}"
        )
    if train.batch_size % train.accumulate:
        raise UserError(
            f"train.accumulate={train.accumulate}: does not divide train.batch_size={train.batch_size}; choose a divisor"
        )


def _engines(part: str) -> str:
    """The engines that do not shard `part` ("weights", "gradients" or "optimizer"), as words to choose from."""
    whole = [f"engine={name}" for name, kind in ENGINES.items() if not kind.zero and part not in kind.shards]
    for name, kind in ENGINES.items():
        stages = [stage for stage, shards in ZERO.items() if part not in shards]
        if kind.zero:
            whole.append(f"engine={name} with engine.zero={min(stages)} to {max(stages)}")
    return _either(whole)


def _either(choices: list[str]) -> str:
    """`["a", "b", "c"]` as "a, b or c"."""
    return " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
