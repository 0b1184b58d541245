"""The addresses of the server, and what each answers: JSON, errors as well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dn2 import __version__
from dn2.image_detector import Scores, check_rate_and_images
from dn2.serving.pages import describe, page
from dn2.serving.scorer import Scorer
from dn2.serving.uploads import Limits, Refused, read_uploads, shown, writable

ADDRESSES = "POST /score, or GET /health, /version, /openapi.json or /"

DRAIN_SECONDS, DRAIN_BYTES = 2.0, 2**26
"""How long, and how much, a refused client may go on sending until the connection is closed."""


def make_app(
    scorer: Scorer,
    about: Mapping[str, Any],
    limits: Limits,
    rate: tuple[str, float] | None,
    tell: Callable[[str], None] | None,
    fail: Callable[[str], None],
) -> Starlette:
    """Make the ASGI application.

    Parameters
    ----------
    scorer : Scorer
        It is closed with the application.
    about : mapping
        What ``/version`` says of the detector.
    limits : Limits
    rate : (name, rate), or None
        ``fpr`` or ``fdr``, where a request asks for none; None flags nothing.
    tell : callable, optional
        Gets a line for each request.
    fail : callable
        Gets a line for each request that failed by a fault of the server.
    """
    description = describe(limits, rate)
    handled = asyncio.Semaphore(limits.requests)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def version(_: Request) -> Response:
        return JSONResponse(
            {
                "dn2": __version__,
                "detector": dict(about),
                "rate": None if rate is None else {rate[0]: rate[1]},
                "limits": vars(limits),
            }
        )

    async def openapi(_: Request) -> Response:
        return JSONResponse(description)

    async def index(_: Request) -> Response:
        return HTMLResponse(
            page(description, about),
            headers={
                "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
                "form-action 'self'; frame-ancestors 'none'"
            },
        )

    async def answered(request: Request) -> Response:
        asked = asked_rate(request.query_params.multi_items(), scorer) or rate
        try:
            async with asyncio.timeout(limits.seconds):
                await handled.acquire()
        except TimeoutError:
            raise Refused(503, "too many requests are waiting: send it again later") from None
        try:
            uploads = await read_uploads(request, limits)
            rows, scores = await scorer.score(uploads)
        finally:
            handled.release()
        body = answer([upload.name for upload in uploads], rows, scores, asked)
        if not rows:
            raise Refused(422, "no image can be read", left_out=body["left_out"])
        return JSONResponse(body)

    async def score(request: Request) -> Response:
        started = time.monotonic()
        status, response = 499, Response(status_code=400)
        try:
            try:
                response = await answered(request)
            except Refused as refused:  # within the other, as writing it may fail, too
                response = _Refusal({"error": refused.reason, **refused.more}, refused.status)
                if refused.status == 503:
                    response.headers["retry-after"] = "1"
            status = response.status_code
        except ClientDisconnect:
            pass  # nobody reads the answer
        except Exception as error:  # the service lives on
            fail(f"{type(error).__name__}: {error}")
            status = 500
            response = _Refusal({"error": "the server failed: its log says why"}, status)
        if tell is not None:
            tell(f"{request.method} {request.url.path} {status} {time.monotonic() - started:.3f} s")
        return response

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reason = f"{request.method} {shown(request.url.path)} is not served: send {ADDRESSES}"
        if error.status_code not in (404, 405):
            reason = error.detail
        return JSONResponse({"error": reason}, error.status_code, headers=error.headers)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        scorer.close()

    return Starlette(
        routes=[
            Route("/", index),
            Route("/docs", index),
            Route("/health", health),
            Route("/version", version),
            Route("/openapi.json", openapi),
            Route("/score", score, methods=["POST"]),
        ],
        exception_handlers={HTTPException: refuse},
        lifespan=lifespan,
    )


def asked_rate(query: list[tuple[str, str]], scorer: Scorer) -> tuple[str, float] | None:
    """Read the rate that a request asks for; None if it asks for none.

    Raises
    ------
    Refused
        If there are other parameters, or the rate is none that the detector can hold.
    """
    if not query:
        return None
    (name, text), *more = query
    if more or name not in ("fpr", "fdr"):
        names = ", ".join(shown(name) for name, _ in query)
        raise Refused(422, f"the parameters are fpr or fdr, one of them, got {names}: correct them")
    try:
        rate = float(text)
    except ValueError:
        raise Refused(422, f"{name} must be a number, got {shown(text)!r}: 0.05 is usual") from None
    try:
        check_rate_and_images(name, rate, len(scorer.detector.calibration_))
    except ValueError as error:
        raise Refused(422, str(error)) from None
    return name, rate


def answer(
    names: list[str], rows: list[int], scores: Scores, rate: tuple[str, float] | None
) -> dict[str, Any]:
    """Put scores into JSON: as `dn2 score --json` does, in the order of the request.

    Parameters
    ----------
    names : list of str
        Of all images of the request.
    rows : list of int
        The positions of those that could be read.
    """
    flags = [None] * len(rows) if rate is None else scores.flag(**{rate[0]: rate[1]}).tolist()
    others = [row for row in range(len(names)) if row not in set(rows)]
    return {
        "rate": None if rate is None else {rate[0]: rate[1]},
        "n_calibration": scores.n_calibration,
        "images": [
            {
                "index": row,
                "path": image.path,
                "score": image.score,
                "p_value": image.p_value,
                "flag": flag,
                "nearest": [
                    {"path": writable(near.path), "distance": near.distance}
                    for near in image.nearest
                ],
            }
            for row, image, flag in zip(rows, scores.images, flags, strict=True)
        ],
        "left_out": [
            {"index": row, "path": one.path, "reason": one.reason}
            for row, one in zip(others, scores.left_out, strict=True)
        ],
    }


class _Refusal(JSONResponse):
    """Answer at once, and then let the client finish sending what nobody reads, within limits.

    If the connection were closed while it sends, most clients would not read the answer.
    """

    def __init__(self, content: Any, status_code: int) -> None:
        super().__init__(content, status_code, headers={"connection": "close"})

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
