"""A launch on Slurm: submits each stage that is not finished, queued or running exactly once, then returns."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from dist_advss.config.checks import check_world
from dist_advss.config.commands import trains
from dist_advss.config.schema import TrainConfig
from dist_advss.errors import RunError, UserError, nearest
from dist_advss.files import write_text
from dist_advss.runs.state import BROKEN, Status, read, why_skipped

from .. import graph, state
from ..experiment import configurations
from ..graph import Experiment, Stage
from ..profile import Slurm
from . import batches, held, script, slurm, snapshot, staging, tasks, unchanged
from .batches import Batch, Ref
from .environment import for_sbatch
from .forecast import as_job, forecast
from .journal import FOLDER, Journal
from .limits import ARRAY, cluster_name, limits
from .slurm import Job, Partition

PARSABLE = re.compile(r"(\d+)(;\S+)?")  # what `sbatch --parsable` prints
AT_ONCE = 16  # run folders that are written to at the same time
IN_FLIGHT = 5.0  # seconds until an sbatch whose launcher was killed has reached the queue, or never will


def refuse_impossible(directory: Path, experiment: Experiment, wanted: set[str], settings: Slurm) -> None:
    """Raises UserError if Slurm cannot run these stages with these settings, or if a script cannot contain the folder's name.

    It queues nothing. `sbatch --test-only` is the last check; it covers accounts, QOS and features.
    """
    unfit = [c for c in str(directory) if c in "%\\'\"`$;&|<>*?()[]{}!#" or not c.isprintable()]
    if unfit:
        raise UserError(f"out={directory}: a job script cannot contain {unfit[0]!r} in a path; choose another folder")
    known = slurm.partitions()
    stages = [stage for stage in experiment.stages.values() if stage.name in wanted]
    for command in dict.fromkeys(stage.command for stage in stages):
        needs = settings.of(command)
        if needs.source and not Path(needs.source).expanduser().is_file():
            raise UserError(f"{_key(settings, command, 'source')}={needs.source}: no such file")
        partition = needs.partition or for_sbatch(needs).get("SBATCH_PARTITION")
        chosen = partition.split(",") if partition else [p.name for p in known if p.default]
        for name in chosen:
            if name not in {p.name for p in known}:
                raise UserError(
                    f"{_key(settings, command, 'partition')}={name}: unknown partition; {nearest(name, {p.name for p in known})}"
                )
        there = [p for p in known if p.name in chosen]
        if there:
            _refuse_too_much(settings, command, there)
    _refuse_unshared_batches(directory, experiment, stages, settings)
    planned = batches.plan(stages, settings, {}, limits(settings).array)
    refuse_what_slurm_rejects(directory, planned)


def _refuse_too_much(settings: Slurm, command: str, there: Sequence[Partition]) -> None:
    """Raises UserError if a command's jobs need more than each of these partitions has."""
    needs = settings.of(command)
    cpus = needs.tasks * needs.cpus_per_task
    where = f"partition {','.join(dict.fromkeys(p.name for p in there))}"
    limits = (
        ("gpus_per_node" if needs.gpus_per_node else "gres", needs.gpus, max(p.gpus for p in there), "GPUs a node"),
        ("nodes", needs.nodes, sum(p.nodes for p in there), "nodes"),
        ("cpus_per_task", cpus, max(p.cpus for p in there), f"CPUs a node, and {command} runs {needs.tasks} tasks a node"),
        ("mem_gb", needs.mem_gb or 0, max(p.mem_gb for p in there), "GB a node"),
    )  # fmt: skip
    for name, needed, has, what in limits:
        if needed > has:
            value = getattr(needs, name)
            raise UserError(f"{_key(settings, command, name)}={value}: {where} has {has:g} {what}; lower it")
    longest = [p.minutes for p in there]
    if all(longest) and needs.minutes > max(p or 0 for p in longest):
        raise UserError(
            f"{_key(settings, command, 'minutes')}={needs.minutes}: {where} lets a job run for {max(p or 0 for p in longest)} minutes; "
            "lower it, a stage that needs longer is requeued and resumes"
        )


