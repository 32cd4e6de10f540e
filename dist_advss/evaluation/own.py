"""A model in a user's file, `model=FILE.py:FUNCTION`: runs the file, calls the function, and tries what it returns."""

from __future__ import annotations

import inspect
import os
import sys

import torch
from torch import nn

from ..config.schema import Data
from ..errors import UserError
from ..models.convolution import replace_unsound
from ..objectives.plugin import errors_of, member_of
from ..rng import initialisation
from .any_model import TRIED, Given, classes_of


def own_model(name: str, data: Data, seed: int, key: str = "model") -> Given:
    """The model that FILE.py:FUNCTION returns when called without arguments, in eval mode, as a classifier.

    It takes images (N, C, H, W) float32 in [0,1] and gives logits (N, data.classes). Weights that the function leaves to torch's
    generator are a function of `seed`. The file may import its neighbours. Raises UserError, which begins with `key` and the name,
    for an error in the file, for a function that needs arguments, and where four grey images do not get such logits.
    """
    where, folder = f"{key}={name}", os.path.dirname(name.rpartition(":")[0])
    if folder not in sys.path:
        sys.path.append(folder)
    with errors_of(name, key=key), initialisation(seed, "model"):
        function = member_of(name, key)
        if not callable(function) or isinstance(function, nn.Module):
            raise UserError(f"{where}: a {type(function).__name__}, not a function; give one that returns the model")
        _refuse_arguments(where, function)
        network = function()
    if not isinstance(network, nn.Module):
        raise UserError(f"{where}: returned {type(network).__name__}; return a torch.nn.Module")
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    grey = torch.linspace(0, 1, TRIED, device=device).view(-1, 1, 1, 1)
    with errors_of(name, key=key):
        classes = classes_of(where, network.eval(), grey.repeat(1, *data.shape))
    if classes != data.classes:
        raise UserError(
            f"{where}: gives {classes} logits, and data.classes={data.classes}; choose the images it was trained for"
        )
    given = Given(network)
    replace_unsound(given)
    return given


def _refuse_arguments(key: str, function: object) -> None:
    try:
        inspect.signature(function).bind()  # type: ignore[arg-type]
    except ValueError:  # a function without a signature that Python can see
        return
    except TypeError as error:
        raise UserError(
            f"{key}: called without arguments ({error}); give each a default, or write a function of none"
        ) from error
