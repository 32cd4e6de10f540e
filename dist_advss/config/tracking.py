"""The keys of Weights & Biases, which every run has."""

from __future__ import annotations

from dataclasses import dataclass

from .keys import key


@dataclass
class Tracking:
    wandb: str = key(
        "disabled",
        "Weights & Biases mode; online falls back to offline without a key or a network",
        ("disabled", "offline", "online"),
    )
    project: str = key("dist_advss", "wandb project")
    entity: str | None = key(None, "wandb entity; null: your default")
    group: str | None = key(None, "wandb group; null: the launch of this run")
    tags: list[str] = key([], "wandb tags, such as [ablation,eps4]")
    notes: str | None = key(None, "note to show with the run in wandb")
    checkpoints: bool = key(False, "upload the checkpoints of the finished run as one wandb artifact")
    wait: float = key(30.0, "seconds to wait for wandb at the end of a run; dist-advss sync sends the rest", low=0)
