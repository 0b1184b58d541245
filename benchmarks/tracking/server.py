"""Serve the MLflow page: a light server on the store, and the link that opens at the runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import ProxyHandler, build_opener

from benchmarks.tracking.connection import TrackingError, find_store, ui_link
from benchmarks.tracking.tracker import Tracker

STARTS_WITHIN_SECONDS = 60


def serve(uri: str | None, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the MLflow page until Ctrl-C, SIGTERM or SIGHUP, which end the whole server.

    These return once the page has answered, and raise KeyboardInterrupt before.

    A tracking store that is a server has its own page. Then `ready` gets the link to that page,
    and nothing is started.

    Parameters
    ----------
    uri : str or None
        The store, as for `Tracker`.
    host : str
    port : int
    ready : callable
        Called with the link to the newest runs once the page answers.

    Raises
    ------
    UsageError
        If the store is a folder of files.
    TrackingError
        If the store cannot be opened, the port is taken or the server ends by itself.
    """
    address = find_store(uri)
    experiment_id, view = Tracker(uri).connect().newest_view()
    if address.startswith(("http://", "https://")):
        ready(ui_link(experiment_id, address, view))
        return
    _check_port(host, port)
    shown_host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    base = f"http://{f'[{shown_host}]' if ':' in shown_host else shown_host}:{port}"
    with (
        tempfile.TemporaryFile() as output,
        _ending_on_signals(),
        _server(address, host, port, output) as process,
    ):
        _wait_until_answering(process, base)
        try:
            ready(ui_link(experiment_id, base, view))
            process.wait()
        except KeyboardInterrupt:
            return
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
        last = (lines or ["it printed nothing"])[-1]
        raise TrackingError(f"the MLflow server at {base} ended by itself ({last[:300]})")


@contextmanager
def _server(address: str, host: str, port: int, output: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start the server, and in the end stop it with all its children.

    It has one worker and no job executors, which takes 0.5 GB instead of 3.
    """
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        address,
        "--host",
        host,
        "--port",
        str(port),
    ]
    command += ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        command, stdout=output, stderr=output, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, how)
                process.wait(timeout=5)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the server, as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_until_answering(process: subprocess.Popen[bytes], base: str) -> None:
    """Return when the page answers, or when its process has ended."""
    opener = build_opener(ProxyHandler({}))  # no proxy for this machine
    until = time.monotonic() + STARTS_WITHIN_SECONDS
    while process.poll() is None:
        try:
            with opener.open(f"{base}/health", timeout=2):
                return
        except OSError:
            if time.monotonic() > until:
                raise TrackingError(
                    f"the MLflow server at {base} did not answer within {STARTS_WITHIN_SECONDS} s"
                ) from None
            time.sleep(0.2)


def _check_port(host: str, port: int) -> None:
    """Raise TrackingError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise TrackingError(
                f"cannot serve the MLflow page on {host}:{port} ({error.strerror}): "
                "choose another port with --port"
            ) from error
