"""Keys of what a run records about its own work: `profile.steps=[A,B]`, `profile.memory`."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from .keys import key


@dataclass
class Profile:
    steps: list[int] | None = key(
        None,
        "record steps A to B with torch.profiler, as [A,B] counted from 1, to profile/ in the run folder; null: none",
    )
    ranks: list[int] = key([0], "ranks to record, as [0,5]")
    memory: bool = key(
        False, "GPU: record who allocates memory, for the snapshot that a run writes when its memory is full"
    )


def check_profile(profile: Profile) -> None:
    """Raises UserError for what is no window of steps, or no list of ranks."""
    steps = profile.steps
    if steps is not None and (len(steps) != 2 or not 1 <= steps[0] <= steps[1]):
        raise UserError(
            f"profile.steps={_text(steps)}: not accepted; give the first and the last step, such as [21,25]"
        )
    if not profile.ranks or min(profile.ranks) < 0:
        raise UserError(f"profile.ranks={_text(profile.ranks)}: not accepted; give ranks from 0, such as [0,5]")


def check_profiled_ranks(profile: Profile, world_size: int) -> None:
    """Raises UserError for a rank that a run of this many processes does not have."""
    beyond = [rank for rank in profile.ranks if rank >= world_size]
    if profile.steps is not None and beyond:
        raise UserError(
            f"profile.ranks={_text(profile.ranks)}: the run has ranks 0 to {world_size - 1}; leave out {_text(beyond)}"
        )


def _text(numbers: list[int]) -> str:
    """A list as it is typed."""
    return f"[{','.join(map(str, numbers))}]"
