"""A model behind an OpenAI-compatible endpoint plays the same episodes, without tokens of its own."""

import json

import pytest

from evaluation.arguments import EvaluationArguments
from evaluation.playing import evaluate
from fovea.endpoint import ChatEndpoint
from synthesis.shapes import make_tasks

CALL = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 500, 500]}}'
ZOOM = f"<think>I zoom in.</think><tool_call>{CALL}</tool_call>"


def says(text, *, finish="stop", tokens=11):
    choice = {"message": {"content": text}, "finish_reason": finish}
    return 200, json.dumps({"choices": [choice], "usage": {"completion_tokens": tokens}})


def address(server):
    return f"http://127.0.0.1:{server.server_port}/v1"


def arguments_for(server, folder, **options):
    return EvaluationArguments(
        output_dir=str(folder), openai_base_url=address(server), model_name_or_path="gpt-x", temperature=0.5, **options
    )


def test_an_episode_is_played_through_an_endpoint(serve, tmp_path, episode_arguments, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    [task] = make_tasks(num_tasks=1, seed=2, families={"read": 1.0})
    server = serve(says(ZOOM), says(f"<think>I read it.</think><answer>{task.answer}</answer>", tokens=7))
    arguments = arguments_for(server, tmp_path)
    summary = evaluate(arguments.load_model(), [task], arguments, episode_arguments)
    assert (summary.accuracy, summary.zooms_per_question, summary.tokens_per_question) == (1.0, 1.0, 18.0)
    first, second = server.requests
    assert (first["model"], first["temperature"]) == ("gpt-x", 0.5)
    assert "image_zoom_in_tool" in first["messages"][0]["content"]
    assert [part["type"] for part in first["messages"][1]["content"]] == ["image_url", "text"]
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][-1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_a_turn_that_was_cut_ends_the_episode(serve, tmp_path, episode_arguments):
    server = serve(says("<think>and so on", finish="length"))
    arguments = arguments_for(server, tmp_path)
    tasks = make_tasks(num_tasks=1, seed=2)
    assert evaluate(arguments.load_model(), tasks, arguments, episode_arguments).stop_reasons == {"turn_tokens": 1}


def test_the_bare_question_needs_no_tokens_either(serve, tmp_path, episode_arguments):
    [task] = make_tasks(num_tasks=1, seed=2)
    server = serve(says(str(task.answer)))
    arguments = arguments_for(server, tmp_path, prompt="direct")
    assert evaluate(arguments.load_model(), [task], arguments, episode_arguments).accuracy == 1.0


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [(401, "no key", "set OPENAI_API_KEY"), (404, "nothing", "end in /v1"), (200, "{}", "without a choice")],
)
def test_a_refusal_says_what_to_do(serve, status, body, said):
    with pytest.raises(RuntimeError, match=said):
        ChatEndpoint(address(serve((status, body), says("2"))), "m").chat([{"role": "user", "content": "?"}])


def test_a_forced_beginning_is_refused(serve, tmp_path):
    with pytest.raises(ValueError, match="use vLLM"):
        arguments_for(serve(), tmp_path, force="zoom")
