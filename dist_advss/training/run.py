"""`pretrain` and `finetune`: from a configuration to a finished run folder."""

from __future__ import annotations

from pathlib import Path

from .. import attacks, engines, objectives
from ..config.schema import TrainConfig
from ..data import make_loader
from ..files import write_json
from ..models.transfer import load_encoder
from ..objectives.base import Objective
from ..rng import Rng
from ..tracking import Tracker
from . import checkpoint, folder
from .device import choose_device
from .interrupt import Interrupt
from .loop import Trainer


def train(config: TrainConfig, command: str) -> Path:
    """Runs `command` ("pretrain" or "finetune") to its end, going on from the folder's last checkpoint when there is one.

    Returns the run folder; one that holds a result already is left as it is. Raises UserError before anything is
    written, Stopped after a signal, RunError when the run cannot go on.
    """
    out = Path(config.out)
    folder.refuse_other_config(out, config)
    if folder.finished(out):
        print(f"{out}: finished already, nothing to do")
        return out
    device = choose_device(config.device, config.train.threads)
    labelled = command == "finetune"
    rng = Rng(config.seed, "train")
    loader = make_loader(config.data, "train", config.train.batch_size, rng, labelled=labelled, device=device)
    held_out = make_loader(
        config.data, "validation", 1, rng, labelled=True, first=config.validation.limit, device=device
    )
    objective = objectives.build(config)
    begun = bool(checkpoint.states(out / "checkpoints"))
    transferred = None if begun else _transfer(config, objective)
    steps = len(loader)  # refuses a batch larger than the set, while nothing is written yet

    with folder.claim(out, config), Interrupt() as interrupt, Tracker(out, config, command, steps) as tracker:
        engine = engines.build(config, objective, device)
        attack = attacks.build(config.attack, engine.module)
        trainer = Trainer(config, out, engine, attack, loader, held_out, tracker, transferred)
        if not trainer.resume():
            tracker.event("start", 0, f"on {device}, {steps} steps an epoch, images by the {loader.name} loader")
            if transferred:
                tracker.event("transfer", 0, f"{transferred['matched']} of {transferred['total']} tensors of theta_p")
        tracker.start(trainer.global_step)
        trainer.run(interrupt)
        write_json(
            out / "result.json",
            {
                "kind": command,
                "objective": config.objective.name,
                "seed": config.seed,
                "data": config.data.name,
                "loader": loader.name,
                "epochs": trainer.done,
                "steps": trainer.global_step,
                "parameters": sum(p.numel() for p in engine.module.parameters()),
                **trainer.best,
                "last": trainer.last,
                "transferred": trainer.transferred,
                "seconds": round(trainer.seconds(), 1),
            },
        )
    return out


def _transfer(config: TrainConfig, objective: Objective) -> dict[str, int] | None:
    """Loads theta_p from `init`. A run folder stands for its last checkpoint: pre-training ends where it is best used."""
    if config.init is None:
        return None
    path = Path(config.init)
    path = path / "checkpoints" / "last.pt" if path.is_dir() else path
    report = load_encoder(objective, checkpoint.load(path)["model"], str(path))
    return {"matched": report.matched, "total": report.total}
