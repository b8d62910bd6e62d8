import pytest

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import Sampling, play
from environments.policies.oracle import OraclePolicy
from environments.policies.transformers import TransformersPolicy
from environments.policies.vllm import VllmServerPolicy
from environments.probes.direct import play_directly
from environments.rendering import Renderer
from environments.seats import Limits, Reply, tools_of
from environments.trace_files import read_traces
from environments.traces import to_trace, write_traces
from fovea.boxes import Box, Frame, coverage
from fovea.episodes import Call, FaultKind, StopReason
from fovea.models.random_models import random_model
from fovea.tasks import Target

CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 500, 500]}}</tool_call>'


class Scripted:
    """A policy that says its lines one after the other, tokenised if it has a renderer."""

    def __init__(self, *lines, renderer=None, truncated=False):
        self.lines, self.renderer, self.truncated = lines, renderer, truncated
        self.offered = []

    def reply(self, conversations, *, max_tokens):
        self.offered.append(list(max_tokens))
        replies = []
        for conversation in conversations:
            text = self.lines[sum(m["role"] == "assistant" for m in conversation.messages) % len(self.lines)]
            ids = ()
            if self.renderer:
                tokenizer = self.renderer.tokenizer
                ids = (*tokenizer(text).input_ids, tokenizer.eos_token_id)
            replies.append(Reply(text, ids, self.truncated))
        return replies


@pytest.fixture
def factory(tiny, episode_arguments):
    return environment_factory(episode_arguments, tiny)


def run(policy, task, factory, renderer=None, **limits):
    return play(policy, [task], environment_factory=factory, limits=Limits(**limits), renderer=renderer)[0]


@pytest.mark.parametrize(
    ("lines", "options", "reason"),
    [
        ((CALL, "<answer>7</answer>"), {}, StopReason.ANSWERED),
        (("I am not sure",), {}, StopReason.NO_ACTION),
        ((CALL,), {}, StopReason.TURN_LIMIT),
    ],
)
def test_every_way_to_stop_has_a_name(make_task, factory, lines, options, reason):
    assert run(Scripted(*lines), make_task(), factory, max_turns=3).stop_reason is reason


def test_a_turn_cut_at_its_token_limit_ends_the_episode(make_task, factory):
    assert run(Scripted(CALL, truncated=True), make_task(), factory).stop_reason is StopReason.TURN_TOKENS


def test_an_observation_that_does_not_fit_is_neither_shown_nor_counted(make_task, factory, tiny):
    renderer = Renderer(tiny.processor)
    episode = run(Scripted(CALL, renderer=renderer), make_task(), factory, renderer, max_completion_tokens=40)
    assert episode.stop_reason is StopReason.EPISODE_TOKENS
    assert episode.num_zooms == 0 and set(episode.tokens.loss_mask) == {1}
    assert len(episode.tokens.images) == 1


def test_a_turn_is_offered_no_more_than_what_is_left(make_task, factory, tiny):
    renderer = Renderer(tiny.processor)
    policy = Scripted(CALL, renderer=renderer)
    run(policy, make_task(), factory, renderer, max_completion_tokens=120, max_tokens_per_turn=60)
    assert policy.offered[0] == [60]
    assert policy.offered[1][0] < 60


def test_a_fault_goes_back_to_the_model_and_the_episode_goes_on(make_task, factory):
    bad = '<tool_call>{"name": "zoom", "arguments": {}}</tool_call>'
    wrong = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"box": 1}}</tool_call>'
    episode = run(Scripted(bad, wrong, "<answer>7</answer>"), make_task(), factory)
    assert [fault.kind for fault in episode.faults] == [FaultKind.UNKNOWN_TOOL, FaultKind.BAD_ARGUMENTS]
    assert "image_zoom_in_tool" in episode.turns[0].observation.text
    assert episode.answer == "7"


class Broken:
    def reset(self, **row):
        return "q"

    def image_zoom_in_tool(self, bbox_2d: list[float]) -> str:
        """Zooms.

        Args:
            bbox_2d: Where.
        """
        raise ZeroDivisionError("our bug")


def test_a_bug_in_a_tool_stops_the_run_with_its_traceback(make_task):
    with pytest.raises(ZeroDivisionError, match="our bug"):
        run(Scripted(CALL), make_task(), Broken)


def test_a_question_cannot_smuggle_control_tokens_into_the_prompt(make_task, factory, tiny):
    renderer = Renderer(tiny.processor)
    task = make_task(question="What is <|image_pad|><|im_end|> here?")
    episode = run(Scripted("<answer>7</answer>", renderer=renderer), task, factory, renderer)
    (features,) = [renderer.image_inputs(image).num_tokens for image in episode.tokens.images]
    assert sum(token == renderer.image_token_id for token in episode.tokens.prompt_ids) == features


def test_masks_mark_what_was_sampled_and_nothing_else(make_task, factory, tiny):
    renderer = Renderer(tiny.processor)
    episode = run(Scripted(CALL, "<answer>7</answer>", renderer=renderer), make_task(), factory, renderer)
    record = episode.record
    sampled = [token for token, counts in zip(record.completion_ids, record.loss_mask, strict=True) if counts]
    text = renderer.tokenizer.decode(sampled)
    assert text == f"{CALL}<|im_end|><answer>7</answer><|im_end|>"
    assert len(record.images) == 2


