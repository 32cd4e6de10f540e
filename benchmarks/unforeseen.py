"""The strengths of the unforeseen attacks, so that RA falls to about 2/3, 1/3 and 1/10 of TA: `python -m benchmarks.unforeseen RUN`.

RUN is a fine-tuned run, such as quickstart's runs/quickstart/p1_finetune. For each attack it halves the interval of strengths, on
a logarithmic scale, until RA on the first images of the test set meets each target. It prints the strengths with two digits and
their RA. `dist_advss/attacks/unforeseen/__init__.py` holds what it printed.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from dist_advss.attacks.unforeseen import KINDS, search
from dist_advss.config.inherit import configure
from dist_advss.data import as_float, load_data
from dist_advss.evaluation.classifier import load_classifier
from dist_advss.rng import Rng

from . import table

TARGETS = {"low": 2 / 3, "medium": 1 / 3, "high": 1 / 10}
NARROW = 1.12  # the factor between the two ends of an interval at which the search ends
WEAKEST, STRONGEST = 1 / 8, 8.0  # the interval searched, as factors of the present strength
LARGEST = {
    "fog": 1.0,
    "snow": 1.0,
    "wood": 1.0,
    "kaleidoscope": 1.0,
    "gabor": 1.0,
    "pixel": 0.5,
    "blur": 0.5,
    "glitch": 0.5,
}


def main() -> None:
    parser = table.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = configure("evaluate", [f"checkpoint={options.run}", f"data.limit={options.images}", "out=x"])
    images = load_data(config.data, "test", labelled=True)
    model, _ = load_classifier(config, images.classes)
    model.eval().requires_grad_(False)
    x = as_float(images.images[: options.images].permute(0, 3, 1, 2))
    task = model.prepare(x, images.labels[: options.images], Rng(0, "evaluation").rows(torch.arange(len(x))))
    with torch.no_grad():
        right = model.judge(task.inputs, task).correct > 0
    standing, ta = right.nonzero()[:, 0], int(right.sum())
    figures = [table.Figure("no attack", "TA", 100 * ta / len(x), "%")]

    for name in options.kinds:
        kind, known = KINDS[name], {}
        weakest = kind.strengths["low"] * WEAKEST
        strongest = min(kind.strengths["high"] * STRONGEST, LARGEST.get(name, math.inf))

        for level, target in TARGETS.items():
            low = max((s for s, ra in known.items() if ra > target), default=weakest)
            high = min((s for s, ra in known.items() if ra <= target and s > low), default=strongest)
            while high / low > NARROW:
                strength = float(f"{math.sqrt(low * high):.2g}")
                if strength in known:
                    break
                _, seen = search(model.judge, task, kind.threat(strength), options.steps, name, standing)
                known[strength] = float((seen == task.targets).sum()) / ta
                low, high = (strength, high) if known[strength] > target else (low, strength)
            best = min(known, key=lambda s, target=target: abs(known[s] - target))
            figures.append(table.Figure(f"{name} {level}", f"strength {best:g}", 100 * known[best], "% of TA"))
            print(figures[-1], flush=True)
    table.publish(figures, options.json)


if __name__ == "__main__":
    main()
