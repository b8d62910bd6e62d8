"""Endpoints: what is tried again, what is remembered, what is left out, and what is said about refusals."""

import hashlib
import json

import pytest
from PIL import Image

from fovea.endpoint import ChatEndpoint, data_url, is_whole
from fovea.server import EndpointError, RefusedRequest, Server


def says(text, **usage):
    return 200, json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage})


def endpoint(server, **options):
    return ChatEndpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", **options)


MESSAGES = [{"role": "user", "content": "What?"}]


def test_a_busy_server_is_asked_again(serve):
    server = serve((503, "busy"), (429, "slower"), says("7", completion_tokens=3, prompt_tokens=9))
    counts = {"num_tokens": 3, "num_prompt_tokens": 9, "is_cached": False}
    assert endpoint(server).chat(MESSAGES) == {"text": "7", "finish_reason": "stop", **counts}
    assert len(server.requests) == 3


def test_an_answer_is_remembered_across_processes_and_by_the_whole_request(serve, tmp_path):
    server = serve(says("7"), says("8"))
    cache = tmp_path / "cache" / "answers.jsonl"
    assert endpoint(server, cache=cache).chat(MESSAGES)["text"] == "7"
    with cache.open("a") as file:
        file.write('{"request": "torn')
    again = endpoint(server, cache=cache)
    assert again.chat(MESSAGES)["text"] == "7" and len(server.requests) == 1
    assert again.chat(MESSAGES)["is_cached"]
    assert again.chat(MESSAGES, temperature=0.5)["text"] == "8" and len(server.requests) == 2


def test_what_an_endpoint_refuses_is_left_out_from_then_on(serve):
    server = serve(
        (400, "use max_completion_tokens instead"), (400, "temperature is not supported"), says("7"), says("8")
    )
    model = endpoint(server)
    assert [model.chat(MESSAGES, max_tokens=5, temperature=0.1)["text"] for _ in range(2)] == ["7", "8"]
    assert all(request["max_completion_tokens"] == 5 for request in server.requests[1:])
    assert "max_tokens" not in server.requests[2] and "temperature" not in server.requests[3]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, "who are you"), "answered 401: who are you: set OPENAI_API_KEY"),
        ((404, "no"), r"does the address end in /v1\?"),
        ((200, "<html>"), "answered no JSON: '<html>'"),
        ((402, "no"), "is there credit left?"),
        ((200, "{}"), "answered without a choice"),
    ],
)
def test_refusals_are_told_as_they_are_with_what_to_do(serve, answer, message):
    with pytest.raises(RuntimeError, match=message):
        endpoint(serve(answer, says("2"))).chat(MESSAGES)


def test_a_server_that_is_not_there_is_named():
    server = Server("http://127.0.0.1:9", hints={0: "is it running there?"}, num_retries=0)
    with pytest.raises(EndpointError, match=r"no answer from http://127.0.0.1:9/x.*is it running there\?"):
        server.ask("GET", "/x")


