"""What a profile asks of a particular site: extra options, a wrapper, resources by name, networks, profiles by command."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_advss.errors import UserError
from launch.fabrics import FABRICS
from launch.fits import DECIDED, KEY_OF
from launch.graph import Stage
from launch.profile import OF_A_PROFILE, Slurm, choose, gpus_in
from launch.queue.journal import Journal
from launch.submit import launch
from tests.launch.test_profiles import flags, text


def slurm(*words: str, cluster: str = "slurm") -> Slurm:
    settings = choose(cluster, [f"cluster.{word}" for word in words])
    assert isinstance(settings, Slurm)
    return settings


def srun_of(shown: str) -> list[str]:
    """The words of the line that starts the ranks."""
    (line,) = [line for line in shown.splitlines() if line.startswith("srun ")]
    return shlex.split(line)


def added(*words: str) -> tuple[dict[str, str], list[str]]:
    """The #SBATCH options and the words of srun that these words add to, or change in, the script of a default profile."""
    before, after = text(Slurm()), text(slurm(*words))
    options = {
        name: value for name, value in flags(after).items() if name != "job-name" and flags(before).get(name) != value
    }
    known = srun_of(before)[:-1]
    return options, [word for word in srun_of(after)[:-1] if word not in known]


@pytest.mark.parametrize(
    ("words", "options", "srun"),
    [
        (["sbatch=[nice=100,contiguous]"], {"nice": "100", "contiguous": ""}, []),
        (["sbatch=['licenses=matlab:2,ansys','comment=two words']"], {"licenses": "matlab:2,ansys", "comment": "two words"}, []),
        (["srun=[cpu-bind=cores,exact,'network=single sn']"], {}, ["--cpu-bind=cores", "--exact", "--network=single sn"]),
        (["exclusive=true", "mem_gb=0"], {"exclusive": "", "mem": "0"}, []),
        (["mem_gb=0.0001"], {"mem": "1M"}, []),  # not rounded down to all memory
        (["reservation=conf,maint"], {"reservation": "conf,maint"}, []),
        (["gres=gpu:a100:4,nvme:1"], {"gres": "gpu:a100:4,nvme:1", "ntasks-per-node": "4"}, []),
        (["gres=lustre:1", "gpus_per_node=2"], {"gres": "lustre:1", "gpus-per-node": "2", "ntasks-per-node": "2"}, []),
        (["cpus_per_task=6"], {"cpus-per-task": "6"}, ["--cpus-per-task=6"]),
        (["wrap=apptainer exec --nv '/my images/x.sif'"], {}, ["apptainer", "exec", "--nv", "/my images/x.sif"]),
        (["wrap=numactl -l", "container=i", "python=/py"], {}, ["--container-image=i", "numactl", "-l", "/py"]),
    ],
)  # fmt: skip
def test_a_key_becomes_options_of_sbatch_and_words_of_srun_and_changes_nothing_else(
    words: list[str], options: dict[str, str], srun: list[str]
) -> None:
    assert added(*words) == (options, srun)


def test_the_wrapper_stands_between_srun_and_the_python_of_the_ranks() -> None:
    shown = text(slurm("wrap=numactl --cpunodebind=0"))
    words = srun_of(shown)
    at = words.index("numactl")
    assert words[at - 1].startswith("--") and words[at : at + 4] == ["numactl", "--cpunodebind=0", sys.executable, "-u"]
    assert [line for line in shown.splitlines() if "numactl" in line] == [shown[shown.index("srun ") :].splitlines()[0]]
    python = srun_of(text(slurm("wrap=apptainer exec x.sif", "python=python3")))
    assert python[python.index("x.sif") + 1] == "python3"


# fmt: off
TEXTS = {  # each text key, with the place in its value where an attempt to run something may be
    "partition": ["{}"], "account": ["{}"], "qos": ["{}"], "reservation": ["{}"], "constraint": ["{}"], "gpu_type": ["{}"],
    "gres": ["gpu:{}"], "exclude": ["{}"], "mail": ["{}@x.org"], "source": ["{}"], "stage_env": ["/{}"],
    "container": ["{}"], "wrap": ["{}"], "python": ["{}"],
    "modules": ["{}"], "mounts": ["/a:{}"], "environment": ["{}=1"], "sbatch": ["nice={}"], "srun": ["network={}"],
}
LISTS = ("modules", "mounts", "environment", "sbatch", "srun")
QUOTED = "x' --wrap='reboot"
HARMLESS = {("wrap", QUOTED), ("constraint", "x|reboot")}  # words, and two features; both are quoted in the script
ATTEMPTS = [
    "x; reboot", "x\n#SBATCH --uid=root", "x\nreboot", "x\rreboot", "$(reboot)", "`reboot`", QUOTED, 'x"reboot', "x|reboot", "x>file",
    "x\\", "x\0",
]
# fmt: on


