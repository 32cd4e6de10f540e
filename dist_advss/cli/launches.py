"""Commands on a whole launch: start it, and see, follow and end what it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError, nearest
from .parser import Commands, parser_of


def _launch(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "launch")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="experiment=NAME|FILE.yaml out=DIR cluster=inline, see below"
    )
    parser.add_argument(
        "--only", metavar="STAGES", help="names or patterns (p3_*), comma-separated: these and what they need"
    )
    parser.add_argument("--retry-failed", action="store_true", help="try stages again that failed in an earlier launch")
    parser.add_argument("--print", action="store_true", help="show the stages, spelled out, and do nothing")
    parser.add_argument("--dry-run", action="store_true", help="the same, and the job scripts of a Slurm cluster")
    if {"-h", "--help"} & set(rest):
        from ..config.compose import options

        parser.epilog = (
            f"experiment=  {'|'.join(options('experiment'))}, or the path of your own YAML file\n"
            f"cluster=     {'|'.join(options('cluster'))} (default inline); cluster.KEY=value sets one of its keys\n"
            "out=         launch folder; the same command again goes on, and skips what is finished\n"
            "other words  such as seed=1 or data.root=FOLDER go to every stage that has the key"
        )
    given = parser.parse_intermixed_args(rest)
    from ..config.compose import options, parse_words

    chosen = dict(parse_words(given.words))
    experiment = chosen.pop("experiment", None)
    if experiment is None:
        raise UserError(f"experiment: missing; give experiment=NAME. {nearest('', options('experiment'))}")
    cluster, out = chosen.pop("cluster", "inline"), chosen.pop("out", None)
    others = [f"{name}={value}" for name, value in chosen.items()]
    only = given.only.split(",") if given.only else None
    if given.print:
        from launch import submit

        _, stages = submit.plan(experiment, cluster, Path(out or "DIR").absolute(), others)
        print(stages.as_yaml(submit.chosen(stages, only)), end="")
        return 0
    if not out and not given.dry_run:
        raise UserError("out: missing; give out=DIR, a folder for the runs of this launch")
    from launch.submit import launch

    return launch(experiment, cluster, out or "DIR", others, only, given.retry_failed, given.dry_run)


def _status(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "status")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder")
    parser.add_argument("--watch", action="store_true", help="keep showing it until nothing is under way; Ctrl-C ends")
    given = parser.parse_args(rest)
    from launch.status import status, watch

    return watch(given.directory) if given.watch else status(given.directory)


def _logs(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "logs")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder")
    parser.add_argument("stage", metavar="STAGE", help="one of its stages")
    parser.add_argument(
        "--follow", "-f", action="store_true", help="keep printing until the stage is no longer under way"
    )
    parser.add_argument(
        "--rank", metavar="N", type=int, default=0, help="which process of a distributed stage (default 0)"
    )
    given = parser.parse_args(rest)
    from launch.control import logs

    return logs(given.directory, given.stage, given.follow, given.rank)


def _attach(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "attach")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder")
    parser.add_argument(
        "stage", metavar="STAGE", nargs="?", help="a running stage: open a shell on its first node instead"
    )
    given = parser.parse_args(rest)
    from launch.control import attach, shell

    return shell(given.directory, given.stage) if given.stage else attach(given.directory)


def _cancel(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "cancel")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder")
    parser.add_argument(
        "stages", metavar="STAGE", nargs="*", help="names or patterns (p3_*); all of them when none is given"
    )
    given = parser.parse_args(rest)
    from launch.control import cancel

    return cancel(given.directory, given.stages)


def _watch(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "watch")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder, or one run folder")
    directory = parser.parse_args(rest).directory
    from ..live.watch import watch

    return watch(directory)


COMMANDS: Commands = {
    "launch": ("run a whole experiment: stages of pre-training, fine-tuning and evaluation, and a report", _launch),
    "status": ("how far each stage of a launch is", _status),
    "logs": ("what a stage of a launch has printed", _logs),
    "attach": ("follow a launch to its end, or open a shell where a stage runs", _attach),
    "cancel": ("stop stages of a launch; the same launch goes on from there", _cancel),
    "watch": ("the stages of a launch, live, until it is over", _watch),
}
