"""Starts and stops the devcluster's daemons. A start first ends the processes that an earlier devcluster left behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import configuration
from .configuration import GPUS, NODES, PORTS, Place

PROGRAMS = (
    "munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "srun", "sacct", "sacctmgr"
)  # fmt: skip
PACKAGES = Path(__file__).with_name("packages.txt")
PATIENCE = 60.0  # seconds that each daemon has to answer
LONGEST_SOCKET = 107  # bytes of the path of a Unix socket; slurmd starts no job whose socket has a longer one


class CannotRun(Exception):
    """The devcluster cannot run on this machine; the message is one line."""


class DevCluster:
    """The devcluster in `folder`, running or not. With `tied`, its daemons end with the process that started them.

    `more` are further lines for slurm.conf, such as those of a site that is to be tried. `name` is Slurm's name of it.
    """

    def __init__(self, folder: Path, tied: bool = False, more: str = "", name: str = "devcluster") -> None:
        self.folder = folder.absolute()
        self._tied = tied
        self._more = more
        self._name = name
        self._started: dict[str, tuple[int, Sequence[str]]] = {}  # each daemon's process and command

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which sbatch, squeue and the others reach this cluster."""
        return {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def start(self) -> None:
        """Starts every daemon and returns once four nodes are idle. Raises CannotRun."""
        refuse_where_impossible()
        socket_of_a_job = f"{self.folder}/spool/{NODES[0]}/{NODES[0]}_123456.4294967291"
        if len(os.fsencode(socket_of_a_job)) > LONGEST_SOCKET:
            raise CannotRun(f"{self.folder}: too long a path, as jobs have Unix sockets in it; choose a shorter one")
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        place = Place(self.folder, socket.gethostname().split(".")[0], free_ports(PORTS), self._name)
        try:
            self._write(place)
            self._start_munge(place)
            self._start_accounting(place)
            self._start_slurm(place)
        except OSError as error:  # for example a container that may not create devices
            self.stop()
            raise CannotRun(f"{error.filename or self.folder}: {error.strerror}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends every process of the cluster, jobs included; the folder's logs stay."""
        if (self.folder / "etc" / "slurm.conf").exists() and self._processes():
            self._slurm("scancel", "--state=RUNNING", "--state=PENDING", "--user=root", check=False, timeout=10)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            if self._wait(lambda: not self._processes(), 4.0):
                return
        raise CannotRun(f"{self.folder}: processes {self._processes()} of an earlier devcluster cannot be ended")

    def kill_node(self, node: str) -> None:
        """Simulates a power loss: kills the node's slurmd and every job process on it."""
        daemon = self._pid(f"slurmd-{node}")
        jobs = [p for p in self._processes() if _environment(p).get("SLURMD_NODENAME") == node or _stepd_of(p, node)]
        for process in filter(None, [daemon, *jobs]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def start_node(self, node: str) -> None:
        """Starts the node's slurmd again after `kill_node`."""
        self._spawn(f"slurmd-{node}", ["slurmd", "-D", "-N", node, "-f", self.environment["SLURM_CONF"]])

    def _write(self, place: Place) -> None:
        for name in ("etc", "munge", "state", "spool", "run", "log", "dev", "database", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        (self.folder / "munge").chmod(0o755)
        self._password = secrets.token_hex(16)
        _private(self.folder / "munge" / "munge.key", secrets.token_bytes(128))
        _private(self.folder / "database.sql", configuration.database_sql(self._password).encode())
        place.slurm_conf.write_text(configuration.slurm_conf(place) + self._more)
        _private(
            place.slurm_conf.with_name("slurmdbd.conf"), configuration.slurmdbd_conf(place, self._password).encode()
        )
        place.slurm_conf.with_name("gres.conf").write_text(configuration.gres_conf(place))
        for gpu in range(GPUS):
            os.mknod(self.folder / "dev" / f"gpu{gpu}", 0o666 | 0o020000, os.makedev(1, 3))  # /dev/null by another name
        (self.folder / "ports.json").write_text(json.dumps(place.ports))

    def _start_munge(self, place: Place) -> None:
        munge = self.folder / "munge"
        self._spawn(
            "munged",
            [
                "munged", "--foreground", "--force", f"--socket={place.munge_socket}", f"--key-file={munge}/munge.key",
                f"--log-file={self.folder}/log/munged.log", f"--pid-file={self.folder}/run/munged-own.pid",
                f"--seed-file={munge}/seed", "--num-threads=2",
            ],
        )  # fmt: skip
        self._expect(place.munge_socket.exists, "munged")

    def _start_accounting(self, place: Place) -> None:
        database = self.folder / "database"
        self._run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={database}", "--user=root",
             "--auth-root-authentication-method=socket", "--skip-test-db", f"--tmpdir={self.folder}/tmp"]
        )  # fmt: skip
        self._spawn(
            "mariadbd",
            [
                "mariadbd", "--no-defaults", "--user=root", f"--datadir={database}", f"--tmpdir={self.folder}/tmp",
                f"--socket={self.folder}/run/mariadb.sock", f"--pid-file={self.folder}/run/mariadb-own.pid",
                "--bind-address=127.0.0.1", f"--port={place.ports['database']}", f"--init-file={self.folder}/database.sql",
                "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900",
                "--skip-log-bin", "--max-connections=30",
            ],
        )  # fmt: skip
        self._expect(lambda: _answers(place.ports["database"]), "mariadbd")
        self._spawn("slurmdbd", ["slurmdbd", "-D"])
        self._expect(lambda: _answers(place.ports["accounting"]), "slurmdbd")
        known = self._slurm("sacctmgr", "--immediate", "add", "cluster", self._name, check=False)
        if known.returncode and "already exists" not in known.stdout + known.stderr:
            raise CannotRun(f"sacctmgr: {' '.join((known.stdout + known.stderr).split())}")

    def _start_slurm(self, place: Place) -> None:
        conf = self.environment["SLURM_CONF"]
        self._spawn("slurmctld", ["slurmctld", "-D", "-c", "-f", conf])
        self._expect(lambda: _answers(place.ports["controller"]), "slurmctld")
        for node in NODES:
            self.start_node(node)
        self._expect(lambda: self.idle_nodes() == list(NODES), *(f"slurmd-{node}" for node in NODES), "slurmctld")

    def idle_nodes(self) -> list[str]:
        """The names of the nodes that Slurm reports as idle."""
        listed = self._slurm(
            "sinfo", "--noheader", "--Node", "--partition=main", "--states=idle", "--format=%N %T", check=False
        )
        return [line.split()[0] for line in listed.stdout.splitlines() if line.split()[1:] == ["idle"]]

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        """Starts a daemon in the foreground of a new session. The folder holds its pid and its output."""
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                cwd=self.folder, preexec_fn=_end_with_parent if self._tied else None,
                env=_clean_environment(self.environment | {"DIST_ADVSS_DEVCLUSTER": str(self.folder)}),
            )  # fmt: skip
        (self.folder / "run" / f"{name}.pid").write_text(str(process.pid))
        self._started[name] = (process.pid, command)
        process.returncode = 0  # it outlives this process on purpose; this avoids Popen's warning

    def _expect(self, there: Callable[[], bool], *daemons: str) -> None:
        """Waits until `there()`. Raises CannotRun, with the last lines of a daemon's log, if one ends or it takes too long.

        A daemon that ends is started once more: Slurm 22.05's slurmctld can end in its first milliseconds without a word.
        """
        again = set(daemons)
        until = time.monotonic() + PATIENCE
        while not there():
            for name in daemons:
                process, command = self._started[name]
                ended, status = os.waitpid(process, os.WNOHANG)
                if not ended:
                    continue
                if name not in again:
                    raise CannotRun(f"{name} has ended twice, {_how(status)}: {self._last_words(name)}")
                again.remove(name)
                self._spawn(name, command)
            if time.monotonic() > until:
                raise CannotRun(f"{daemons[0]} does not answer: {self._last_words(daemons[0])}")
            time.sleep(0.05)

    def _last_words(self, name: str) -> str:
        logs = [self.folder / "log" / f"{name}.{end}" for end in ("out", "log")]
        said = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()[-3:]]
        return " | ".join(said) or "no output"

    def _wait(self, there: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not there():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def _pid(self, name: str) -> int | None:
        try:
            return int((self.folder / "run" / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None

    def _processes(self) -> list[int]:
        """The live processes of this cluster. Daemons have a mark in their environment, jobs the cluster's slurm.conf."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid() or not _alive(int(entry)):
                continue
            environment = _environment(int(entry))
            in_job = "SLURM_JOB_ID" in environment and environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]
            if in_job or environment.get("DIST_ADVSS_DEVCLUSTER") == str(self.folder):
                found.append(int(entry))
        return found

    def _slurm(self, *command: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        try:
            done = subprocess.run(
                command, env=_clean_environment(self.environment), capture_output=True, text=True, timeout=timeout, check=False
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            done = subprocess.CompletedProcess(command, 124, "", "no answer")
        if check and done.returncode:
            raise CannotRun(f"{' '.join(command)}: {' '.join((done.stdout + done.stderr).split())}")
        return done

    def _run(self, command: Sequence[str]) -> None:
        with (self.folder / "log" / f"{command[0]}.out").open("ab") as output:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
            ).returncode
        if code:
            raise CannotRun(f"{command[0]} ended with {code}; see {self.folder}/log/{command[0]}.out")


def refuse_where_impossible() -> None:
    """Raises CannotRun without root, or if the programs are missing and cannot be installed."""
    if os.geteuid() != 0:
        raise CannotRun("a devcluster needs root: slurmd starts jobs as their users")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing and shutil.which("apt-get"):
        install()
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise CannotRun(f"not installed: {', '.join(missing)}; on Debian: apt-get install {' '.join(packages())}")


def packages() -> list[str]:
    return PACKAGES.read_text().split()


def install() -> None:
    """Installs Debian's packages without starting their services (invoke-rc.d reads RUNLEVEL=1)."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages()]):
        subprocess.run(["apt-get", *command], env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)


def _end_with_parent() -> None:
    """Makes the kernel send this process a SIGTERM when its parent exits for any reason."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """An unused port of 127.0.0.1 for each name, below the range of outgoing connections."""
    ports: dict[str, int] = {}
    candidates = iter(range(17001 + secrets.randbelow(8000), 32000))
    for name in names:
        for port in candidates:
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            ports[name] = port
            break
    return ports


def _clean_environment(extra: dict[str, str]) -> dict[str, str]:
    """This process's environment without the variables of another Slurm or of a surrounding job."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH_", "SRUN_", "SUBMITIT_"))}
    return {**kept, **extra}


def _private(file: Path, content: bytes) -> None:
    file.touch(mode=0o600)
    file.write_bytes(content)


def _how(status: int) -> str:
    """How a process ended, by waitpid's status."""
    code = os.waitstatus_to_exitcode(status)
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _alive(process: int | None) -> bool:
    """Whether a process is running. A zombie is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def _environment(process: int) -> dict[str, str]:
    try:
        raw = Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in raw.decode(errors="replace").split("\0") if "=" in entry)


def _stepd_of(process: int, node: str) -> bool:
    """Whether a process is slurmstepd of this node: its sockets are named after it."""
    try:
        name = Path(f"/proc/{process}/comm").read_text().strip()
        parent_node = _environment(process).get("SLURMD_NODENAME", "")
        links = [os.readlink(f"/proc/{process}/fd/{fd}") for fd in os.listdir(f"/proc/{process}/fd")]
    except OSError:
        return False
    return name.startswith("slurmstepd") and (parent_node == node or any(f"slurmd-{node}" in link for link in links))
