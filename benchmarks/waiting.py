"""What a training step costs beside other processes, by what OpenMP's threads do while they wait for each other.

By default they spin for a while, which another process on the same core turns into waiting. OMP_WAIT_POLICY=passive lets them
sleep. The variables are read once, when torch is imported, so each measurement is a process.

python -m benchmarks.waiting --json waiting.json
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from .table import Figure, parser, publish

POLICIES: dict[str, dict[str, str]] = {
    "default": {},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
STEP = """
import sys, time, torch
from dist_advss import attacks, objectives
from dist_advss.config.compose import compose
from dist_advss.rng import Rng
config = compose("pretrain", ["objective=rotation", "attack=pgd3", "attack.eps=0.1", "out=RUN"])
objective = objectives.build(config).to(memory_format=torch.channels_last)
attack, rng = attacks.build(config.attack, objective), Rng(0).at(0, 0).rows(torch.arange(64))
images = rng.uniform("images", (1, 28, 28))
def step():
    task = objective.prepare(images, torch.zeros(64, dtype=torch.int64), rng)
    objective(task, attack(objective.attack_loss, task)).loss.backward()
step()
begin = time.perf_counter()
for _ in range(int(sys.argv[1])):
    step()
print((time.perf_counter() - begin) / int(sys.argv[1]))
"""


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Inside, so many other processes compute all the time."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help="counted rounds")
    options.add_argument("--steps", type=int, default=4, help="steps of a measurement")
    options.add_argument("--others", type=int, default=2, help="busy processes beside it")
    args = options.parse_args()

    seconds: dict[tuple[str, str], list[float]] = {}
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    for _ in range(args.rounds):
        for others in (0, args.others):
            for policy, variables in POLICIES.items():
                with busy(others):
                    words = [sys.executable, "-c", STEP, str(args.steps)]
                    ran = subprocess.run(words, env=plain | variables, check=True, capture_output=True, text=True)
                beside = f"beside {others} busy processes" if others else "alone"
                seconds.setdefault((beside, policy), []).append(float(ran.stdout))
    publish([Figure(f"a step {beside}", policy, median(s), "s") for (beside, policy), s in seconds.items()], args.json)


if __name__ == "__main__":
    main()
