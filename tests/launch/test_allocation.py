"""Where the ranks of a job meet: a free port, and an address on sites whose nodes have no names or no scontrol."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from dist_advss.errors import RunError
from launch.graph import Stage
from launch.job import allocation
from launch.job.allocation import PORTS, Allocation, address_of, first_port, free_port, rendezvous
from launch.job.task import LOST
from launch.queue.journal import Submission
from launch.queue.slurm import NoAnswer


@pytest.fixture
def first() -> int:
    """An even step in the range with two free ports."""
    return free_port(PORTS[0] + 4_000)


@pytest.fixture(params=["0.0.0.0", "127.0.0.1", "::"])
def listener(request: pytest.FixtureRequest) -> Iterator[Any]:
    """`listener(port)` listens there until the test ends."""
    sockets = []

    def listen(port: int) -> None:
        opened = socket.socket(socket.AF_INET6 if ":" in request.param else socket.AF_INET)
        sockets.append(opened)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((request.param, port))
        opened.listen()

    yield listen
    for opened in sockets:
        opened.close()


def test_a_free_port_is_taken_as_it_is(first: int) -> None:
    assert free_port(first) == first


@pytest.mark.parametrize("busy", [0, 1])  # the second port is the preflight's
def test_a_port_on_which_another_program_listens_is_left_to_it(busy: int, first: int, listener: Any) -> None:
    listener(first + busy)
    chosen = free_port(first)
    assert chosen != first
    assert PORTS[0] <= chosen < sum(PORTS) and chosen % 2 == 0


def test_no_free_port_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_free", lambda port: False)
    with pytest.raises(RunError, match="no free port from 12000 to 32000"):
        free_port(12_000)


def test_torch_s_word_for_a_port_that_is_taken_is_no_fault_of_the_run(first: int) -> None:
    """Between the choice and its use, another program may have taken it. The next start of the job chooses anew."""
    import torch.distributed as dist

    with socket.socket() as busy:
        busy.bind(("0.0.0.0", first))
        busy.listen()
        with pytest.raises(RuntimeError) as caught:
            dist.TCPStore("127.0.0.1", first, 1, is_master=True)
    assert LOST.search(str(caught.value)), caught.value


PLACE = Allocation(
    directory=None, submission=Submission("s", {}, 0.0, "", {}), stage=Stage("s", "pretrain", (), ()), job="7", restart=0,
    rank=0, ranks=2, local_rank=0, node="n1", nodes=("localhost", "n2"),
)  # type: ignore[arg-type] # fmt: skip


def test_all_ranks_meet_at_the_port_that_the_batch_shell_has_chosen() -> None:
    assert rendezvous(PLACE, {"DIST_ADVSS_PORT": "14000", "SLURM_JOB_ID": "7"}) == {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "14000",
    }
    for environment in ({"SLURM_JOB_ID": "7"}, {"DIST_ADVSS_PORT": "", "SLURM_JOB_ID": "7"}):  # it could choose none
        assert rendezvous(PLACE, environment)["MASTER_PORT"] == str(first_port(environment)) == "12014"


def test_a_node_without_a_name_has_the_address_that_slurm_knows(
    fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(allocation.socket, "getaddrinfo", unknown)
    launched_from = {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}
    monkeypatch.setattr(allocation.slurm, "ask", lambda *_: "NodeName=n1 NodeAddr=10.1.1.1 Port=1")
    assert address_of("n1", launched_from) == "10.1.1.1"

    def missing(*_: str) -> str:
        raise NoAnswer("scontrol: command not found")

    monkeypatch.setattr(allocation.slurm, "ask", missing)
    assert address_of("n1", launched_from) == "10.0.0.1"
    with pytest.raises(NoAnswer):
        address_of("n1", {})
