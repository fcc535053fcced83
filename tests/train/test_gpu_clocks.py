"""A GPU's clocks during a training: set by nvidia-smi, reset however it ends, and a clear word where they cannot be."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model import Store
from model.cli.main import main
from model.errors import DeviceError
from model.train import gpu_clocks
from tests.support.service import ROOT

GPU = "GPU-ffc79498"
SET, RESET = f"-i {GPU} -ac 2619,1980", f"-i {GPU} -rac"
TRAINING = f"""
import sys, time
from model.train.gpu_clocks import application_clocks
with application_clocks((2619, 1980), {GPU!r}):
    print("training", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program nvidia-smi on the path that writes what it is asked to the file that is returned."""
    log = tmp_path / "asked"
    install(tmp_path, f'echo "$*" >> {log}')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return log


def install(folder: Path, script: str) -> None:
    """Write nvidia-smi as a script of the shell."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_clocks_are_set_and_reset(asked: Path) -> None:
    """The clocks are set before the block and reset after it; the handling of SIGTERM is as before."""
    before = signal.getsignal(signal.SIGTERM)
    with gpu_clocks.application_clocks((2619, 1980), GPU):
        assert asked.read_text().splitlines() == [SET]

    assert asked.read_text().splitlines() == [SET, RESET]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_clocks_are_reset_after_an_exception(asked: Path, error: type[BaseException]) -> None:
    """Whatever ends the block, the clocks are reset, and the exception goes on."""
    with pytest.raises(error), gpu_clocks.application_clocks((2619, 1980), GPU):
        raise error

    assert asked.read_text().splitlines() == [SET, RESET]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_clocks_are_reset_after_a_signal(asked: Path, number: int, code: int) -> None:
    """A process that gets SIGTERM or Ctrl-C resets the clocks and ends as it would without them."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "training\n"
    process.send_signal(number)

    assert process.wait(30) == code
    assert asked.read_text().splitlines() == [SET, RESET]
    process.stdout.close()


def test_signals_during_the_reset_wait_for_it(asked: Path, tmp_path: Path) -> None:
    """A second Ctrl-C keeps neither the process nor its nvidia-smi from the reset."""
    resetting = tmp_path / "resetting"
    install(tmp_path, f'case "$*" in *-rac) touch {resetting}; sleep 0.5;; esac; echo "$*" >> {asked}')
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "training\n"
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 30
    while not resetting.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: nvidia-smi gets it, too

    assert process.wait(30) == -signal.SIGINT
    assert asked.read_text().splitlines() == [SET, RESET]
    process.stdout.close()


def test_refusal_is_reported(asked: Path, tmp_path: Path) -> None:
    """What nvidia-smi says when it refuses is in the error, with what to do; the block does not run."""
    install(tmp_path, f'echo "$*" >> {asked}; echo "The current user does not have permission"; exit 4')

    with pytest.raises(DeviceError) as caught, gpu_clocks.application_clocks((2619, 1980), GPU):
        raise AssertionError("the training started")
    assert str(caught.value) == (
        "nvidia-smi -ac 2619,1980 is refused: The current user does not have permission; it needs root, or nvidia-smi "
        "-acp UNRESTRICTED, and clocks that nvidia-smi -q -d SUPPORTED_CLOCKS lists; or leave --gpu-clocks out"
    )
    assert asked.read_text().splitlines() == [SET]


def test_reset_that_fails_is_logged(asked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the reset is refused, the result is kept, and the log has the command to run."""
    install(tmp_path, 'case "$*" in *-rac) echo no; exit 4;; esac')
    with gpu_clocks.application_clocks((2619, 1980), GPU):
        pass

    assert caplog.messages[0].startswith("the application clocks were not reset: nvidia-smi -rac is refused: no; ")
    assert caplog.messages[0].endswith(f"run nvidia-smi -i {GPU} -rac")


def test_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no nvidia-smi, the error says so."""
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = pytest.raises(DeviceError, match="needs nvidia-smi, which is not installed")
    with missing, gpu_clocks.application_clocks((2619, 1980), GPU):
        raise AssertionError("the training started")


@pytest.mark.parametrize("text", ["", "2619", "2619,", ",1980", "2619,1980,1", "a,b", "0,1980", "-1,5", "1.5,2"])
def test_other_texts_are_no_clocks(text: str) -> None:
    """Only two whole numbers above 0 are clocks."""
    assert gpu_clocks.parse("2619,1980") == (2619, 1980)
    with pytest.raises(argparse.ArgumentTypeError, match="is not MEMORY,GRAPHICS in MHz"):
        gpu_clocks.parse(text)


def test_training_on_another_device_is_refused(asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a CPU there are no such clocks: the command says so, trains nothing, and asks nothing of nvidia-smi."""
    pytest.importorskip("torch", reason="needs PyTorch: pip install -r requirements-torch.txt")
    command = ["--store", str(tmp_path / "store"), "train", "height-weight", "--device", "cpu"]

    assert main([*command, "--gpu-clocks", "2619,1980"]) == 1
    assert "the training runs on cpu, which is no NVIDIA GPU; leave --gpu-clocks out" in capsys.readouterr().err
    assert not asked.exists()
    assert Store(tmp_path / "store").names() == []
