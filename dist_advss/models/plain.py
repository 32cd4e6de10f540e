"""State dicts of other programs: their names of tensors as this package's, and what does not fit, in one clause.

| name in the file | name here |
|---|---|
| any, of a network of timm or torchvision | `encoder.net.net.<name>` |
| its last layer, such as `fc` or `head` | `top.linear` |
| any, of a network of this package | `encoder.<name>` or `top.<name>` |
| a published one of such a network (`layouts.py`) | the same, in this package's spelling |
| `mu`, `normalize.mean` and the like | `encoder.normalise.mean`, `encoder.normalise.std` |
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .adopted import AdoptedEncoder
from .layouts import spelled, split_normalisation

State = dict[str, Tensor]
OURS = ("encoder.", "top.")
# Keys that may hold the state dict, the first that is there
NESTED = ("state_dict", "ema_model_state_dict", "model_state_dict", "model", "net")
WRAPPERS = ("module.", "model.", "_orig_mod.")  # prefixes that DDP, a wrapper or torch.compile put before every name
LAST = ("fc.", "linear.")  # names that a last layer has elsewhere


def unwrapped(content: object) -> State:
    """The state dict in the content of a file, at the top or under one of NESTED, without the prefixes of wrappers.

    Empty where there is none.
    """
    while isinstance(content, Mapping):
        key = next((key for key in NESTED if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        content = content[key]
    found = {str(name): tensor for name, tensor in content.items()} if isinstance(content, Mapping) else {}
    found = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    return _unprefixed(found)


def _unprefixed(state: State) -> State:
    while state and (prefix := next((p for p in WRAPPERS if all(name.startswith(p) for name in state)), None)):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def as_ours(module: nn.Module, state: State) -> State:
    """`state` with the names that an objective's `module` has; one that has them already is returned as it is.

    The normalisation is that of `state`, and the module's where it has none. Counters of batches that it lacks are the module's. A
    name that nothing here corresponds to stays as it is.
    """
    ours, encoder = module.state_dict(), module.get_submodule("encoder")
    if any(name in ours for name in state if name.startswith(OURS)):  # torchvision's ViT has an "encoder." too
        return state
    last = (f"{encoder.classifier}.",) if isinstance(encoder, AdoptedEncoder) else LAST
    # A wrapper may have the normalisation beside the network, `normalize.mean` beside `model.conv1.weight`.
    renamed, rest = split_normalisation(state)
    normalise = set(renamed)
    for name, tensor in spelled(encoder, _unprefixed(rest)).items():
        ends = next((f"top.linear.{name.removeprefix(p)}" for p in last if name.startswith(p)), "")
        candidates = (ends, f"encoder.net.net.{name}", f"encoder.{name}", f"top.{name}")
        renamed[next((candidate for candidate in candidates if candidate in ours), name)] = tensor
    if (renamed.keys() - normalise).isdisjoint(ours):  # another network altogether
        return state
    for name, tensor in ours.items():
        if name.startswith("encoder.normalise.") or name.endswith("num_batches_tracked"):
            renamed.setdefault(name, tensor)
    return renamed


def misfit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """How many tensors of `state` are missing, unknown or of another shape, with the first of each; None where all fit."""
    shapes = sorted(n for n in expected.keys() & state.keys() if expected[n].shape != state[n].shape)
    parts = []
    for names, what in (
        (sorted(expected.keys() - state.keys()), "missing"),
        (sorted(state.keys() - expected.keys()), "unknown"),
    ):
        if names:
            parts.append(f"{len(names)} {what}, such as {names[0]}")
    if shapes:
        there, here = (list(each[shapes[0]].shape) for each in (state, expected))
        parts.append(f"{len(shapes)} of another shape, such as {shapes[0]}, {there} in it and {here} here")
    return "; ".join(parts) or None
