"""A server before a server: it passes requests on, or gives one answer to all."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests


@dataclass(frozen=True)
class Answer:
    """To whatever is asked."""

    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


PAGE = "<!DOCTYPE html>\n<html><body>Log in</body></html>"
# What servers say that want to know who one is, and those that are none of MLflow's or out of order.
DENIALS = (
    Answer(401, "You are not authenticated."),
    Answer(401, '{"message": "Unauthorized"}', {"Content-Type": "application/json"}),
    Answer(403, "Permission denied"),
    Answer(403, PAGE),
    Answer(401, "Authorization: Basic YW5uOnMzY3JldA== or Bearer s3cret-token is not known"),
)
REFUSALS = (
    *DENIALS,
    Answer(302, PAGE, {"Location": "/login"}),
    Answer(200, PAGE),
    Answer(404, PAGE),
    Answer(404, '{"detail": "Not Found"}', {"Content-Type": "application/json"}),
    Answer(400, '{"error_code": "INVALID_PARAMETER_VALUE", "message": "not like this"}'),
    Answer(500, PAGE),
    Answer(502, "Bad Gateway"),
)


@dataclass
class Gate:
    """One that runs."""

    address: str
    upstream: str | None  # address of the server behind it
    answer: Answer | None = None  # instead of that server's


@contextmanager
def gate(upstream: str | None = None, answer: Answer | None = None) -> Iterator[Gate]:
    """Before `upstream`, or before nothing."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/login":
                self._give(200, {"Content-Type": "text/html"}, PAGE.encode())
            elif state.answer is not None:
                self._give(state.answer.status, state.answer.headers, state.answer.body.encode())
            else:
                passed = requests.request(
                    self.command, f"{state.upstream}{self.path}", data=body, headers=dict(self.headers), timeout=30
                )
                self._give(passed.status_code, {"Content-Type": passed.headers.get("Content-Type", "")}, passed.content)

        def _give(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._serve)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Gate(f"http://127.0.0.1:{server.server_port}", upstream, answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
