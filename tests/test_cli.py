"""The front door: one command, one call; one line and an exit code for what goes wrong; help that imports next to nothing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dist_advss as package
from dist_advss import cli
from dist_advss.cli import COMMANDS, main
from dist_advss.config.compose import options
from dist_advss.config.objectives import OBJECTIVES, PRETEXT
from dist_advss.config.schema import EvaluateConfig, TrainConfig
from dist_advss.errors import RunError, Stopped, UserError

Run = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = ("torch", "torchvision", "hydra", "wandb", "bokeh", "numpy", "PIL", "rich")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the commands call, with its arguments, instead of anything happening."""
    made: list[tuple[Any, ...]] = []

    def note(name: str, result: Any) -> Callable[..., Any]:
        def called(*arguments: Any, **others: Any) -> Any:
            made.append((name, *arguments))
            return result

        return called

    for target, result in {
        "dist_advss.training.run.train": Path("RUN"),
        "dist_advss.evaluation.suite.evaluate_or_suite": Path("RUN"),
        "dist_advss.report.page.write": Path("FILE"),
        "dist_advss.report.page.keep_writing": Path("FILE"),
        "launch.status.watch": 1,
        "dist_advss.data.show.summary": "what there is\n",
        "dist_advss.data.show.contact_sheet": None,
        "dist_advss.doctor.doctor": 1,
        "launch.submit.launch": 1,
        "launch.status.status": 0,
    }.items():
        monkeypatch.setattr(target, note(target.rsplit(".", 1)[-1], result))
    return made


def keys(schema: type, prefix: str = "") -> set[str]:
    """Every key of a configuration class but those of its objective, dotted."""
    found = set()
    for field in dataclasses.fields(schema):
        factory = field.default_factory
        if field.name == "objective":
            continue
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            found |= keys(factory, f"{field.name}.")
        elif not (prefix and field.name == "name"):
            found.add(prefix + field.name)
    return found


def imported(*words: str) -> set[str]:
    """The top-level modules that a command has imported by its end."""
    program = f"import sys; from dist_advss.cli import main; main({list(words)}); print(*sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in ran.stderr.split()}


def test_help_imports_the_standard_library_only() -> None:
    assert imported("--help") - set(sys.stdlib_module_names) <= {"dist_advss", "__main__", *imported_by_site()}


def imported_by_site() -> set[str]:
    """What the interpreter of this environment imports before any program, such as hooks of editable installations."""
    program = "import sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in ran.stdout.split()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    assert not imported(command, "--help") & set(HEAVY)


def test_planning_a_launch_imports_no_torch() -> None:
    assert not imported("launch", "experiment=quickstart", "cluster=local", "--dry-run") & {
        "torch",
        "torchvision",
        "pandas",
    }


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        assert main(words) == 0
        shown = capsys.readouterr().out
        assert all(f"\n  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"usage: dist-advss {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "schema"), [("pretrain", TrainConfig), ("finetune", TrainConfig), ("evaluate", EvaluateConfig)]
)
def test_help_explains_every_key_and_every_choice_of_a_group(
    command: str, schema: type, capsys: pytest.CaptureFixture[str]
) -> None:
    main([command, "--help"])
    shown = capsys.readouterr().out
    words = shown.split()
    of_finetune = {"protocol"} if command == "pretrain" else set()
    # A group that is one key is shown as "protocol=".
    assert keys(schema) - of_finetune <= {word.removesuffix("=") for word in words}
    for group in ("data", "model", "attack"):
        assert set(options(group)) <= set(words)
    assert max(map(len, shown.split("\n\n", 2)[2].splitlines())) <= 110


def test_help_explains_the_keys_of_the_objectives_that_a_command_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("pretrain", "finetune"):
        main([command, "--help"])
        words = capsys.readouterr().out.split()
        for name, objective in OBJECTIVES.items():
            own = {f"objective.{key}" for key in keys(objective)} - {"objective.name"}
            if (name in PRETEXT) == (command == "pretrain"):
                assert own <= set(words)


