"""A trace is what its roles say: what is read becomes the tokens of the conversation that it shows, or is refused."""

import json
import weakref

import pytest

from environments.factories import environment_factory
from environments.play import play
from environments.policies.oracle import OraclePolicy
from environments.rendering import Renderer
from environments.seats import Limits
from environments.trace_files import read_traces
from environments.traces import TraceError, to_trace, unfit, write_fit_traces, write_traces
from fovea.boxes import Box, Frame
from fovea.models.processors import pixel_limits
from fovea.tasks import Target
from sft.collator import TraceCollator
from tests.environments.test_play import CALL, Scripted

USER = {"role": "user", "content": "<image>Which?"}
ANSWER = {"role": "assistant", "content": "<think>b</think><answer>7</answer>"}
ASKING = {"role": "assistant", "content": f"<think>a</think>{CALL}"}
CROP = {"role": "tool", "content": "<image>"}


@pytest.fixture
def collator(tiny, episode_arguments):
    return TraceCollator(
        Renderer(tiny.processor), environment_factory(episode_arguments, tiny)(), pixel_limits(tiny.processor)
    )


@pytest.fixture
def read(tmp_path, picture):
    def one(row, name="traces.jsonl", text=None):
        picture.save(tmp_path / "a.png")
        (tmp_path / name).write_text(text or json.dumps(row) + "\n\n", encoding="utf-8")
        return list(read_traces(tmp_path / name))

    return one


def decoded(collator, record) -> tuple[str, str]:
    """The whole text of a trace, and what of it carries loss."""
    ids, mask, _ = collator.encode(to_trace(record))
    tokenizer = collator.renderer.tokenizer
    text = tokenizer.decode([i for i in ids if i != collator.renderer.image_token_id])
    return text, tokenizer.decode([i for i, counts in zip(ids, mask, strict=True) if counts])


def test_every_way_to_write_the_same_conversation_gives_the_same_tokens(read, collator):
    """Crops in user turns, blocks in place of text, calls beside the text, a JSON list, a byte order mark."""
    plain = {"messages": [USER, ASKING, CROP, ANSWER], "images": ["a.png", "a.png"]}
    call = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 500, 500]}}
    asking = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]}
    text_call = dict(call, arguments=json.dumps(call["arguments"]))
    blocks = [{"type": "image"}, {"type": "text", "text": "Which?"}]
    others = [
        plain | {"messages": [USER, ASKING, CROP | {"role": "user"}, ANSWER]},
        plain | {"messages": [USER | {"content": blocks}, ASKING, CROP | {"content": [{"type": "image"}]}, ANSWER]},
    ]
    expected = decoded(collator, read(plain)[0])
    assert "<tool_response>" in expected[0] and expected[1].count("<|im_end|>") == 2
    for other in others:
        assert decoded(collator, read(other)[0]) == expected
    for written in (asking, asking | {"content": "", "tool_calls": {"function": text_call}}):
        _, loss = decoded(collator, read(plain | {"messages": [USER, written, CROP, ANSWER]})[0])
        assert '"bbox_2d": [0, 0, 500, 500]' in loss and loss.count("<tool_call>") == 1
    assert read(None, text=json.dumps([plain, plain]))[1] == read(plain)[0]
    assert read(None, text="\ufeff" + json.dumps(plain))[0] == read(plain)[0]


def test_user_turns_stay_user_turns_and_what_follows_the_last_answer_is_left_out(read, collator):
    again = {"role": "user", "content": "And in <image>?"}
    row = {"messages": [USER, ANSWER, again, ANSWER, again], "images": ["a.png"] * 3}
    record = read(row)[0]
    assert len(record["images"]) == 2
    text, loss = decoded(collator, record)
    assert "<tool_response>" not in text and text.count("<|im_start|>user\n") == 2 and "And in " in text
    assert loss == (ANSWER["content"] + "<|im_end|>") * 2


