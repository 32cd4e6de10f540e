"""Start-up time of the command line, against an interpreter that does nothing and one that imports torch.

python -m benchmarks.startup --json startup.json
"""

from __future__ import annotations

import subprocess
import sys

from .table import Figure, parser, publish, seconds_in_turn

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "dist-advss --help": ["-m", "dist_advss", "--help"],
    "dist-advss pretrain --help": ["-m", "dist_advss", "pretrain", "--help"],
    "dist-advss pretrain --print": ["-m", "dist_advss", "pretrain", "out=x", "--print"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="counted rounds")
    args = options.parse_args()

    def call(words: list[str]) -> None:
        subprocess.run([sys.executable, *words], check=True, capture_output=True)

    seconds = seconds_in_turn({name: lambda w=words: call(w) for name, words in COMMANDS.items()}, args.rounds)
    publish([Figure("time to answer", name, s, "s") for name, s in seconds.items()], args.json)


if __name__ == "__main__":
    main()
