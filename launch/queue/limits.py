"""The limits of a cluster: the tasks of an array, the jobs in the queue, and the cluster's name."""

from __future__ import annotations

import getpass
from dataclasses import dataclass

from ..profile import Slurm
from .slurm import NoAnswer, ask

ARRAY = 1001  # Slurm's default for MaxArraySize


@dataclass(frozen=True)
class Limits:
    """`array`: tasks of one array. `jobs`: jobs and tasks of this user in the queue, by what sets the limit; empty if nothing does.

    `cluster` is None if Slurm does not say.
    """

    cluster: str | None
    array: int
    jobs: dict[str, int]


def limits(settings: Slurm) -> Limits:
    """The limits for jobs of this profile. What Slurm does not answer counts as Slurm's default or as no limit."""
    configuration = _configuration()
    array = int(configuration.get("MaxArraySize") or ARRAY)
    for word in configuration.get("SchedulerParameters", "").split(","):
        name, _, value = word.partition("=")
        if name == "max_array_tasks" and value.isdigit():
            array = min(array, int(value))
    cluster = configuration.get("ClusterName")
    jobs = {}
    if configuration.get("MaxJobCount", "").isdigit():
        jobs["MaxJobCount"] = int(configuration["MaxJobCount"])
    if "limits" in configuration.get("AccountingStorageEnforce", "").lower():
        jobs |= of_accounting(settings, cluster)
    return Limits(cluster, max(1, array), jobs)


def cluster_name() -> str | None:
    """Slurm's name of this cluster; None if the controller does not answer."""
    return _configuration().get("ClusterName")


def of_accounting(settings: Slurm, cluster: str | None) -> dict[str, int]:
    """The submit limits of the user's associations and of the QOS, by name. Where several accounts are possible, the largest."""
    found = {}
    where = [f"user={getpass.getuser()}", *([f"cluster={cluster}"] if cluster else [])]
    where += [f"account={settings.account}"] if settings.account else []
    rows = _rows("show", "associations", *where, "format=MaxSubmitJobs")
    if rows and all(row.isdigit() for row in rows):  # an empty one has no limit
        found[f"MaxSubmitJobs of {f'account {settings.account}' if settings.account else 'your account'}"] = max(
            map(int, rows)
        )
    if settings.qos:
        rows = _rows("show", "qos", settings.qos, "format=MaxSubmitJobsPerUser")
        if rows and rows[0].isdigit():
            found[f"MaxSubmitJobsPerUser of qos {settings.qos}"] = int(rows[0])
    return found


def _rows(*words: str) -> list[str]:
    """The single column that sacctmgr prints, of numbers and empty rows; empty if it does not answer."""
    try:
        rows = ask("sacctmgr", "--noheader", "--parsable2", *words).splitlines()
    except NoAnswer:
        return []
    return [row for row in rows if not row or row.isdigit()]


def _configuration() -> dict[str, str]:
    """The lines of `scontrol show config` as a dictionary; empty if the controller does not answer."""
    try:
        lines = ask("scontrol", "show", "config").splitlines()
    except NoAnswer:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
