"""Application clocks of an NVIDIA GPU while something is trained, by nvidia-smi; they are always reset."""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from model.errors import DeviceError

Clocks = tuple[int, int]
"""MHz of the memory and of the graphics processor."""

_SECONDS = 30  # that nvidia-smi may take; it wakes a GPU that sleeps

_log = logging.getLogger("tabserve.training")


def parse(text: str) -> Clocks:
    """Return the clocks in a text such as `2619,1980`. Raises argparse's error for anything else."""
    memory, _, graphics = text.partition(",")
    if not (memory.isdecimal() and graphics.isdecimal() and int(memory) and int(graphics)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not MEMORY,GRAPHICS in MHz, such as 2619,1980; nvidia-smi -q -d SUPPORTED_CLOCKS lists them"
        )
    return int(memory), int(graphics)


@contextmanager
def application_clocks(clocks: Clocks, gpu: str) -> Iterator[None]:
    """Set the clocks of a GPU, named as nvidia-smi names it, and reset them at the end.

    So it is after an exception, Ctrl-C and SIGTERM, which ends the process. Raises `DeviceError` where nvidia-smi is
    missing or does not set them.
    """
    pending: list[int] = []
    is_refused = False
    with _handled(_exit, signal.SIGTERM):
        try:
            try:
                _nvidia_smi(gpu, "-ac", ",".join(map(str, clocks)))
            except DeviceError:
                is_refused = True
                raise
            yield
        finally:
            if not is_refused:
                with _handled(lambda number, frame: pending.append(number), signal.SIGINT, signal.SIGTERM):
                    _reset(gpu)
            if pending:
                signal.raise_signal(pending[0])


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], object], *numbers: signal.Signals) -> Iterator[None]:
    """Handle signals by a function until the block ends; only in the main thread, where they can be."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, former in before:
            signal.signal(number, former or signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _reset(gpu: str) -> None:
    try:
        _nvidia_smi(gpu, "-rac")
    except DeviceError as error:  # must not replace the result of the training
        _log.error("the application clocks were not reset: %s; run nvidia-smi -i %s -rac", error, gpu)


def _nvidia_smi(gpu: str, *arguments: str) -> None:
    """Run nvidia-smi for a GPU. Raises `DeviceError` with what it says, and what to do."""
    command = ["nvidia-smi", "-i", gpu, *arguments]
    try:
        # In a session of its own: Ctrl-C on a terminal is for the training alone.
        completed = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, start_new_session=True)
    except FileNotFoundError:
        raise DeviceError(
            "--gpu-clocks needs nvidia-smi, which is not installed; install NVIDIA's driver, or leave the option out"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"nvidia-smi does not run ({error}); leave --gpu-clocks out") from None
    if completed.returncode:
        said = " ".join((completed.stdout + completed.stderr).split())
        raise DeviceError(
            f"nvidia-smi {' '.join(arguments)} is refused: {said or completed.returncode}; it needs root, or "
            "nvidia-smi -acp UNRESTRICTED, and clocks that nvidia-smi -q -d SUPPORTED_CLOCKS lists; or leave "
            "--gpu-clocks out"
        )
