"""The HTTP server of one session: a fixed table of answers behind a token, and four bounded messages in."""

from __future__ import annotations

import io
import json
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from apps.profiling.browser.board import Board, Refused
from apps.profiling.browser.jobs import BrowserJob
from apps.profiling.browser.schema import Hello, PostedResult, ProgressNote, parse
from edge_sr.errors import DataError

LARGEST_MESSAGE_BYTES = 512 * 1024
# A page at work posts about five messages in a second; a flood is refused before it is read.
_MESSAGES_PER_SECOND = 20.0
_MESSAGES_AT_ONCE = 60.0
# From the end of one request to the end of the next, however slowly its bytes come; a page at work is heard sooner.
_REQUEST_SECONDS = 60.0
# Of a request's line and headers together. A browser's are about one.
_HEADER_BYTES = 64 * 1024
# A browser opens six at most, and its workers share them.
_MOST_CONNECTIONS = 48

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    # Browsers compile while loading only under this very type.
    ".wasm": "application/wasm",
}
_NOTHING = "There is nothing here; use the whole address as it was printed."
_BYTES = "application/octet-stream"
_HEADERS = {
    # The first two isolate the page, which is what threads and a fine clock are given for.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
        "style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One thing that may be fetched. ``cached``: each measurement's worker loads it anew, the network only once."""

    content: bytes
    content_type: str
    cached: bool = False


class PageServer(ThreadingHTTPServer):
    """Serves one session until it is closed.

    Only the paths of a fixed table exist, all of them below the token, so there is no file name to traverse.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], board: Board, runtime: Mapping[str, bytes]) -> None:
        self.board = board
        self.token = secrets.token_urlsafe(18)
        self.assets = build_assets(board.jobs, runtime)
        self.started = False
        self.messages = Bucket(rate=_MESSAGES_PER_SECOND, size=_MESSAGES_AT_ONCE)
        self._places = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(address, _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def use_certificate(self, certificate: str, key: str) -> None:
        """Speak https from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        # Shaking hands in the accepting thread would let one silent client hold up all others.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Answer until :meth:`shutdown`, which may only be called after this has begun."""
        self.started = True
        super().serve_forever(poll_interval)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, while there is room; more connections are closed without an answer."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread was to be had
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that goes away, or refuses the certificate, is no error of ours."""


class Bucket:
    """At most ``rate`` in a second in the long run, ``size`` at once."""

    def __init__(self, *, rate: float, size: float) -> None:
        self._rate, self._size, self._level, self._at = rate, size, size, time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        with self._lock:
            now = time.monotonic()
            self._level = min(self._size, self._level + (now - self._at) * self._rate)
            self._at = now
            if self._level < 1.0:
                return False
            self._level -= 1.0
            return True


def build_assets(jobs: Sequence[BrowserJob], runtime: Mapping[str, bytes]) -> dict[str, Asset]:
    """Path below the token -> what is there."""
    page = resources.files("apps.profiling.browser") / "page"
    names = ("index.html", "page.js", "worker.js", "style.css")
    assets = {name: Asset(content=(page / name).read_bytes(), content_type=content_type(name)) for name in names}
    assets[""] = assets.pop("index.html")
    for name, content in runtime.items():
        assets[f"runtime/{name}"] = Asset(content=content, content_type=content_type(name), cached=True)
    for index, job in enumerate(jobs):
        assets[f"model/{index}"] = Asset(content=job.model, content_type=_BYTES)
        assets[f"tile/{index}"] = Asset(content=job.tile.tobytes(), content_type=_BYTES)
    return assets


def content_type(name: str) -> str:
    """MIME type by the end of the name."""
    return _TYPES[name[name.rindex(".") :]]


class _BoundedReader(socket.SocketIO):
    """Reads one request within a time and a number of bytes; then it ends, as if the sender had gone."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection, "r")
        self._connection = connection
        self.begin_request()

    def begin_request(self) -> None:
        self._ends = time.monotonic() + _REQUEST_SECONDS
        self._left = _HEADER_BYTES

    def allow(self, count: int) -> None:
        """Let so many bytes of a body come, too."""
        self._left += count

    def readinto(self, buffer: Any) -> int | None:
        room = min(len(buffer), self._left)
        self._connection.settimeout(max(self._ends - time.monotonic(), 0.001))
        count = super().readinto(memoryview(buffer)[:room]) if room else 0
        self._left -= count or 0
        return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "edge-sr"
    sys_version = ""
    timeout = _REQUEST_SECONDS
    server: PageServer

    def setup(self) -> None:
        self.request.settimeout(self.timeout)
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()
        self._incoming = _BoundedReader(self.connection)
        self.rfile = io.BufferedReader(self._incoming)

    def handle_one_request(self) -> None:
        self._incoming.begin_request()
        super().handle_one_request()

    def do_GET(self) -> None:
        path = self._inside()
        asset = None if path is None else self.server.assets.get(path)
        if asset is None:
            return self._say(HTTPStatus.NOT_FOUND, {"error": _NOTHING})
        self._send(HTTPStatus.OK, asset.content, asset.content_type, cached=asset.cached)
        return None

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = self._inside()
        if path is None:
            return self._say(HTTPStatus.NOT_FOUND, {"error": _NOTHING})
        if not self.server.messages.take():
            return self._say(HTTPStatus.TOO_MANY_REQUESTS, {"error": "Too many messages at once; reload the page."})
        action = self._action(path)
        if action is None:
            return self._say(HTTPStatus.NOT_FOUND, {"error": "There is nothing to post to here."})
        limit, run = action
        body = self._body(limit)
        if body is None:
            return None
        try:
            return self._say(HTTPStatus.OK, run(body))
        except Refused as error:
            return self._say(HTTPStatus.CONFLICT, {"error": str(error)})
        except DataError as error:
            return self._say(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def _action(self, path: str) -> tuple[int, Callable[[bytes], dict[str, Any]]] | None:
        """The largest body that the path takes, and what to do with it."""
        board, run = self.server.board, self.headers.get("Edge-SR-Run", "")
        address = str(self.client_address[0])
        match path.split("/"):
            case ["hello"]:
                return LARGEST_MESSAGE_BYTES, lambda body: board.hello(parse(Hello, body), address=address)
            case ["progress"]:
                return LARGEST_MESSAGE_BYTES, lambda body: board.note(parse(ProgressNote, body), run=run)
            case ["bye"]:
                return LARGEST_MESSAGE_BYTES, lambda body: board.bye(run=run)
            case ["output", job, key] if (index := _index(job, board.jobs)) is not None:
                return board.jobs[index].output_bytes, lambda body: board.output(index, key, body, run=run)
            case ["result", job, key] if (index := _index(job, board.jobs)) is not None:
                return LARGEST_MESSAGE_BYTES, lambda body: board.result(index, key, parse(PostedResult, body), run=run)
        return None

    def _inside(self) -> str | None:
        """The path below the token, None where the token is not the session's."""
        token, slash, rest = urlsplit(self.path).path.removeprefix("/").partition("/")
        # Compared in constant time; non-ASCII text would raise.
        known = secrets.compare_digest(token.encode(errors="replace"), self.server.token.encode())
        return rest if known and slash else None

    def _body(self, limit: int) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or self.headers.get("Transfer-Encoding"):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "A message must say how long it is.")
            return None
        if len(length) > 12 or int(length) > limit:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A message here holds at most {limit} bytes.")
            return None
        self._incoming.allow(int(length))
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self._refuse(HTTPStatus.BAD_REQUEST, "The message ended early.")
            return None
        return body

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        # What was not read would be taken for the next request.
        self.close_connection = True
        self._say(status, {"error": reason})

    def _say(self, status: HTTPStatus, answer: dict[str, Any]) -> None:
        if status is HTTPStatus.NOT_FOUND or status is HTTPStatus.TOO_MANY_REQUESTS:
            self.close_connection = True
        self._send(status, json.dumps(answer).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str, *, cached: bool = False) -> None:
        self.connection.settimeout(_REQUEST_SECONDS)  # whatever reading has left of it
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "private, max-age=3600, immutable" if cached else "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the session's own progress says what happens."""


def _index(text: str, jobs: Sequence[BrowserJob]) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= 4 and int(text) < len(jobs) else None
