"""A wrong configuration is refused in one line that names the key, the value and what is accepted."""

from __future__ import annotations

import pytest

from dist_advss.config.compose import compose
from dist_advss.errors import UserError

NEEDED = {"pretrain": ["out=RUN"], "finetune": ["out=RUN"], "evaluate": ["out=RUN", "checkpoint=RUN2"]}

# command, the wrong words, what the line has to say
UNKNOWN = [
    ("pretrain", "sede=1", "sede", "did you mean 'seed'?"),
    ("pretrain", "learning_rate=0.1", "learning_rate", "Accepted: attack, data"),
    ("pretrain", "atack.eps=0.1", "atack.eps", "did you mean 'attack.eps'? Accepted: attack, data"),
    ("pretrain", "atack=pgd10", "atack", "did you mean 'attack'?"),
    ("pretrain", "eps=8/255", "eps", "did you mean 'attack.eps'?"),
    ("finetune", "attack.lr=0.1", "attack.lr", "did you mean 'schedule.lr'? Accepted: algorithm, batch_norm"),
    ("finetune", "threads=1", "threads", "did you mean 'train.threads'?"),
    ("evaluate", "train.threads=1", "train.threads", "did you mean 'threads'?"),
    ("pretrain", "data.sise=28", "data.sise", "did you mean 'size'?"),
    ("pretrain", "schedule.epoch=4", "schedule.epoch", "did you mean 'epochs'?"),
    ("pretrain", "objective.grid=4", "objective.grid", "Accepted: balanced, first, flip, name, pad"),
    ("pretrain", "data.size.height=28", "data.size.height", "data.size is a value", "set data.size="),
    ("pretrain", "train=fast", "train", "train.batch_size"),
    ("finetune", "objective.masked=4", "objective.masked", "Accepted: flip, label_smoothing, name, pad"),
    ("evaluate", "schedule.lr=0.1", "schedule.lr", "Accepted: attack, batch_size"),
    ("evaluate", "objective=classify", "objective", "Accepted: attack, batch_size"),
    ("evaluate", "init=RUN", "init", "Accepted: attack, batch_size"),
]
NO_SUCH_CHOICE = [
    ("pretrain", "objective=rotatoin", "objective=rotatoin", "did you mean 'rotation'?"),
    ("pretrain", "data=cifar", "data=cifar", "did you mean 'cifar10'?", "fashion_mini"),
    ("pretrain", "model=resnet50v", "model=resnet50v", "did you mean 'resnet50v2'?"),
    ("pretrain", "attack=pgd11", "attack=pgd11", "pgd10", "none"),
    ("pretrain", "schedule=cosin", "schedule=cosin", "did you mean 'cosine'?"),
    ("pretrain", "engine=", "engine=", "Accepted: "),
    ("pretrain", "objective.name=jigsaw", "objective.name=jigsaw", "rotation"),
    ("pretrain", "attack.norm=l3", "attack.norm=l3", "Accepted: l1, l2, linf"),
    ("pretrain", "attack.norm=l1", "attack.norm=l1", "PGD knows linf and l2"),
    ("pretrain", "attack.precision=fp64", "attack.precision=fp64", "bf16, fp16, fp32"),
    ("pretrain", "attack.batch_norm=frozen", "attack.batch_norm=frozen", "batch, eval, train"),
    ("pretrain", "schedule.optimizer=adam", "schedule.optimizer=adam", "did you mean 'adamw'?"),
    ("pretrain", "schedule.warmup_unit=minutes", "schedule.warmup_unit=minutes", "epochs, steps"),
    ("pretrain", "freeze=all", "freeze=all", "backbone, encoder, none"),
    ("finetune", "protocol=sfl", "protocol=sfl", "did you mean 'slf'?"),
    ("pretrain", "protocol=aff", "protocol=aff", "pretrain uses none"),
    ("pretrain", "device=gpu", "device=gpu", "auto, cpu, cuda"),
    ("pretrain", "tracking.wandb=on", "tracking.wandb=on", "disabled, offline, online"),
    ("evaluate", "pick=best", "pick=best", "best_ra, best_ta, last"),
    ("evaluate", "split=train", "split=train", "test, validation"),
]
WRONG_TYPE = [
    ("pretrain", "schedule.epochs=ten", "schedule.epochs=ten", "a whole number"),
    ("pretrain", "schedule.epochs=1.5", "schedule.epochs=1.5", "a whole number"),
    ("pretrain", "train.batch_size=true", "train.batch_size=true", "a whole number"),
    ("pretrain", "seed=null", "seed=null", "a whole number"),
    ("pretrain", "model.width=wide", "model.width=wide", "a whole number, nor null"),
    ("pretrain", "attack.random_start=maybe", "attack.random_start=maybe", "true or false"),
    ("pretrain", "attack.eps=eight", "attack.eps=eight", "a fraction such as 8/255"),
    ("pretrain", "attack.eps=8/0", "attack.eps=8/0", "a fraction such as 8/255"),
    ("pretrain", "attack.eps=nan", "attack.eps=nan", "a number"),
    ("pretrain", "attack.eps=1e999", "attack.eps=1e999", "a number"),
    ("pretrain", "schedule.lr=null", "schedule.lr=null", "a number"),
    ("pretrain", "schedule.milestones=0.5", "schedule.milestones=0.5", "a list such as [0.6,0.8]"),
    ("pretrain", "schedule.milestones=[0.5", "schedule.milestones=[0.5", "a list such as [0.6,0.8]"),
    ("pretrain", "schedule.milestones=[[0.5]]", "schedule.milestones=[[0.5]]", "a list such as [0.6,0.8]"),
    ("pretrain", "schedule.milestones=[null]", "schedule.milestones=[null]", "a list such as [0.6,0.8]"),
    ("pretrain", "model.mean=0.5", "model.mean=0.5", "a list", "nor null"),
    ("pretrain", "tracking.project=", "tracking.project=", "a text"),
]
OUT_OF_RANGE = [
    ("pretrain", "train.batch_size=0", "train.batch_size=0", "smallest accepted value, 1"),
    ("pretrain", "seed=-1", "seed=-1", "smallest accepted value, 0"),
    ("pretrain", "attack.eps=-0.1", "attack.eps=-0.1", "smallest accepted value, 0"),
    ("pretrain", "attack.steps=100000", "attack.steps=100000", "largest accepted value, 10000"),
    (
        "pretrain",
        "validation.steps=100000000000000",
        "validation.steps=100000000000000",
        "largest accepted value, 10000",
    ),
    ("pretrain", "model.width=20000000", "model.width=20000000", "largest accepted value, 4096"),
    ("pretrain", "train.threads=99999999999", "train.threads=99999999999", "largest accepted value, 4096"),
    ("pretrain", "objective=selfie objective.ffn=10000000", "objective.ffn=10000000", "largest accepted value, 65536"),
    ("pretrain", "attack.restarts=0", "attack.restarts=0", "smallest accepted value, 1"),
    ("pretrain", "schedule.momentum=1.5", "schedule.momentum=1.5", "largest accepted value, 1"),
    ("pretrain", "data.validation=0.9", "data.validation=0.9", "largest accepted value, 0.5"),
    ("pretrain", "data.channels=2", "data.channels=2", "1, 3"),
    ("pretrain", "model.width=2", "model.width=2", "smallest accepted value, 4"),
    ("pretrain", "validation.steps=0", "validation.steps=0", "smallest accepted value, 1"),
    ("pretrain", "objective=jigsaw objective.untouched=1.1", "objective.untouched=1.1", "largest accepted value, 1"),
    ("finetune", "objective=trades objective.beta=-1", "objective.beta=-1", "smallest accepted value, 0"),
    ("evaluate", "batch_size=0", "batch_size=0", "smallest accepted value, 1"),
]
IMPOSSIBLE_ATTACK = [
    ("pretrain", "attack.eps=8", "attack.eps=8", "8/255"),
    ("pretrain", "attack.eps=0", "attack.eps=0", "attack=none"),
    ("pretrain", "attack.step_size=0", "attack.step_size=0", "to null for the default"),
    ("pretrain", "attack.restarts=2 attack.random_start=false", "attack.restarts=2", "attack.random_start=true"),
    ("pretrain", "attack=pgd20_any", "attack.keep=any", "attack.keep=last"),
    ("pretrain", "attack=nfgsm attack.norm=l2", "attack.noise=2", "linf only, not l2"),
    ("pretrain", "attack=nfgsm attack.steps=2", "attack.noise=2", "attack.steps=2", "set it to 1"),
    ("pretrain", "attack=nfgsm attack.random_start=false", "attack.noise=2", "drop attack.random_start"),
    ("pretrain", "attack=nfgsm attack.restarts=2", "attack.noise=2", "attack.restarts=2", "set it to 1"),
    ("evaluate", "attack=nfgsm", "attack.noise=2", "leaves the ball", "attack=pgd20"),
    ("finetune", "objective=trades attack=none", "objective=trades", "attack=pgd10"),
    ("finetune", "objective=trades attack.random_start=false", "attack.random_start=false", "true"),
    ("evaluate", "attack=pgd20_any attack.clamp_start=false", "attack.clamp_start=false", "attack.keep=any"),
    ("finetune", "attack=free attack.clamp_start=false", "attack.clamp_start=false", "attack.algorithm=free", "true"),
    ("finetune", "attack=apgd2 attack.clamp_start=false", "attack.clamp_start=false", "attack.algorithm=apgd", "true"),
    ("finetune", "attack=none attack.eps_ramp=1", "attack.eps_ramp=1", "attack.steps=0", "drop it"),
    ("finetune", "attack=fgsm attack.steps_ramp=1", "attack.steps_ramp=1", "attack.steps=1", "drop it"),
    ("pretrain", "attack=fgsm attack.eps_ramp=1000 schedule.epochs=9", "attack.eps_ramp=1000", "epochs=9", "at most 9"),
    ("pretrain", "attack=pgd3 attack.steps_ramp=9 schedule.epochs=9", "attack.steps_ramp=9", "epochs=9", "at most 8"),
    ("evaluate", "attack=none attack.keep=any", "attack.keep=any", "attack=pgd20_any"),
    ("evaluate", "attack.eps=8", "attack.eps=8", "8/255"),
    ("evaluate", "suite.images=50", "suite.images=50", "add suite=sanity"),
]
IMPOSSIBLE_IMAGES_AND_MODEL = [
    ("pretrain", "data=cifar10", "data.root", "data.root=FOLDER"),
    ("pretrain", "data.size=32", "data.size=32", "has 28"),
    ("pretrain", "data=folder data.root=X data.size=16", "data.size=16", "28 to 96"),
    ("pretrain", "model=tv_resnet18", "model=tv_resnet18", "data.size=28", "model=preact_resnet18"),
    ("pretrain", "model=preact_resnet18 model.width=8", "model.width=8", "model=preact_small"),
    ("pretrain", "model.mean=[0.5,0.5,0.5]", "model.mean=[0.5, 0.5, 0.5]", "data.channels=1"),
    ("pretrain", "model.std=[0]", "model.std=[0.0]", "above 0"),
    ("pretrain", "data.labels=100", "data.labels=100", "data.limit"),
    ("evaluate", "data.labels=100", "data.labels=100", "evaluate trains on no labels", "data.limit"),
    ("pretrain", "data.limit=100 train.batch_size=101", "train.batch_size=101", "data.limit=100", "lower"),
    ("finetune", "data.labels=100 train.batch_size=101", "train.batch_size=101", "data.labels=100", "lower"),
    ("finetune", "data.labels=5", "data.labels=5", "10 classes"),
    ("finetune", "data.limit=500 data.labels=501", "data.labels=501", "data.limit=500"),
    ("finetune", "validation.limit=5", "validation.limit=5", "10 classes"),
]
IMPOSSIBLE_TRAINING = [
    ("pretrain", "objective=classify", "objective=classify", "rotation, jigsaw, selfie", "dist-advss finetune"),
    ("finetune", "objective=rotation", "objective=rotation", "classify, trades or mart", "dist-advss pretrain"),
    ("pretrain", "objective=jigsaw objective.grid=5", "objective.grid=5", "data.size=28"),
    ("pretrain", "objective=jigsaw objective.grid=2 objective.permutations=24", "objective.permutations=24", "23"),
    ("pretrain", "objective=selfie objective.masked=16", "objective.masked=16", "16 patches"),
    ("pretrain", "objective.pad=28", "objective.pad=28", "data.size=28"),
    ("pretrain", "objective=anchor", "objective.teacher", "objective.teacher=RUN", "init=RUN"),
    ("pretrain", "objective=anchor init=X freeze=encoder", "freeze=encoder", "objective=anchor"),
    ("pretrain", "objective=anchor init=X objective.clean=0 attack=none", "objective.clean=0", "above 0"),
    (
        "pretrain",
        "objective=anchor init=X objective.clean=0 objective.adversarial=0",
        "objective.adversarial=0",
        "above 0",
    ),
    ("pretrain", "objective=anchor init=X attack.random_start=false", "attack.random_start=false", "anchor"),
    ("pretrain", "objective=rotation objective.teacher=X", "objective.teacher", "no such key"),
    ("finetune", "freeze=encoder", "freeze=encoder", "init=RUN"),
    ("finetune", "freeze=backbone", "freeze=backbone", "reuse=backbone"),
    ("finetune", "freeze=backbone reuse=backbone", "freeze=backbone", "init=RUN"),
    ("pretrain", "reuse=backbone", "reuse=backbone", "theta_p only"),
    ("pretrain", "freeze=encoder init=X objective=acl attack=pgd3", "freeze=encoder", "objective.dual_norms=false"),
    ("pretrain", "freeze=encoder init=X objective=joint objective.patch_bn=true", "freeze=encoder", "patch_bn=false"),
    (
        "finetune",
        "reuse=classifier init=X objective.zero_linear=true",
        "objective.zero_linear=true",
        "reuse=classifier",
        "reuse=backbone",
    ),
    ("pretrain", "objective=simclr train.batch_size=1", "train.batch_size=1", "objective=simclr", "2 or more"),
    ("finetune", "protocol=slf", "protocol=slf", "init=RUN", "protocol=aff"),
    ("finetune", "protocol=alf attack=none", "attack.steps=0", "protocol=alf has attack.steps=a number above 0"),
    ("finetune", "protocol=aff objective=classify", "objective=classify", "protocol=aff has objective=trades"),
    ("finetune", "protocol=aff train.ema=0.99", "train.ema=0.99", "protocol=aff has train.ema=0"),
    ("finetune", "protocol=aff_plus train.awp=0", "train.awp=0", "protocol=aff_plus has train.awp=a number above 0"),
    ("finetune", "protocol=aff reuse=encoder", "reuse=encoder", "protocol=aff has reuse=backbone"),
    ("pretrain", "schedule.lr=0", "schedule.lr=0", "above 0"),
    ("pretrain", "schedule.lr=0.1 schedule.final_lr=0.2", "schedule.final_lr=0.2", "schedule.lr=0.1"),
    ("pretrain", "schedule.warmup_start=1.2", "schedule.warmup_start=1.2", "largest accepted value, 1"),
    ("pretrain", "schedule.milestones=[0.8,0.6]", "schedule.milestones=[0.8, 0.6]", "rising"),
    ("pretrain", "schedule.milestones=[0.5,1.5]", "schedule.milestones=[0.5, 1.5]", "below 1"),
    ("pretrain", "schedule=selfie schedule.optimizer=adamw", "schedule.nesterov=true", "sgd", "adamw"),
    ("pretrain", "schedule=onecycle schedule.epochs=3", "schedule.warmup=3", "schedule.epochs=3"),
]
IMPOSSIBLE_ENGINE = [
    ("pretrain", "engine=horovod", "engine=horovod", "ddp, deepspeed, fsdp, hsdp, single"),
    ("pretrain", "engine=ddp engine.zero=3", "engine.zero=3", "engine=deepspeed"),
    ("pretrain", "engine=deepspeed engine.zero=4", "engine.zero=4", "0, 1, 2, 3"),
    ("pretrain", "engine=fsdp schedule.optimizer=lars", "schedule.optimizer=lars", "engine=fsdp", "engine=ddp"),
    ("pretrain", "engine=hsdp schedule.optimizer=lars", "schedule.optimizer=lars", "engine=hsdp", "engine=ddp"),
    (
        "pretrain",
        "engine=deepspeed schedule.optimizer=lars",
        "schedule.optimizer=lars",
        "engine=deepspeed",
        "engine=ddp",
    ),
    ("pretrain", "engine=deepspeed train.precision=fp16", "train.precision=fp16", "fp32 or bf16", "engine=ddp"),
    ("pretrain", "train.batch_size=128 train.accumulate=3", "train.accumulate=3", "train.batch_size=128", "divisor"),
    ("pretrain", "train.clip=0", "train.clip=0", "smallest accepted value"),
    ("pretrain", "guard.hang_s=0", "guard.hang_s=0", "smallest accepted value"),
    ("pretrain", "schedule.lr_batch=0", "schedule.lr_batch=0", "smallest accepted value"),
]
JOINT = "objective=joint objective.tasks="
IMPOSSIBLE_TOGETHER = [
    ("pretrain", f"{JOINT}[rotation]", "objective.tasks=[rotation]", "at least two tasks", "objective=rotation"),
    ("pretrain", f"{JOINT}[]", "objective.tasks=[]", "at least two tasks"),
    ("pretrain", f"{JOINT}[rotation,jigsaw,rotation]", "[rotation,jigsaw,rotation]", "twice"),
    ("pretrain", f"{JOINT}[rotation,jigsw]", "jigsw", "did you mean 'jigsaw'?"),
    ("pretrain", f"{JOINT}[rotation,joint]", "joint", "Accepted: jigsaw, rotation, selfie"),
    ("pretrain", "objective=acl attack=none", "objective.dual_norms=true", "attack=pgd5"),
    ("pretrain", "objective=acl objective.pairs=a2a", "objective.dual_norms=true", "objective.pairs=ds"),
    ("pretrain", "objective=dynacl objective.pairs=a2s", "objective.dual_norms=true", "objective.pairs=ds"),
    ("pretrain", "objective=simclr objective.reweight=0.5 attack=none", "objective.reweight=0.5", "attack=pgd5"),
    ("pretrain", "objective=simclr objective.reweight=0.5", "objective.reweight=0.5", "objective.anneal_every"),
    ("pretrain", "objective=simclr objective.reweight=0.4", "objective.reweight=0.4: ", "objective.anneal_every"),
    ("pretrain", "objective=simclr objective.reweight=2/3", "objective.reweight=2/3: ", "objective.anneal_every"),
    ("pretrain", "objective=dynacl schedule.epochs=50", "objective.anneal_every=50", "schedule.epochs=50"),
    (
        "pretrain",
        "objective=dynacl objective.dual_norms=false init=RUN2 freeze=encoder",
        "objective.momentum=0.99",
        "freeze=none",
    ),
    ("pretrain", "objective=dynacl train.ema=0.9", "train.ema=0.9", "objective.momentum=0.99"),
    ("pretrain", "objective=simclr objective.momentum=0.9 engine=fsdp", "objective.momentum=0.9", "engine=ddp"),
    ("pretrain", "objective=joint attack=none", "objective.diversity.weight", "attack=pgd10"),
    ("pretrain", f"{JOINT}[rotation,jigsaw] objective.patch_bn=true", "objective.patch_bn=true", "add selfie"),
    ("pretrain", "objective=joint objective.diversity.sign=plus", "objective.diversity.sign=plus", "published, reward"),
    ("pretrain", "objective=joint objective.diversity.weight=-1", "objective.diversity.weight=-1", "accepted value, 0"),
    ("pretrain", "objective=joint objective.selfie.grid=5", "objective.selfie.grid=5", "data.size=28"),
    ("pretrain", "objective=joint objective.selfie.masked=16", "objective.selfie.masked=16", "16 patches"),
    (
        "pretrain",
        "objective=joint objective.jigsaw.grid=2",
        "objective.jigsaw.permutations=30",
        "objective.jigsaw.grid",
    ),
    ("pretrain", "objective=joint attack.precision=fp16", "attack.precision=fp16", "bf16"),
    ("finetune", "objective=joint", "objective=joint", "classify, trades or mart"),
]
WRONG = [
    *IMPOSSIBLE_TOGETHER,
    *UNKNOWN,
    *NO_SUCH_CHOICE,
    *WRONG_TYPE,
    *OUT_OF_RANGE,
    *IMPOSSIBLE_ATTACK,
    *IMPOSSIBLE_IMAGES_AND_MODEL,
    *IMPOSSIBLE_TRAINING,
    *IMPOSSIBLE_ENGINE,
]


