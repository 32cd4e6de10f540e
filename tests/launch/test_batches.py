"""Which stages become one job, which an array, and what each waits for."""

from __future__ import annotations

from launch.graph import Stage
from launch.profile import Resources, Slurm
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
        ({-1: "r"}, "afterok:4:5_0:5_1"),
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


def test_large_arrays_are_cut_where_slurm_would_refuse_them() -> None:
    found = plan([stage(f"p{n}", "pretrain") for n in range(1500)], Slurm(), {})
    assert [len(batch.stages) for batch in found] == [1000, 500]
    assert max(found[1].stages) == 1499 - 500 or max(found[1].stages) < 1500


def test_names_are_used_once() -> None:
    names = {batch.name for _ in range(20) for batch in plan(QUICKSTART, Slurm(), {})}
    assert len(names) == 20 * 6


def test_a_command_takes_what_the_profile_says_unless_it_has_its_own() -> None:
    settings = Slurm(
        gpus_per_node=1, cpus_per_task=6, minutes=60, by_command={"pretrain": Resources(nodes=2, gpus_per_node=8)}
    )
    assert settings.resources("pretrain") == Resources(2, 8, 8, 6, None, 60)
    assert settings.resources("evaluate") == Resources(1, 1, 1, 6, None, 60)
    assert settings.resources("report") == Resources(1, 0, 1, 6, None, 30)
