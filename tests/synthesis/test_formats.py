"""Files of other projects, in their public layouts, become episodes of our environment: same places, own words."""

import json
import re
import sys
from dataclasses import replace

import datasets
import pytest
import torch
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.trace_files import read_traces
from fovea.boxes import UNIT_VIEW, Box, Frame, coverage
from fovea.data.task_files import load_tasks
from fovea.images import image_hash, open_image
from fovea.runs.records import read_samples
from sft.collator import TraceCollator
from synthesis.checks.command import CheckArguments, check
from synthesis.convert import ConvertArguments, convert, main
from synthesis.formats.writing import WRITERS
from synthesis.oracle_traces import TraceArguments, write_oracle_traces
from tests.conftest import TINY_CROPS
from tests.synthesis.foreign import PUBLISHED, SIDE, TWO, Story, inside, square, write

EPISODES = EpisodeArguments(**TINY_CROPS)


def converted(path, folder, **options):
    return convert(ConvertArguments(dataset_name=str(path), output_dir=str(folder), **options), EPISODES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_trace_is_checked_converted_and_learned_from(name, tmp_path, picture, tiny):
    path, story = write(tmp_path, picture, name)
    checker = check(CheckArguments(dataset_name=str(path)), EPISODES)
    is_ours = PUBLISHED[name].told == "fovea"  # which SFT would read with the model's frame
    kinds = {problem.kind for problem in checker.problems}
    assert kinds == ({"other frame", "other padding"} if is_ours else set()), checker.problems
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
    optimizer = torch.optim.AdamW(tiny.network.parameters(), lr=1e-3)
    loss = tiny.network(**batch).loss
    loss.backward()
    optimizer.step()
    assert tiny.network(**batch).loss < loss


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
    path = tmp_path / "there" / WRITERS[name].file_name
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


def test_vigorl_is_told_the_centres_of_boxes(tmp_path, picture):
    story = Story(picture, TWO)
    (tmp_path / "two.json").write_text(json.dumps([PUBLISHED["sharegpt"].row(story, tmp_path)]))
    sizes = {"min_pixels": 256, "max_pixels": 640 * 480}
    conversion = converted(tmp_path / "two.json", tmp_path / "there", to="vigorl", **sizes)
    assert conversion.dropped == {}
    back = converted(tmp_path / "there/traces.jsonl", tmp_path / "back", **sizes)
    assert dict(back.formats) == {"vigorl": 1} and back.dropped == {}
    regions = [crop.region for turn in read_samples(tmp_path / "back")[0].turns if turn.observation
               for crop in turn.observation.crops]  # fmt: skip
    for region, zoom in zip(regions, story.zooms, strict=True):
        assert region.coordinates == pytest.approx(square(zoom.box), abs=0.01)


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
    is_b = {"ground_truth": "B", "style": "rule"}
    asked = row["prompt"][1] | {"content": "<image>Which?\nA. red\nB. blue"}
    rows = [row, {**row, "reward_model": is_b}, {**row, "prompt": [asked], "reward_model": is_b}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "d.parquet")
    monkeypatch.setattr(sys, "argv", ["fovea data convert", str(tmp_path / "d.parquet"), str(tmp_path / "out")])
    main()
    tasks = load_tasks(tmp_path / "out")
    found = [(task.question, task.answer, str(task.kind)) for task in tasks]
    assert found[:2] == [("Is it red?", "red", "text"), ("Is it red?", "B", "text")]
    assert found[2] == ("Which?\nA. red\nB. blue", "B", "choice")
    assert "3 prompts without traces became tasks" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sharegpt", "swift", "trl", "hermes", "mini_o3"])
def test_a_written_file_keeps_the_system_prompt_and_declares_the_tool(name, oracle, tmp_path):
    converted(oracle, tmp_path, to=name)
    path = tmp_path / WRITERS[name].file_name
    text = path.read_text()
    row = json.loads(text)[0] if WRITERS[name].is_list else json.loads(text.splitlines()[0])
    assert "<answer></answer>" in json.dumps(row)
    assert name == "mini_o3" or json.loads(row["tools"])[0]["function"]["name"] == "image_zoom_in_tool"


def test_a_box_that_another_projects_crop_does_not_show_is_drawn_on_the_first_view(tmp_path, picture):
    """With padding our crop shows more than theirs; a box in that margin would be empty on their crop."""
    episodes = replace(EPISODES, crop_padding=1.5)
    first, inner = [300, 300, 600, 600], [20, 20, 150, 150]  # in the margin of the first crop
    calls = [{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": box, "img_idx": index}}
             for index, box in enumerate((first, inner))]  # fmt: skip
    turns = [f"<think>I look at <tool_call>.</think><tool_call>{json.dumps(call)}</tool_call>" for call in calls]
    picture.save(tmp_path / "0.png")
    regions = [(0.225, 0.225, 0.675, 0.675)]
    regions.append(inside((20 / 1000 - 0.0325, 20 / 1000 - 0.0325, 0.15 + 0.0325, 0.15 + 0.0325), regions[0]))
    for number, region in enumerate(regions, start=1):
        picture.crop([round(max(0, v) * side) for v, side in zip(region, SIDE * 2, strict=True)]).save(
            tmp_path / f"{number}.png"
        )
    rows = [{"role": "user", "content": "<image>Which?"}]
    for turn in turns:
        rows += [{"role": "assistant", "content": turn}, {"role": "tool", "content": "<image>"}]
    rows.append({"role": "assistant", "content": "<think>It.</think><answer>7</answer>"})
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": rows, "images": ["0.png", "1.png", "2.png"]}))
    options = {"source_frame": "per_mille", "source_padding": 1.5, "to": "mini_o3"}
    there = ConvertArguments(dataset_name=str(tmp_path / "a.jsonl"), output_dir=str(tmp_path / "there"), **options)
    assert convert(there, episodes).dropped == {}
    [row] = json.loads((tmp_path / "there/traces.json").read_text())
    boxes = [
        json.loads(one) for one in re.findall(r"<grounding>(.*?)</grounding>", json.dumps(row).replace('\\"', '"'))
    ]
    assert [box["source"] for box in boxes] == ["original_image", "original_image"]
    assert boxes[1]["bbox_2d"] == pytest.approx(
        inside((0.02, 0.02, 0.15, 0.15), (0.225, 0.225, 0.675, 0.675)), abs=0.01
    )