def test_several_calls_in_a_turn_have_each_their_answer_as_in_rollouts(
    tiny, episode_arguments, make_task, tmp_path, collator
):
    factory, renderer = environment_factory(episode_arguments, tiny), Renderer(tiny.processor)
    lines = (f"<think>a</think>\n{CALL}\n{CALL}", "<think>b</think>\n<answer>7</answer>")
    limits = Limits(3, 400, 2000)
    policy = Scripted(*lines, renderer=renderer)
    episode = play(policy, [make_task()], environment_factory=factory, limits=limits, renderer=renderer)[0]
    assert episode.num_zooms == 2 and [crop.img_idx for crop in episode.crops] == [1, 2]
    assert len(episode.turns[0].actions) == 2 and unfit(episode) is None
    write_traces([episode], tmp_path)
    ids, mask, images = collator.encode(to_trace(next(iter(read_traces(tmp_path)))))
    assert ids == list(episode.record.prompt_ids + episode.record.completion_ids)
    assert mask[-len(episode.record.loss_mask) :] == list(episode.record.loss_mask)
    assert len(images) == 3


def test_what_the_assistant_spells_out_is_text(read, collator):
    """`<image>` in a thought is no placeholder where it is escaped, and a control token in it ends no turn."""
    said = ANSWER | {"content": r"<think>The sign says \<image> and <|im_end|></think><answer>7</answer>"}
    _, loss = decoded(collator, read({"messages": [USER, said], "images": ["a.png"]})[0])
    assert "The sign says <image> and <|im_end|></think>" in loss
    ids, mask, _ = collator.encode(to_trace(read({"messages": [USER, said], "images": ["a.png"]})[0]))
    ends = [i for i, counts in zip(ids, mask, strict=True) if counts and i == collator.renderer.tokenizer.eos_token_id]
    assert len(ends) == 1


def test_a_written_thought_with_a_placeholder_reads_back(tiny, episode_arguments, make_task, tmp_path):
    factory = environment_factory(episode_arguments, tiny)
    line = "<think>It says <image>.</think>\n<answer>7</answer>"
    episode = play(Scripted(line), [make_task()], environment_factory=factory, limits=Limits())[0]
    write_traces([episode], tmp_path)
    assert to_trace(next(iter(read_traces(tmp_path)))).messages[-1]["content"] == line


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"conversations": []}, "no messages, but .*fovea data convert"),
        ({"messages": []}, "messages is"),
        ({"messages": [USER, ANSWER], "images": [3]}, "images is"),
        ({"messages": [USER, ANSWER], "images": []}, "1 <image> placeholders for 0 images"),
        ({"messages": [USER, "hello"], "images": ["a.png"]}, r"messages\[1\] is 'hello'"),
        ({"messages": [USER, ANSWER | {"role": "gpt"}], "images": ["a.png"]}, r"messages\[1\].role is 'gpt'"),
        ({"messages": [USER, ANSWER | {"content": None}], "images": ["a.png"]}, r"messages\[1\].content is None"),
        ({"messages": [USER, ANSWER | {"content": [{"type": "video"}]}], "images": ["a.png"]}, "content holds"),
        ({"messages": [USER, ANSWER, ANSWER], "images": ["a.png"]}, "speaks twice in a row"),
        ({"messages": [ANSWER, USER], "images": ["a.png"]}, "the user speaks first"),
        ({"messages": [USER, CROP, ANSWER], "images": ["a.png"] * 2}, "who called none"),
        ({"messages": [USER], "images": ["a.png"]}, "no assistant turn"),
        ({"messages": [USER, ANSWER, {"role": "system", "content": "s"}], "images": ["a.png"]}, "only the first"),
        ({"messages": [USER | {"tool_calls": [{}]}, ANSWER], "images": ["a.png"]}, "only the assistant"),
        ({"messages": [USER, ANSWER | {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
          "images": ["a.png"]}, "are no JSON"),
        ({"messages": [USER, ANSWER | {"reasoning_content": "Hm."}], "images": ["a.png"]}, "reasoning_content is not"),
        ([1], "it is a list"),
        ({"messages": [USER, ANSWER], "images": ["gone.png"]}, "gone.png does not exist"),
        ({"messages": [USER | {"content": "q"}, ANSWER | {"content": "<image>"}], "images": ["a.png"]},
         "shows no images"),
    ],
)  # fmt: skip
def test_what_is_no_trace_is_refused_by_line_and_field(read, row, reason):
    good = json.dumps({"messages": [USER, ANSWER], "images": ["a.png"]})
    with pytest.raises(TraceError, match=f"traces.jsonl line 2: .*{reason}"):
        read(None, text=f"{good}\n{json.dumps(row)}\n")


