"""Which process of a job this is, from what torchrun, srun and submitit leave in the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from dist_advss.config.checks import check_world
from dist_advss.config.compose import compose
from dist_advss.engines.environment import Place, check_nodes, find_place, first_host
from dist_advss.errors import UserError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "4321",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_JOB_NODELIST": "gpu07",
}


def test_nothing_in_the_environment_is_one_process_alone() -> None:
    assert find_place({}) == Place(0, 1, 0, 1, None, 0, "alone")


def test_torchrun_s_variables() -> None:
    assert find_place(TORCHRUN) == Place(5, 8, 1, 4, "10.0.0.1", 29500, "torchrun")


def test_a_task_of_srun() -> None:
    place = find_place(SRUN)
    assert (place.rank, place.world_size, place.local_rank, place.local_world_size) == (3, 4, 1, 2)
    assert (place.address, place.started_by) == ("gpu07", "srun")
    assert find_place({**SRUN, "SLURM_PROCID": "0"}).port == place.port
    assert 1024 < place.port < 32768
    assert find_place({**SRUN, "SLURM_JOB_ID": "4322"}).port != place.port


@pytest.mark.parametrize("step", [None, "4294967291", "4294967294"])  # none; the batch script; an interactive shell
def test_a_batch_script_is_none_of_its_tasks(step: str | None) -> None:
    environment = {name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}
    assert find_place(environment | ({"SLURM_STEP_ID": step} if step else {})).started_by == "alone"


def test_torchrun_inside_a_task_of_srun_counts() -> None:
    assert find_place({**SRUN, **TORCHRUN}).started_by == "torchrun"


@pytest.mark.parametrize(("rank", "world_size"), [("0", "1"), ("0", "2"), ("0", "4")])
def test_ranks_that_a_shell_has_left_are_refused_in_a_task_of_srun(rank: str, world_size: str) -> None:
    """Each of four tasks would train alone, or all as the same rank."""
    left = {**TORCHRUN, "RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": "0"}
    with pytest.raises(UserError, match=rf"RANK=0 of WORLD_SIZE={world_size} in task 3 of 4 of an srun; unset RANK"):
        find_place({**SRUN, **left})
    started = find_place({**SRUN, **left, "TORCHELASTIC_RUN_ID": "none"})  # by a torchrun of its own in each task
    assert (started.rank, started.world_size) == (0, int(world_size))


def test_ranks_set_by_hand_in_a_task_of_srun_count_if_they_are_slurm_s() -> None:
    place = find_place({**SRUN, **TORCHRUN, "RANK": "3", "WORLD_SIZE": "4"})
    assert (place.rank, place.world_size, place.port) == (3, 4, 29500)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu[007-009,12],login", "gpu007"),
        ("a-1.cluster,a-2.cluster", "a-1.cluster"),
        ("rack[3,5]", "rack3"),
    ],
)
def test_the_first_of_a_list_of_nodes(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_the_greeting_of_a_wrapper_around_scontrol_names_no_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = tmp_path / "scontrol"
    wrapper.write_text(
        "#!/bin/sh\necho 'Welcome to the cluster'\necho 'gpu nodes: see the site'\necho gpu007; echo gpu008\n"
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert first_host("gpu[007-008]") == "gpu007"


@pytest.mark.parametrize(
    ("change", "word"),
    [({"MASTER_PORT": None}, "MASTER_PORT"), ({"RANK": "x"}, "'x'"), ({"RANK": "8"}, "RANK=8")],
)
def test_half_an_environment_is_refused_in_one_line(change: dict[str, str | None], word: str) -> None:
    environment = {name: value for name, value in {**TORCHRUN, **change}.items() if value is not None}
    with pytest.raises(UserError) as refused:
        find_place(environment)
    assert word in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "world_size", "said"),
    [
        (["engine=single"], 2, ["engine=single", "one process, not 2", "engine=ddp"]),
        (["engine=ddp", "train.batch_size=128"], 3, ["train.batch_size=128", "start 2 or 4", "126 or 129"]),
        (["engine=ddp", "train.batch_size=4"], 7, ["start 2 or 4", "train.batch_size=7"]),
        (["engine=ddp", "train.batch_size=96", "train.accumulate=4"], 5, ["start 4 or 6", "80 or 100"]),
        (
            ["engine=ddp", "objective=simclr", "objective.momentum=0.9", "train.batch_size=4"],
            4,
            ["one image to each of 4", "objective.momentum=0.9", "set it to 8"],
        ),
    ],
)
def test_a_world_that_cannot_share_the_batch_is_told_the_nearest_that_can(
    words: list[str], world_size: int, said: list[str]
) -> None:
    with pytest.raises(UserError) as refused:
        check_world(compose("pretrain", [*words, "out=RUN"]), world_size)
    assert all(part in str(refused.value) for part in said), str(refused.value)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_a_world_that_can_is_taken(world_size: int) -> None:
    check_world(compose("pretrain", ["engine=ddp", "train.batch_size=64", "out=RUN"]), world_size)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([(0, 2), (1, 2), (0, 2), (1, 2)], None),
        ([(0, 1), (0, 1)], None),
        ([(0, 2), (1, 2), (0, 1)], "3 processes, 1 or 2 on a node"),
        ([(0, 2), (1, 2), (0, 2)], "3 processes, 2 on a node"),
        ([(0, 2), (0, 2), (1, 2), (1, 2)], "rank 1 has local rank 0 of 2, not 1; number the ranks node by node"),
        ([(0, 1), (1, 1)], "rank 1 has local rank 1 of 1, not 0"),  # LOCAL_WORLD_SIZE was not set
    ],
)
def test_an_engine_that_shards_within_nodes_needs_equal_nodes_of_consecutive_ranks(
    places: list[tuple[int, int]], message: str | None
) -> None:
    if message is None:
        check_nodes("hsdp", places)
        return
    with pytest.raises(UserError, match=f"engine=hsdp: {message}.*choose engine=fsdp"):
        check_nodes("hsdp", places)
