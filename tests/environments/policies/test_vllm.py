"""The client of a vLLM server against servers that misbehave; `tests/engines` has the real one."""

from __future__ import annotations

import json

import pytest

from environments.play import Sampling
from environments.policies.vllm import VllmServerPolicy, _name_of
from environments.rendering import Renderer
from environments.seats import Conversation
from fovea.config import ConfigError
from fovea.models.names import resolve_path


def good(request, *, prompt=None):
    """An answer of one token to a text-only request."""
    choice = {"token_ids": [5], "logprobs": {"content": [{"logprob": -0.5}]}}
    return json.dumps({"prompt_token_ids": prompt or request["token_ids"], "choices": [choice]})


def ask(server, tiny, make_task, **options):
    policy = VllmServerPolicy(
        f"http://127.0.0.1:{server.server_port}", Renderer(tiny.processor), Sampling(0.7), **options
    )
    return policy.reply([Conversation(make_task(), [], [1, 2, 3], [])], max_tokens=[4])


def test_passing_errors_are_tried_again(serve, tiny, make_task):
    server = serve((503, "busy"), (500, "oops"), (200, good))
    (reply,) = ask(server, tiny, make_task)
    assert (reply.token_ids, reply.logprobs, len(server.requests)) == ((5,), (-0.5,), 3)
    assert server.requests[-1]["sampling_params"]["temperature"] == 0.7


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, "<html>proxy</html>"), "answered no JSON: '<html>proxy"),
        ((200, '{"choices": []}'), "answered without tokens"),
        ((400, "context length exceeded"), "answered 400: context length exceeded"),
        ((404, "no such route"), "--enable-scale-out"),
        ((500, "broken"), "answered 500: broken"),
        ((200, 3.0), "after 0 more tries"),
    ],
)
def test_lasting_errors_say_what_the_server_said(serve, tiny, make_task, answer, message):
    with pytest.raises(RuntimeError, match=message):
        ask(serve(answer), tiny, make_task, num_retries=0, timeout_s=0.5)


def test_a_server_that_reads_another_prompt_is_refused(serve, tiny, make_task):
    server = serve((200, lambda request: good(request, prompt=[1, 2])))
    with pytest.raises(ValueError, match="reads task t as 2 tokens where the loss will read 3"):
        ask(server, tiny, make_task)


def test_an_evaluation_refuses_a_server_of_another_model(serve, tiny):
    server = serve()
    url = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(ConfigError, match="not mine: start `vllm serve mine --enable-scale-out`"):
        VllmServerPolicy(url, Renderer(tiny.processor), Sampling(), model="mine")
    other, own = {"id": "base", "root": "somewhere/else"}, {"id": "mine", "root": resolve_path("tiny")}
    assert _name_of("tiny", [other, own], url) == "mine"
    assert _name_of("base", [other, own], url) == "base"
