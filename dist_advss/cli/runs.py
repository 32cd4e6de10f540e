"""Commands that execute one run, configured by `key=value` words, and `plan`, which estimates one."""

from __future__ import annotations

import argparse
import os
from functools import partial

from ..config.commands import COMMANDS as RUNS
from ..config.commands import trains
from ..config.implementation import implementation
from ..cores import is_one_of_several
from ..streams import output_is_optional
from .parser import Commands, Parser, parser_of

PLAN_EXAMPLE = "pretrain model=resnet50v2 data=cifar10 data.root=. train.batch_size=1024 engine=ddp gpu=h100 nodes=2"


def _run(command: str, rest: list[str]) -> int:
    """A command of `config/commands.py`: `key=value` words become a configuration, which is shown or run."""
    parser = Parser(prog=f"dist-advss {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--print", action="store_true")
    given = parser.parse_intermixed_args(rest)
    facts = RUNS[command]
    if given.help:
        from ..config.explain import explain

        print(f"usage: dist-advss {command} key=value … [--print]\n\n{facts.sentence}")
        print(f"example: dist-advss {command} {facts.example}")
        print(f"--print prints the whole configuration as YAML and runs nothing\n\n{explain(command)}")
        return 0
    from ..config.compose import as_yaml
    from ..config.inherit import configure
    from ..training.interrupt import ends_on_signal

    if given.print or not is_one_of_several(os.environ):  # a mistake is answered before torch is imported
        config = configure(command, given.words)
    else:
        from ..engines import told_by_rank_zero

        config = told_by_rank_zero(lambda: configure(command, given.words))
    if given.print:
        print(as_yaml(config), end="")
    else:
        output_is_optional()
        with ends_on_signal():
            implementation(facts.run)(config)
    return 0


def _plan(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "plan")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=[name for name in RUNS if trains(name)], help="command to plan")
    parser.add_argument("words", nargs="*", metavar="key=value", help="words of that command, and those below")
    parser.add_argument("--json", action="store_true", help="print JSON in bytes, seconds and FLOPs")
    parser.epilog = (
        "gpu=            h100, a100, rtx4090 …: use its data sheet, you do not need the GPU (an unknown name lists them\n"
        "                all); here (the default): measure this machine's GPU or CPU, in a second or two\n"
        "nodes=          number of nodes; a list such as 1,2,4 prints a table\n"
        "gpus_per_node=  default: all GPUs of such a node, or 1 with engine=single on one node\n"
        "network=        Gbit/s of a node; default: that of the GPU's reference system\n"
        "images=         number of training images of a set without a fixed size, such as data=folder\n\n"
        f"example: dist-advss plan {PLAN_EXAMPLE}\n\n"
        "exit code 1: the run does not fit in memory"
    )
    given = parser.parse_intermixed_args(rest)
    from ..plan.command import plan

    return 0 if plan(given.action, given.words, given.json) else 1


COMMANDS: Commands = {
    **{name: (command.sentence, partial(_run, name)) for name, command in RUNS.items()},
    "plan": ("estimate memory, time and traffic of a run, also for GPUs you do not have yet", _plan),
}
