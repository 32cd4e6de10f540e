"""Networks of other packages as backbones: `model=timm:NAME` and `model=torchvision:NAME`, with random weights.

theta_p is the whole network but for its last layer, which must be linear: stem, all stages, norm, pooling. The encoder gives
the pooled features as (N, out_channels, 1, 1), and a top is one linear layer. The names of theta_p are the package's, behind
`encoder.net.net.`.

Dropout and stochastic depth are off, because every random draw of a run has a name (`rng.py`), and the attack and the update
must see one network. Blocks may work in place.
"""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..config.objectives import SelfieKeys
from ..config.schema import Data, Model
from ..errors import UserError
from .backbone import Backbone, Encoder, normalisation, sequence
from .convolution import replace_unsound
from .norms import BATCH_NORMS

PLAIN_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
)  # what train.sync_bn can replace: a subclass may do more than to normalise
CLOSE = 5  # names to suggest
TRIED = 2  # images of a trial


class Net(nn.Module):
    """A network without its last layer: (N, C, H, W) to (N, features, 1, 1)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.net(x)
        return features[:, :, None, None]


class AdoptedEncoder(Encoder):
    """An encoder around another package's network.

    classifier  the name of the network's last layer, such as "head.fc", which is not part of the encoder
    """

    def __init__(self, out_channels: int, classifier: str, **parts: nn.Module) -> None:
        super().__init__(out_channels, **parts)
        self.classifier = classifier


def adopted(model: Model, data: Data) -> Backbone:
    """The backbone that model=PACKAGE:NAME names, for images of data.size pixels.

    Weights come from torch's global generator, as the package draws them. Raises UserError for an unknown name, a size that
    the network does not take, or a network whose last layer is not linear.
    """
    mean, std = _normalisation(model, data)
    net = _network(model, data)
    name, linear = _last_layer(model.name, net)
    _set(net, name, nn.Identity())
    _remove_chance(net)
    replace_unsound(net)
    normalise = normalisation(data.channels, mean, std)
    encoder = AdoptedEncoder(linear.in_features, name, normalise=normalise, net=Net(net))

    def top(outputs: int) -> nn.Module:
        fresh = copy.deepcopy(linear)
        if outputs != linear.out_features:
            fresh = nn.Linear(linear.in_features, outputs, bias=linear.bias is not None)
        return sequence(flatten=nn.Flatten(), linear=fresh)

    return Backbone(encoder, top)


def check(config: Any) -> None:
    """Builds the network of a configuration without memory and tries it on the sizes that its objective shows it.

    Raises UserError for what `adopted` refuses, and for keys that do not fit the network.
    """
    model, data = config.model, config.data
    shown = f"model={model.name}"
    if model.width is not None:
        raise UserError(f"model.width={model.width}: {shown} has the width of its name; drop it")
    sizes = {data.size: f"data.size={data.size}"}
    objective: Any = getattr(config, "objective", None)
    for keys in (objective, getattr(objective, "selfie", None)):
        if isinstance(keys, SelfieKeys) and (keys is objective or "selfie" in objective.tasks):
            sizes[data.size // keys.grid] = f"Selfie's patches of {data.size // keys.grid} pixels"
    odd = _tried(model.name, model.patch, data.size, data.channels, data.classes, tuple(sizes.items()))
    if odd and getattr(getattr(config, "train", None), "sync_bn", False):
        raise UserError(
            f"train.sync_bn=true: {shown} has {odd}, which cannot be replaced by a batch norm over all processes; set it "
            "to false"
        )


@functools.cache  # an experiment composes many stages with one model
def _tried(
    name: str, patch: int | None, size: int, channels: int, classes: int | None, sizes: tuple[tuple[int, str], ...]
) -> str | None:
    """Tries the network on images of each of `sizes`. Returns the class of a batch norm that may do more than normalise.

    Raises UserError.
    """
    model = Model(name=name, patch=patch)
    with torch.device("meta"):
        backbone = adopted(model, Data(name="any", size=size, channels=channels, classes=classes))
    for side, what in sizes:
        _try(f"model={name}", what, backbone, torch.empty(TRIED, channels, side, side, device="meta"))
    norms = [m for m in backbone.encoder.modules() if isinstance(m, BATCH_NORMS)]
    return next((type(m).__name__ for m in norms if type(m) not in PLAIN_NORMS), None)


def _try(shown: str, what: str, backbone: Backbone, images: Tensor) -> None:
    """Raises UserError unless the encoder gives one vector for each image, in training and in evaluation."""
    side = images.shape[-1]
    for module in backbone.encoder.modules():
        patch = getattr(module, "patch_size", None)
        patch = patch[0] if isinstance(patch, tuple) else patch
        # Such a network would drop the pixels beyond the last whole patch without an error.
        if isinstance(patch, int) and side % patch:
            raise UserError(
                f"{shown}: its patches of {patch} pixels do not divide {what}; set model.patch to a divisor"
            )
    for training in (True, False):
        try:
            features = backbone.encoder.train(training)(images)
        except Exception as error:  # the network's own checks raise anything
            raise UserError(
                f"{shown}: does not take {what} ({_reason(error)}); choose another model or size"
            ) from error
        if features.shape != (TRIED, backbone.encoder.out_channels, 1, 1):
            raise UserError(f"{shown}: its last layer does not get one vector for each image; choose another model")


def _normalisation(model: Model, data: Data) -> tuple[Any, Any]:
    """model.mean and model.std; where null, timm's own for the name."""
    package, _, name = model.name.partition(":")
    if package != "timm" or data.channels != 3:
        return model.mean, model.std
    known = _module("timm").get_pretrained_cfg(name)
    own = (known.mean, known.std) if known else (None, None)
    return (
        list(own[0]) if model.mean is None and own[0] else model.mean,
        list(own[1]) if model.std is None and own[1] else model.std,
    )


