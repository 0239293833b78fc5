"""Who may ask the review page, and for what? Hosts, origins, the token, sizes; and the headers of every answer.

A page on another site can make this machine's browser ask anything of 127.0.0.1. It cannot make it name another host,
hide its origin, send a header of its own without being asked first, or read the answer.
"""

from __future__ import annotations

import hmac
import html
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, Response

from pathopatch.core.errors import InputMissingError, InputTooLargeError, PathopatchError, ReviewRefusedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 64 * 1024
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names of this machine that need no token, as a Host header has them."""
WRITE_HEADER = ("x-pathopatch", "review")

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?P<port>:[0-9]{1,5})?")
_NO_PATH = re.compile(rb"%2f|%5c|%00|\\", re.IGNORECASE)  # a slash, a backslash or a zero inside a name
_READS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, kw_only=True)
class Access:
    """Under which names the page answers, and what it wants to see first.

    Parameters
    ----------
    hosts : frozenset of str
        Host names, in lower case, IPv6 addresses in brackets, without a port.
    any_address : bool
        Also under every IP address: a page of another site cannot be opened under one.
    token : str
        What whoever asks must know; empty: nothing.
    cookie : str
        Name of the cookie that keeps the token.
    """

    hosts: frozenset[str] = LOOPBACK
    any_address: bool = False
    token: str = field(default="", repr=False)
    cookie: str = "pathopatch-review"

    def is_host(self, name: str) -> bool:
        """Return whether a name of a Host header, without the port, is one of this page's."""
        return name in self.hosts or (self.any_address and _address(name.strip("[]")) is not None)

    def is_token(self, offered: str) -> bool:
        """Return whether a token is the right one, in a time that does not tell how much of it is."""
        return hmac.compare_digest(offered.encode(errors="replace"), self.token.encode())


def access_for(host: str, bound: str, port: int) -> Access:
    """Return who may ask a page that was started with ``--host``.

    Parameters
    ----------
    host : str
        What was asked for.
    bound : str
        The IP address that the socket got.
    port : int
        Its port.

    Returns
    -------
    Access
        Only this machine, without a token, if the address is of the loopback; else every name that means `host`, with a
        new token.
    """
    name = f"[{host}]" if ":" in host else host.lower()
    if name in LOOPBACK and ipaddress.ip_address(bound).is_loopback:
        return Access()
    is_all = ipaddress.ip_address(bound).is_unspecified
    own = {socket.gethostname().lower(), socket.getfqdn().lower()} if is_all else {name}
    return Access(
        hosts=LOOPBACK | own,
        any_address=is_all,
        token=secrets.token_urlsafe(32),
        cookie=f"pathopatch-review-{port}",  # cookies do not tell ports apart
    )


class Guard:
    """The application, behind what is refused before it is asked; puts the headers on all that leaves."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            answer = check(scope, self.access)
        except PathopatchError as error:
            answer = problem(error)
        await (answer or self.app)(scope, receive, send_with_headers)


def check(scope: Scope, access: Access) -> Response | None:
    """Return None if a request may go on, or the page that takes the token out of the address.

    Raises
    ------
    ReviewRefusedError
        Foreign host or origin, no token, or a write without the page's own header.
    InputMissingError
        The path hides a slash.
    InputTooLargeError
        The body is longer than any decision.
    """
    headers = Headers(scope=scope)
    _check_host(headers, access)
    welcome = _check_token(scope, headers, access)
    raw_path = scope.get("raw_path") or scope["path"].encode()
    if _NO_PATH.search(raw_path) or {".", ".."} & set(scope["path"].split("/")):
        raise InputMissingError("there is no such page", remedy="go on from /")
    is_navigation = headers.get("sec-fetch-mode", "navigate") == "navigate"
    if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site") and not is_navigation:
        raise ReviewRefusedError("another site's page asks", remedy="open the review page itself")
    origin = headers.get("origin")
    if origin is not None and origin not in (f"http://{headers['host']}", f"https://{headers['host']}"):
        raise ReviewRefusedError(f"the origin {origin!r} is not this page", remedy="open the review page itself")
    if scope["method"] not in _READS:
        name, value = WRITE_HEADER
        if headers.get(name) != value:
            raise ReviewRefusedError("only the page itself may write", remedy="send the header X-Pathopatch: review")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > MAX_BODY_BYTES:
        raise too_large()
    return welcome


def too_large() -> InputTooLargeError:
    """Return the error of a body that is longer than any decision."""
    return InputTooLargeError(f"the body is longer than {MAX_BODY_BYTES // 1024} KiB", remedy="write a shorter comment")


def problem(error: PathopatchError, status: int | None = None, **more: object) -> JSONResponse:
    """Return what the page is told of an error: code, message and remedy, with the status that fits its code."""
    told = {"code": error.code, "message": error.message, "remedy": error.remedy, **more}
    return JSONResponse(told, status or _STATUS.get(error.code, 500))


_STATUS = {
    "INPUT_UNSUPPORTED": 400,
    "CHANNEL_MISMATCH": 400,
    "REVIEW_REFUSED": 403,
    "INPUT_MISSING": 404,
    "REVIEW_CONFLICT": 409,
    "STALE_ARTEFACT": 409,
    "INPUT_TOO_LARGE": 413,
    "TIMEOUT": 503,
    "DISK_FULL": 507,
}


def _check_host(headers: Headers, access: Access) -> None:
    host = headers.get("host", "")
    found = _HOST.fullmatch(host.lower())
    if found is None or not access.is_host(found["name"]):
        raise ReviewRefusedError(
            f"the host {host[:100]!r} is not this page's", remedy="open the address that `pathopatch review` printed"
        )


def _check_token(scope: Scope, headers: Headers, access: Access) -> Response | None:
    """Return None if the token is known or not wanted; the page that keeps it as a cookie if the address has it."""
    if not access.token:
        return None
    kept = cookie_parser(headers.get("cookie", "")).get(access.cookie, "")
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    offered = dict(query).get("token")
    if offered is not None and scope["method"] in _READS and access.is_token(offered):
        return _welcome(scope["path"], ((name, value) for name, value in query if name != "token"), access)
    if not access.is_token(kept):
        raise ReviewRefusedError(
            "this page wants its token", remedy="open the address that `pathopatch review` printed, with ?token="
        )
    return None


def _welcome(path: str, query: Iterable[tuple[str, str]], access: Access) -> Response:
    """Return a page that sets the cookie and goes on without the token in the address.

    It is no redirect: after a link in a mail the browser would follow that without the cookie, for that is
    SameSite=Strict.
    """
    onward = "/" + path.lstrip("/")  # `//name` would lead to another host
    if rest := urlencode(list(query)):
        onward += f"?{rest}"
    target = html.escape(onward, quote=True)
    answer = HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>pathopatch review</title>'
        f'<meta http-equiv="refresh" content="0; url={target}"><p><a href="{target}">Go on</a>'
    )
    answer.set_cookie(access.cookie, access.token, path="/", httponly=True, samesite="strict")
    return answer


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
