"""`dist-advss doctor` checks this machine: what is installed, what is missing, how to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import netrc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from .errors import UserError

Verdict = Literal["ok", "missing", "optional"]
REQUIRED = (
    "torchvision",
    "numpy",
    "scipy",
    "hydra-core",
    "omegaconf",
    "pyyaml",
    "rich",
    "jinja2",
    "bokeh",
    "pandas",
    "pillow",
    "psutil",
    "safetensors",
    "submitit",
    "timm",
    "wandb",
)
INSTALL = "in the clone: make setup, or pip install --constraint constraints.txt --editable ."
FFCV_NEEDS = {  # a compiler, Python's headers, pkg-config, OpenCV, libjpeg-turbo
    "apt-get": "apt-get install g++ python3-dev pkg-config libopencv-dev libturbojpeg0-dev",
    "dnf": "dnf install gcc-c++ python3-devel pkgconf opencv-devel turbojpeg-devel (EPEL and CRB enabled)",
    "conda": "conda install -c conda-forge cxx-compiler pkg-config opencv libjpeg-turbo",
}
DECODER = "dist_advss.data.betons.decode"
WIDTH = 18  # of the longest name, data fashion_mnist
ROOM = 2e9  # bytes; about the size of a large model's checkpoints and its images
COLOURS = {"ok": "green", "missing": "red", "optional": "yellow"}


@dataclass(frozen=True)
class Finding:
    """One line. `verdict` is ok, missing (required) or optional (some features need it); `fix` is a command or an instruction."""

    what: str
    verdict: Verdict
    found: str
    fix: str = ""


def doctor() -> int:
    """Prints each finding as a line as soon as it is there. Returns 1 if a requirement is missing, else 0."""
    write = _writer()
    missing = []
    for finding in examine():
        write(finding)
        if finding.verdict == "missing":
            missing.append(finding.what)
    print(f"\n{'missing: ' + ', '.join(missing) if missing else 'all requirements are installed'}")
    return 1 if missing else 0


def examine() -> Iterator[Finding]:
    """Every finding about this machine. Imports torch; opens no connection."""
    yield Finding("Python", "ok", f"{sys.version.split()[0]} ({sys.executable})")
    # 1. torch, which the packages of 2 import as well.
    imported = torch()
    yield imported
    # 2. Copies of this process import them, all at once, while it goes through the rest.
    tried = {name: Trial(name) for name in ("torchvision", DECODER, "deepspeed")}
    if imported.verdict == "ok":
        yield from gpus()
    yield from map(package, REQUIRED)
    if imported.verdict == "ok":
        yield from torchvision(tried["torchvision"])
    yield ffcv(tried[DECODER], shutil.which, os.environ)
    yield extra(tried["deepspeed"], "shards optimiser state and weights", "pip install deepspeed")
    yield slurm(shutil.which)
    yield wandb_login(os.environ, Path.home())
    yield cpu()
    yield memory()
    yield disk(Path.cwd())
    yield from data_sets()


def as_line(finding: Finding) -> str:
    """The finding on one line, aligned with the others."""
    fix = f"; {finding.fix}" if finding.fix else ""
    return f"{finding.verdict:<8}  {finding.what:<{WIDTH}}  {finding.found}{fix}"


class Trial:
    """An import in a forked copy of this process, because compiled packages may crash or print.

    A copy has torch already, and is seconds faster than a new interpreter. It is made before anything uses a GPU, whose
    driver does not survive a fork.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 `error` reads it
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                for output in (1, 2):
                    os.dup2(self._said.fileno(), output)
                importlib.import_module(name)
                code = 0
            except BaseException as error:
                os.write(2, f"{_reason(error)}\n".encode(errors="backslashreplace"))
            finally:
                os._exit(code)

    def error(self) -> str | None:
        """Waits for the import. Returns the last line that it printed if it failed, else None."""
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        with self._said as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").strip().splitlines()
        return None if code == 0 else (lines or [f"exit code {code}"])[-1]


def torch() -> Finding:
    """torch, which is imported here: an installation can be broken in many ways."""
    try:
        import torch
    except Exception as error:
        return Finding("torch", "missing", _reason(error), INSTALL)
    return Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")


def torchvision(tried: Trial) -> Iterator[Finding]:
    """Nothing, or a version that does not fit torch, which appears only on import."""
    error = tried.error()
    if error is not None:
        yield Finding("torchvision", "missing", f"incompatible with this torch: {error}", INSTALL)