def _network(model: Model, data: Data) -> nn.Module:
    """The package's network for data.classes classes (any number where that is null), in training mode."""
    package, _, name = model.name.partition(":")
    classes = data.classes or 10
    if package == "torchvision":
        return _torchvision(model, name, classes, data)
    return _timm(model, name, classes, data)


def _timm(model: Model, name: str, classes: int, data: Data) -> nn.Module:
    timm = _module("timm")
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise UserError(_unknown(model.name, name, timm.list_models()))
    if name != architecture and name not in timm.list_models(f"{architecture}.*", pretrained=True):
        raise UserError(_unknown(model.name, name, timm.list_pretrained(f"{architecture}.*") or [architecture]))
    make = functools.partial(timm.create_model, name, pretrained=False, num_classes=classes, in_chans=data.channels)
    if model.patch is not None:
        make = functools.partial(make, patch_size=model.patch)
    # Networks with position embeddings need the size, the others do not accept it.
    try:
        return _made(model, data, functools.partial(make, img_size=data.size))
    except TypeError:
        pass
    try:
        return _made(model, data, make)
    except TypeError as error:
        key = f"model.patch={model.patch}" if model.patch is not None else f"data.channels={data.channels}"
        raise UserError(f"{key}: model={model.name} has no such setting ({_reason(error)}); drop it") from error


def _torchvision(model: Model, name: str, classes: int, data: Data) -> nn.Module:
    models = _module("torchvision.models")
    names = models.list_models(module=models)
    if name not in names:
        raise UserError(_unknown(model.name, name, names))
    if model.patch is not None:
        raise UserError(f"model.patch={model.patch}: only model=timm:NAME has patches of another size; drop it")
    make = functools.partial(models.get_model, name, weights=None, num_classes=classes)
    try:
        net = _made(model, data, functools.partial(make, image_size=data.size))
    except TypeError:
        net = _made(model, data, make)
    if data.channels != 3:
        _set_channels(model.name, net, data.channels)
    return net


def _made(model: Model, data: Data, make: Callable[[], nn.Module]) -> nn.Module:
    """`make()`. A TypeError, for an argument that the network does not have, is raised as it is."""
    try:
        return make()
    except TypeError:
        raise
    except Exception as error:  # a network's own checks raise anything
        raise UserError(
            f"model={model.name}: cannot be built for images of {data.size} pixels ({_reason(error)}); choose another "
            "model or size"
        ) from error


def _set_channels(shown: str, net: nn.Module, channels: int) -> None:
    """Replaces the first convolution of a network for colour images by one for `channels` channels."""
    name, stem = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    if stem.in_channels != 3 or stem.groups != 1:
        raise UserError(f"data.channels={channels}: model={shown} takes colour images only; set data.channels=3")
    built: dict[str, Any] = {key: getattr(stem, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    _set(net, name, nn.Conv2d(channels, stem.out_channels, bias=stem.bias is not None, **built))


def _last_layer(shown: str, net: nn.Module) -> tuple[str, nn.Linear]:
    """The name of the linear layer that gives the logits, and the layer. Raises UserError."""
    theirs: Any = net
    own = theirs.get_classifier() if hasattr(net, "get_classifier") else None
    found = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear) and (own is None or m is own)]
    if not found:
        raise UserError(f"model={shown}: its last layer is not one linear layer; choose another model")
    return found[-1]


def _set(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    owner = net.get_submodule(parent)
    setattr(owner, last, module)


def _remove_chance(net: nn.Module) -> None:
    """Turns off dropout and stochastic depth, of torch, torchvision and timm."""
    module: Any
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0


def _module(name: str) -> Any:
    """A package, imported when it is needed, because it takes seconds."""
    return importlib.import_module(name)


def _unknown(shown: str, name: str, names: list[str]) -> str:
    import difflib

    package = shown.partition(":")[0]
    close = difflib.get_close_matches(name, names, n=CLOSE, cutoff=0.4)
    hint = f"did you mean {', '.join(f'{package}:{other}' for other in close)}?" if close else "see its documentation"
    return f"model={shown}: {package} has no such network; {hint}"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 160 else f"{text[:157]}…"
