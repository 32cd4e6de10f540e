"""The checks of contrastive objectives: keys that would do nothing, or leave weights without a gradient."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .keys import shown
from .objectives import SimCLR


def check_contrastive(config: Any) -> None:
    """Raises UserError for combinations of keys of SimCLR, ACL and DynACL that cannot be meant."""
    objective, epochs = config.objective, config.schedule.epochs
    if not isinstance(objective, SimCLR):
        return
    pairs = objective.pairs if config.attack.steps else "clean"
    if config.train.batch_size == 1:
        raise UserError(
            f"train.batch_size=1: objective={objective.name} tells an image from the others of its batch; set it to 2 or more"
        )
    # Batch norms that no image of a step passes would be transferred as they began, and DDP waits for their gradients.
    if objective.dual_norms and (pairs in ("clean", "a2a") or (pairs == "a2s" and objective.momentum)):
        raise UserError(
            "objective.dual_norms=true: the network that learns must see clean and adversarial images; set "
            "objective.pairs=ds and an attack such as attack=pgd5, or objective.dual_norms=false"
        )
    if objective.reweight and pairs != "ds":
        raise UserError(
            f"objective.reweight={shown(objective.reweight)}: weighs an adversarial loss against a clean one; set "
            "objective.pairs=ds and an attack such as attack=pgd5, or objective.reweight=0"
        )
    if objective.reweight and not objective.anneal_every:
        raise UserError(
            f"objective.reweight={shown(objective.reweight)}: moves every objective.anneal_every epochs, and that is 0; set "
            "one of the two to another value"
        )
    if objective.anneal_every and objective.anneal_every >= epochs:
        raise UserError(
            f"objective.anneal_every={objective.anneal_every}: not below schedule.epochs={epochs}, so nothing would weaken; "
            "lower it, or set it to 0"
        )
    if objective.momentum and config.freeze == "encoder":
        raise UserError(
            f"objective.momentum={objective.momentum:g}: averages a network that learns, and freeze=encoder keeps it as it is; "
            "set freeze=none, or objective.momentum=0"
        )
    if objective.momentum and config.train.ema:
        raise UserError(
            f"train.ema={config.train.ema:g}: objective.momentum={objective.momentum:g} averages the weights already, and what it "
            "averages is transferred; drop one of the two"
        )


def check_contrastive_ranks(config: Any, world_size: int) -> None:
    """Refuses a number of processes that leaves one view to a batch norm, which has no variance. Raises UserError."""
    objective, batch = config.objective, config.train.batch_size
    if isinstance(objective, SimCLR) and objective.momentum and batch == world_size and not config.train.sync_bn:
        raise UserError(
            f"train.batch_size={batch}: leaves one image to each of {world_size} processes, and with "
            f"objective.momentum={objective.momentum:g} each view has batch norms of its own, which need two; set it to {2 * batch}"
        )