def test_every_text_of_a_profile_is_tried() -> None:
    texts = {name for name, kind in Slurm.__annotations__.items() if name in OF_A_PROFILE and "str" in kind}
    assert texts == set(TEXTS) | {"fabric"}  # a fabric is one of a few names


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("key", TEXTS)
def test_an_attempt_to_run_something_is_refused_in_one_line(key: str, attempt: str, tmp_path: Path) -> None:
    if (key, attempt) in HARMLESS:
        return
    value = [text.format(attempt) for text in TEXTS[key]]
    own = {key: value if key in LISTS else value[0]}
    for content, node in ((own, "cluster"), ({"pretrain": own}, "cluster.pretrain")):
        (tmp_path / "own.yaml").write_text(yaml.safe_dump({"name": "slurm", **content}))
        with pytest.raises(UserError, match=r"not fit for a job script|holds a control character") as caught:
            choose(str(tmp_path / "own.yaml"))
        assert str(caught.value).startswith(f"{node}.{key}=")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("program", ["sbatch", "srun"])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("array=0-9", "the launcher decides --array; leave it out"),
        ("dependency=afterok:1", "the launcher decides"),
        ("job-name=x", "the launcher decides"),
        ("output=/dev/null", "the launcher decides"),
        ("signal=TERM@10", "the launcher decides"),
        ("requeue", "the launcher decides"),
        ("no-requeue", "the launcher decides"),
        ("export=NONE", "the launcher decides"),
        ("wait=5", "the launcher decides"),
        ("kill-on-bad-exit=1", "the launcher decides"),
        ("partition=x", r"--partition has a key of the profile; set cluster\.partition=…"),
        ("mem=5G", r"set cluster\.mem_gb=…"),
        ("gpus=3", r"set cluster\.gpus_per_node=…"),
        ("time=5", r"set cluster\.minutes=…"),
        ("arr=0-9", "Slurm would read it as --array, which a profile may not add; write the option in full"),
        ("no", "Slurm would read it as --no"),
        ("--nice=5", "write NAME or NAME=VALUE without --"),
        ("-N2", "write NAME or NAME=VALUE"),
        ("nice 5", "write NAME or NAME=VALUE"),
        ("nice=", "write NAME or NAME=VALUE"),
        ("Nice=5", "write NAME or NAME=VALUE"),
    ],
)
def test_an_option_that_is_not_the_profile_s_to_add_is_refused(program: str, option: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        slurm(f"{program}=['{option}']")
    assert str(caught.value).startswith(f"cluster.{program}='{option}': ")


def test_an_option_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"cluster\.pretrain\.srun='nice=5': --nice is given twice; keep one"):
        slurm("pretrain.srun=[nice=5,nice=6]")


