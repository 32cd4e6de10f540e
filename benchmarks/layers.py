"""Each kind of convolution of a network: the FLOP/s that an attack step reaches in it, beside the measured matrix product.

Forward pass and gradient to the input, as in an attack, in channels_last memory and in contiguous memory. Then the same for
the whole network, in training mode and with its batch norms folded away.

    python -m benchmarks.layers --model resnet50v2 --threads 1 --json layers.json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dist_advss.config.compose import compose
from dist_advss.models.folded import Folded
from dist_advss.objectives import Classify, build
from dist_advss.plan.meter import Meter

from .attacks import CASES
from .table import CLOCKS, Figure, parser, publish, seconds_in_turn

SIDES = (1024, 2048)  # of the matrix products of which the faster one is the peak
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}

Kind = tuple[int, int, int, int, int]  # input channels, output channels, side of the input, kernel, stride


def kinds(network: nn.Module, images: Tensor) -> Counter[Kind]:
    """How often the network has each kind of convolution."""
    found: Counter[Kind] = Counter()

    def note(layer: nn.Module, given: Any, result: Any) -> None:
        assert isinstance(layer, nn.Conv2d)
        side, kernel, stride = given[0].shape[-1], layer.kernel_size[0], layer.stride[0]
        found[layer.in_channels, layer.out_channels, side, kernel, stride] += 1

    hooks = [each.register_forward_hook(note) for each in network.modules() if isinstance(each, nn.Conv2d)]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return found


def to_the_input(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    out = network(leaf)
    return torch.autograd.grad(out, leaf, torch.ones_like(out))[0]


def convolution(kind: Kind, batch: int, layout: torch.memory_format) -> Callable[[], object]:
    inputs, outputs, side, kernel, stride = kind
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False).requires_grad_(False)
    layer.to(memory_format=layout)
    x = torch.rand(batch, inputs, side, side).contiguous(memory_format=layout)
    return partial(to_the_input, layer, x)


def rate(call: Callable[[], object], seconds: float) -> float:
    """GFLOP/s, of the FLOPs that torch counts in a call."""
    with Meter() as meter:
        call()
    return meter.work.flops / seconds / 1e9


def measured(model: str, args: Any) -> list[Figure]:
    batch, clock = CASES[model], CLOCKS[args.clock]
    data = ["data=fashion_mini"] if model == "preact_small" else ["data=cifar10", "data.root=."]
    config = compose("finetune", [f"model={model}", *data, "out=."])
    objective = build(config).to(memory_format=torch.channels_last).requires_grad_(False)
    assert isinstance(objective, Classify)
    network = nn.Sequential(objective.encoder, objective.top)
    images = torch.rand(batch, config.data.channels, config.data.size, config.data.size)
    found = kinds(network, images)

    squares = [torch.rand(side, side) for side in SIDES]
    products: dict[str, Callable[[], object]] = {f"{len(a)}": partial(torch.matmul, a, a) for a in squares}
    of_products = seconds_in_turn(products, args.rounds, clock)
    peak = max(2 * side**3 / of_products[f"{side}"] / 1e9 for side in SIDES)
    figures = [Figure(model, "matrix product", peak, "GFLOP/s")]
    total = dict.fromkeys(LAYOUTS, 0.0)
    for kind, count in sorted(found.items()):
        calls = {name: convolution(kind, batch, layout) for name, layout in LAYOUTS.items()}
        seconds = seconds_in_turn(calls, args.rounds, clock)
        inputs, outputs, side, kernel, stride = kind
        case = f"{count} x {kernel}x{kernel} {inputs}-{outputs} at {side}" + (f" stride {stride}" if stride > 1 else "")
        for name, call in calls.items():
            total[name] += count * seconds[name]
            figures.append(Figure(case, name, 100 * rate(call, seconds[name]) / peak, "% of the peak"))
    figures += [Figure("all convolutions", name, seconds, "s") for name, seconds in total.items()]
    wholes = {
        "training mode": partial(to_the_input, network, images),
        "folded": partial(to_the_input, Folded(network), images),
    }
    network.train()
    seconds = seconds_in_turn(wholes, args.rounds, clock)
    for name, call in wholes.items():
        figures.append(Figure(f"whole network, {name}", "seconds", seconds[name], "s"))
        figures.append(
            Figure(f"whole network, {name}", "reached", 100 * rate(call, seconds[name]) / peak, "% of the peak")
        )
    return figures


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(CASES), default="resnet50v2")
    options.add_argument("--rounds", type=int, default=5, help="counted rounds")
    options.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="processor: beside other work")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    publish(measured(args.model, args), args.json)


if __name__ == "__main__":
    main()
