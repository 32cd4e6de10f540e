"""The texts of the devcluster's configuration files. Every path is inside its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NODES = ("node1", "node2", "node3", "node4")
GPUS = 4  # slots of each node
CPUS = 8
MEMORY = 4000  # MB
PORTS = ("controller", "accounting", "database", *NODES)


@dataclass(frozen=True)
class Place:
    """The devcluster's folder, this host's short name, a port for each of `PORTS`, and Slurm's name of the cluster."""

    folder: Path
    host: str
    ports: dict[str, int]
    cluster: str = "devcluster"

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.folder / "munge" / "munge.socket"


def slurm_conf(place: Place) -> str:
    """The text of slurm.conf. `cred_expire`, in seconds, is also the delay of a requeued job (Slurm's default is 120).

    A busy machine starts a batch script late; Slurm's own patience of 10 seconds with messages and starts would lose the job.
    """
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={place.host} NodeAddr=127.0.0.1 Port={place.ports[node]} "
        f"CPUs={CPUS} RealMemory={MEMORY} Gres=gpu:{GPUS} State=UNKNOWN"
        for node in NODES
    )
    return f"""\
ClusterName={place.cluster}
SlurmctldHost={place.host}(127.0.0.1)
SlurmctldPort={place.ports["controller"]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place.munge_socket},cred_expire=5
CredType=cred/munge
StateSaveLocation={place.folder}/state
SlurmdSpoolDir={place.folder}/spool/%n
SlurmctldPidFile={place.folder}/run/slurmctld.pid
SlurmdPidFile={place.folder}/run/slurmd-%n.pid
SlurmctldLogFile={place.folder}/log/slurmctld.log
SlurmdLogFile={place.folder}/log/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
GresTypes=gpu
ReturnToService=2
MessageTimeout=30
BatchStartTimeout=60
SlurmctldTimeout=10
SlurmdTimeout=15
KillWait=15
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={place.ports["accounting"]}
AccountingStoreFlags=job_comment
AccountingStoragePass={place.munge_socket}
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL MaxTime=1:00:00 State=UP PriorityTier=10 PreemptMode=OFF
"""


def slurmdbd_conf(place: Place, password: str) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={place.munge_socket}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={place.ports["accounting"]}
SlurmUser=root
LogFile={place.folder}/log/slurmdbd.log
PidFile={place.folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={place.ports["database"]}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""


def gres_conf(place: Place) -> str:
    return f"AutoDetect=off\nName=gpu File={place.folder}/dev/gpu[0-{GPUS - 1}]\n"


def database_sql(password: str) -> str:
    return (
        f"CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        "CREATE DATABASE IF NOT EXISTS slurm_acct_db;\n"
        "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';\n"
    )