def test_the_script_sets_no_option_that_a_profile_could_set_again() -> None:
    everything = slurm(
        "partition=p", "account=a", "qos=q", "reservation=r", "constraint=c", "gpus_per_node=1", "gres=nvme:1", "mem_gb=1",
        "exclusive=true", "exclude=n1", "mail=a@b.c", "container=i", "mounts=['/a:/b']",
    )  # fmt: skip
    shown = text(everything, Path("/out"), Stage("a", "pretrain", (), ()), Stage("b", "pretrain", (), ()))
    of_srun = {word[2:].partition("=")[0] for word in srun_of(shown) if word.startswith("--")}
    assert set(flags(shown)) | of_srun <= set(KEY_OF) | DECIDED


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        ("apptainer exec 'open", "close the quotes"),
        ("--nv x", "write a program"),
        ("run $HOME/x.sif", 'exec "\\$@"'),
        ("a && b", "No shell"),
    ],
)
def test_a_wrapper_that_could_not_work_is_refused(wrap: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        slurm(f"wrap={wrap}")


def test_the_number_of_threads_and_the_network_come_first_and_environment_last(tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_text("export NCCL_IB_DISABLE=$OMP_NUM_THREADS\n")
    shown = text(slurm("cpus_per_task=7", "fabric=socket", f"source={tmp_path}/setup.sh", "environment=[NCCL_NET=Own]"))
    lines = shown[: shown.index("# command")].splitlines()
    exports = "\n".join([*(line for line in lines if line.startswith(("export", "source"))), "env"])
    login = {"OMP_NUM_THREADS": "1", "PATH": "/bin:/usr/bin"}
    done = subprocess.run(["bash", "-c", exports], env=login, capture_output=True, text=True, check=True)
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert (seen["OMP_NUM_THREADS"], seen["NCCL_NET"], seen["NCCL_IB_DISABLE"]) == ("7", "Own", "7")
    assert seen["NCCL_SOCKET_IFNAME"] == FABRICS["socket"]["NCCL_SOCKET_IFNAME"]


def test_each_fabric_names_its_network_and_a_wrong_name_is_refused() -> None:
    assert {name: variables["NCCL_NET"] for name, variables in FABRICS.items()} == {
        "socket": "Socket", "ib": "IB", "efa": "AWS Libfabric",
    }  # fmt: skip
    assert "NCCL_NET" not in text(Slurm())
    with pytest.raises(UserError, match=r"cluster\.fabric=rdma"):
        slurm("fabric=rdma")


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        (None, 0),
        ("gpu", 1),
        ("gpu:4", 4),
        ("gpu:a100", 1),
        ("gpu:a100:4", 4),
        ("nvme:2,gpu:2", 2),
        ("gpu:a:1,gpu:b:2", 3),
        ("gpufs:3", 0),
    ],
)
def test_gpus_are_counted_in_generic_resources(gres: str | None, gpus: int) -> None:
    assert gpus_in(gres) == gpus
    assert Slurm(gres=gres).tasks == max(1, gpus)


