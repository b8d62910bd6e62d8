"""The trajectory viewer of a run, served: `fovea view RUN`. A training that is under way is followed as it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlparse

from evaluation.discover import find_runs
from evaluation.report import as_script, page
from evaluation.stored import StoredRun
from evaluation.trajectories import Trajectories
from fovea.commands import from_zero, plain_parser
from fovea.images import ImageError


class LiveTrajectories:
    """The episodes of runs, read on as their files grow."""

    def __init__(self, folders: Sequence[Path], *, max_image_px: int = 960) -> None:
        self.shown = Trajectories(max_image_px)
        self.files: list[tuple[int, StoredRun]] = []
        for run in find_runs(folders):
            sets = {"training": run.training} | dict(run.evaluations)
            for name, stored in sets.items():
                if stored is not None:
                    self.files.append((self.shown.add_set(run.name, name, stored), stored))
        self._read = [0] * len(self.files)
        self._lock = Lock()

    def since(self, number: int) -> dict[str, Any]:
        """Data that the viewer does not have yet: episodes from `number` on, and their tasks."""
        with self._lock:
            for place, (set_number, stored) in enumerate(self.files):
                self.shown.add(set_number, stored, self._new_records(place, stored))
            data = self.shown.data()
            episodes = data["episodes"][number:]
            return data | {
                "episodes": episodes,
                "tasks": {episode["task"]: data["tasks"][episode["task"]] for episode in episodes},
            }

    def _new_records(self, place: int, stored: StoredRun) -> list[Any]:
        """Whole lines written since the last look; a file that has become shorter was written anew by a resumed run."""
        path = stored.path
        if path.stat().st_size < self._read[place]:
            self._read[place] = path.stat().st_size
        with path.open("rb") as file:
            file.seek(self._read[place])
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read[place] += len(whole)
        return [stored.kind.from_json(json.loads(line)) for line in whole.splitlines()]


def make_server(folders: Sequence[Path], *, host: str = "127.0.0.1", port: int = 8765) -> ThreadingHTTPServer:
    """A server of the viewer of these runs; port 0 takes a free one."""
    live = LiveTrajectories(folders)
    title = f"Fovea: {', '.join(str(folder) for folder in folders)}"
    front = page(title, "", is_live=True).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlparse(self.path)
            if address.path == "/":
                self._answer(front, "text/html; charset=utf-8")
            elif address.path in ("/data", "/new"):
                number = int(parse_qs(address.query).get("since", ["0"])[0])
                self._answer(as_script(live.since(number)).encode(), "application/json")
            elif address.path.startswith("/picture/"):
                self._picture(address.path.removeprefix("/picture/"))
            else:
                self.send_error(404)

        def _picture(self, key: str) -> None:
            try:
                content = live.shown.picture(key)
            except (KeyError, ImageError):
                self.send_error(404)
                return
            self._answer(content, "image/webp")

        def _answer(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a line for every picture would hide what matters."""

    return Server((host, port), Handler)


class Server(ThreadingHTTPServer):
    """A server that ignores readers who close the page."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores pages that were closed before their answers came."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of trainings or evaluations")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: this machine only)")
    parser.add_argument("--port", type=from_zero, default=8765, help="port to serve at")
    args = parser.parse_args()
    try:
        server = make_server(args.runs, host=args.host, port=args.port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise SystemExit(
            f"cannot serve at {args.host}:{args.port}: {reason}. Give another --port; 0 takes a free one"
        ) from error
    print(f"http://{args.host}:{server.server_port} (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.shutdown()


if __name__ == "__main__":
    main()
