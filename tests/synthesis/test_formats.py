"""Files of other projects, in their public layouts, become episodes of our environment: same places, own words."""

import json
import re
import sys
from dataclasses import replace

import datasets
import pytest
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.traces import read_traces
from fovea.boxes import UNIT_VIEW, Box, Frame, coverage
from fovea.data.task_files import load_tasks
from fovea.images import image_hash, open_image
from fovea.runs.records import read_samples
from sft.collator import TraceCollator
from synthesis.checks.command import CheckArguments, check
from synthesis.convert import LISTS, ConvertArguments, convert, main
from synthesis.formats.writing import WRITERS
from synthesis.oracle_traces import TraceArguments, write_oracle_traces
from tests.conftest import TINY_CROPS
from tests.synthesis.foreign import PUBLISHED, TWO, Story, write

EPISODES = EpisodeArguments(**TINY_CROPS)


def converted(path, folder, **options):
    return convert(ConvertArguments(dataset_name=str(path), output_dir=str(folder), **options), EPISODES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_trace_is_checked_converted_and_learned_from(name, tmp_path, picture, tiny):
    path, story = write(tmp_path, picture, name)
    checker = check(CheckArguments(dataset_name=str(path)), EPISODES)
    kinds = {problem.kind for problem in checker.problems}
    is_undeclared = PUBLISHED[name].frame == "original" and name != "vigorl"
    assert kinds <= ({"other frame", "refused call", "other crop"} if is_undeclared else set()), checker.problems
    conversion = converted(path, tmp_path / "out")
    assert (dict(conversion.formats), conversion.dropped) == ({PUBLISHED[name].told: 1}, {})
    regions = [crop.region for turn in read_samples(tmp_path / "out")[0].turns if turn.observation
               for crop in turn.observation.crops]  # fmt: skip
    expected = [zoom.region if name == "vigorl" else zoom.drawn for zoom in story.zooms]
    assert len(regions) == len(expected)
    for region, place in zip(regions, expected, strict=True):
        assert region.coordinates == pytest.approx(place, abs=0.004)
    again = check(CheckArguments(dataset_name=str(tmp_path / "out")), EPISODES)
    assert again.problems == []
    learns_what_the_assistant_says(tiny, list(read_traces(tmp_path / "out")), story)


def learns_what_the_assistant_says(tiny, records, story):
    """One step of SFT on the traces: loss stands on the assistant's texts, whole and alone."""
    collator = TraceCollator(make_renderer(EPISODES, tiny), environment_factory(EPISODES, tiny)(), tiny.limits)
    batch = collator(records)
    tokenizer = collator.renderer.tokenizer
    [said] = [tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    texts = [message["content"] for message in records[0]["messages"] if message["role"] == "assistant"]
    assert said == "".join(f"{text}<|im_end|>" for text in texts)
    assert said.count("<tool_call>") == len(story.zooms) and "<answer>7</answer>" in said.replace(" ", "")
    loss = tiny.network(**batch).loss
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("name", ["chain_of_focus", "swift", "pixel_reasoner", "mini_o3"])
@pytest.mark.parametrize(
    "settings",
    [
        {"box_frame": "input"},
        {"box_frame": "original"},
        {"box_frame": "unit", "crop_padding": 1.5},
        {"environment": "qwen3_zoom", "crop_padding": 1.2},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_boxes_are_written_as_the_model_to_be_trained_writes_them(name, settings, tmp_path, picture):
    path, story = write(tmp_path, picture, name)
    episodes = replace(EPISODES, **settings)
    conversion = convert(ConvertArguments(dataset_name=str(path), output_dir=str(tmp_path / "out")), episodes)
    assert conversion.dropped == {}, conversion.table()
    regions = [crop.region for turn in read_samples(tmp_path / "out")[0].turns if turn.observation
               for crop in turn.observation.crops]  # fmt: skip
    for region, zoom in zip(regions, story.zooms, strict=True):
        drawn = Box(*zoom.drawn, Frame.UNIT)
        if zoom.image == 0:
            drawn = drawn.enlarged(episodes.crop_padding).clipped(UNIT_VIEW)
            assert region.coordinates == pytest.approx(drawn.coordinates, abs=0.02)
        assert coverage(Box(*zoom.drawn, Frame.UNIT), region) > 0.9
    if episodes.box_frame != "original":  # of which a file does not hold the size
        assert check(CheckArguments(dataset_name=str(tmp_path / "out")), episodes).problems == []


def test_questions_lose_the_instructions_of_their_old_protocol(tmp_path, picture):
    for name in ("chain_of_focus", "pixel_reasoner", "mini_o3"):
        path, _ = write(tmp_path, picture, name)
        conversion = converted(path, tmp_path / name)
        [task] = [json.loads(line) for line in (tmp_path / name / "tasks/tasks.jsonl").read_text().splitlines()]
        assert (task["question"], task["answer"]) == ("Which digit?", "7")
        assert "instructions taken out of questions" in conversion.table()


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle")
    return write_oracle_traces(TraceArguments(output_dir=str(folder), num_traces=12, seed=4), EPISODES)


def texts_of(folder):
    lines = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    return [[message["content"] for message in line["messages"]] for line in lines]


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_in_a_format_is_read_again(name, oracle, tmp_path):
    first = converted(oracle, tmp_path / "there", to=name)
    path = tmp_path / "there" / ("traces.json" if name in LISTS else "traces.jsonl")
    second = converted(path, tmp_path / "back")
    assert second.dropped == {} and second.num_written == first.num_written
    before = [text for number, text in enumerate(texts_of(oracle), start=1) if number not in first.dropped]
    after = texts_of(tmp_path / "back")
    if name in ("mini_o3", "pixel_reasoner", "chain_of_focus_v0"):  # which have no labels
        before = [[re.sub(r'"label": "[^"]*"', '"label": ""', text) for text in one] for one in before]
    if name == "chain_of_focus_v0":  # which writes all on one line
        before, after = ([["".join(text.split()) for text in one] for one in side] for side in (before, after))
    if name == "vigorl":  # which keeps no sizes of boxes, and always cuts 364 pixels
        before, after = [one[:2] for one in before], [one[:2] for one in after]
    assert after == before
    if name not in ("chain_of_focus_v0", "vigorl"):
        assert first.dropped == {}


def test_tasks_are_written_as_deepeyes_prompts_and_read_again(oracle, tmp_path, monkeypatch):
    converted(oracle, tmp_path / "tasks")
    converted(oracle, tmp_path / "prompts", to="deepeyes")
    words = [str(tmp_path / "prompts/prompts.parquet"), str(tmp_path / "back")]
    monkeypatch.setattr(sys, "argv", ["fovea data convert", *words])
    main()
    before, after = (load_tasks(tmp_path / name) for name in ("tasks/tasks", "back"))
    assert [(task.question, task.answer, task.kind) for task in after] == [
        (task.question, task.answer, task.kind) for task in before
    ]
    assert [task.metadata["index"] for task in after] == [task.id for task in before]
    assert all(
        image_hash(open_image(a.images[0])) == image_hash(open_image(b.images[0]))
        for a, b in zip(before, after, strict=True)
    )


def test_a_file_tells_by_its_other_rows_whether_a_bare_last_turn_is_an_answer(tmp_path, picture):
    path, _ = write(tmp_path, picture, "sharegpt")
    [row] = json.loads(path.read_text())
    tagged = {**row, "conversations": [*row["conversations"][:-1], {"from": "gpt", "value": "<answer>7</answer>"}]}
    path.write_text(json.dumps([row, tagged]))
    conversion = converted(path, tmp_path / "out")
    assert conversion.dropped == {1: "it ends without an answer"}


def test_a_smaller_first_view_does_not_blur_the_crops(tmp_path, picture):
    """Files often store the first view small, and crops that were cut from the large picture."""
    noise = Image.effect_noise((640, 480), 90).convert("RGB")
    story = Story(noise, TWO)
    row = PUBLISHED["sharegpt"].row(story, tmp_path)
    small = noise.resize((160, 120))
    small.save(tmp_path / "0.png")
    for turn in row["conversations"]:
        if turn["from"] == "function_call":
            head, _, call = turn["value"].rpartition("\n\n")
            call = json.loads(call)
            call["arguments"]["bbox_2d"] = [value / 4 for value in call["arguments"]["bbox_2d"]]
            turn["value"] = f"{head}\n\n{json.dumps(call)}"
    (tmp_path / "published.json").write_text(json.dumps([row]))
    conversion = converted(tmp_path / "published.json", tmp_path / "out")
    assert conversion.changes.counts["crops of the file kept, at the environment's size"] == 2, conversion.table()


def test_deepeyes_prompts_become_tasks(tmp_path, picture, monkeypatch, capsys):
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    suffix = (
        "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as:  <think>...</think>  "
        "<tool_call>...</tool_call> (if tools needed)  <answer>...</answer> "
    )
    row = {
        "data_source": "vstar",
        "prompt": [{"role": "system", "content": "You."}, {"role": "user", "content": f"<image>\nIs it red?{suffix}"}],
        "images": [{"bytes": content, "path": None}],
        "ability": "vl",
        "env_name": "visual_toolbox_v2",
        "reward_model": {"ground_truth": "red", "style": "model"},
        "extra_info": {"answer": "red", "index": "0", "question": "q", "split": "train"},
    }
    rows = [row, {**row, "reward_model": {"ground_truth": "B", "style": "rule"}}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "d.parquet")
    monkeypatch.setattr(sys, "argv", ["fovea data convert", str(tmp_path / "d.parquet"), str(tmp_path / "out")])
    main()
    tasks = load_tasks(tmp_path / "out")
    assert [(task.question, task.answer) for task in tasks] == [("Is it red?", "red"), ("Is it red?", "B")]
    assert "2 prompts without traces became tasks" in capsys.readouterr().out