def test_two_keys_that_ask_for_gpus_contradict_each_other() -> None:
    with pytest.raises(UserError, match=r"cluster\.gres=gpu:2: cluster\.gpus_per_node=1 asks for GPUs as well"):
        slurm("gres=gpu:2", "gpus_per_node=1")
    with pytest.raises(
        UserError, match=r"cluster\.pretrain\.gpus_per_node=8: .* gres=gpu:2; set cluster\.pretrain\.gres"
    ):
        slurm("gres=gpu:2", "pretrain.gpus_per_node=8")
    settings = slurm("gres=gpu:2", "pretrain.gres=gpu:8", "exclusive=true")
    assert (settings.of("pretrain").ranks, settings.of("finetune").ranks) == (8, 2)
    report = settings.of("report")
    assert (report.ranks, report.gres, report.exclusive) == (1, None, False)  # it needs no GPU and no node of its own


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with gpu.yaml, which sends reports to cpu.yaml beside it. The working directory is another one."""
    (tmp_path / "gpu.yaml").write_text(
        "{name: slurm, partition: gpu, account: a, gres: 'gpu:4', minutes: 600, report: {profile: cpu.yaml, minutes: 5}}"
    )
    (tmp_path / "cpu.yaml").write_text(
        "{name: slurm, partition: cpu, account: b, cpus_per_task: 2, minutes: 60, pretrain: {nodes: 3}, modules: [gcc]}"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def test_a_command_may_have_a_profile_of_its_own(profiles: Path) -> None:
    def shown(settings: Slurm) -> tuple[Any, ...]:
        return settings.partition, settings.account, settings.nodes, settings.tasks, settings.minutes, settings.modules

    settings = slurm(f"evaluate.profile={profiles}/cpu.yaml", "evaluate.nodes=2", cluster=f"{profiles}/gpu.yaml")
    assert shown(settings.of("pretrain")) == ("gpu", "a", 1, 4, 600, [])
    assert shown(settings.of("evaluate")) == ("cpu", "b", 2, 1, 60, ["gcc"])
    assert shown(settings.of("report")) == ("cpu", "b", 1, 1, 5, ["gcc"])
    moved = slurm("pretrain.profile=../cpu.yaml", "pretrain.minutes=9", cluster="../gpu.yaml")  # where the user is
    assert shown(moved.of("pretrain")) == ("cpu", "b", 3, 1, 9, ["gcc"])
    back = slurm("report.profile=null", cluster=f"{profiles}/gpu.yaml")
    assert shown(back.of("report")) == ("gpu", "a", 1, 1, 5, [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report.profile=cpu"], r"cluster\.report\.profile=cpu: no such file in configs/cluster; .*\./mine\.yaml"),
        (["report.profile=none.yaml"], r"cluster\.report\.profile=none\.yaml: cannot be read"),
        (["report.profile=local"], r"cluster\.report\.profile=local: a profile of kind local; name one of kind slurm"),
        (["report.profile=../gpu.yaml"], r"cluster\.report\.profile=\.\./gpu\.yaml: names another profile for report, cpu\.yaml"),
        (["profile=cpu.yaml"], r"cluster\.profile: no such key in cluster"),
        (["report.name=slurm"], r"cluster\.report\.name: no such key in cluster\.report"),
        (["report.by_command=x"], r"cluster\.report\.by_command: no such key"),
        (["report.profile=../bad.yaml"], r"cluster\.report\.profile=\.\./bad\.yaml: cluster\.minuts: no such key .*'minutes'"),
        (["report.profile=../sly.yaml"], r"cluster\.report\.partition='a; b': not fit for a job script"),
    ],
)  # fmt: skip
def test_a_wrong_profile_of_a_command_is_refused(words: list[str], said: str, profiles: Path) -> None:
    (profiles / "bad.yaml").write_text("{name: slurm, minuts: 5}")
    (profiles / "sly.yaml").write_text("{name: slurm, partition: 'a; b'}")
    with pytest.raises(UserError, match=said):
        slurm(*words)


def test_dry_run_shows_each_command_with_its_profile(
    chain: str, profiles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        launch(chain, f"{profiles}/gpu.yaml", "out", [f"cluster.evaluate.profile={profiles}/cpu.yaml"], dry_run=True)
        == 0
    )
    jobs = capsys.readouterr().out.split("\n==== ")[1:]
    found = {job.partition(": ")[2].partition(" ====")[0]: flags(job)["partition"] for job in jobs if "#SBATCH" in job}
    assert found == {
        "p3_pretrain": "gpu", "p1_finetune": "gpu", "p3_finetune": "gpu", "p1_evaluate": "cpu", "p3_evaluate": "cpu",
    }  # fmt: skip


MANY = "stages: {'p_{n}': {matrix: {n: [0, 1, 2, 3, 4]}, command: pretrain, overrides: ['seed={n}']}, r: {command: report}}"


def test_the_jobs_of_each_command_are_checked_in_its_partition(write: Any, tmp_path: Path, fake_slurm: Any) -> None:
    for words, said in (
        (["report.partition=bigg"], r"cluster\.report\.partition=bigg: unknown partition; did you mean 'big'"),
        (["report.partition=big", "report.nodes=3"], r"cluster\.report\.nodes=3: partition big has 2 nodes; lower it"),
        (["gres=gpu:5"], r"cluster\.gres=gpu:5: partition main has 4 GPUs a node"),
        (["report.source=none.sh"], r"cluster\.report\.source=none\.sh: no such file"),
    ):
        with pytest.raises(UserError, match=said):
            launch(write(MANY), "slurm", tmp_path / "out", [f"cluster.{word}" for word in words])
    assert not fake_slurm.jobs


def test_the_limit_of_an_account_counts_the_jobs_of_that_account(write: Any, tmp_path: Path, fake_slurm: Any) -> None:
    fake_slurm.configures(AccountingStorageEnforce="limits")
    fake_slurm.limits(associations=["5"])
    with pytest.raises(UserError, match=r"6 stages are to be queued and 0 .* MaxSubmitJobs of account a allows 5"):
        launch(write(MANY), "slurm", tmp_path / "out", ["cluster.account=a"])
    words = ["cluster.account=a", "cluster.report.account=b", "cluster.report.max_requeues=3"]
    assert launch(write(MANY), "slurm", tmp_path / "out", words) == 0
    assert len(fake_slurm.jobs) == 6
    found = {
        s.stages.get(-1, "array"): s.settings["max_requeues"] for s in Journal(tmp_path / "out").submissions.values()
    }
    assert found == {"array": 50, "r": 3}
