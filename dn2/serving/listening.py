"""The socket, the signals, the end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import warnings
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol

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


def serve(
    app: Starlette, taken: socket.socket, ready: Callable[[], None], head_seconds: float
) -> None:
    """Serve until SIGTERM or SIGINT; running requests are finished first, then it returns.

    Parameters
    ----------
    app : Starlette
    taken : socket
        From `listen`.
    ready : callable
        Called when the server answers.
    head_seconds : float
        For the head of a request to arrive; the connection is closed then.
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
            http=partial(_Impatient, head_seconds=head_seconds),  # type: ignore[arg-type]
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


class _Impatient(H11Protocol):
    """Close a connection on which the head of a request does not come; uvicorn waits forever."""

    def __init__(self, *, head_seconds: float, **others: Any) -> None:
        super().__init__(**others)
        self._head_seconds = head_seconds
        self._closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch(True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # (idle: the head is not whole; between two requests uvicorn closes it after 5 s)
        self._watch(self.conn.their_state is h11.IDLE)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._watch(False)

    def _watch(self, waiting: bool) -> None:
        """Count the seconds while a head is waited for."""
        if waiting and self._closing is None:
            self._closing = self.loop.call_later(self._head_seconds, self.transport.close)
        elif not waiting and self._closing is not None:
            self._closing.cancel()
            self._closing = None


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
