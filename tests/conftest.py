"""One tiny model for the whole session, and small things that many tests need."""

from __future__ import annotations

import copy
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from environments.arguments import EpisodeArguments
from fovea.episodes import Answer, Crop, Episode, Observation, StopReason, Turn
from fovea.models.loading import Model, load_model
from fovea.tasks import AnswerKind, Task

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of commands that tests start: as many tests run as there are cores
TINY_CROPS = {"crop_min_pixels": 64 * 64, "crop_max_pixels": 80 * 64}


@pytest.fixture(scope="session")
def _tiny() -> Model:
    torch.set_num_threads(1)
    return load_model("tiny")


@pytest.fixture
def tiny(_tiny: Model) -> Model:
    """The tiny base, a fresh copy for each test that may train it."""
    return Model(copy.deepcopy(_tiny.network), _tiny.processor, "tiny")


@pytest.fixture
def episode_arguments() -> EpisodeArguments:
    return EpisodeArguments(max_tokens_per_turn=48, max_episode_tokens=256, **TINY_CROPS)


@pytest.fixture
def picture() -> Image.Image:
    """A 640x480 image in which every place looks different."""
    rows, columns = np.mgrid[0:480, 0:640]
    pixels = np.stack([columns * 255 // 639, rows * 255 // 479, (rows + columns) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def make_task(picture: Image.Image):
    def make(answer="7", kind=AnswerKind.NUMBER, **fields) -> Task:
        return Task(fields.pop("id", "t"), (picture,), fields.pop("question", "Which digit?"), answer, kind, **fields)

    return make


@pytest.fixture
def make_episode(make_task):
    """An episode that ends with `answer` after zooms into `regions`."""

    def make(answer: str | None, *, task: Task | None = None, regions=(), well_formed=True) -> Episode:
        turns = [
            Turn("zoom", Answer(""), Observation("", (Crop(index + 1, 0, region, (64, 64)),)), 5, True)
            for index, region in enumerate(regions)
        ]
        if answer is not None:
            turns.append(Turn(f"<answer>{answer}</answer>", Answer(answer), None, 5, well_formed))
        reason = StopReason.ANSWERED if answer is not None else StopReason.TURN_LIMIT
        return Episode(task or make_task(), tuple(turns), reason)

    return make


MODELS = {"data": [{"id": "tiny"}]}


@pytest.fixture
def serve():
    """Starts a server that answers each request for tokens with the next (status, body); a number is a pause."""
    servers = []

    def start(*answers):
        left = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._answer(200, json.dumps(MODELS))

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.server.requests.append(request)
                self.server.headers.append(dict(self.headers))
                status, body = left.pop(0)
                if isinstance(body, float):
                    time.sleep(body)
                self._answer(status, body(request) if callable(body) else str(body))

            def _answer(self, status, body):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.requests, server.headers = [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
