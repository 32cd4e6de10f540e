"""Which stages become one job, which an array, and what each waits for."""

from __future__ import annotations

import pytest

from launch.graph import Stage
from launch.profile import Slurm, choose
from launch.queue.batches import Batch, Ref, plan


def stage(name: str, command: str, *needs: str) -> Stage:
    return Stage(name, command, (), needs)


def shown(batches: list[Batch]) -> list[tuple[dict[int, str], str | None]]:
    """Members and dependencies, with the position of a batch as Slurm's id of it."""
    ids = {batch.name: str(number) for number, batch in enumerate(batches, 1)} | {"old": "77", "array": "88"}
    return [(dict(batch.stages), batch.dependency(ids)) for batch in batches]


QUICKSTART = [
    stage("p2", "pretrain"), stage("p3", "pretrain"),
    stage("f1", "finetune"), stage("f2", "finetune", "p2"), stage("f3", "finetune", "p3"),
    stage("e1", "evaluate", "f1"), stage("e2", "evaluate", "f2"), stage("e3", "evaluate", "f3"),
    stage("r", "report", "e1", "e2", "e3"),
]  # fmt: skip


def test_chains_side_by_side_become_arrays_whose_members_wait_for_their_own_predecessor() -> None:
    assert shown(plan(QUICKSTART, Slurm(), {})) == [
        ({0: "p2", 1: "p3"}, None),
        ({-1: "f1"}, None),
        ({0: "f2", 1: "f3"}, "aftercorr:1"),
        ({-1: "e1"}, "afterok:2"),
        ({0: "e2", 1: "e3"}, "aftercorr:3"),
        ({-1: "r"}, "afterok:4:5"),
    ]


def test_stages_that_wait_for_the_same_job_are_an_array() -> None:
    stages = [stage("p", "pretrain"), *(stage(f"f{n}", "finetune", "p") for n in range(3))]
    assert shown(plan(stages, Slurm(), {}))[1] == ({0: "f0", 1: "f1", 2: "f2"}, "afterok:1")


def test_stages_that_wait_for_different_jobs_do_not_share_a_fate() -> None:
    stages = [stage("p", "pretrain"), stage("q", "finetune"), stage("a", "evaluate", "p"), stage("b", "evaluate", "q")]
    found = shown(plan(stages, Slurm(), {}))
    assert ({-1: "a"}, "afterok:1") in found
    assert ({-1: "b"}, "afterok:2") in found


def test_members_of_an_array_that_is_queued_already_are_waited_for_by_number() -> None:
    queued = {"p2": Ref("array", 3), "p3": Ref("array", 5)}
    stages = [stage("f2", "finetune", "p2"), stage("f3", "finetune", "p3"), stage("e3", "evaluate", "f3")]
    assert shown(plan(stages, Slurm(), queued)) == [({3: "f2", 5: "f3"}, "aftercorr:88"), ({-1: "e3"}, "afterok:1_5")]


def test_needs_that_are_finished_are_not_waited_for() -> None:
    assert shown(plan([stage("f", "finetune", "p")], Slurm(), {})) == [({-1: "f"}, None)]
    assert shown(plan([stage("f", "finetune", "p")], Slurm(), {"p": Ref("old")})) == [({-1: "f"}, "afterok:77")]


def test_two_stages_behind_the_same_member_are_no_pair_of_arrays() -> None:
    stages = [stage("f2", "finetune", "p"), stage("f3", "finetune", "p")]
    assert shown(plan(stages, Slurm(), {"p": Ref("array", 1)})) == [({0: "f2", 1: "f3"}, "afterok:88_1")]


def test_two_stages_behind_each_task_are_two_arrays_and_many_behind_few_tasks_are_an_array_for_each_task() -> None:
    firsts = [stage(f"p{n}", "pretrain") for n in range(3)]
    two = [stage(f"f{n}{x}", "finetune", f"p{n}") for n in range(3) for x in "ab"]
    assert shown(plan([*firsts, *two], Slurm(), {}))[1:] == [
        ({0: "f0a", 1: "f1a", 2: "f2a"}, "aftercorr:1"),
        ({0: "f0b", 1: "f1b", 2: "f2b"}, "aftercorr:1"),
    ]
    many = [stage(f"f{n}{x}", "finetune", f"p{n}") for n in range(2) for x in "abc"]
    assert shown(plan([*firsts[:2], *many], Slurm(), {}))[1:] == [
        ({0: "f0a", 1: "f0b", 2: "f0c"}, "afterok:1_0"),
        ({0: "f1a", 1: "f1b", 2: "f1c"}, "afterok:1_1"),
    ]
    uneven = [*two, stage("f1c", "finetune", "p1")]
    assert shown(plan([*firsts, *uneven], Slurm(), {}))[3:] == [({-1: "f1c"}, "afterok:1_1")]


