"""An experiment file becomes a checked graph, or one line that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dist_advss.config.inherit import configure
from dist_advss.errors import UserError
from launch.experiment import compositions, load
from launch.graph import Stage, build, store, stored

DIRECTORY = Path("/nowhere/launch")
Write = Callable[..., str]


def refusal(file: str, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        load(file, DIRECTORY, words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_stages_stand_behind_what_they_need(write: Write) -> None:
    text = """
    stages:
      tell: {command: report}
      last: {command: evaluate, overrides: [checkpoint=@middle]}
      middle: {command: finetune, overrides: [init=@first]}
      first: {command: pretrain}
    """
    graph = load(write(text), DIRECTORY)
    assert list(graph.stages) == ["first", "middle", "last", "tell"]
    assert graph.stages["middle"].needs == ("first",)


def test_a_report_without_needs_waits_for_every_other_stage(write: Write) -> None:
    graph = load(write("stages: {r: {command: report}, a: {command: pretrain}, b: {command: pretrain}}"), DIRECTORY)
    assert set(graph.stages["r"].needs) == {"a", "b"}


def test_a_reference_becomes_the_run_folder_inside_the_launch_folder(chain: str) -> None:
    words = load(chain, DIRECTORY).stages["p3_finetune"].words(DIRECTORY)
    assert words == ["init=/nowhere/launch/p3_pretrain", "out=/nowhere/launch/p3_finetune"]


def test_a_reference_may_name_one_checkpoint_of_a_stage(write: Write) -> None:
    text = """
    stages:
      a: {command: finetune, overrides: [model.width=12]}
      b: {command: evaluate, overrides: [checkpoint=@a/checkpoints/best_ta.pt]}
    """
    graph = load(write(text), DIRECTORY)
    assert "checkpoint=/nowhere/launch/a/checkpoints/best_ta.pt" in graph.stages["b"].words(DIRECTORY)
    assert compositions(graph, DIRECTORY)["b"]["model"]["width"] == 12


def test_a_teacher_may_be_a_stage_and_gives_its_images_and_its_network(write: Write) -> None:
    text = """
    stages:
      a: {command: pretrain, overrides: [model.width=12, "objective=simclr"]}
      b: {command: pretrain, overrides: ["objective=anchor", "objective.teacher=@a", MORE]}
    """
    graph = load(write(text.replace(", MORE", "")), DIRECTORY)
    assert graph.stages["b"].needs == ("a",)
    found = compositions(graph, DIRECTORY)["b"]
    assert (found["objective"]["teacher"], found["model"]["width"]) == ("/nowhere/launch/a", 12)
    said = refusal(write(text.replace("MORE", "model.width=8")))
    assert "stage b: model.width=8: objective.teacher=/nowhere/launch/a has 12" in said


def test_a_matrix_gives_one_stage_for_each_combination(write: Write) -> None:
    text = """
    stages:
      "{p}_{task}_pretrain":
        matrix: {p: {p2: {attack: none}, p3: {attack: pgd10}}, task: [rotation, jigsaw]}
        command: pretrain
        overrides: ["objective={task}", "attack={p.attack}"]
      "{p}_{task}_finetune":
        matrix: {p: [p2, p3], task: [rotation, jigsaw]}
        command: finetune
        overrides: ["init=@{p}_{task}_pretrain"]
        needs: ["p2_{task}_pretrain"]
    """
    graph = load(write(text), DIRECTORY)
    assert len(graph.stages) == 8
    assert graph.stages["p3_jigsaw_pretrain"].overrides == ("objective=jigsaw", "attack=pgd10")
    assert graph.stages["p2_rotation_pretrain"].overrides == ("objective=rotation", "attack=none")
    assert set(graph.stages["p3_jigsaw_finetune"].needs) == {"p2_jigsaw_pretrain", "p3_jigsaw_pretrain"}


def test_matrix_values_are_written_as_words_take_them(write: Write) -> None:
    text = """
    stages:
      "a_{flip}_{width}":
        matrix: {flip: [true, false], width: [8, null]}
        command: pretrain
        overrides: ["objective.flip={flip}", "model.width={width}"]
    """
    composed = compositions(load(write(text), DIRECTORY), DIRECTORY)
    assert composed["a_true_8"]["objective"]["flip"] is True
    assert composed["a_false_null"]["model"]["width"] is None


def test_common_words_stand_before_the_stages_own_and_extra_words_behind(write: Write) -> None:
    text = """
    common: {pretrain: [schedule.epochs=4, seed=7]}
    stages:
      a: {command: pretrain, overrides: [schedule.epochs=5]}
      b: {command: finetune}
    """
    composed = compositions(load(write(text), DIRECTORY), DIRECTORY)
    assert (composed["a"]["schedule"]["epochs"], composed["a"]["seed"], composed["b"]["seed"]) == (5, 7, 0)
    composed = compositions(load(write(text), DIRECTORY, ["schedule.epochs=6"]), DIRECTORY)
    assert (composed["a"]["schedule"]["epochs"], composed["b"]["schedule"]["epochs"]) == (6, 6)


def test_an_extra_word_goes_to_every_stage_that_has_its_key_and_to_no_other(chain: str) -> None:
    graph = load(chain, DIRECTORY, ["seed=3", "schedule.epochs=2", "batch_size=50"])
    assert all("seed=3" in stage.overrides for stage in graph.stages.values())
    assert "schedule.epochs=2" in graph.stages["p3_pretrain"].overrides
    assert "schedule.epochs=2" not in graph.stages["p3_evaluate"].overrides
    assert "batch_size=50" in graph.stages["p3_evaluate"].overrides
    assert "batch_size=50" not in graph.stages["p3_finetune"].overrides


def test_an_extra_choice_of_a_group_brings_the_keys_of_that_choice(write: Write) -> None:
    file = write("stages: {a: {command: pretrain}}")
    graph = load(file, DIRECTORY, ["objective.grid=7", "objective=jigsaw"])
    assert compositions(graph, DIRECTORY)["a"]["objective"]["grid"] == 7
    assert "objective.grid" in refusal(file, "objective.grid=7")


def test_the_last_of_several_words_for_a_key_is_the_one_that_is_kept(write: Write) -> None:
    file = write("stages: {a: {command: pretrain, overrides: [seed=1, seed=2]}}")
    assert load(file, DIRECTORY).stages["a"].overrides == ("seed=2",)
    assert load(file, DIRECTORY, ["seed=3"]).stages["a"].overrides == ("seed=3",)


def test_stages_inherit_data_and_model_from_stages_that_have_not_run(write: Write) -> None:
    text = """
    stages:
      a: {command: pretrain, overrides: [data=cifar10, data.root=/d, data.limit=500, model=preact_resnet18]}
      b: {command: finetune, overrides: [init=@a]}
      c: {command: evaluate, overrides: [checkpoint=@b]}
      d: {command: evaluate, overrides: [checkpoint=@b, data=cifar100, data.root=/e]}
    """
    composed = compositions(load(write(text), DIRECTORY), DIRECTORY)
    for stage in "bc":
        assert composed[stage]["data"]["name"] == "cifar10"
        assert composed[stage]["data"]["root"] == "/d"
        assert composed[stage]["data"]["limit"] is None
        assert composed[stage]["model"]["name"] == "preact_resnet18"
    assert composed["d"]["data"]["name"] == "cifar100"
    assert composed["d"]["model"]["name"] == "preact_resnet18"


WRONG = {
    "cycle": ("stages: {a: {command: pretrain, needs: [b]}, b: {command: pretrain, needs: [a]}}", "a -> b -> a"),
    "needs itself": ("stages: {a: {command: pretrain, needs: [a]}}", "a -> a"),
    "unknown need": (
        "stages: {first: {command: pretrain}, b: {command: pretrain, needs: [frist]}}",
        "did you mean 'first'?",
    ),
    "unknown reference": (
        "stages: {a: {command: finetune, overrides: [init=@pre]}}",
        "needs pre, which is not a stage",
    ),
    "reference to a report": (
        "stages: {r: {command: report}, a: {command: finetune, overrides: [init=@r]}}",
        "in a circle",
    ),
    "reference to an evaluation": (
        "stages: {a: {command: finetune}, e: {command: evaluate, overrides: [checkpoint=@a]}, "
        "b: {command: finetune, overrides: [init=@e]}}",
        "e leaves no weights",
    ),
    "evaluation of a pre-training": (
        "stages: {a: {command: pretrain}, e: {command: evaluate, overrides: [checkpoint=@a]}}",
        "fine-tune it first",
    ),
    "unknown command": ("stages: {a: {command: pretrian}}", "did you mean 'pretrain'?"),
    "no command": ("stages: {a: {}}", "stage a: command: missing"),
    "unknown stage key": ("stages: {a: {command: pretrain, override: []}}", "did you mean 'overrides'?"),
    "unknown top key": ("{stage: {}}", "did you mean 'stages'?"),
    "no stages": ("name: x", "stages: missing"),
    "empty file": ("", "not a mapping"),
    "not YAML": ("stages: [", "not valid YAML"),
    "stage defined twice in YAML": (
        "stages:\n  a: {command: pretrain}\n  a: {command: pretrain}",
        "'a' is defined twice",
    ),
    "matrix without placeholder in the name": (
        "stages: {a: {command: pretrain, matrix: {task: [rotation, jigsaw]}}}",
        "stage a: defined twice",
    ),
    "unknown placeholder": (
        'stages: {"{task}": {command: pretrain, matrix: {task: [jigsaw]}, overrides: ["objective={tsk}"]}}',
        "did you mean 'task'?",
    ),
    "placeholder without matrix": ('stages: {"{task}": {command: pretrain}}', "the stage has no matrix"),
    "matrix that is no mapping": ("stages: {a: {command: pretrain, matrix: [1]}}", "matrix: not a mapping"),
    "matrix value with no names": ('stages: {"{a}": {command: pretrain, matrix: {a: {x: 1}}}}', "a.x is not a mapping"),
    "name unfit for a folder": ('stages: {"a/b": {command: pretrain}}', "not usable as a folder name"),
    "name that climbs": ('stages: {"..": {command: pretrain}}', "not usable as a folder name"),
    "override that is no text": ("stages: {a: {command: pretrain, overrides: [{seed: 1}]}}", "write seed=1"),
    "overrides that are no list": ("stages: {a: {command: pretrain, overrides: seed=1}}", "not a list"),
    "override without value": (
        "stages: {a: {command: pretrain, overrides: [seed]}}",
        "stage a: 'seed': not a key=value",
    ),
    "override with an unknown key": (
        "stages: {a: {command: pretrain, overrides: [schedule.epoch=1]}}",
        "stage a: schedule.epoch",
    ),
    "override with a bad value": ("stages: {a: {command: pretrain, overrides: [seed=x]}}", "stage a: seed=x"),
    "override with an unknown group": (
        "stages: {a: {command: pretrain, overrides: [attack=pdg10]}}",
        "did you mean 'pgd10'?",
    ),
    "impossible combination": (
        "stages: {a: {command: finetune, overrides: [freeze=encoder]}}",
        "stage a: freeze=encoder",
    ),
    "words for a report": ("stages: {a: {command: pretrain}, r: {command: report, overrides: [seed=1]}}", "takes none"),
    "common words for an unknown command": (
        "common: {fintune: []}\nstages: {a: {command: pretrain}}",
        "did you mean 'finetune'?",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_experiment_is_refused_in_one_line(write: Write, case: str) -> None:
    text, expected = WRONG[case]
    assert expected in refusal(write(text))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("schedule.epoch=2", "no stage has such a key; did you mean 'schedule.epochs'?"),
        ("lr=0.1", "no stage has such a key; did you mean 'schedule.lr'?"),
        ("clustre=local", "did you mean 'cluster'?"),
        ("zzz=1", "dist-advss pretrain --help explains the keys"),
        ("out=x", "set by the experiment"),
        ("init=x", "set by the experiment"),
        ("schedule.epochs=two", "schedule.epochs=two: not a whole number"),
        ("seed", "not a key=value"),
    ],
)
def test_a_wrong_extra_word_is_refused_in_one_line(chain: str, word: str, expected: str) -> None:
    assert expected in refusal(chain, word)


def test_an_unknown_experiment_is_answered_with_the_nearest_name() -> None:
    assert "did you mean 'quickstart'?" in refusal("quikstart")
    assert "no such file" in refusal("some/where.yaml")


def test_checking_writes_nothing(chain: str, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    load(chain, tmp_path / "out", ["seed=1"])
    assert set(tmp_path.rglob("*")) == before


def test_what_is_stored_is_read_back_as_the_same_graph(chain: str, tmp_path: Path) -> None:
    graph = load(chain, tmp_path, ["seed=1"])
    store(tmp_path, graph)
    assert stored(tmp_path) == graph


def test_a_damaged_experiment_file_in_a_launch_folder_is_one_line(tmp_path: Path) -> None:
    for text in ("stages: [", "name: x", "stages: {a: 3}", "[]"):
        (tmp_path / "experiment.yaml").write_text(text)
        with pytest.raises(UserError, match="not readable as an experiment"):
            stored(tmp_path)


def test_ancestors_are_the_stages_and_all_they_need() -> None:
    stages = [
        Stage(name, "pretrain", (), needs) for name, needs in [("a", ()), ("b", ("a",)), ("c", ("b",)), ("d", ())]
    ]
    assert build("x", "", stages).ancestors(["c"]) == {"a", "b", "c"}


def test_a_stages_words_compose_on_the_command_line_to_what_was_checked(chain: str, tmp_path: Path) -> None:
    graph = load(chain, tmp_path)
    config = configure("pretrain", graph.stages["p3_pretrain"].words(tmp_path))
    assert config.out == str(tmp_path / "p3_pretrain")
    assert config.attack.steps == 5


@pytest.mark.parametrize("word", ["attack=pgd10", "attack.steps=5"])
def test_a_word_that_would_turn_standard_stages_into_adversarial_ones_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would make other methods of the stages"):
        load("quickstart", tmp_path, [word])


def test_a_number_of_labels_reaches_the_stages_that_use_labels(tmp_path: Path) -> None:
    stages = load("quickstart", tmp_path, ["data.labels=500"]).stages
    assert "data.labels=500" in stages["p3_finetune"].overrides
    for stage in ("p3_pretrain", "p3_evaluate"):
        assert not any(word.startswith("data.labels") for word in stages[stage].overrides)


def test_a_list_of_references_is_resolved_and_needed(write: Write) -> None:
    text = """
    stages:
      a: {command: finetune}
      b: {command: finetune, overrides: [seed=1]}
      both: {command: evaluate, overrides: [model=ensemble, "model.members=[@a,@b/checkpoints/last.pt]"]}
      matrix: {command: transfer, overrides: ["sources=[@a,@b]", "targets=[@b]"]}
    """
    graph = load(write(text), DIRECTORY)
    assert graph.stages["both"].needs == graph.stages["matrix"].needs == ("a", "b")
    assert "model.members=[/nowhere/launch/a,/nowhere/launch/b/checkpoints/last.pt]" in graph.stages["both"].words(
        DIRECTORY
    )
    composed = compositions(graph, DIRECTORY)
    assert composed["matrix"]["sources"] == ["/nowhere/launch/a", "/nowhere/launch/b"]
    assert composed["both"]["data"]["name"] == "fashion_mini"


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("both: {command: evaluate, overrides: [model=ensemble, 'model.members=[@a,@p]']}", "pre-trained on rotation"),
        ("both: {command: evaluate, overrides: [model=ensemble, 'model.members=[@a]']}", "at least two members"),
        ("both: {command: evaluate, overrides: [model=ensemble, 'model.members=[@a,@c]']}", "leaves no weights"),
        ("both: {command: transfer, overrides: ['sources=[@a,@nobody]']}", "nobody"),
        ("both: {command: transfer, overrides: ['sources=[@a,@x]']}", "has data.size=32"),
    ],
)
def test_stages_that_do_not_fit_together_are_refused_before_anything_runs(write: Write, stages: str, said: str) -> None:
    text = f"""
    stages:
      p: {{command: pretrain}}
      a: {{command: finetune}}
      c: {{command: evaluate, overrides: [checkpoint=@a]}}
      x: {{command: finetune, overrides: [data=cifar10, data.root=X]}}
      {stages}
    """
    assert said in refusal(write(text))


def test_relative_paths_begin_where_the_launch_was_first_started(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a job, or the same launch later, runs in another folder."""
    here, there, out = tmp_path / "here", tmp_path / "there", tmp_path / "out"
    for folder in (here, there):
        (folder / "images").mkdir(parents=True)
    file = write("""
        stages:
          p: {command: pretrain, overrides: [data=cifar10, data.beton=betons, 'data.stage=$TMPDIR']}
          a: {command: finetune, overrides: [init=@p]}
          e: {command: evaluate, overrides: [checkpoint=@a]}
    """)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(here)
    first = load(file, out, ["data.root=images"])
    store(out, first)
    monkeypatch.chdir(there)
    again = load(file, out, ["data.root=images"])
    read_back = stored(out)
    assert read_back is not None
    assert again.stages == first.stages == read_back.stages
    assert f"data.root={here}/images" in first.stages["p"].overrides
    assert "data.stage=$TMPDIR" in first.stages["p"].overrides
    for config in compositions(read_back, out).values():
        assert (config["data"]["root"], config["data"]["beton"]) == (f"{here}/images", f"{here}/betons")
    assert f"data.root={there}/images" in load(file, tmp_path / "new", ["data.root=images"]).stages["p"].overrides
    assert f"data.root={tmp_path}/home/i" in load(file, out, ["data.root=~/i"]).stages["p"].overrides