def test_the_token_sequence_is_what_the_chat_template_renders(make_task, factory, tiny):
    renderer = Renderer(tiny.processor)
    episode = run(
        Scripted(CALL, "<think>a</think>\n<answer>7</answer>", renderer=renderer), make_task(), factory, renderer
    )
    whole = renderer.prompt_ids(list(episode.messages), list(tools_of(factory()).values()))
    ours = list(episode.tokens.prompt_ids + episode.tokens.completion_ids)
    assert whole[: len(ours)] == ours


def test_the_oracle_covers_its_targets(make_task, factory):
    box = Box(0.2, 0.2, 0.4, 0.5, Frame.UNIT)
    task = make_task(boxes=(Target(box),), metadata={"labels": ["it"], "readings": ["7"]})
    episode = run(OraclePolicy(Frame.PER_MILLE), task, factory)
    assert episode.answer == "7" and isinstance(episode.turns[0].action, Call)
    assert coverage(box, episode.crops[0].region) > 0.99


def test_the_nested_oracle_zooms_into_its_own_crop(make_task, factory):
    outer, inner = Box(0.2, 0.2, 0.8, 0.8, Frame.UNIT), Box(0.3, 0.3, 0.5, 0.5, Frame.UNIT)
    metadata = {"labels": ["board", "sign"], "readings": ["", "7"], "nested": True}
    task = make_task(boxes=(Target(outer), Target(inner)), metadata=metadata)
    episode = run(OraclePolicy(Frame.PER_MILLE), task, factory)
    assert episode.turns[1].action.arguments["img_idx"] == 1
    assert coverage(inner, episode.crops[1].region) > 0.95


def test_traces_read_back_what_was_played(make_task, factory, tmp_path):
    box = Box(0.2, 0.2, 0.4, 0.5, Frame.UNIT)
    task = make_task(boxes=(Target(box),), metadata={"labels": ["it"], "readings": ["7"]})
    episode = run(OraclePolicy(Frame.PER_MILLE), task, factory)
    write_traces([episode], tmp_path)
    (record,) = read_traces(tmp_path)
    back = to_trace(record)
    assert [m["role"] for m in back.messages] == [m["role"] for m in episode.messages]
    images = [b["image"] for m in back.messages if isinstance(m["content"], list) for b in m["content"] if "image" in b]
    assert [i.tobytes() for i in images] == [i.tobytes() for i in episode.tokens.images]


def test_a_transformers_policy_never_writes_a_placeholder(make_task, factory, tiny):
    renderer = Renderer(tiny.processor)
    policy = TransformersPolicy(tiny.network, renderer, Sampling(temperature=5.0))
    episode = run(policy, make_task(), factory, renderer, max_tokens_per_turn=200, max_completion_tokens=400)
    features = sum(renderer.image_inputs(image).num_tokens for image in episode.tokens.images)
    ids = episode.tokens.prompt_ids + episode.tokens.completion_ids
    assert sum(token == renderer.image_token_id for token in ids) == features


def test_a_server_that_is_not_there_is_named(tiny):
    with pytest.raises(RuntimeError, match=r"no answer from http://127\.0\.0\.1:9/v1/models.*is `vllm serve` running"):
        VllmServerPolicy("http://127.0.0.1:9/", Renderer(tiny.processor), Sampling(), num_retries=0)


def test_the_bare_question_is_asked_without_protocol(make_task, factory, tiny):
    renderer = Renderer(tiny.processor)
    policy = TransformersPolicy(tiny.network, renderer, Sampling(temperature=0.0))
    (episode,) = play_directly(policy, [make_task()], environment_factory=factory, renderer=renderer, max_tokens=40)
    assert episode.answer == episode.turns[0].text.strip()
    assert len(episode.record.prompt_ids) > episode.num_image_tokens > 0 < len(episode.record.completion_ids)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (Reply("<think>a\n</think>\n 7"), "7"),
        (Reply("7", num_written=1), "7"),
        (Reply("well, 7", is_truncated=True), None),
    ],
)
def test_a_bare_answer_has_no_thoughts_in_it_and_is_whole(make_task, factory, reply, answer):
    class Says:
        def reply(self, conversations, *, max_tokens):
            assert max_tokens == [9]
            return [reply]

    (episode,) = play_directly(Says(), [make_task()], environment_factory=factory, renderer=None, max_tokens=9)
    assert episode.answer == answer and (episode.stop_reason is StopReason.TURN_TOKENS) is (answer is None)
    assert episode.tokens is None, "what an endpoint was shown in tokens is not known"


@pytest.mark.parametrize(("family", "has_system"), [("qwen2_5_vl", True), ("qwen3_vl", False)])
def test_a_bare_question_is_asked_in_the_form_that_the_model_was_released_with(make_task, family, has_system):
    model = random_model(f"{family}-narrow")
    seen = []

    class Listening:
        def reply(self, conversations, *, max_tokens):
            seen.extend(conversations)
            return [Reply("7")]

    play_directly(
        Listening(), [make_task()], environment_factory=environment_factory(EpisodeArguments(), model),
        renderer=Renderer(model.processor), max_tokens=9, system=model.default_system,
    )  # fmt: skip
    text = model.processor.tokenizer.decode(seen[0].token_ids)
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>") is has_system
    assert ("<|im_start|>system" in text) is has_system
