"""Guard the review page: check host, origin, token and size of each request, and set the headers of each answer.

A page of another site can make this machine's browser send requests to 127.0.0.1. It cannot make the browser name
another host, hide the origin, send a header of its own without a preflight request, or read the answer.
"""

from __future__ import annotations

import hmac
import html
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, Response

from pathopatch.core.errors import (
    InputMissingError,
    InputTooLargeError,
    InputUnsupportedError,
    PathopatchError,
    ReviewRefusedError,
)
from pathopatch.groups.decisions.readers import reader_name

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 64 * 1024
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names under which a machine reaches itself, as in a Host header."""

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
_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_OF_BROWSERS = re.compile(
    r"(accept|access-control|content|if|proxy|sec|transfer|upgrade|x-forwarded-(for|host|port|proto))(-.*)?"
    r"|authorization|cache-control|connection|cookie2?|date|dnt|expect|forwarded|from|host|keep-alive|last-event-id"
    r"|origin|ping-(from|to)|pragma|priority|purpose|range|referer|save-data|te|trailer|user-agent|via"
    r"|x-(pathopatch|requested-with)"
)
_READER = "pathopatch.reader"  # key of a scope


@dataclass(frozen=True, kw_only=True)
class Access:
    """The host names under which the page answers, and what tells who asks."""

    hosts: frozenset[str] = LOOPBACK  # lower case, IPv6 addresses in brackets, without a port
    any_address: bool = False  # under every IP address too: another site's page has a name, so this opens nothing to it
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)  # by reader; one of them is required
    cookie: str = "pathopatch-review"  # name of the cookie that keeps the token
    header: str = ""  # in place of tokens: names the reader, set by the proxy that alone reaches the page

    def is_host(self, name: str) -> bool:
        """Return whether a name of a Host header, without the port, is one of this page's."""
        if name in self.hosts or self.header:  # no browser reaches the proxy's socket under any name
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return self.any_address

    def reader_of(self, offered: str) -> str | None:
        """Return whose token this is, in constant time; None for nobody's."""
        given = offered.encode(errors="replace")
        found = [name for name, token in self.tokens.items() if hmac.compare_digest(given, token.encode())]
        return found[0] if found else None


def access_for(host: str, bound: str, port: int, tokens: Mapping[str, str]) -> Access:
    """Return the access to a page that was started with ``--host HOST`` and got the address `bound`, and the port.

    A page on a loopback address answers this machine alone, any other under every name of `host`. `tokens` are those of
    the readers; without any everybody is let in. Other users of this machine reach loopback addresses too.

    Raises
    ------
    InputUnsupportedError
        Without a token others than this machine would be let in.
    """
    name = f"[{host}]" if ":" in host else host.lower()
    if name in LOOPBACK and ipaddress.ip_address(bound).is_loopback:
        is_all, own = False, set[str]()
    elif not tokens:
        raise InputUnsupportedError(
            "--no-token would let everybody in who reaches this machine",
            place=f"--host {host}",
            remedy="leave out one of the two options",
        )
    else:
        is_all = ipaddress.ip_address(bound).is_unspecified
        own = {socket.gethostname().lower(), socket.getfqdn().lower()} if is_all else {name}
    return Access(
        hosts=LOOPBACK | own,
        any_address=is_all,
        tokens=tokens,
        # Cookies are shared by all ports of a host: two pages would overwrite each other's token.
        cookie=f"pathopatch-review-{port}",
    )


def proxy_access(header: str) -> Access:
    """Return the access to a page behind a proxy that names the reader in a header.

    InputUnsupportedError for no name of a header, or for one that browsers send themselves.
    """
    if not _HEADER.fullmatch(header) or _OF_BROWSERS.fullmatch(header.lower()):
        raise InputUnsupportedError(
            f"no header that the proxy alone sets: {header!r}",
            place="--trust-header",
            remedy="name one such as X-Remote-User, and let the proxy set it in each request",
        )
    return Access(header=header)


