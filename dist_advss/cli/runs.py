"""Commands that are one run, configured by `key=value` words; and what such a run would take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .parser import Commands, Parser, parser_of

EXAMPLES = {
    "pretrain": "objective=rotation data=fashion_mini attack=pgd10 attack.steps=5 attack.eps=0.1 schedule.epochs=4 out=RUN",
    "finetune": "init=RUN freeze=none attack=pgd10 attack.eps=0.1 data.labels=1000 schedule.epochs=12 out=RUN2",
    "evaluate": "checkpoint=RUN2 attack=pgd20 attack.eps=0.1 data.limit=1000 out=RUN3",
    "transfer": "sources=[RUN2,RUN5] attack=pgd20 attack.eps=0.1 data.limit=1000 out=RUN6",
    "plan": "pretrain model=resnet50v2 data=cifar10 data.root=. train.batch_size=1024 engine=ddp gpu=h100 nodes=2",
}


def _configured(command: str, rest: list[str], run: Callable[[Any], object]) -> int:
    """pretrain, finetune, evaluate, transfer: `key=value` words become a configuration, which is shown or run."""
    parser = Parser(prog=f"dist-advss {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--print", action="store_true")
    given = parser.parse_intermixed_args(rest)
    if given.help:
        from ..config.explain import explain

        print(f"usage: dist-advss {command} key=value … [--print]\n\n{COMMANDS[command][0]}")
        print(f"example: dist-advss {command} {EXAMPLES[command]}")
        print(f"--print shows the whole configuration as YAML and does nothing\n\n{explain(command)}")
        return 0
    from ..config.compose import as_yaml
    from ..config.inherit import configure

    config = configure(command, given.words)
    if given.print:
        print(as_yaml(config), end="")
    else:
        run(config)
    return 0


def _pretrain(rest: list[str]) -> int:
    def run(config: Any) -> object:
        from ..training.run import train

        return train(config, "pretrain")

    return _configured("pretrain", rest, run)


def _finetune(rest: list[str]) -> int:
    def run(config: Any) -> object:
        from ..training.run import train

        return train(config, "finetune")

    return _configured("finetune", rest, run)


def _evaluate(rest: list[str]) -> int:
    def run(config: Any) -> object:
        from ..evaluation.run import evaluate

        return evaluate(config)

    return _configured("evaluate", rest, run)


def _transfer(rest: list[str]) -> int:
    def run(config: Any) -> object:
        from ..evaluation.transfer import transfer

        return transfer(config)

    return _configured("transfer", rest, run)


def _plan(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "plan")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=("pretrain", "finetune"), help="which command is planned")
    parser.add_argument("words", nargs="*", metavar="key=value", help="as for that command, and those below")
    parser.add_argument("--json", action="store_true", help="print numbers for machines: bytes, seconds, FLOPs")
    parser.epilog = (
        "gpu=            h100, a100, rtx4090 …: by data sheet, nothing of it needs to be here (a wrong name is answered\n"
        "                with all of them); here (the default): this machine's GPU or CPU, measured in a second or two\n"
        "nodes=          how many; a list such as 1,2,4 gives a table\n"
        "gpus_per_node=  default: as many as such a node has, or 1 with engine=single on one node\n"
        "network=        Gbit/s of a node, where it is not that of the GPU's reference system\n"
        "images=         training images of a set that has no size of its own, such as data=folder\n\n"
        f"example: dist-advss plan {EXAMPLES['plan']}\n\n"
        "exit code 1 when it does not fit in memory"
    )
    given = parser.parse_intermixed_args(rest)
    from ..plan.command import plan

    return 0 if plan(given.action, given.words, given.json) else 1


COMMANDS: Commands = {
    "pretrain": ("learn an encoder from unlabelled images, clean and adversarial", _pretrain),
    "finetune": ("learn to classify, from a pre-trained encoder or from nothing", _finetune),
    "evaluate": ("standard and robust accuracy (TA, RA) of a fine-tuned model", _evaluate),
    "transfer": ("what fools one model, tried on the others: a matrix of robust accuracies", _transfer),
    "plan": ("what a run will take: memory, time, traffic, on GPUs that need not be here", _plan),
}