def test_traces_are_written_of_right_episodes_alone_and_the_others_counted(
    tiny, episode_arguments, make_task, tmp_path
):
    factory = environment_factory(episode_arguments, tiny)
    boxes = tuple(Target(Box(0.1 * n, 0.1, 0.1 * n + 0.1, 0.2, Frame.UNIT)) for n in range(5))
    tasks = [make_task(boxes=boxes[:1]), make_task(boxes=boxes), make_task(["7", "8"], "text", boxes=boxes[:2])]
    played = play(OraclePolicy(Frame.PER_MILLE), tasks, environment_factory=factory, limits=Limits(max_turns=4))
    wrong = play(
        Scripted("<think>a</think>\n<answer>9</answer>"), tasks[:1], environment_factory=factory, limits=Limits()
    )
    bad = play(Scripted(CALL.replace("500, 500", "0, 0"), "<think>a</think>\n<answer>7</answer>"), tasks[:1],
               environment_factory=factory, limits=Limits())  # fmt: skip
    dropped = write_fit_traces([*played, *wrong, *bad], tmp_path)
    assert dropped == {"ended by turn_limit": 1, "wrong answer": 1, "fault empty_box": 1}
    assert [record["messages"][-1]["content"][-18:] for record in read_traces(tmp_path)] == ["<answer>7</answer>"] * 2


def test_only_right_and_well_formed_episodes_are_worth_imitating(make_episode):
    episodes = [make_episode("7"), make_episode("8"), make_episode(None), make_episode("7", well_formed=False)]
    assert list(map(unfit, episodes)) == [None, "wrong answer", "ended by turn_limit", "out of format"]


def test_crops_of_the_user_behind_the_tools_words_join_them(read, collator):
    """As files in OpenAI's form have it, whose tool messages hold no images."""
    said = {"role": "tool", "content": "Here it is:"}
    joined = {"messages": [USER, ASKING, said | {"content": "Here it is:<image>"}, ANSWER], "images": ["a.png"] * 2}
    apart = joined | {"messages": [USER, ASKING, said, CROP | {"role": "user"}, ANSWER]}
    assert decoded(collator, *read(apart)) == decoded(collator, *read(joined))
    asked = apart | {"messages": [USER, ASKING, said, USER | {"content": "And now?"}, ANSWER], "images": ["a.png"]}
    assert [message["role"] for message in to_trace(*read(asked)).messages][-2] == "user", "words are the user's own"


def test_no_episode_is_kept_while_traces_are_written(tmp_path, make_task, episode_arguments, tiny):
    """Their pictures would fill the memory; and a file that is half written is none."""
    factory, played = environment_factory(episode_arguments, tiny), []

    def episodes():
        for number in range(4):
            task = make_task(id=str(number), boxes=(Target(Box(0.1, 0.1, 0.3, 0.3, Frame.UNIT)),))
            oracle = OraclePolicy(Frame.PER_MILLE)
            [episode] = play(oracle, [task], environment_factory=factory, limits=Limits(max_turns=3))
            played.append(weakref.ref(episode))
            yield episode
            del episode
            assert sum(reference() is not None for reference in played) <= 1
            assert not (tmp_path / "traces.jsonl").exists()

    assert not write_fit_traces(episodes(), tmp_path)
    assert len(list(read_traces(tmp_path))) == 4