def refusal(command: str, words: list[str]) -> str:
    """The one line with which these words are refused."""
    with pytest.raises(UserError) as caught:
        compose(command, words)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case[0]} {case[1]}")
def test_a_wrong_configuration_is_refused_with_key_value_and_what_is_accepted(case: tuple[str, ...]) -> None:
    command, words, *said = case
    text = refusal(command, [*NEEDED[command], *words.split()])
    for part in said:
        assert part in text


@pytest.mark.parametrize("engine", ["fsdp", "deepspeed engine.zero=3"])
def test_an_objective_that_differentiates_gradients_is_refused_where_weights_are_sharded(engine: str) -> None:
    text = refusal("pretrain", ["out=RUN", "objective=joint", *f"engine={engine}".split()])
    assert text.startswith(f"engine={engine.split()[0]}: objective=joint")
    assert "engine=single, engine=ddp or engine=deepspeed with engine.zero=0 to 2" in text
    compose("pretrain", ["out=RUN", "objective=joint", "engine=deepspeed", "engine.zero=2"])


@pytest.mark.parametrize("word", ["seed", "=3", "+seed=1", "~data", "--seed=1", "", "1=2", "data .size=3"])
def test_a_word_that_is_not_key_value_is_refused_with_an_example(word: str) -> None:
    text = refusal("pretrain", ["out=RUN", word])
    assert repr(word) in text
    assert "attack.eps=8/255" in text


@pytest.mark.parametrize(("command", "missing"), [("pretrain", "out"), ("finetune", "out"), ("evaluate", "checkpoint")])
def test_a_required_key_that_is_missing_is_named_with_its_meaning(command: str, missing: str) -> None:
    text = refusal(command, [word for word in NEEDED[command] if not word.startswith(f"{missing}=")])
    assert text.startswith(f"{missing}: missing; give {missing}=")
    assert "run folder" in text


def test_what_another_run_hands_down_is_held_to_the_same_rules() -> None:
    inherited = {"data": {"name": "fashion_mini", "size": 28, "channels": 1}, "model": {"name": "preact_smal"}}
    with pytest.raises(UserError, match=r"model\.name=preact_smal: .*did you mean 'preact_small'"):
        compose("finetune", ["out=RUN"], inherited)
    inherited["model"] = {"name": "preact_small", "depth": 18}
    with pytest.raises(UserError, match=r"model\.depth: .*Accepted: mean, members, name"):
        compose("finetune", ["out=RUN"], inherited)
