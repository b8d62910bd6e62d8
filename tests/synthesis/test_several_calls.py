"""Turns with one to four calls, faults among them: from a foreign file to SFT, to rollouts and to the viewer."""

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.play import play
from environments.seats import Limits, Reply
from environments.trace_files import read_traces
from environments.traces import to_trace, trace_record
from evaluation.stored import stored_run
from evaluation.trajectories import Trajectories
from fovea.boxes import Frame
from fovea.data.task_files import load_tasks
from fovea.episodes import Fault
from fovea.runs.records import SAMPLES, Sample, append, read_samples
from sft.collator import TraceCollator
from synthesis.checks.command import CheckArguments, check
from synthesis.convert import ConvertArguments, convert
from tests.conftest import TINY_CROPS
from tests.synthesis.foreign import PUBLISHED, Story

EPISODES = EpisodeArguments(**TINY_CROPS)
FORMATS = ("sharegpt", "llamafactory_openai", "swift", "trl", "hermes")
FAULTS = {
    "bad_json": lambda call: call.replace('{"name"', '{"name'),
    "unknown_tool": lambda call: call.replace("image_zoom_in_tool", "magnify"),
    "bad_image_index": lambda call: call.replace('"img_idx": ', '"img_idx": 9'),
    "outside_box": lambda call: re.sub(r"\[.*?\]", "[5000, 5000, 5100, 5100]", call),
    "empty_box": lambda call: re.sub(r"\[(.*?), (.*?), (.*?), (.*?)\]", r"[\3, \4, \1, \2]", call),
}
LOW = st.floats(0.0, 0.5).map(lambda value: round(value, 2))
BOX = st.tuples(LOW, LOW, st.floats(0.3, 0.5), st.floats(0.3, 0.5)).map(
    lambda b: (b[0], b[1], round(b[0] + b[2], 2), round(b[1] + b[3], 2))
)


@st.composite
def stories(draw):
    """Calls by turns, each into an image that is shown by then."""
    turns, num_shown = [], 1
    for _ in range(draw(st.integers(1, 2))):
        turn = draw(st.lists(st.tuples(st.integers(0, num_shown - 1), BOX), min_size=1, max_size=4))
        num_shown += len(turn)
        turns.append(turn)
    return turns


class Written:
    """A policy that writes given texts, with the tokens that a model would have sampled for them."""

    def __init__(self, texts, collator):
        self.texts, self.collator = texts, collator

    def reply(self, conversations, *, max_tokens):
        [conversation] = conversations
        number = sum(message["role"] == "assistant" for message in conversation.messages)
        return [Reply(self.texts[number], tuple(self.collator.written_ids(self.texts[number])))]


@pytest.fixture(scope="module")
def collator(_tiny):
    return TraceCollator(make_renderer(EPISODES, _tiny), environment_factory(EPISODES, _tiny)(), _tiny.limits)


@pytest.fixture(scope="module")
def speckled():
    """A picture of whose parts no two look alike."""
    noise = np.random.default_rng(5).integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)


def rollout(texts, task, collator, model):
    limits = Limits(max_turns=9, max_tokens_per_turn=10**6, max_completion_tokens=10**6)
    factory = environment_factory(EPISODES, model)
    [episode] = play(
        Written(texts, collator), [task], environment_factory=factory, limits=limits, renderer=collator.renderer
    )
    return episode


def shown_in_viewer(folder):
    stored = stored_run(folder)
    shown = Trajectories()
    shown.add(shown.add_set("r", "s", stored), stored, stored.records)
    return shown.data()["episodes"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=stories(), name=st.sampled_from(FORMATS), data=st.data())