def _key(settings: Slurm, command: str, name: str) -> str:
    """The key with which the user set a value of this command's jobs: the command's own, unless the profile has the same."""
    alike = getattr(settings.of(command), name) == getattr(settings, name)
    return f"cluster.{name}" if alike else f"cluster.{command}.{name}"


def _refuse_unshared_batches(directory: Path, experiment: Experiment, stages: Sequence[Stage], settings: Slurm) -> None:
    """Raises UserError if the processes of a training cannot share its batches evenly."""
    shared = [s for s in stages if trains(s.command) and _ranks(settings, s) > 1]
    configs = configurations(experiment, directory) if shared else {}
    for stage in shared:
        config, ranks = configs[stage.name], _ranks(settings, stage)
        assert isinstance(config, TrainConfig)
        try:
            check_world(as_job(config, ranks), ranks)
        except UserError as error:
            raise UserError(f"stage {stage.name}: {error}") from error


def _ranks(settings: Slurm, stage: Stage) -> int:
    """The number of processes of this stage's job."""
    return settings.of(stage.command).ranks


def look(directory: Path, experiment: Experiment, found: Mapping[str, Job] | None = None) -> dict[str, Status]:
    """The state of every stage, from its folder and from its job in `found`, or in the queue now. Raises NoAnswer."""
    found = jobs(directory) if found is None else found
    return state.look(directory, experiment, held.explained(directory, found))


def jobs(directory: Path) -> dict[str, Job]:
    """The last job of each stage that was queued from this folder. Raises NoAnswer.

    Its state is FORGOTTEN if Slurm does not list it any more, ELSEWHERE if it is a job of another cluster.
    """
    latest = Journal(directory).latest()
    if not latest:
        return {}
    here = cluster_name()
    last = {}
    for stage, (submission, index) in latest.items():
        job = Job(submission.job(index), submission.name, "FORGOTTEN")
        elsewhere = here and submission.cluster not in (None, here)
        if elsewhere and read(directory / stage).state not in ("finished", "failed"):
            reason = f"job {job.id} belongs to cluster {submission.cluster}, and this is {here}"
            job = replace(job, state=slurm.ELSEWHERE, reason=reason)
        last[stage] = job
    known = slurm.jobs({job.id: job.name for job in last.values() if job.state != slurm.ELSEWHERE})
    return {stage: job if job.state == slurm.ELSEWHERE else known.get(job.id, job) for stage, job in last.items()}


def submit(
    directory: Path, experiment: Experiment, wanted: set[str], settings: Slurm, retry_failed: bool, lock: TextIO
) -> int:
    """Queues every wanted stage that is not finished, queued or running. Returns 1 if some cannot be queued, else 0.

    `lock` is the launch folder's. sbatch inherits it, so no other launcher reads the queue during a submission. Writes
    experiment.yaml first. Raises UserError before that if a stage in the queue would change, RunError if Slurm refuses a job;
    the jobs before it stay queued.
    """
    journal = Journal(directory)
    cluster = limits(settings)
    recover_intents(directory, journal, cluster.cluster)
    found = jobs(directory)
    unchanged.refuse_changes(directory, journal, experiment, found)
    graph.store(directory, experiment)
    for line in held.release(journal, found):
        print(line, flush=True)
    states = look(directory, experiment, found)
    todo = to_do(experiment, states, wanted, retry_failed)
    latest = journal.latest()
    places = {
        stage: Ref(latest[stage][0].name, latest[stage][1])
        for stage, current in states.items()
        if current.state in ("queued", "running") and stage in latest
    }
    planned = batches.plan(todo, settings, places, cluster.array)
    refuse_too_many(planned)
    refuse_what_slurm_rejects(directory, planned)
    code = snapshot.take(directory) if planned else None
    configs = configurations(experiment, directory) if planned else {}
    ids = {s.name: s.id for s in journal.submissions.values() if s.id}
    for batch in planned:
        assert code is not None
        with ThreadPoolExecutor(AT_ONCE) as pool:  # each waits for the disk
            list(pool.map(code.note, [directory / stage for stage in batch.stages.values()]))
        for stage in batch.stages.values():
            clear(directory, stage)
        staging.pack(directory, batch.settings)
        text = script.text(directory, batch, code.path, ids)
        file = directory / FOLDER / "scripts" / f"{batch.name}.sh"
        write_text(file, text)
        (directory / FOLDER / "output").mkdir(parents=True, exist_ok=True)
        told = _for_jobs(batch)
        tasks.write(directory, batch.name, tasks.of(batch, experiment, configs), code.hash, told)
        journal.intend(batch.name, batch.stages, code.hash, told)
        try:
            ids[batch.name] = sbatch(file, batch.settings, lock)
        except slurm.NoAnswer as error:
            tasks.void(directory, journal, batch.name)
            raise RunError(
                f"{', '.join(batch.stages.values())}: not queued: {error}. Run the same command again to resume."
            ) from error
        journal.queued(batch.name, ids[batch.name], cluster.cluster)
        _say(batch, ids)
    return _summarise(directory, experiment, wanted, states, todo, planned)