def test_the_key_comes_from_its_variable(serve, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    server = serve(says("7"))
    endpoint(server, api_key_variable="MY_KEY").chat(MESSAGES)
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_an_image_is_a_png_in_a_url():
    assert data_url(Image.new("RGB", (2, 2))).startswith("data:image/png;base64,iVBORw0KGgo")


def test_what_says_nothing_is_not_remembered_nor_what_another_model_said(serve, tmp_path):
    cut = 200, json.dumps({"choices": [{"message": {"content": "wel"}, "finish_reason": "length"}]})
    server, other, cache = serve(says(None), cut, says("7")), serve(says("8")), tmp_path / "answers.jsonl"
    said = [endpoint(server, cache=cache).chat(MESSAGES)["text"] for _ in range(4)]
    assert said == ["", "wel", "7", "7"] and len(server.requests) == 3
    assert endpoint(other, cache=cache).chat(MESSAGES)["text"] == "7", "the same model behind another address"
    elsewhere = ChatEndpoint(f"http://127.0.0.1:{other.server_port}/v1", "another", cache=cache)
    assert elsewhere.chat(MESSAGES)["text"] == "8"


def test_what_was_remembered_by_the_address_too_is_still_known(serve, tmp_path):
    server, cache = serve(), tmp_path / "answers.jsonl"
    request = {"base_url": endpoint(server).base_url, "model": "m", "messages": MESSAGES}
    row = {"request": hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest(),
           "answer": {"text": "7", "finish_reason": "stop", "num_tokens": 1}}  # fmt: skip
    cache.write_text(json.dumps(row) + "\n")
    assert endpoint(server, cache=cache).chat(MESSAGES)["text"] == "7" and not server.requests


NOT_THE_REASON = [
    '{"error": {"message": "bad image", "request": {"temperature": 0, "seed": 3, "top_p": 1}}}',
    "model doubao-seed-vl: image is too small",
    "model doubao-seed-vl does not support images of this size",
    '{"detail": [{"type": "missing", "loc": ["body", "messages"], "input": {"temperature": 0, "seed": 3}}]}',
    '{"error": {"message": "unknown error: seed", "param": "messages"}}',
]


@pytest.mark.parametrize("answer", NOT_THE_REASON)
def test_a_refusal_that_names_a_setting_for_another_reason_drops_none(serve, answer):
    server = serve((400, answer), says("2"), says("8"))
    model = endpoint(server)
    with pytest.raises(RefusedRequest):
        model.chat(MESSAGES, temperature=0, seed=3, top_p=1)
    model.chat(MESSAGES, temperature=0, seed=3, top_p=1)
    assert all({"temperature", "seed", "top_p"} <= request.keys() for request in server.requests)


@pytest.mark.parametrize(
    "answer",
    [
        '{"error": {"message": "Unsupported value", "param": "temperature"}}',
        "Unsupported parameter: 'temperature' is not supported with this model.",
        '{"error": {"message": "Unrecognized request argument supplied: temperature"}}',
        '{"detail": [{"type": "extra_forbidden", "loc": ["body", "temperature"], "msg": "Extra inputs"}]}',
        "this endpoint does not support temperature",
        "`temperature` is deprecated for this model",
        "temperature must be 1",
        "Invalid value for temperature",
    ],
)
def test_a_setting_that_is_refused_is_left_out_and_told(serve, answer, caplog):
    server = serve((400, answer), says("8"))
    assert endpoint(server).chat(MESSAGES, temperature=0.5, seed=3)["text"] == "8"
    assert "temperature" not in server.requests[1] and server.requests[1]["seed"] == 3
    assert "takes no temperature" in caplog.text


def test_of_two_settings_that_exclude_each_other_one_stays(serve):
    server = serve((400, "`temperature` and `top_p` cannot both be specified for this model."), says("8"))
    assert endpoint(server).chat(MESSAGES, temperature=0.5, top_p=1.0)["text"] == "8"
    assert server.requests[1]["temperature"] == 0.5 and "top_p" not in server.requests[1]


def test_a_setting_whose_absence_did_not_help_is_sent_again(serve):
    server = serve((400, "temperature is not supported"), (400, "the image is broken"), says("2"), says("8"))
    model = endpoint(server)
    with pytest.raises(RefusedRequest, match="the image is broken"):
        model.chat(MESSAGES, temperature=0.5)
    model.chat(MESSAGES, temperature=0.5)
    assert "temperature" in server.requests[3]


CALLED = {"function": {"name": "zoom", "arguments": '{"bbox": [1, 2]}'}}
WRITTEN = '<tool_call>\n{"name": "zoom", "arguments": {"bbox": [1, 2]}}\n</tool_call>'


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "7"}]}, "7"),
        ({"reasoning_content": "hm"}, ""),
        ({"content": None, "refusal": "no"}, ""),
        (
            {"content": None, "tool_calls": [CALLED]},
            '<tool_call>\n{"name": "zoom", "arguments": {"bbox": [1, 2]}}\n</tool_call>',
        ),
    ],
)
def test_what_a_message_says(serve, message, text):
    server = serve((200, json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]})))
    assert endpoint(server).chat(MESSAGES)["text"] == text


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        *((reason, True) for reason in ("stop", None, "tool_calls", "STOP", "stop_sequence", "")),
        *((reason, False) for reason in ("length", "MAX_TOKENS", "max_tokens", "content_filter")),
    ],
)
def test_only_what_the_model_ended_is_whole_and_remembered(serve, tmp_path, reason, expected):
    said = 200, json.dumps({"choices": [{"message": {"content": "7"}, "finish_reason": reason}]})
    server = serve(said, said)
    model = endpoint(server, cache=tmp_path / "answers.jsonl")
    assert is_whole(model.chat(MESSAGES)) is expected
    model.chat(MESSAGES)
    assert len(server.requests) == (1 if expected else 2)


def test_an_answer_that_ended_in_an_error_is_none(serve):
    said = 200, json.dumps({"choices": [{"message": {"content": "7"}, "finish_reason": "error"}]})
    with pytest.raises(EndpointError, match="with an error"):
        endpoint(serve(said, says("2"))).chat(MESSAGES)


@pytest.mark.parametrize("status", [408, 409, 425, 520, 524])
def test_what_gateways_answer_for_a_busy_server_is_tried_again(serve, status):
    server = serve((status, "later"), says("7"))
    assert endpoint(server).chat(MESSAGES)["text"] == "7" and len(server.requests) == 2


def test_pauses_grow_to_two_minutes_in_all():
    retry = Server("http://127.0.0.1:9")._session.get_adapter("http://").max_retries
    pauses = []
    while retry.total:
        retry = retry.increment("POST", "/", error=OSError("refused"))
        pauses.append(retry.get_backoff_time())
    assert pauses == sorted(pauses) and 100 <= sum(pauses) <= 140


REFUSALS = [
    (403, "moderated"),
    (451, "for legal reasons"),
    (200, '{"error": {"message": "the provider refuses", "code": 502}}'),
    (200, '{"choices": []}'),
    (200, '{"choices": null}'),
    (200, '{"choices": [{"message": {"content": 7}}]}'),
    (200, "[]"),
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_what_concerns_one_request_alone_is_a_refusal_of_it(serve, answer):
    server = serve(answer, says("2"))
    with pytest.raises(RefusedRequest):
        endpoint(server).chat(MESSAGES, max_tokens=5)
    assert server.requests[1].keys() == server.requests[0].keys() and "What?" not in str(server.requests[1])


@pytest.mark.parametrize("content", ["What?", [{"type": "image_url", "image_url": {"url": "data:"}}]])
@pytest.mark.parametrize("answer", [*REFUSALS, (400, "Arrearage"), (403, "key limit exceeded"), (401, "who are you")])
def test_who_refuses_a_plain_question_as_well_has_not_refused_one_request(serve, answer, content):
    server = serve(answer, answer)
    with pytest.raises(EndpointError) as raised:
        endpoint(server).chat([{"role": "user", "content": content}])
    assert not isinstance(raised.value, RefusedRequest)
    assert all(("image_url" in str(request)) == (content != "What?") for request in server.requests)


@pytest.mark.parametrize("status", [401, 404])
def test_what_concerns_all_requests_is_no_refusal_of_one(serve, status):
    with pytest.raises(EndpointError) as raised:
        endpoint(serve((status, "no"))).chat(MESSAGES)
    assert not isinstance(raised.value, RefusedRequest)