def gpus() -> Iterator[Finding]:
    """The GPUs that torch finds, or why it finds none."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield Finding(
                f"GPU {index}",
                "ok",
                f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}",
            )
    elif torch.version.cuda is None:
        yield Finding(
            "GPU", "optional", "this torch build supports CPUs only", "install a CUDA build of torch to use one"
        )
    elif shutil.which("nvidia-smi"):
        fix = f"install a driver that supports CUDA {torch.version.cuda}; see nvidia-smi"
        yield Finding("GPU", "optional", "nvidia-smi is installed, but torch finds no GPU", fix)
    else:
        yield Finding("GPU", "optional", "none; training runs on the CPU")


def package(name: str) -> Finding:
    """The installed version of a required package."""
    version = _version(name)
    return Finding(name, "ok", version) if version else Finding(name, "missing", "not installed", INSTALL)


def extra(tried: Trial, purpose: str, fix: str) -> Finding:
    """A package that some features need."""
    name = tried.name
    error = tried.error()
    if importlib.util.find_spec(name) is None:
        return Finding(name, "optional", f"not installed ({purpose})", fix)
    if error is not None:
        return Finding(name, "optional", f"{_version(name) or 'installed'}, but it cannot be imported: {error}", fix)
    return Finding(name, "ok", _version(name) or "installed")


def ffcv(tried: Trial, which: Callable[[str], str | None], environment: Mapping[str, str]) -> Finding:
    """Whether FFCV decodes .beton files here; if not, the missing system packages. `tried` has imported DECODER."""
    last = tried.error()
    if last is None:
        return Finding("ffcv", "ok", f"{_version('ffcv') or 'installed'}, decodes .beton files")
    absent = [] if which("pkg-config") is None else [name for name in ("opencv4", "libturbojpeg") if not _library(name)]
    found = f"{last.partition(': ')[2] or last} (reads large sets faster)"
    found += f"; pkg-config does not find {', '.join(absent)}" if absent else ""
    system = "conda" if environment.get("CONDA_PREFIX") else next(filter(which, ("apt-get", "dnf")), "conda")
    return Finding("ffcv", "optional", found, f"{FFCV_NEEDS[system]}, then make setup, or pip install ffcv numba")


def _library(name: str) -> bool:
    """Whether pkg-config finds a library."""
    return subprocess.run(["pkg-config", "--exists", name], check=False).returncode == 0


def slurm(which: Callable[[str], str | None]) -> Finding:
    """Whether Slurm's commands are installed and its controller responds."""
    absent = [command for command in ("sbatch", "sinfo", "squeue") if which(command) is None]
    if absent:
        return Finding(
            "Slurm", "optional", f"{', '.join(absent)} not installed", "log in to a node of the cluster to submit jobs"
        )
    try:
        answer = subprocess.run(
            ["sinfo", "--noheader", "--format=%P %D %G"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or _reason(error)
        return Finding(
            "Slurm",
            "optional",
            f"its controller does not respond ({' '.join(str(said).split())})",
            "start slurmctld, or contact the cluster's administrator",
        )
    lines = [line.split() for line in answer.stdout.splitlines()]
    partitions = [words for words in lines if len(words) == 3 and words[1][0].isdigit()]  # a wrapper may print more
    shown = ", ".join(f"{name.rstrip('*')} ({nodes} nodes, {gres})" for name, nodes, gres in partitions)
    return Finding("Slurm", "ok", f"partitions: {shown or 'none'}")


def wandb_login(environment: Mapping[str, str], home: Path) -> Finding:
    """Whether a wandb key is set, in the environment or in netrc. Never shows the key."""
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or "api.wandb.ai"
    if environment.get("WANDB_API_KEY"):
        return Finding("wandb login", "ok", "key in WANDB_API_KEY")
    file = Path(environment.get("NETRC") or home / ".netrc")
    try:
        known = netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    if known:
        return Finding("wandb login", "ok", f"key for {host} in {file}")
    return Finding(
        "wandb login",
        "optional",
        f"no key for {host}",
        "run wandb login, or set tracking.wandb=offline, which needs no key",
    )


def cpu() -> Finding:
    """Cores that this process may use."""
    usable, present = len(os.sched_getaffinity(0)), os.cpu_count()
    return Finding("CPU", "ok", f"{usable} cores" + (f" of {present}" if present != usable else ""))


def memory() -> Finding:
    """Main memory, in GB (1e9 bytes)."""
    import psutil

    memory = psutil.virtual_memory()
    return Finding("memory", "ok", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free")


def disk(folder: Path) -> Finding:
    """Free disk space in the folder for runs."""
    free = shutil.disk_usage(folder).free
    if free >= ROOM:
        return Finding("disk", "ok", f"{free / 1e9:.0f} GB free in {folder}")
    return Finding(
        "disk",
        "optional",
        f"{free / 1e9:.1f} GB free in {folder}",
        "may be too little for checkpoints; set out=… on another disk",
    )


def data_sets() -> Iterator[Finding]:
    """The sets that need no data.root: the included one, whose checksum must match, and Debian's."""
    try:
        from .config.compose import compose_data
        from .data import load_data
    except ImportError as error:
        yield Finding("data", "missing", _reason(error), INSTALL)
        return
    for name, verdict, fix in (
        ("fashion_mini", "missing", INSTALL),
        ("fashion_mnist", "optional", "apt-get install dataset-fashion-mnist, or data.root=FOLDER data.download=true"),
    ):
        try:
            images = len(load_data(compose_data([f"data={name}"]), "test", labelled=True))
        except UserError as error:
            yield Finding(
                f"data {name}", "missing" if verdict == "missing" else "optional", str(error).split(";")[0], fix
            )
        else:
            yield Finding(f"data {name}", "ok", f"{images:,} test images")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _reason(error: BaseException) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _writer() -> Callable[[Finding], None]:
    """Prints findings, in colour in a terminal. The first lines come before slow checks, so each line is flushed."""
    if not (sys.stdout.isatty() and importlib.util.find_spec("rich")):
        return lambda finding: print(as_line(finding), flush=True)
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)

    def write(finding: Finding) -> None:
        line = Text(as_line(finding))
        line.stylize(COLOURS[finding.verdict], 0, len(finding.verdict))
        console.print(line, soft_wrap=True)

    return write