def refuse_too_many(planned: Sequence[Batch]) -> None:
    """Raises UserError if the cluster does not let the user queue as many jobs. Each task of an array counts. Raises NoAnswer.

    The limit of an account or of a QOS counts the jobs with that account or QOS only.
    """
    alike: dict[tuple[str | None, str | None], list[Batch]] = {}
    for batch in planned:
        alike.setdefault((batch.settings.account, batch.settings.qos), []).append(batch)
    counts: Counter[str] = Counter()
    allowed: dict[str, int] = {}
    for group in alike.values():
        for name, most in limits(group[0].settings).jobs.items():
            counts[name] += sum(len(batch.stages) for batch in group)
            allowed[name] = most
    if all(counts[name] <= most // 2 for name, most in allowed.items()):  # then it is not worth a look at the queue
        return
    there = sum(job.goes_on for job in slurm.in_queue().values())
    for name, most in allowed.items():
        if there + counts[name] > most:
            raise UserError(
                f"cluster: {counts[name]:,} stages are to be queued and {there:,} of your jobs are in the queue, but {name} allows "
                f"{most:,}; nothing was queued; launch in parts with --only PATTERN"
            )


def recover_intents(directory: Path, journal: Journal, cluster: str | None) -> None:
    """Completes or voids the intents of a launcher that was killed, by the job's name in the queue. Raises NoAnswer."""
    for submission in journal.open():
        time.sleep(max(0.0, IN_FLIGHT - max(0.0, time.time() - submission.time)))
        id = slurm.named(submission.name)
        if id is None or tasks.is_void(directory, submission.name):
            tasks.void(directory, journal, submission.name)
        else:
            journal.queued(submission.name, id, cluster)
            print(f"{submission.name}: queued by an earlier launch as job {id}")


def to_do(experiment: Experiment, states: Mapping[str, Status], wanted: set[str], retry_failed: bool) -> list[Stage]:
    """The wanted stages to queue, each after those it needs. Stages that need a failed one are left out unless it is retried."""
    chosen: dict[str, Stage] = {}
    for stage in experiment.stages.values():
        current = states[stage.name].state
        open_ = current in ("waiting", "stopped", "died", "skipped") or (current == "failed" and retry_failed)
        ready = all(need in chosen or states[need].state in ("finished", "queued", "running") for need in stage.needs)
        if open_ and ready and stage.name in wanted:
            chosen[stage.name] = stage
    return list(chosen.values())


def clear(directory: Path, stage: str) -> None:
    """Removes the stage's last state before it runs again."""
    (directory / stage / "state.json").unlink(missing_ok=True)


def sbatch(file: Path, settings: Slurm, lock: TextIO | None = None) -> str:
    """Submits a script and returns the job's id. Raises NoAnswer with sbatch's message.

    The id is the last line that is one, as 17 or 17;cluster: a site's wrapper may print more.
    """
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(file)], capture_output=True, text=True, timeout=300, check=False,
            env=for_sbatch(settings), pass_fds=(lock.fileno(),) if lock else (),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise slurm.NoAnswer(f"sbatch: {error}") from error
    if done.returncode:
        raise slurm.NoAnswer(slurm.complaint(done.stderr))
    ids = [match[1] for line in done.stdout.splitlines() if (match := PARSABLE.fullmatch(line.strip()))]
    if not ids:
        said = " ".join(f"{done.stdout} {done.stderr}".split())
        raise slurm.NoAnswer(f"sbatch named no job, it printed {said[:200]!r}")
    return ids[-1]