def test_help_shows_the_defaults_that_the_default_groups_set(capsys: pytest.CaptureFixture[str]) -> None:
    main(["finetune", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "height and width of an image in pixels [8 to 512] (default 28)" in shown
    assert "(default 8/255)" in shown
    assert "onecycle|constant} (default multistep)" in shown


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_training_is_called_with_the_composed_configuration(command: str, calls: list[tuple[Any, ...]]) -> None:
    assert main([command, "seed=3", "out=RUN"]) == 0
    (name, config, given) = calls[0]
    assert (name, config.seed, config.out, given) == ("train", 3, "RUN", command)


def test_evaluation_is_called_with_what_it_inherits(calls: list[tuple[Any, ...]], tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    text = "data: {name: cifar10, root: /c, size: 32}\nmodel: {name: preact_resnet18}\nobjective: {name: classify}\n"
    (tmp_path / "config.yaml").write_text(text)
    assert main(["evaluate", f"checkpoint={tmp_path}", "out=RUN3"]) == 0
    assert (calls[0][0], calls[0][1].data.root, calls[0][1].model.name) == (
        "evaluate_or_suite",
        "/c",
        "preact_resnet18",
    )


def test_print_shows_and_calls_nothing(calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "out=RUN", "--print", "seed=3"]) == 0
    assert "seed: 3" in capsys.readouterr().out
    assert main(["launch", "--print", "experiment=quickstart", "seed=3", "cluster=local", "cluster.workers=3"]) == 0
    assert "init=@p3_pretrain" in capsys.readouterr().out
    assert calls == []


def test_launch_splits_its_own_words_from_those_of_the_stages(calls: list[tuple[Any, ...]]) -> None:
    assert main(["launch", "experiment=quickstart", "seed=1", "out=DIR", "--only", "p3_*,report"]) == 1
    assert calls == [("launch", "quickstart", "inline", "DIR", ["seed=1"], ["p3_*", "report"], False, False)]
    assert main(["launch", "--retry-failed", "experiment=x.yaml", "cluster=local", "cluster.workers=3", "out=DIR"]) == 1
    assert calls[1] == ("launch", "x.yaml", "local", "DIR", ["cluster.workers=3"], None, True, False)


def test_status_watch_report_and_doctor_are_one_call_each(
    calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "DIR"]) == 0
    assert main(["report", "DIR", "-o", "page.html"]) == 0
    assert main(["report", "DIR"]) == 0
    assert main(["report", "DIR", "--watch"]) == 0
    assert main(["watch", "DIR"]) == 1
    assert main(["doctor"]) == 1
    assert calls[3][:3] == ("keep_writing", Path("DIR"), Path("DIR/report.html"))
    del calls[3]
    assert calls == [
        ("status", Path("DIR")),
        ("write", Path("DIR"), Path("page.html")),
        ("write", Path("DIR"), Path("DIR/report.html")),
        ("watch", Path("DIR")),
        ("doctor",),
    ]


def test_data_show_prints_and_draws_the_set_that_its_words_name(
    calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "show"]) == 0
    assert main(["data", "show", "data=cifar100", "--png", "sheet.png", "data.root=/c"]) == 0
    assert capsys.readouterr().out == "what there is\n" * 2
    assert calls[0][1].name == "fashion_mini"
    assert (calls[1][1].name, calls[1][1].root) == ("cifar100", "/c")
    assert calls[2] == ("contact_sheet", calls[1][1], Path("sheet.png"))


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dist-advss {package.__version__}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pretrian out=x", "did you mean 'pretrain'?"),
        ("pretrain --epochs 3", "unrecognized arguments: --epochs"),
        ("pretrain out", "'out': not a key=value"),
        ("pretrain", "out: missing"),
        ("evaluate out=x", "checkpoint: missing"),
        ("launch out=x", "experiment: missing"),
        ("launch experiment=quickstart", "out: missing"),
        ("launch experiment=quikstart out=x", "did you mean 'quickstart'?"),
        ("launch experiment=quickstart out=x --retry", "unrecognized arguments: --retry"),
        ("status", "the following arguments are required: DIR"),
        ("status nowhere", "nowhere: not a folder"),
        ("report nowhere", "nowhere"),
        ("report nowhere --watch", "nowhere"),
        ("watch nowhere", "nowhere: not a folder"),
        ("data", "required: action"),
        ("data shwo", "invalid choice: 'shwo'"),
        ("data show seed=1", "seed=1: not about data"),
        ("data show data=cifar", "did you mean 'cifar10'?"),
        ("data show data=cifar10", "data.root: missing"),
        ("data show data.limt=3", "did you mean 'limit'?"),
        ("doctor now", "unrecognized arguments: now"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    line: str, expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("dist-advss: ")
    assert expected in said.err
    assert len(said.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("seed=x: no"), 2, "dist-advss: seed=x: no\n"),
        (RunError("step 3: nan\nand more"), 1, "dist-advss: step 3: nan and more\n"),
        (Stopped(15, "stopped at step 3"), 143, "dist-advss: stopped at step 3\n"),
        (KeyboardInterrupt(), 130, "dist-advss: interrupted\n"),
    ],
)
def test_how_a_run_ends_is_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(rest: list[str]) -> int:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "pretrain", ("", end))
    assert main(["pretrain"]) == code
    assert capsys.readouterr().err == line


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(rest: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(cli.COMMANDS, "pretrain", ("", end))
    with pytest.raises(ZeroDivisionError):
        main(["pretrain"])


def test_the_package_runs_as_a_module(dist_advss: Run) -> None:
    ran = dist_advss("evaluat", "out=x")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("dist-advss: evaluat: no such command; did you mean 'evaluate'?")


def test_a_reader_that_leaves_early_is_no_fault(repository: Path) -> None:
    command = f"{sys.executable} -m dist_advss pretrain --help | head -n 1"
    ran = subprocess.run(["bash", "-c", command], cwd=repository, capture_output=True, text=True, check=True)
    assert ran.stderr == ""


@pytest.mark.parametrize("word", ["a\0b", "\ud800"])
@pytest.mark.parametrize("command", [["data", "show"], ["report"], ["verify"], ["pretrain"]])
def test_a_word_that_no_path_can_be_is_one_line(
    command: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell passes none of them. A program that calls `main` may."""
    assert main([*command, word]) == 2
    assert "remove it" in capsys.readouterr().err
