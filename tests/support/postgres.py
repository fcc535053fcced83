"""A PostgreSQL server for tests: from Debian's package, in a temporary folder; tests may freeze and stop it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest


@dataclass
class Postgres:
    """A server on a port of 127.0.0.1, run as `user`; `programs` is the folder of its programs."""

    programs: Path
    folder: Path
    user: str | None  # None: whoever runs the tests
    port: int
    process: subprocess.Popen[bytes] | None = None

    def url(self) -> str:
        """Return the URL of its database; every password is accepted."""
        return f"postgresql://tabserve:s3cret@127.0.0.1:{self.port}/postgres"

    def execute(self, statement: str) -> None:
        """Run a statement outside of a transaction."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def start(self) -> None:
        """Start the server, and return when it accepts connections."""
        where = ["-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        settings = ["-F", "-c", "timezone=Asia/Tokyo"]  # no disk is waited for; and clocks that are not ours
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.programs / "postgres"), *where, *settings],
                user=self.user,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """End the server at once, with every connection."""
        if self.process:
            self._signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(timeout=20)
            self.process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server for a block: its connections stay open without a response."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self.process
        main = psutil.Process(self.process.pid)
        for process in (main, *main.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextmanager
def run_postgres() -> Iterator[Postgres]:
    """Run a PostgreSQL for a block; skip the test if it is not installed or there is no user to run it as."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        pytest.skip("needs PostgreSQL's programs, as Debian's package postgresql has them")
    programs = found[-1].parent if found else Path(str(on_path)).parent
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses root
        user = "postgres"
        try:
            pwd.getpwnam(user)
        except KeyError:
            pytest.skip("needs a user named postgres, since PostgreSQL refuses root")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="tabserve-postgres-"))
    server = Postgres(programs, folder, user, port)
    try:
        if user:
            shutil.chown(folder, user)
        command = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", "tabserve", "-A", "trust", "-E", "UTF8"]
        try:
            made = subprocess.run(
                [*command, "--no-locale", "--no-sync"], user=user, cwd=folder, capture_output=True, text=True
            )
        except PermissionError as error:
            pytest.skip(f"needs the right to run PostgreSQL as {user}: {error}")
        assert made.returncode == 0, made.stderr
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
