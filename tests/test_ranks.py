"""What grows with the number of ranks, counted in a pretended world of 1,024."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import ranks
from dist_advss.engines.watchdog import DEAD_AFTER_S, POLL_S, REQUESTS_S, Watchdog

RANKS = 1024


@pytest.mark.parametrize("unfit", [None, 0, RANKS - 1])
def test_a_preflight_takes_a_few_requests_a_rank_and_every_rank_gets_the_verdict(unfit: int | None) -> None:
    requests, verdicts = ranks.preflight_requests(RANKS, unfit)
    assert verdicts == [unfit is None] * RANKS
    assert sum(requests.values()) <= 3 * RANKS + 5


def test_rank_0_tells_all_others_in_two_requests_of_each() -> None:
    requests, heard = ranks.telling_requests(RANKS)
    assert heard == ["config"] * RANKS
    assert sum(requests.values()) <= 2 * RANKS + 2


def test_a_tree_of_images_is_listed_and_hashed_by_rank_0_decoded_once_a_node_and_not_opened_beside(
    tmp_path: Path,
) -> None:
    files = 2 * ranks.CLASSES
    roles = ranks.tree_operations(tmp_path, ranks.images(tmp_path, files))
    assert roles["rank 0"]["files opened"] == 2 * files
    assert roles["first of a node"] == {"files opened": files}
    assert roles["beside it"] == {}


@pytest.mark.parametrize("size", [2, RANKS, 8 * RANKS])
def test_the_watchdogs_of_all_ranks_ask_the_store_so_often_in_a_second_at_most(size: int) -> None:
    assert 0 < ranks.watchdog_requests_s(size) <= REQUESTS_S


def test_a_small_world_is_watched_every_second_and_a_large_one_is_not_declared_dead_between_two_heartbeats() -> None:
    small, large = Watchdog(0, 64, None, 1, 1), Watchdog(0, 8 * RANKS, None, 1, 1)
    assert (small.poll_s, small.dead_after_s) == (POLL_S, DEAD_AFTER_S)
    assert large.dead_after_s > 10 * large.poll_s
    assert large.grace_s > large.poll_s  # rank 0 keeps the store until the others have read why the job ends


def test_rank_0_reads_the_verdicts_of_all_ranks_once_and_the_others_open_no_file(tmp_path: Path) -> None:
    assert ranks.resumed_evaluation_opens(tmp_path, 100, rank=1) == 0
    assert 100 <= ranks.resumed_evaluation_opens(tmp_path, 100, rank=0) <= 200