def refuse_what_slurm_rejects(directory: Path, planned: Sequence[Batch]) -> None:
    """Checks every batch with `sbatch --test-only`, once for those that differ in names only. Raises UserError."""
    different = {(batch.command, tuple(batch.stages)): batch for batch in planned}
    with tempfile.TemporaryDirectory() as folder:
        for batch in different.values():
            alone = replace(batch, after=(), beside=())
            file = Path(folder) / "job.sh"
            file.write_text(script.text(directory, alone, Path(folder), {}))
            done = subprocess.run(
                ["sbatch", "--test-only", str(file)], capture_output=True, text=True, check=False, env=for_sbatch(batch.settings)
            )  # fmt: skip
            if done.returncode:
                raise UserError(f"cluster: Slurm rejects a {batch.command} job: {slurm.complaint(done.stderr)}")


def dry_run(directory: Path, experiment: Experiment, wanted: set[str], settings: Slurm) -> None:
    """Prints every script that a launch into an empty folder would submit, and its estimates. Writes nothing."""
    planned = batches.plan([s for s in experiment.stages.values() if s.name in wanted], settings, {}, ARRAY)
    code = snapshot.describe(directory)
    ids = {batch.name: f"ID{number}" for number, batch in enumerate(planned, 1)}
    for batch in planned:
        print(f"\n==== {ids[batch.name]}: {', '.join(batch.stages.values())} ====")
        print(script.text(directory, batch, code.path, ids))
    print("\n==== estimates ====")
    chosen = [stage for stage in experiment.stages.values() if stage.name in wanted]
    for line in forecast(configurations(experiment, directory), chosen, settings):
        print(line)


def _for_jobs(batch: Batch) -> dict[str, Any]:
    """The settings of the profile that the jobs read, and the number of processes of each."""
    read = {
        name: getattr(batch.settings, name)
        for name in ("max_requeues", "avoid_bad_nodes", "check_gpus", "join_seconds")
    }
    return read | {"ranks": batch.settings.ranks}


def _say(batch: Batch, ids: Mapping[str, str]) -> None:
    after = batch.dependency(ids)
    what = ", ".join(batch.stages.values())
    size = f"{batch.settings.nodes} x {batch.settings.tasks}"
    print(f"job {ids[batch.name]}: {what}  [{size} tasks]{f'  {after}' if after else ''}", flush=True)


def _summarise(
    directory: Path, experiment: Experiment, wanted: set[str], states: Mapping[str, Status], todo: Sequence[Stage], planned: Sequence[Batch]
) -> int:  # fmt: skip
    """Prints the wanted stages that were not queued, the number of those that were, and the next commands."""
    queued = {stage.name for stage in todo}
    left = 0
    for stage in experiment.stages.values():
        if stage.name not in wanted or stage.name in queued:
            continue
        current = states[stage.name]
        broken = [need for need in stage.needs if states[need].state in (*BROKEN, "stopped") and need not in queued]
        if current.state in ("finished", "running", "queued"):
            print(f"{stage.name}: {current.state} already{f' (job {current.job})' if current.job else ''}")
        elif current.state == "failed":
            left += 1
            print(f"{stage.name}: failed: {current.error}; fix the cause, then launch again with --retry-failed")
        else:
            left += 1
            print(f"{stage.name}: not queued: {why_skipped(broken[0], states[broken[0]]) if broken else current.state}")
    print(f"\n{experiment.name} in {directory}: {len(todo)} stages queued in {len(planned)} jobs")
    print(
        f"follow: dist-advss status {directory} --watch    logs: dist-advss logs {directory} STAGE    stop: dist-advss cancel {directory}"
    )
    return 1 if left else 0
