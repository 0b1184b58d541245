"""The socket, the signals, the end."""

from __future__ import annotations

import logging
import signal
import socket
import warnings
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from PIL import Image

if TYPE_CHECKING:
    from starlette.applications import Starlette

GRACE_SECONDS = 25
"""For running requests, once the server is told to stop: managers of containers give 30."""


def listen(host: str, port: int) -> socket.socket:
    """Take the address.

    Raises
    ------
    OSError
        If it is taken, not allowed, or none of this machine: the message names it and the remedy.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OSError(f"{host} is no address ({error.strerror}): correct --host") from None
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(1)  # a port that another process listens at shows here at the latest
    except OSError as error:
        taken.close()
        raise OSError(
            f"cannot listen at {host}:{port} ({error.strerror}): choose another --port or --host"
        ) from None
    return taken


def address_of(taken: socket.socket) -> str:
    """Write the address at which clients find the server."""
    host, port = taken.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: Starlette, taken: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; running requests are finished first, then it returns.

    Parameters
    ----------
    app : Starlette
    taken : socket
        From `listen`.
    ready : callable
        Called when the server answers.
    """
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is a limit of ours
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            loop="asyncio",
            http="h11",
            ws="none",
        ),
        ready,
    )
    # uvicorn raises the signals again when it has ended: that would be an exit by a signal
    before = {number: signal.signal(number, _pass) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run([taken])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def _pass(_number: int, _frame: FrameType | None) -> None:
    """Do nothing."""
