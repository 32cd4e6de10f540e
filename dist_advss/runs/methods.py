"""The method of a run in the paper's terms, from its configuration: P1 to P3, the pretext task, F1 to F4.

An evaluation names a checkpoint, its fine-tuning names an `init`, and that pre-training names its objective and attack.
`read.follow` finds each of these folders, also after a move or a copy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config.objectives import Joint
from ..config.protocols import PROTOCOLS
from ..config.pseudo_source import STARTS
from ..text import one_line
from .folders import lookup
from .metrics import number
from .read import Launch, Run, follow

UNKNOWN = "?"
PRETRAINED = ("P2", "P3")
LONGEST = 200  # letters of a task on a card


@dataclass(frozen=True)
class Method:
    """The paper's labels of one run; "?" if the chain is broken, None if the label does not apply.

    pretrain: P1 no pre-training, P2 standard, P3 adversarial
    task:     the pretext task of P2 and P3; a phrase if there are several
    finetune: F1 frozen and standard, F2 frozen and adversarial, F3 full and standard, F4 full and adversarial; or the title
              of the protocol, such as SLF
    loss:     the fine-tuning objective, "classify", "trades" or "mart"; "classify" for a protocol, whose title implies it
    joint:    whether several tasks were pre-trained together
    members:  the tasks of an ensemble's members, sorted
    """

    pretrain: str
    task: str | None = None
    finetune: str | None = None
    loss: str | None = None
    joint: bool = False
    members: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """ "P3→F4", "P3" for a pre-training alone, "P1→F4 (trades)" if the loss is not cross-entropy."""
        arrow = f"→{self.finetune}" if self.finetune else ""
        return f"{self.pretrain}{arrow}" + (f" ({self.loss})" if self.loss not in (None, "classify") else "")

    @property
    def full(self) -> str:
        """The label with its task: "P3→F4 rotation"."""
        return f"{self.label} {self.task}" if self.task else self.label

    @property
    def order(self) -> tuple[bool, bool, str, str, str, str]:
        """The sort key: P1 first, then task by task, P2 before P3, F1 to F4; joint tasks and ensembles last."""
        return (bool(self.members), self.joint, self.task or "", self.pretrain, self.finetune or "", self.loss or "")


def method_of(run: Run, launch: Launch) -> Method:
    """The labels of a pre-training, a fine-tuning or an evaluation."""
    if run.command == "pretrain":
        return _pretraining(run, launch)
    if lookup(run.config, "model.name") == "ensemble":
        return _ensemble(run, launch)
    tuned = finetune_of(run, launch)
    if tuned is None:
        return Method(UNKNOWN, None, UNKNOWN)
    kind, loss = _kind(tuned), _loss(tuned)
    if not lookup(tuned.config, "init"):
        # A run that has lost its config.yaml may have had an init.
        unknown = not tuned.config or of_others(tuned)
        return Method(UNKNOWN if unknown else "P1", None, UNKNOWN if unknown else kind, loss)
    return replace(before_init(tuned, launch), finetune=kind, loss=loss)


def before_init(run: Run, launch: Launch, later: tuple[Path, ...] = ()) -> Method:
    """The labels of the pre-training in `init`. An imported run has them from its card, as the folder is of another machine.

    `later` are the runs that led here, if any.
    """
    if "imported" in run.result:
        return _on_card(run.result.get("pretraining"))
    origin = follow(run, str(lookup(run.config, "init")), launch)
    return _pretraining(origin, launch, later) if origin else Method(UNKNOWN)


def _on_card(said: Any) -> Method:
    """The labels that `exchange` writes into a card; "?" for anything else."""
    if not isinstance(said, dict) or said.get("pretrain") not in PRETRAINED:
        return Method(UNKNOWN)
    task = said.get("task")
    return Method(
        said["pretrain"], None if task is None else one_line(str(task), LONGEST), joint=said.get("joint") is True
    )


def of_others(run: Run) -> bool:
    """Whether the weights of a run are those of another program, so that its configuration does not say how they were trained."""
    return "state_dict" in run.result or "published" in run.result


def finetune_of(run: Run, launch: Launch) -> Run | None:
    """The fine-tuning whose weights a run is about: that of an evaluation's checkpoint, or the fine-tuning itself.

    For an ensemble it is the first member, which represents what all share, such as data and seed. None if not found.
    """
    if run.command == "finetune":
        return run
    link = lookup(run.config, "checkpoint") or run.result.get("checkpoint")
    members = lookup(run.config, "model.members")
    if not link and isinstance(members, list) and members:
        link = members[0]
    found = follow(run, str(link), launch) if link else None
    return found if found and found.command == "finetune" else None


def origins_of(run: Run, launch: Launch) -> list[Run]:
    """The trainings that a training began with: `init`, a teacher, what labelled images. Those that cannot be found are left out."""
    links = [lookup(run.config, key) for key in STARTS]
    found = [follow(run, str(link), launch) for link in links if link]
    return [origin for origin in found if origin is not None]


def members_of(run: Run, launch: Launch) -> list[Run]:
    """The member runs of an ensemble; [] if one of them cannot be found."""
    links = lookup(run.config, "model.members")
    found = [follow(run, str(link), launch) for link in links] if isinstance(links, list) else []
    there = [member for member in found if member is not None]
    return there if len(there) == len(found) else []


def _pretraining(run: Run, launch: Launch, later: tuple[Path, ...] = ()) -> Method:
    """The labels of a pre-training. One that learned clusters of an encoder's features is that encoder's method, with ++."""
    if not run.config or run.path in later:
        return Method(UNKNOWN)
    if lookup(run.config, "pseudo.clusters") is not None:
        before = before_init(run, launch, (*later, run.path))
        attacked = _attacks(run) or before.pretrain == "P3"
        task = f"{(before.task or UNKNOWN).removesuffix('++')}++"
        return replace(before, pretrain="P3" if attacked else before.pretrain, task=task)
    task = str(lookup(run.config, "objective.name", UNKNOWN)).rpartition(":")[2]  # the class in FILE.py:CLASS
    joint = task == "joint"  # with the default tasks it is the published joint of three
    parts = lookup(run.config, "objective.tasks")
    if joint and isinstance(parts, list) and set(parts) != set(Joint().tasks):
        task = "joint of " + " & ".join(sorted(map(str, parts)))
    if joint and number(lookup(run.config, "objective.diversity.weight")) == 0:
        task += ", no diversity"
    elif joint and lookup(run.config, "objective.diversity.sign") == "reward":
        task += ", reward"
    if task == "simclr":
        task = _contrastive(run)
    return Method("P3" if _attacks(run) else "P2", task, joint=joint)


def _contrastive(run: Run) -> str:
    """The setting of SimCLR that has a name of its own: "acl", "dynacl" with all that it adds to it; else "simclr"."""
    added = [bool(lookup(run.config, f"objective.{key}")) for key in ("momentum", "anneal_every", "reweight")]
    if not lookup(run.config, "objective.dual_norms") or any(added) != all(added):
        return "simclr"
    return "dynacl" if all(added) else "acl"


def _ensemble(run: Run, launch: Launch) -> Method:
    """The labels that all members share, and the union of their tasks: P3→F4 ensemble of jigsaw & rotation & selfie."""
    methods = [method_of(member, launch) for member in members_of(run, launch)]
    if not methods:
        return Method(UNKNOWN, "ensemble", UNKNOWN)
    tuned = finetune_of(run, launch) if run.command == "finetune" or lookup(run.config, "checkpoint") else None
    pretrain, kind, loss = (
        values.pop() if len(values) == 1 else UNKNOWN
        for values in (
            {m.pretrain for m in methods},
            {_kind(tuned)} if tuned else {m.finetune or UNKNOWN for m in methods},
            {_loss(tuned)} if tuned else {m.loss or UNKNOWN for m in methods},
        )
    )
    tasks = sorted(m.task or "none" for m in methods)
    return Method(pretrain, "ensemble of " + " & ".join(dict.fromkeys(tasks)), kind, loss, members=tuple(tasks))


def _kind(tuned: Run) -> str:
    protocol = PROTOCOLS.get(str(lookup(tuned.config, "protocol")))
    if protocol is not None:
        return protocol.title
    frozen = lookup(tuned.config, "freeze", "none") != "none"
    return {(True, False): "F1", (True, True): "F2", (False, False): "F3", (False, True): "F4"}[frozen, _attacks(tuned)]


def _loss(tuned: Run) -> str:
    known = str(lookup(tuned.config, "protocol")) in PROTOCOLS
    return "classify" if known else str(lookup(tuned.config, "objective.name", "classify"))


def _attacks(run: Run) -> bool:
    return bool(lookup(run.config, "attack.steps", 0))
