"""Servers that tests start on loopback: `mlflow server`, and PostgreSQL.

PostgreSQL's programs come with Debian's package `postgresql`. The database is new, in a temporary
folder.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_for(condition, what, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.2)


class Server:
    """`mlflow server` with a port and a store that survive a kill and a restart."""

    def __init__(self, store, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
        self.command += ["--port", str(self.port), "--workers", "1"]

    def start(self):
        environment = {
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_for(lambda: answers(f"{self.url}/health"), f"mlflow server, see {log}")
        return self

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def postgresql():
    """Yield the address of a new database.

    PostgreSQL refuses to run as root. If the tests run as root, it runs as the user postgres.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert programs, "this test needs PostgreSQL: apt-get install postgresql"
    as_user, folder = [], Path(tempfile.mkdtemp())  # not pytest's, which is closed to other users
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_user = ["runuser", "-u", "postgres", "--"]
    data, port = folder / "data", free_port()

    def run(program, *args):
        subprocess.run(
            [*as_user, programs[-1] / program, *args],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    run("initdb", "-D", data, "-U", "dn2", "--auth", "trust", "--no-sync")
    options = (
        f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off -p {port}"
    )
    run("pg_ctl", "-D", data, "-w", "-l", folder / "postgresql.log", "-o", options, "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "dn2", "mlflow")
        yield f"postgresql+psycopg2://dn2@127.0.0.1:{port}/mlflow"
    finally:
        run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)