@pytest.mark.parametrize(("size", "parts"), [(1001, [1001, 499]), (1000, [1000, 500]), (600, [600, 600, 300])])
def test_large_arrays_are_cut_at_the_size_that_slurm_allows_each_with_indices_from_zero(
    size: int, parts: list[int]
) -> None:
    found = plan([stage(f"p{n}", "pretrain") for n in range(1500)], Slurm(), {}, size)
    assert [list(batch.stages) for batch in found] == [list(range(part)) for part in parts]
    assert [name for batch in found for name in batch.stages.values()] == [f"p{n}" for n in range(1500)]


def test_an_array_behind_a_cut_one_is_cut_at_the_same_place_and_shares_its_indices() -> None:
    stages = [stage(f"p{n}", "pretrain") for n in range(5)] + [stage(f"f{n}", "finetune", f"p{n}") for n in range(5)]
    assert shown(plan(stages, Slurm(), {}, 3)) == [
        ({0: "p0", 1: "p1", 2: "p2"}, None),
        ({0: "p3", 1: "p4"}, None),
        ({0: "f0", 1: "f1", 2: "f2"}, "aftercorr:1"),
        ({0: "f3", 1: "f4"}, "aftercorr:2"),
    ]


def test_a_cluster_without_arrays_gets_jobs() -> None:
    stages = [stage("p0", "pretrain"), stage("p1", "pretrain"), stage("f1", "finetune", "p1")]
    assert shown(plan(stages, Slurm(), {}, 1)) == [({-1: "p0"}, None), ({-1: "p1"}, None), ({-1: "f1"}, "afterok:2")]


def test_a_report_about_thousands_of_stages_waits_for_a_few_arrays() -> None:
    many = range(3000)
    stages = [stage(f"p{n}", "pretrain") for n in many] + [stage(f"f{n}", "finetune", f"p{n}") for n in many]
    report = stage("r", "report", *(s.name for s in stages))
    found = plan([*stages, report], Slurm(), {})
    waits = shown(found)[-1][1] or ""
    assert sorted(waits.split(":")) == [
        "4",
        "5",
        "6",
        "afterok",
    ]  # the three arrays of fine-tunings, which wait for the pre-trainings themselves
    assert [len(batch.stages) for batch in found] == [1001, 1001, 998] * 2 + [1]


def test_an_array_that_is_queued_already_is_waited_for_task_by_task() -> None:
    """Another of its tasks, which is not needed, may have failed."""
    stages = [stage("r", "report", "a", "b")]
    assert shown(plan(stages, Slurm(), {"a": Ref("array", 0), "b": Ref("array", 1)}))[0][1] == "afterok:88_0:88_1"


def test_a_need_is_implied_only_by_a_stage_that_will_run() -> None:
    """The stage between is finished, but what it needs runs again."""
    assert shown(plan([stage("r", "report", "p", "f")], Slurm(), {"p": Ref("old")}))[0][1] == "afterok:77"
    between = [stage("f", "finetune", "p"), stage("r", "report", "p", "f")]
    assert shown(plan(between, Slurm(), {"p": Ref("old")})) == [({-1: "f"}, "afterok:77"), ({-1: "r"}, "afterok:1")]


def test_names_are_used_once() -> None:
    names = {batch.name for _ in range(20) for batch in plan(QUICKSTART, Slurm(), {})}
    assert len(names) == 20 * 6


def test_a_command_takes_what_the_profile_says_unless_it_has_its_own() -> None:
    profile = ("gpus_per_node=1", "cpus_per_task=6", "minutes=60", "pretrain.nodes=2", "pretrain.gpus_per_node=8")
    settings = choose("slurm", [f"cluster.{word}" for word in profile])
    assert isinstance(settings, Slurm)

    def shown(command: str) -> tuple[int, int, int, int, int]:
        own = settings.of(command)
        return own.nodes, own.gpus, own.tasks, own.cpus_per_task, own.minutes

    assert (shown("pretrain"), shown("evaluate"), shown("report")) == (
        (2, 8, 8, 6, 60),
        (1, 1, 1, 6, 60),
        (1, 0, 1, 6, 30),
    )