@pytest.mark.parametrize("character", [",", ": ", " #", "]"])
def test_a_folder_that_a_list_of_stages_cannot_contain_is_named(character: str, write: Write) -> None:
    text = "stages: {a: {command: finetune}, e: {command: transfer, overrides: ['sources=[@a]']}}"
    with pytest.raises(UserError) as said:
        load(write(text), DIRECTORY / f"x{character}y")
    assert f"stage e: out={DIRECTORY}/x{character}y: sources is a list" in str(said.value)
    assert f"cannot contain {character!r} in a path" in str(said.value)


def test_lists_of_runs_and_own_tasks_begin_there_too(write: Write, tmp_path: Path, own_task: Path) -> None:
    (tmp_path / "mine.py").write_text(own_task.read_text())
    text = """
        folder: FOLDER
        stages:
          own: {command: pretrain, overrides: ['objective=mine.py:Colorize']}
          a: {command: finetune}
          both: {command: transfer, overrides: ['sources=[@a]', 'targets=[@a,@a/checkpoints/last.pt]']}
    """
    stages = load(write(text.replace("FOLDER", str(tmp_path))), tmp_path / "out").stages
    assert stages["own"].overrides == (f"objective={tmp_path}/mine.py:Colorize",)
    assert stages["both"].overrides == ("sources=[@a]", "targets=[@a,@a/checkpoints/last.pt]")
