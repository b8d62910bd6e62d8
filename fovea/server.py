"""HTTP servers that answer JSON: failed connections are tried again, refusals told as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class EndpointError(RuntimeError):
    """A server that is not there, refuses, or answers something else than was agreed; its words, and what to do."""


class RefusedRequest(EndpointError):
    """A server that refuses this request, though it may answer others; `answer` is its reply.

    The message begins with the reason and a colon, by which refusals are counted.
    """

    def __init__(self, message: str, answer: str = "") -> None:
        super().__init__(message)
        self.answer = answer


TRIED_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, *range(520, 530))
"""Statuses of a server that is busy, or of a gateway that does not reach it."""
OF_THIS_REQUEST = (400, 403, 413, 422, 451)
"""Statuses of a server that will not answer this request, because of its form, its size or what it shows."""


@dataclass
class Server:
    """A server at `base_url`.

    Refused connections, time-outs (`timeout_s`) and answers in `TRIED_AGAIN` are tried again, `num_retries` times with
    pauses that double, about two minutes in all. `hints` say what to do about an answer, by its status; 0 stands for
    none at all.
    """

    base_url: str
    hints: dict[int, str] = field(default_factory=dict)
    num_connections: int = 64
    timeout_s: float = 600.0
    num_retries: int = 7
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util.retry import Retry

        self.base_url = self.base_url.rstrip("/")
        self._session = requests.Session()
        self._session.headers.update(self.headers)

        class Patient(Retry):
            """Reads pauses in fractions of a second too, which some servers ask for."""

            def parse_retry_after(self, retry_after: str) -> float:
                try:
                    return max(0.0, float(retry_after))
                except ValueError:
                    return super().parse_retry_after(retry_after)

        retry = Patient(
            self.num_retries,
            backoff_factor=1,  # pauses of 0, 2, 4, 8, 16, 32 and 64 s
            status_forcelist=TRIED_AGAIN,
            allowed_methods=None,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=self.num_connections))

    def ask(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """The JSON that the server answers.

        Raises:
            RefusedRequest: with the server's own words if it refuses this request.
            EndpointError: if it refuses any, with what to do about it.
        """
        import requests

        try:
            response = self._session.request(method, self.base_url + path, timeout=self.timeout_s, **kwargs)
        except requests.RequestException as error:
            raise EndpointError(
                f"no answer from {self.base_url}{path} after {self.num_retries} more tries ({error}){self._hint(0)}"
            ) from None
        if not response.ok:
            status, address = response.status_code, f"{self.base_url}{path}"
            answer = f"{response.text[:2000]}{self._hint(status)}"
            if status in OF_THIS_REQUEST:
                raise RefusedRequest(f"refused {status}: {address} answered {status}: {answer}", response.text)
            raise EndpointError(f"{address} answered {status}: {answer}")
        try:
            return response.json()
        except requests.JSONDecodeError:
            raise EndpointError(
                f"{self.base_url}{path} answered no JSON: {response.text[:2000]!r} (is this the address of an "
                "OpenAI-compatible API?)"
            ) from None

    def _hint(self, status: int) -> str:
        return f": {self.hints[status]}" if status in self.hints else ""
