"""The table of commands that execute one run: `dist-advss NAME key=value …`, and the stages of an experiment.

A new command is a dataclass of its keys, a function that runs it, one entry in COMMANDS and `configs/NAME.yaml`. This
module imports the standard library only, so that `dist-advss --help` prints at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .implementation import implementation


@dataclass(frozen=True)
class Command:
    """One command.

    sentence    its line in `dist-advss --help`
    example     words for its --help
    config      "module:class" of its keys
    run         "module:function" that every process of a run calls with the configuration
    check       "module:function", called with the command's name and its configuration; raises UserError
    source      key that names the run to inherit from
    lists       keys that name several runs, which must fit together
    trust       key that names the user's files (FILE.py:CLASS) with the objectives of those runs, which the command runs
    own         whether `lists` may name models in the user's files too (FILE.py:FUNCTION)
    classifiers whether those runs must be fine-tuned ones
    labelled    whether its objectives learn from labels; None: it does not train
    """

    sentence: str
    example: str
    config: str
    run: str
    check: str | None = None
    source: str | None = None
    lists: tuple[str, ...] = ()
    trust: str | None = None
    own: bool = False
    classifiers: bool = False
    labelled: bool | None = None

    @property
    def trains(self) -> bool:
        """Whether its run folder contains weights that another run can start from."""
        return self.labelled is not None

    @property
    def schema(self) -> type:
        """The dataclass of its keys."""
        schema: type = implementation(self.config)
        return schema


COMMANDS: dict[str, Command] = {
    "pretrain": Command(
        sentence="learn an encoder from unlabelled images, clean and adversarial",
        example="objective=rotation data=fashion_mini attack=pgd10 attack.steps=5 attack.eps=0.1 schedule.epochs=4 out=RUN",
        config="dist_advss.config.schema:TrainConfig",
        run="dist_advss.training.run:pretrain",
        check="dist_advss.config.checks:check_training",
        source="init",
        labelled=False,
    ),
    "finetune": Command(
        sentence="train a classifier from a pre-trained encoder or from random weights",
        example="init=RUN freeze=none attack=pgd10 attack.eps=0.1 data.labels=1000 schedule.epochs=12 out=RUN2",
        config="dist_advss.config.schema:TrainConfig",
        run="dist_advss.training.run:finetune",
        check="dist_advss.config.checks:check_training",
        source="init",
        lists=("model.members",),
        labelled=True,
    ),
    "evaluate": Command(
        sentence="measure the standard and robust accuracy (TA, RA) of a fine-tuned model",
        example="checkpoint=RUN2 attack=pgd20 attack.eps=0.1 data.limit=1000 out=RUN3",
        config="dist_advss.config.schema:EvaluateConfig",
        run="dist_advss.evaluation.suite:evaluate_or_suite",
        check="dist_advss.config.checks:check_evaluation",
        source="checkpoint",
        lists=("model.members",),
        classifiers=True,
    ),
    "corruptions": Command(
        sentence="measure the accuracy of a fine-tuned model on images with noise, blur, weather and digital corruptions",
        example="checkpoint=RUN2 data.limit=1000 out=RUN3",
        config="dist_advss.config.schema:CorruptionsConfig",
        run="dist_advss.evaluation.corruptions:corruptions",
        check="dist_advss.config.corruptions:check_corruptions",
        source="checkpoint",
        classifiers=True,
    ),
    "unforeseen": Command(
        sentence="measure the accuracy of a fine-tuned model under a dozen attacks beyond norm balls (UA2)",
        example="checkpoint=RUN2 data.limit=200 out=RUN3",
        config="dist_advss.config.schema:UnforeseenConfig",
        run="dist_advss.evaluation.unforeseen:unforeseen",
        check="dist_advss.config.unforeseen:check_unforeseen",
        source="checkpoint",
        classifiers=True,
    ),
    "transfer": Command(
        sentence="attack each model and test the adversarial images on the others: a matrix of robust accuracies",
        example="sources=[RUN2,RUN5] attack=pgd20 attack.eps=0.1 data.limit=1000 out=RUN6",
        config="dist_advss.config.schema:TransferConfig",
        run="dist_advss.evaluation.transfer:transfer",
        check="dist_advss.config.checks:check_transfer",
        lists=("sources", "targets"),
        trust="trust",
        own=True,
    ),
}


def trains(command: str) -> bool:
    """Whether a stage of this command writes weights; False for "report" and for unknown names."""
    return command in COMMANDS and COMMANDS[command].trains


def of_one_model(command: str) -> bool:
    """Whether a run of this command uses one model, and so one method (P1 to P3, F1 to F4)."""
    return command in COMMANDS and "model" in _keys(COMMANDS[command])


def command_of(config: Mapping[str, Any]) -> str:
    """The command that wrote a configuration, such as a config.yaml; "" if no command has any of its keys.

    It is the command that knows most of its keys, and of several, the one that has fewest others: a configuration of an earlier
    version lacks keys. `pretrain` and `finetune` have the same keys, so the objective decides between them.
    """
    from .pseudo import learns_without_labels

    keys = {name: _keys(command) for name, command in COMMANDS.items()}
    differing = {name: (len(set(config) - known), len(known - set(config))) for name, known in keys.items()}
    nearest = [name for name, count in differing.items() if count == min(differing.values())]
    if not any(_keys(COMMANDS[name]) & set(config) for name in nearest):
        return ""
    labelled = not learns_without_labels(config)
    return next((name for name in nearest if COMMANDS[name].labelled == labelled), nearest[0])


def _keys(command: Command) -> set[str]:
    return {field.name for field in dataclasses.fields(command.schema)}