class Guard:
    """ASGI middleware: refuses requests before the application sees them, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            answer = check_request(scope, self._access)
        except PathopatchError as error:
            answer = error_response(error)
        await (answer or self._app)(scope, receive, send_with_headers)


def check_request(scope: Scope, access: Access) -> Response | None:
    """Return None for an allowed request, or the page that moves the token from the address to a cookie.

    Who asks is kept in the scope, see `reader_of`. Raises ReviewRefusedError for another host or origin, no token, or a
    write without the page's own header; InputMissingError for a path with a hidden slash; InputTooLargeError for a body
    longer than any decision.
    """
    headers = Headers(scope=scope)
    # The host comes first: under a foreign name (DNS rebinding) not even the token may be asked for.
    host = headers.get("host", "")
    parts = _HOST.fullmatch(host.lower())
    if parts is None or not access.is_host(parts["name"]):
        raise ReviewRefusedError(
            f"the host {host[:100]!r} is not this page's", remedy="open the address that `pathopatch review` printed"
        )
    token_page = _check_token(scope, headers, access)
    raw_path = scope.get("raw_path") or scope["path"].encode()
    if _NO_PATH.search(raw_path) or {".", ".."} & set(scope["path"].split("/")):
        raise InputMissingError("there is no such page", remedy="go on from /")
    # A link of another site may open the page, but its scripts and images may not load anything from it.
    is_navigation = headers.get("sec-fetch-mode", "navigate") == "navigate"
    if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site") and not is_navigation:
        raise ReviewRefusedError("the request comes from another site", remedy="open the review page itself")
    origin = headers.get("origin")
    if origin is not None and origin not in (f"http://{headers['host']}", f"https://{headers['host']}"):
        raise ReviewRefusedError(f"the origin {origin!r} is not this page", remedy="open the review page itself")
    # Another site's form can send a POST, but no header of its own.
    if scope["method"] not in _READS and headers.get("x-pathopatch") != "review":
        raise ReviewRefusedError("only the page itself may write", remedy="send the header X-Pathopatch: review")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > MAX_BODY_BYTES:
        raise body_too_large()
    return token_page


def body_too_large() -> InputTooLargeError:
    """Return the error for a body that is longer than any decision."""
    return InputTooLargeError(
        f"the body is longer than {MAX_BODY_BYTES // 1024} KiB", remedy="write a shorter note, or draw a smaller region"
    )


def error_response(error: PathopatchError, status: int | None = None, **more: object) -> JSONResponse:
    """Return an error as JSON: code, message and remedy, with the HTTP status of its code."""
    content = {"code": error.code, "message": error.message, "remedy": error.remedy, **more}
    return JSONResponse(content, status or _STATUS.get(error.code, 500))


_STATUS = {
    "INPUT_UNSUPPORTED": 400,
    "CHANNEL_MISMATCH": 400,
    "REVIEW_REFUSED": 403,
    "INPUT_MISSING": 404,
    "INPUT_CHANGED": 409,
    "REVIEW_CONFLICT": 409,
    "STALE_ARTEFACT": 409,
    "INPUT_TOO_LARGE": 413,
    "TIMEOUT": 503,
    "DISK_FULL": 507,
}


def reader_of(scope: Scope) -> str | None:
    """Return who sent a request, by token or header; None where the page requires neither."""
    name: str | None = scope.get(_READER)
    return name


def _check_token(scope: Scope, headers: Headers, access: Access) -> Response | None:
    """Return None if the cookie has a token, or none is required; for a token in the address, `_token_page`."""
    if access.header:
        named = headers.getlist(access.header)
        if len(named) != 1 or not named[0].strip():  # of two the client's own may come first
            raise ReviewRefusedError(
                f"the request has {len(named)} headers {access.header}, and the proxy names one reader in one",
                remedy="let it set the header to who has logged in, in place of what the browser sent",
            )
        sent = named[0].encode("latin-1")
        try:
            text = sent.decode()
        except UnicodeDecodeError:
            text = named[0]
        scope[_READER] = reader_name(text, place=access.header)
        return None
    if not access.tokens:
        return None
    cookie = cookie_parser(headers.get("cookie", "")).get(access.cookie, "")
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    offered = dict(query).get("token")
    if offered is not None and scope["method"] in _READS and access.reader_of(offered) is not None:
        onward = [(name, value) for name, value in query if name != "token"]
        return _token_page(scope["path"], onward, access.cookie, offered)
    scope[_READER] = access.reader_of(cookie)
    if scope[_READER] is None:
        raise ReviewRefusedError(
            "this page requires its token", remedy="open the address that `pathopatch review` printed, with ?token="
        )
    return None


def _token_page(path: str, query: list[tuple[str, str]], cookie: str, token: str) -> Response:
    """Return a page that sets the cookie and opens the same address without the token."""
    # No redirect: after a link in a mail the browser would follow it without the cookie, which is SameSite=Strict.
    onward = "/" + path.lstrip("/")  # `//name` would lead to another host
    if query:
        onward += f"?{urlencode(query)}"
    target = html.escape(onward, quote=True)
    answer = HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>pathopatch review</title>'
        f'<meta http-equiv="refresh" content="0; url={target}"><p><a href="{target}">Go on</a>'
    )
    answer.set_cookie(cookie, token, path="/", httponly=True, samesite="strict")
    return answer
