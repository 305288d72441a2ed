"""What holds for every answer: the names under which there is one, its headers, and that no error leaks text."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import time
import traceback

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

HEADERS = {
    "Cache-Control": "no-store",  # answers hold clinical text
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]+)(:\d*)?", re.IGNORECASE)


class Guard:
    """Stands around the application (ASGI).

    A page of another site whose name was made to point here (DNS rebinding) sends that name as Host: it is refused.
    A name of this machine, or any IP address, is good where `host` is the address of all interfaces.
    """

    def __init__(self, app: ASGIApp, host: str):
        self._app = app
        self._names = {"localhost", "127.0.0.1", "::1", host.lower()}
        self._any_address = host in ("0.0.0.0", "::")
        if self._any_address:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 0, time.monotonic()

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            if self._is_ours(Headers(scope=scope).get("host", "")):
                await self._app(scope, receive, send_guarded)
            else:
                refusal = JSONResponse({"error": "This service does not answer under this host name."}, 421)
                await refusal(scope, receive, send_guarded)
        except Exception as error:
            # Neither the message nor the values: they may hold text. The application has answered with a 500.
            place = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("%s at %s:%s", type(error).__name__, place.filename, place.lineno)
        if scope["path"] == "/label":
            logger.info("%s /label: %d, %.0f ms", scope["method"], status, 1000 * (time.monotonic() - start))

    def _is_ours(self, host: str) -> bool:
        match = HOST.fullmatch(host)
        if not match:
            return False
        name = match["name"].strip("[]").lower()
        return name in self._names or (self._any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