def test_several_calls_in_a_turn(turns, name, data, collator, _tiny, speckled):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        story = Story(speckled, turns)
        (folder / "a.json").write_text(json.dumps([PUBLISHED[name].row(story, folder)]))
        out = folder / "out"
        conversion = convert(ConvertArguments(dataset_name=str(folder / "a.json"), output_dir=str(out)), EPISODES)
        assert conversion.dropped == {}
        [record], [task], [sample] = list(read_traces(out)), load_tasks(out / "tasks"), read_samples(out)
        texts = [message["content"] for message in record["messages"] if message["role"] == "assistant"]
        assert [text.count("<tool_call>") for text in texts] == [*map(len, turns), 0]

        episode = rollout(texts, task, collator, _tiny)
        ids, mask, images = collator.encode(to_trace(record))
        assert ids == [*episode.record.prompt_ids, *episode.record.completion_ids]
        assert mask[-len(episode.record.loss_mask) :] == list(episode.record.loss_mask)
        assert [image.size for image in images] == [image.size for image in episode.record.images]
        assert [crop.region for crop in episode.crops] == [
            crop.region for turn in sample.turns if turn.observation for crop in turn.observation.crops
        ]
        [drawn] = shown_in_viewer(out)
        assert sum(len(turn["crops"]) for turn in drawn["turns"]) == len(story.zooms)

        with_a_fault(data, texts, task, collator, _tiny, out)
        with_a_fault_in_the_file(data, name, speckled, turns, folder)


def with_a_fault_in_the_file(data, name, picture, turns, folder):
    """One call of the foreign file is one that its own tool refuses: the file's others are kept, this one is named."""
    good, bad = [Story(picture, turns) for _ in range(3)], Story(picture, turns)
    zooms = bad.turns[data.draw(st.integers(0, len(turns) - 1))]
    zoom = zooms[data.draw(st.integers(0, len(zooms) - 1))]
    kind = data.draw(st.sampled_from(("a box outside", "swapped corners", "an image that is not there")))
    if kind == "a box outside":
        zoom.box = (2.0, 2.0, 3.0, 3.0)
    elif kind == "swapped corners":
        zoom.box = (zoom.box[2], zoom.box[3], zoom.box[0], zoom.box[1])
    else:
        zoom.image = 40
    (folder / "two.json").write_text(json.dumps([PUBLISHED[name].row(story, folder) for story in (*good, bad)]))
    options = ConvertArguments(dataset_name=str(folder / "two.json"), output_dir=str(folder / "two"))
    conversion = convert(replace(options, source_frame="original"), EPISODES)
    assert conversion.num_written == 3 and list(conversion.dropped) == [4], conversion.table()


def with_a_fault(data, texts, task, collator, model, folder):
    """One call of the episode is broken: the others are carried out in their places, and all see which it was."""
    turn = data.draw(st.integers(0, len(texts) - 2))
    head, *calls = texts[turn].split("<tool_call>")
    number, kind = data.draw(st.integers(0, len(calls) - 1)), data.draw(st.sampled_from(sorted(FAULTS)))
    calls[number] = FAULTS[kind](calls[number])
    broken = [*texts[:turn], "<tool_call>".join([head, *calls]), texts[-1]]
    episode = rollout(broken, task, collator, model)
    actions = episode.turns[turn].actions
    assert [isinstance(action, Fault) for action in actions] == [place == number for place in range(len(calls))]
    assert actions[number].kind.value == kind
    assert [crop.img_idx for crop in episode.crops] == list(range(1, len(episode.crops) + 1))
    (folder / SAMPLES).unlink()
    append(folder / SAMPLES, [Sample.of(replace(episode, tokens=None), family="all", score=1.0, why="")])
    [drawn] = shown_in_viewer(folder)
    assert kind in json.dumps(drawn["turns"][turn])
    is_refused_alone(episode, folder / "faulty")


def is_refused_alone(episode, folder):
    """A file with the faulty trace beside a good one: the good one is kept, the other named, by check and convert."""
    folder.mkdir()
    good = {"messages": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "<answer>7</answer>"}]}
    rows = [good, trace_record(episode, folder, name="0")]
    (folder / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checker = check(CheckArguments(dataset_name=str(folder)), EPISODES)
    assert {problem.line for problem in checker.problems} == {2}
    options = ConvertArguments(dataset_name=str(folder), output_dir=str(folder / "out"), source_frame=Frame.PER_MILLE)
    conversion = convert(options, EPISODES)
    assert conversion.num_written == 1 and list(conversion.dropped) == [2]
