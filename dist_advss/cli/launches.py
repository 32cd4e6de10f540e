"""Commands on a launch: start, show, follow and cancel its stages."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from ..errors import UserError, nearest
from ..streams import output_is_optional
from .parser import Commands, parser_of


def _launch(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "launch")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="experiment=NAME|FILE.yaml out=DIR cluster=inline, see below"
    )
    parser.add_argument(
        "--only",
        metavar="STAGES",
        help="run only these stages and the stages they need; names or patterns (p3_*), comma-separated; "
        "a report named beside others is of these alone",
    )
    parser.add_argument("--retry-failed", action="store_true", help="run stages again that failed in an earlier launch")
    parser.add_argument("--print", action="store_true", help="print all stages with their settings, and run nothing")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan and the Slurm job scripts, and run nothing"
    )
    if {"-h", "--help"} & set(rest):
        from ..config.compose import options

        parser.epilog = (
            f"experiment=  {'|'.join(options('experiment'))}, or the path of your own YAML file\n"
            f"cluster=     {'|'.join(options('cluster'))} (default inline), or the path of your own profile;\n"
            "             cluster.KEY=value sets one of its keys, cluster.COMMAND.KEY=value for the jobs of one command\n"
            "out=         launch folder; rerun the same command to resume, finished stages are skipped\n"
            "seeds=       [0,1,2] runs every stage once for each seed, as STAGE_seed0, STAGE_seed1, …; one report compares all\n"
            "other words  such as seed=1 or data.root=FOLDER apply to every stage that has the key\n\n"
            f"keys of a Slurm profile (docs/cluster.md):\n{_profile_keys()}"
        )
    given = parser.parse_intermixed_args(rest)
    from ..config.compose import options, parse_words
    from ..config.paths import absolute

    chosen = dict(parse_words(given.words))
    experiment = chosen.pop("experiment", None)
    if experiment is None:
        raise UserError(f"experiment: missing; give experiment=NAME. {nearest('', options('experiment'))}")
    cluster, out = chosen.pop("cluster", "inline"), chosen.pop("out", None)
    others = [f"{name}={value}" for name, value in chosen.items()]
    only = given.only.split(",") if given.only else None
    if given.print:
        from launch import submit

        _, planned = submit.plan(experiment, cluster, Path(absolute(out or "DIR")), others)
        stages, names = submit.chosen(planned, only)
        print(stages.as_yaml(names), end="")
        return 0
    if not out and not given.dry_run:
        raise UserError("out: missing; give out=DIR, a folder for the runs of this launch")
    from launch.submit import launch

    if not given.dry_run:
        output_is_optional()
    return launch(experiment, cluster, out or "DIR", others, only, given.retry_failed, given.dry_run)


def _profile_keys() -> str:
    """A line for each key of a Slurm profile, with its default."""
    from launch.profile import OF_A_PROFILE, Slurm

    lines = []
    for field in dataclasses.fields(Slurm):
        if field.name in OF_A_PROFILE:
            lines.append(f"  {f'{field.name}={json.dumps(getattr(Slurm(), field.name))}':24} {field.metadata['help']}")
    return "\n".join([*lines, f"  {'COMMAND.profile':24} another profile for the jobs of this command"])


def _status(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "status")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder")
    parser.add_argument(
        "--watch", action="store_true", help="refresh until all stages have ended; Ctrl-C stops watching"
    )
    given = parser.parse_args(rest)
    from launch.status import status, watch

    return watch(given.directory) if given.watch else status(given.directory)


def _logs(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "logs")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder")
    parser.add_argument("stage", metavar="STAGE", help="name of a stage")
    parser.add_argument("--follow", "-f", action="store_true", help="print new lines until the stage ends")
    parser.add_argument("--rank", metavar="N", type=int, default=0, help="rank of the process to show (default 0)")
    given = parser.parse_args(rest)
    from launch.control import logs

    return logs(given.directory, given.stage, given.follow, given.rank)


def _attach(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "attach")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder")
    parser.add_argument(
        "stage", metavar="STAGE", nargs="?", help="open a shell on the first node of this running stage instead"
    )
    given = parser.parse_args(rest)
    from launch import control, status

    if given.stage:
        return control.shell(given.directory, given.stage)
    return status.watch(given.directory)


def _cancel(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "cancel")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder")
    parser.add_argument("stages", metavar="STAGE", nargs="*", help="names or patterns (p3_*); default: all stages")
    given = parser.parse_args(rest)
    from launch.control import cancel

    return cancel(given.directory, given.stages)


def _watch(rest: list[str]) -> int:
    parser = parser_of(COMMANDS, "watch")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder, or one run folder")
    directory = parser.parse_args(rest).directory
    from launch.status import watch

    return watch(directory)


COMMANDS: Commands = {
    "launch": ("run a whole experiment: stages of pre-training, fine-tuning and evaluation, and a report", _launch),
    "status": ("show the progress of each stage of a launch", _status),
    "logs": ("print the log of a stage", _logs),
    "attach": ("show a launch live as watch does, or open a shell where a stage runs", _attach),
    "cancel": ("stop stages of a launch; rerun the launch to resume them", _cancel),
    "watch": ("show the stages of a launch live until it ends", _watch),
}
