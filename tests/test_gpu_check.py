"""The GPU check runs without a GPU too, and with nothing but torch, numpy and what its script carries beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.carry import OURS, PURE, carry

ABSENT = ("PIL", "cv2", "deepspeed", "ffcv", "pandas", "scipy", "submitit", "timm", "torchvision", "wandb")
# Makes a stranger's machine of this one: packages that it lacks cannot be imported, others only from the folder.
STRANGER = f"""
import runpy, sys
from pathlib import Path

sys.modules.update(dict.fromkeys({ABSENT}))
sys.path.insert(0, "")
sys.argv[0] = "gpu"
try:
    runpy.run_module("benchmarks.gpu", run_name="__main__")
finally:
    for name in {(*PURE, *OURS)}:
        if name in sys.modules:
            assert Path(sys.modules[name].__file__).is_relative_to(Path.cwd()), name
"""


@pytest.mark.slow
def test_a_machine_with_torch_alone_runs_it_from_the_carried_folder(tmp_path: Path) -> None:
    carry(tmp_path / "carried")
    words = ["--device", "cpu", "--small", "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *words], cwd=tmp_path / "carried", capture_output=True, text=True, timeout=250, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {check["holds"] for check in found["checks"]} == {True}
    assert set(found["seconds"]) == {
        "peaks", "draws", "adversarial steps", "copies", "one process in a group", "training", "whole steps", "attacks",
    }  # fmt: skip
    assert all(figure["value"] >= 0 for figure in found["figures"])
    with pytest.raises(FileExistsError, match="holds files"):
        carry(tmp_path / "carried")


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from benchmarks.gpu.__main__ import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert main() == 2
    assert "finds no GPU" in capsys.readouterr().out
