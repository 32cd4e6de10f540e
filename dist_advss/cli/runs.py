"""Commands that are one run, configured by `key=value` words; and what such a run would take."""

from __future__ import annotations

import argparse
from functools import partial

from ..config.commands import COMMANDS as RUNS
from ..config.commands import trains
from ..config.implementation import implementation
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
        print(f"--print shows the whole configuration as YAML and does nothing\n\n{explain(command)}")
        return 0
    from ..config.compose import as_yaml
    from ..config.inherit import configure

    config = configure(command, given.words)
    if given.print:
        print(as_yaml(config), end="")
    else:
        implementation(facts.run)(config)
    return 0


def _plan(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "plan")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=[name for name in RUNS if trains(name)], help="which command is planned")
    parser.add_argument("words", nargs="*", metavar="key=value", help="as for that command, and those below")
    parser.add_argument("--json", action="store_true", help="print numbers for machines: bytes, seconds, FLOPs")
    parser.epilog = (
        "gpu=            h100, a100, rtx4090 …: by data sheet, nothing of it needs to be here (a wrong name is answered\n"
        "                with all of them); here (the default): this machine's GPU or CPU, measured in a second or two\n"
        "nodes=          how many; a list such as 1,2,4 gives a table\n"
        "gpus_per_node=  default: as many as such a node has, or 1 with engine=single on one node\n"
        "network=        Gbit/s of a node, where it is not that of the GPU's reference system\n"
        "images=         training images of a set that has no size of its own, such as data=folder\n\n"
        f"example: dist-advss plan {PLAN_EXAMPLE}\n\n"
        "exit code 1 when it does not fit in memory"
    )
    given = parser.parse_intermixed_args(rest)
    from ..plan.command import plan

    return 0 if plan(given.action, given.words, given.json) else 1


COMMANDS: Commands = {
    **{name: (command.sentence, partial(_run, name)) for name, command in RUNS.items()},
    "plan": ("what a run will take: memory, time, traffic, on GPUs that need not be here", _plan),
}
