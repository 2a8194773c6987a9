"""Local web server for the page of a study: renewed while the study runs, then its report."""

import contextlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hpsearch import formats
from hpsearch.errors import HpsearchError, RequestError, redact
from hpsearch.report import live
from hpsearch.report.live import Now, Trial
from hpsearch.state.folder import StudyFolder, phase_of
from hpsearch.state.records import TrialRecord, read_points
from hpsearch.state.stored_settings import settings_of
from hpsearch.status import cells, standings

HOST = "127.0.0.1"  # only this machine may see texts of the data


def page(home: Path, study: str) -> str:
    """Return the page of a study as it is now.

    Raises:
        RequestError: There is no such study, or one of its files is damaged.
    """
    folder = StudyFolder.begun(home, study)
    [standing] = standings(home, study)
    if standing.state == "finished" and folder.report.exists():
        return folder.report.read_text(encoding="utf-8")
    settings, shown = settings_of(folder), cells(standing)
    facts = {name: shown[name] for name in ("state", "phase", "trials", "spent", "ends")}
    facts["hours"] = formats.NONE if standing.hours is None else formats.duration(standing.hours * 3600)
    trials = [
        Trial(phase_of(place), record, record.examples or settings.budget.train_examples, read_points(trial.path))
        for place in folder.places()
        for trial in folder.trials(place)
        if (record := TrialRecord.load(trial.path))
    ]
    return live.page(Now(study, standing.state, standing.metric, standing.best, tuple(facts.items()), trials))


def serve(home: Path, study: str, port: int) -> None:
    """Serve the page of a study until Ctrl-C.

    Raises:
        RequestError: There is no such study, or the port is taken.
    """
    StudyFolder.begun(home, study)

    class Handler(BaseHTTPRequestHandler):
        """Handler of requests for the page of this study."""

        def do_GET(self) -> None:
            """Send the page if the request names this machine; another host name could belong to another site."""
            if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
                self._send(HTTPStatus.FORBIDDEN, f"open http://{HOST}:{port}/ on this machine")
            elif self.path != "/":
                self._send(HTTPStatus.NOT_FOUND, "there is one page: /")
            else:
                try:
                    self._send(HTTPStatus.OK, page(home, study))
                except (HpsearchError, ValueError, OSError) as error:  # the next request may find it whole
                    self._send(HTTPStatus.INTERNAL_SERVER_ERROR, redact(str(error)))

        def _send(self, status: HTTPStatus, text: str) -> None:
            body = text.encode()
            kind = "html" if status is HTTPStatus.OK else "plain"
            with contextlib.suppress(ConnectionError):  # the client has closed the connection
                self.send_response(status)
                self.send_header("Content-Type", f"text/{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                if status is HTTPStatus.INTERNAL_SERVER_ERROR:
                    self.send_header("Refresh", str(live.SECONDS))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: the printed address is all that the user needs."""

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise RequestError(f"--port={port}: {error.strerror}; give another") from None
    with server:
        print(f"study {study}: http://{HOST}:{server.server_port}/", flush=True)
        server.serve_forever()
