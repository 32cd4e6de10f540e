"""The front door: `dist-advss COMMAND …`. One command, one call.

Only the standard library is imported up here, so that `--help` answers at once; a command imports what it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .errors import RunError, Stopped, UserError, nearest

EXAMPLES = {
    "pretrain": "objective=rotation data=fashion_mini attack=pgd10 attack.steps=5 attack.eps=0.1 schedule.epochs=4 out=RUN",
    "finetune": "init=RUN freeze=none attack=pgd10 attack.eps=0.1 data.labels=1000 schedule.epochs=12 out=RUN2",
    "evaluate": "checkpoint=RUN2 attack=pgd20 attack.eps=0.1 data.limit=1000 out=RUN3",
    "transfer": "sources=[RUN2,RUN5] attack=pgd20 attack.eps=0.1 data.limit=1000 out=RUN6",
    "plan": "pretrain model=resnet50v2 data=cifar10 data.root=. train.batch_size=1024 engine=ddp gpu=h100 nodes=2",
}


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 a run that could not go on, 2 a user's mistake.

    A run that a signal stopped gives 128 + its number. A fault of the program keeps its traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UserError as error:
        return _complain(error, 2)
    except RunError as error:
        return _complain(error, 1)
    except Stopped as stopped:
        return _complain(stopped, 128 + stopped.signum)
    except KeyboardInterrupt:
        return _complain(KeyboardInterrupt("interrupted"), 130)
    except SystemExit as end:  # argparse, after printing a help text
        return end.code if isinstance(end.code, int) else 0


def _complain(error: BaseException, code: int) -> int:
    print(f"dist-advss: {' '.join(str(error).splitlines())}", file=sys.stderr)
    return code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"dist-advss {__version__}")
        return 0
    command, *rest = words
    if command not in COMMANDS:
        raise UserError(f"{command}: no such command; {nearest(command, COMMANDS)}")
    return COMMANDS[command][1](rest)


def _overview() -> str:
    lines = [f"  {name:<10} {sentence}" for name, (sentence, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: dist-advss COMMAND …",
            "",
            "Robust vision models from unlabelled images: adversarial pre-training, fine-tuning, robust evaluation.",
            "",
            *lines,
            "",
            "dist-advss COMMAND --help explains a command; the first thing to try:",
            "  dist-advss launch experiment=quickstart out=runs/quickstart",
        ]
    )


def _parser(command: str) -> Parser:
    return Parser(prog=f"dist-advss {command}", description=COMMANDS[command.split()[0]][0], allow_abbrev=False)


def _configured(command: str, rest: list[str], run: Callable[[Any], object]) -> int:
    """pretrain, finetune, evaluate, transfer: `key=value` words become a configuration, which is shown or run."""
    parser = Parser(prog=f"dist-advss {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--print", action="store_true")
    given = parser.parse_intermixed_args(rest)
    if given.help:
        from .config.explain import explain

        print(f"usage: dist-advss {command} key=value … [--print]\n\n{COMMANDS[command][0]}")
        print(f"example: dist-advss {command} {EXAMPLES[command]}")
        print(f"--print shows the whole configuration as YAML and does nothing\n\n{explain(command)}")
        return 0
    from .config import as_yaml
    from .config.inherit import configure

    config = configure(command, given.words)
    if given.print:
        print(as_yaml(config), end="")
    else:
        run(config)
    return 0


def _pretrain(rest: list[str]) -> int:
    def run(config: Any) -> object:
        from .training.run import train

        return train(config, "pretrain")

    return _configured("pretrain", rest, run)


def _finetune(rest: list[str]) -> int:
    def run(config: Any) -> object:
        from .training.run import train

        return train(config, "finetune")

    return _configured("finetune", rest, run)


def _evaluate(rest: list[str]) -> int:
    def run(config: Any) -> object:
        from .evaluation.run import evaluate

        return evaluate(config)

    return _configured("evaluate", rest, run)


def _transfer(rest: list[str]) -> int:
    def run(config: Any) -> object:
        from .evaluation.transfer import transfer

        return transfer(config)

    return _configured("transfer", rest, run)


def _plan(rest: list[str]) -> int:
    parser = _parser("plan")
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
    from .plan.command import plan

    return 0 if plan(given.action, given.words, given.json) else 1


def _launch(rest: list[str]) -> int:
    parser = _parser("launch")
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
        from .config import options

        parser.epilog = (
            f"experiment=  {'|'.join(options('experiment'))}, or the path of your own YAML file\n"
            f"cluster=     {'|'.join(options('cluster'))} (default inline); cluster.KEY=value sets one of its keys\n"
            "out=         launch folder; the same command again goes on, and skips what is finished\n"
            "other words  such as seed=1 or data.root=FOLDER go to every stage that has the key"
        )
    given = parser.parse_intermixed_args(rest)
    from .config import options, parse_words

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
    parser = _parser("status")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder")
    parser.add_argument("--watch", action="store_true", help="keep showing it until nothing is under way; Ctrl-C ends")
    given = parser.parse_args(rest)
    from launch.status import status, watch

    return watch(given.directory) if given.watch else status(given.directory)


def _logs(rest: list[str]) -> int:
    parser = _parser("logs")
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


def _cancel(rest: list[str]) -> int:
    parser = _parser("cancel")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder")
    parser.add_argument(
        "stages", metavar="STAGE", nargs="*", help="names or patterns (p3_*); all of them when none is given"
    )
    given = parser.parse_args(rest)
    from launch.control import cancel

    return cancel(given.directory, given.stages)


def _attach(rest: list[str]) -> int:
    parser = _parser("attach")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder")
    parser.add_argument(
        "stage", metavar="STAGE", nargs="?", help="a running stage: open a shell on its first node instead"
    )
    given = parser.parse_args(rest)
    from launch.control import attach, shell

    return shell(given.directory, given.stage) if given.stage else attach(given.directory)


def _report(rest: list[str]) -> int:
    parser = _parser("report")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder, or one run folder")
    parser.add_argument("-o", metavar="FILE", dest="file", type=Path, help="the page (default DIR/report.html)")
    parser.add_argument(
        "--watch", action="store_true", help="write it again while the launch is under way, until it is over"
    )
    given = parser.parse_args(rest)
    file = given.file or given.directory / "report.html"
    from .report.page import keep_writing, write

    if given.watch:
        keep_writing(
            given.directory, file, said=lambda file: print(f"report: {file}, written again as runs go on", flush=True)
        )
    else:
        print(f"report: {write(given.directory, file)}")
    return 0


def _sync(rest: list[str]) -> int:
    parser = _parser("sync")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder, or one run folder")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=float,
        const=60.0,
        help="look again every so often (60 s) until nothing runs and all has arrived",
    )
    given = parser.parse_args(rest)
    from .tracking.sync import sync

    return sync(given.directory, given.watch)


def _dashboard(rest: list[str]) -> int:
    parser = _parser("dashboard")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder, or one run folder")
    parser.add_argument("-o", metavar="FILE", dest="file", type=Path, help="its layout (default DIR/dashboard.json)")
    given = parser.parse_args(rest)
    from .tracking.dashboard import dashboard

    return dashboard(given.directory, given.file or given.directory / "dashboard.json")


def _watch(rest: list[str]) -> int:
    parser = _parser("watch")
    parser.add_argument("directory", metavar="DIR", type=Path, help="a launch folder, or one run folder")
    directory = parser.parse_args(rest).directory
    from .report.watch import watch

    return watch(directory)


def _data(rest: list[str]) -> int:
    parser = _parser("data")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "show   counts per split and class and what the images look like, of a set (data=NAME data.root=FOLDER …)\n"
        "       or of a .beton file (FILE), which is read as a whole and held against its checksum\n"
        "write  the set as train.beton and test.beton in out=FOLDER, or its part=train|test as out=FILE.beton;\n"
        "       data.jpeg, data.quality and data.max_side say how images are stored"
    )
    parser.add_argument("action", choices=("show", "write"))
    parser.add_argument(
        "words", nargs="*", metavar="key=value|FILE", help="data=NAME data.key=value …, as for pretrain"
    )
    parser.add_argument("--png", metavar="FILE", type=Path, help="show: write a sheet of images of every class")
    given = parser.parse_intermixed_args(rest)
    if given.action == "write":
        return _write_betons(given.words)
    if len(given.words) == 1 and "=" not in given.words[0]:
        from .data.show_beton import contact_sheet_of, summary_of

        print(summary_of(Path(given.words[0])), end="")
        if given.png:
            contact_sheet_of(Path(given.words[0]), given.png)
        return 0
    from .config import compose_data

    data = compose_data(given.words)
    from .data.show import contact_sheet, summary

    print(summary(data), end="")
    if given.png:
        contact_sheet(data, given.png)
    return 0


def _write_betons(words: list[str]) -> int:
    from .config import compose_data, parse_words

    chosen = dict(parse_words(words))
    out, part = chosen.pop("out", None), chosen.pop("part", None)
    if not out:
        raise UserError("out: missing; give out=FOLDER for train.beton and test.beton, or out=FILE.beton for one part")
    data = compose_data([f"{name}={value}" for name, value in chosen.items()])
    from .data.origin import write_betons
    from .data.progress import WriteProgress

    with WriteProgress() as show:
        for path in write_betons(data, Path(out), part, show):
            print(path)
    return 0


def _doctor(rest: list[str]) -> int:
    _parser("doctor").parse_args(rest)
    from .doctor import doctor

    return doctor()


COMMANDS: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "pretrain": ("learn an encoder from unlabelled images, clean and adversarial", _pretrain),
    "finetune": ("learn to classify, from a pre-trained encoder or from nothing", _finetune),
    "evaluate": ("standard and robust accuracy (TA, RA) of a fine-tuned model", _evaluate),
    "transfer": ("what fools one model, tried on the others: a matrix of robust accuracies", _transfer),
    "plan": ("what a run will take: memory, time, traffic, on GPUs that need not be here", _plan),
    "launch": ("run a whole experiment: stages of pre-training, fine-tuning and evaluation, and a report", _launch),
    "status": ("how far each stage of a launch is", _status),
    "logs": ("what a stage of a launch has printed", _logs),
    "attach": ("follow a launch to its end, or open a shell where a stage runs", _attach),
    "cancel": ("stop stages of a launch; the same launch goes on from there", _cancel),
    "watch": ("the stages of a launch, live, until it is over", _watch),
    "report": ("one self-contained HTML page of a launch or a run", _report),
    "sync": ("show in wandb what runs have recorded: one wandb run each, safe to repeat and to interrupt", _sync),
    "dashboard": (
        "the wandb workspace of a launch: robust accuracy, methods, diversity, throughput, images",
        _dashboard,
    ),
    "data": ("what a set of images or a .beton file holds; write a set as .beton files", _data),
    "doctor": ("what this machine has, what is missing, and how to get it", _doctor),
}
