"""Files that people have and that nobody would publish: each is read as it was meant, or dropped by name."""

import gzip
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from environments.arguments import EpisodeArguments
from fovea.config import ConfigError
from fovea.data.task_files import load_tasks
from fovea.runs.records import read_samples
from synthesis.checks.command import CheckArguments, check
from synthesis.convert import ConvertArguments, convert, main
from tests.conftest import TINY_CROPS

EPISODES = EpisodeArguments(**TINY_CROPS)
BOX = (0.2, 0.3, 0.5, 0.6)


def speckled(size, seed=0):
    """A picture of whose parts no two look alike."""
    noise = np.random.default_rng(seed).integers(0, 256, size=(24, 24, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def cropped(picture, box):
    return picture.crop([round(value * side) for value, side in zip(box, picture.size * 2, strict=True)])


def in_units(box, size):
    return [round(value * side) for value, side in zip(box, size * 2, strict=True)]


def asked(text="<image>Which?"):
    return {"role": "user", "content": text}


def calling(numbers, thought="Closer.", **others):
    call = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": numbers, **others}}
    return {"role": "assistant", "content": f"<think>{thought}</think><tool_call>{json.dumps(call)}</tool_call>"}


def answering(text="<think>I see.</think><answer>7</answer>"):
    return {"role": "assistant", "content": text}


CROP = {"role": "tool", "content": "<image>"}


def trace(folder, name, size, numbers, *, box=BOX, seed=0):
    """A trace with one zoom, its box written as `numbers`."""
    picture = speckled(size, seed)
    picture.save(folder / f"{name}.png")
    cropped(picture, box).save(folder / f"{name}-crop.png")
    return {"messages": [asked(), calling(numbers), CROP, answering()], "images": [f"{name}.png", f"{name}-crop.png"]}


def converted(folder, rows, **options):
    path = folder / "rows.jsonl"
    shutil.rmtree(folder / "out", ignore_errors=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return convert(ConvertArguments(dataset_name=str(path), output_dir=str(folder / "out"), **options), EPISODES)


def regions(folder):
    return [[crop.region.coordinates for turn in sample.turns if turn.observation for crop in turn.observation.crops]
            for sample in read_samples(folder / "out")]  # fmt: skip


def texts(folder, role="assistant"):
    lines = [json.loads(line) for line in (folder / "out/traces.jsonl").read_text().splitlines()]
    return [[message["content"] for message in line["messages"] if message["role"] == role] for line in lines]


def reasons(conversion):
    return [reason for _, reason in sorted(conversion.dropped.items())]


def said(question, answer="<think>I see.</think><answer>7</answer>"):
    return {"messages": [{"role": "user", "content": question}, answering(answer)]}


PLAIN = {"messages": [{"role": "user", "content": "Which?"}, answering()]}


def test_without_crops_a_frame_has_to_be_named_and_is_then_kept_also_on_crops(tmp_path):
    row = trace(tmp_path, "a", (1000, 800), in_units(BOX, (1000, 800)))
    nested = calling([60, 48, 240, 192], img_idx=1)  # of a crop of 300 x 240
    messages = [asked(), row["messages"][1], {"role": "tool", "content": "done"}, nested,
                {"role": "tool", "content": "done"}, answering()]  # fmt: skip
    bare = {"messages": messages, "images": ["a.png"]}
    conversion = converted(tmp_path, [bare, PLAIN])
    assert list(conversion.dropped) == [1] and "name it with --source_frame" in reasons(conversion)[0]
    conversion = converted(tmp_path, [bare], source_frame="original")
    assert conversion.dropped == {}
    assert regions(tmp_path)[0][0] == pytest.approx(BOX, abs=0.002)
    assert regions(tmp_path)[0][1] == pytest.approx((0.26, 0.36, 0.44, 0.54), abs=0.01)


def test_the_frame_can_be_named_on_the_command_line(tmp_path, monkeypatch, capsys):
    row = trace(tmp_path, "a", (1000, 800), in_units(BOX, (1000, 800)))
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    words = [str(tmp_path / "t.jsonl"), str(tmp_path / "out"), "--source_frame", "original", *_options(TINY_CROPS)]
    monkeypatch.setattr(sys, "argv", ["fovea data convert", *words])
    main()
    assert (
        regions(tmp_path)[0][0] == pytest.approx(BOX, abs=0.002)
        and "boxes turned from original" in capsys.readouterr().out
    )


def _options(settings):
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def test_a_box_that_is_outside_in_its_own_frame_is_not_taken_for_one_in_ours(tmp_path):
    row = trace(tmp_path, "a", (1000, 800), [])
    text = '<think>Look.</think><grounding>{"bbox_2d": [200, 240, 500, 480], "source": "original_image"}</grounding>'
    row["messages"][1] = answering(text)
    conversion = converted(tmp_path, [row, PLAIN])
    assert "a box holds nothing of its image" in reasons(conversion)[0]


def test_a_file_whose_crops_fit_in_no_frame_is_dropped_and_one_with_the_right_limits_is_not(tmp_path):
    size, seen = (3000, 2000), (1204, 812)  # as Qwen2.5-VL sees it within a million pixels
    box = (0.7, 0.3, 0.8, 0.5)
    rows = [trace(tmp_path, f"a{n}", size, in_units(box, seen), box=box, seed=n) for n in range(3)]
    conversion = converted(tmp_path, [*rows, PLAIN])
    assert list(conversion.dropped) == [1, 2, 3] and "do not show what is under" in reasons(conversion)[0]
    limits = {"source_min_pixels": 3136, "source_max_pixels": 1_003_520, "source_factor": 28}
    assert converted(tmp_path, rows, **limits).dropped == {}
    assert regions(tmp_path)[0][0] == pytest.approx(box, abs=0.002)


def test_a_minority_in_another_frame_is_read_in_its_own(tmp_path):
    rows = [trace(tmp_path, f"p{n}", (900, 700), in_units(BOX, (1000, 1000)), seed=n) for n in range(4)]
    rows += [trace(tmp_path, f"o{n}", (1500, 1000), in_units(BOX, (1500, 1000)), seed=9 + n) for n in range(2)]
    conversion = converted(tmp_path, rows)
    assert conversion.dropped == {} and "2 traces whose boxes are read in original" in conversion.table()
    assert all(one[0] == pytest.approx(BOX, abs=0.01) for one in regions(tmp_path))


def test_small_pictures_do_not_hide_that_boxes_are_in_pixels_of_the_original(tmp_path):
    rows = [trace(tmp_path, f"s{n}", (128, 128), in_units(BOX, (128, 128)), seed=n) for n in range(4)]
    rows += [trace(tmp_path, f"l{n}", (1500, 1000), in_units(BOX, (1500, 1000)), seed=9 + n) for n in range(2)]
    assert converted(tmp_path, rows).dropped == {}
    assert all(one[0] == pytest.approx(BOX, abs=0.02) for one in regions(tmp_path))


def test_a_box_on_a_larger_crop_than_ours_keeps_its_place(tmp_path):
    """Pixel-Reasoner's crops show 0.1 more on each side than the box."""
    picture = speckled((1000, 800))
    shown, then = (0.3, 0.3, 0.7, 0.7), (0.34, 0.42, 0.42, 0.58)
    for number, one in enumerate((picture, cropped(picture, shown), cropped(picture, (0.3, 0.38, 0.46, 0.62)))):
        one.save(tmp_path / f"{number}.png")

    def call(numbers, target):
        written = json.dumps({"name": "crop_image", "arguments": {"bbox_2d": numbers, "target_image": target}})
        return {"role": "assistant", "content": [{"text": f"Closer. <tool_call>{written}</tool_call>"}]}

    def shows(number):
        return {"role": "user", "content": [{"image": f"{number}.png"}]}

    asking = {"role": "user", "content": [{"image": "0.png"}, {"text": "Which?"}]}
    last = {"role": "assistant", "content": [{"text": "\\boxed{7}"}]}
    messages = [asking, call([0.4, 0.4, 0.6, 0.6], 1), shows(1), call([0.1, 0.3, 0.3, 0.7], 2), shows(2), last]
    conversion = converted(tmp_path, [{"qid": "q", "message_list": messages}])
    assert regions(tmp_path)[0][1] == pytest.approx(then, abs=0.005)
    assert "1 boxes drawn on the first view" in conversion.table()
    assert load_tasks(tmp_path / "out/tasks")[0].id == "q"


@pytest.mark.parametrize(
    "last, answer",
    [
        ("<think>At first I thought \\boxed{3}, but no.</think>\n7", "7"),
        ("<think>I format it as \\boxed{}</think>\\boxed{7}", "7"),
        ("It is \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("It is $\\boxed{\\text{a cat}}$.", "a cat"),
        ("<think>I write <answer>x</answer> last.</think><answer>7</answer>", "7"),
    ],
)
def test_the_answer_is_what_stands_behind_the_thoughts(tmp_path, last, answer):
    row = {"messages": [{"role": "user", "content": "Which?"}, answering(last)]}
    assert converted(tmp_path, [row]).dropped == {}
    assert load_tasks(tmp_path / "out/tasks")[0].answer == answer
    assert texts(tmp_path)[0][-1].endswith(f"<answer>{answer}</answer>")


def test_reasoning_beside_the_text_becomes_the_thoughts(tmp_path):
    row = trace(tmp_path, "a", (1000, 800), in_units(BOX, (1000, 1000)))
    call = {
        "id": "c",
        "function": {"name": "image_zoom_in_tool", "arguments": json.dumps({"bbox_2d": in_units(BOX, (1000, 1000))})},
    }
    row["messages"][1] = {"role": "assistant", "reasoning_content": "I must look.", "content": "", "tool_calls": [call]}
    assert converted(tmp_path, [row]).dropped == {}
    assert texts(tmp_path)[0][0].startswith("<think>I must look.</think>")


def test_answers_of_tools_are_matched_by_id_and_crops_may_come_from_the_user(tmp_path):
    picture, other = speckled((1000, 800)), (0.5, 0.1, 0.9, 0.4)
    picture.save(tmp_path / "0.png")
    for number, box in enumerate((other, BOX), start=1):  # the second call is answered first
        cropped(picture, box).save(tmp_path / f"{number}.png")
    arguments = [{"bbox_2d": in_units(box, (1000, 1000))} for box in (BOX, other)]
    functions = [{"name": "image_zoom_in_tool", "arguments": one} for one in arguments]
    calls = [{"id": f"c{number}", "function": function} for number, function in enumerate(functions)]
    answers = [{"role": "tool", "tool_call_id": f"c{n}", "content": "<image>"} for n in (1, 0)]
    row = {"messages": [asked(), {"role": "assistant", "content": "Look.", "tool_calls": calls}, *answers, answering()],
           "images": ["0.png", "1.png", "2.png"]}  # fmt: skip
    one = trace(tmp_path, "a", (1000, 800), in_units(BOX, (1000, 1000)))
    one["messages"][2:3] = [{"role": "tool", "content": "done"}, {"role": "user", "content": "<image>"}]
    assert converted(tmp_path, [row, one]).dropped == {}
    assert [np.round(region, 2).tolist() for region in regions(tmp_path)[0]] == [list(BOX), list(other)]


@pytest.mark.parametrize(
    "numbers",
    [
        ["200", "300", "500", "600"],
        [[200, 300], [500, 600]],
        [[200, 300, 500, 600]],
        {"x1": 200, "y1": 300, "x2": 500, "y2": 600},
    ],
    ids=["texts", "corners", "a list of one", "an object"],
)
def test_boxes_in_other_forms_are_boxes(tmp_path, numbers):
    row = trace(tmp_path, "a", (1000, 800), numbers)
    assert converted(tmp_path, [row]).dropped == {}
    assert regions(tmp_path)[0][0] == pytest.approx(BOX, abs=0.002)


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"messages": [asked(), answering()], "images": ["data:image/png;base64,!!!"]}, "image"),
        ({"messages": [{"role": ["user"], "content": "q"}, answering()]}, "has the role"),
        (said("\ud83d?"), "surrogates"),
        (said("Which?", "<answer>nan</answer>"), "answer"),
        (said("Which?", "<answer> </answer>"), "its answer is empty"),
        (said(" "), "it asks nothing"),
        (said("Where?", "<answer>[1, 2, 30, 40]</answer>"), "is a box"),
        (said("Q" * 100_001), "characters"),
        (said("Which?", "<answer>1</answer><answer>2</answer>"), "two answers"),
        (said("Which?", '<tool_call>{"name": "t"}</tool_call><answer>1</answer>'), "ends without an answer"),
        (said("Find <bbox>") | {"objects": {"bbox": [[1, 2, 3, 4]]}}, "objects"),
        ({"messages": None}, "there are no messages"),
        ([1], "it is a list"),
    ],
)
def test_a_row_that_cannot_be_is_dropped_by_name_and_the_others_are_kept(tmp_path, row, reason):
    conversion = converted(tmp_path, [PLAIN, row, PLAIN])
    assert list(conversion.dropped) == [2] and reason in reasons(conversion)[0]
    assert len(load_tasks(tmp_path / "out/tasks")) == 2
    assert check(CheckArguments(dataset_name=str(tmp_path / "rows.jsonl")), EPISODES).num_traces == 3


def test_one_tagged_row_does_not_make_the_answers_of_the_others_wrong(tmp_path):
    rows = [{"conversations": [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": text}]}
            for text in ("7", "8", "\\boxed{9}", "6")]  # fmt: skip
    assert converted(tmp_path, rows).dropped == {}
    assert [task.answer for task in load_tasks(tmp_path / "out/tasks")] == ["7", "8", "9", "6"]


def test_a_question_that_speaks_of_formats_is_kept(tmp_path):
    question = 'Read the note. Think first, it says: Which word stands behind "Format strictly as:"?'
    converted(tmp_path, [{"messages": [{"role": "user", "content": question}, answering()]}])
    assert load_tasks(tmp_path / "out/tasks")[0].question == question


def test_packed_files_blank_lines_before_a_list_and_query_and_response(tmp_path):
    row = {"query": "Which?", "response": "<answer>7</answer>", "history": [["Hello", "Hi"]]}
    (tmp_path / "a.json").write_text("\n  " + json.dumps([PLAIN, PLAIN]))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps(PLAIN) + "\n")
    (tmp_path / "c.jsonl").write_text(json.dumps({**row, "history": []}) + "\n")
    for name, number in (("a.json", 2), ("b.jsonl.gz", 1), ("c.jsonl", 1)):
        options = ConvertArguments(dataset_name=str(tmp_path / name), output_dir=str(tmp_path / f"out-{name}"))
        assert convert(options, EPISODES).num_written == number


def test_the_folder_that_is_read_is_not_written_to(tmp_path):
    rows = [trace(tmp_path, "a", (300, 200), in_units(BOX, (1000, 1000)))]
    (tmp_path / "traces.jsonl").write_text(json.dumps(rows[0]) + "\n")
    for name in (tmp_path, tmp_path / "traces.jsonl"):
        with pytest.raises(ConfigError, match="which is read"):
            convert(ConvertArguments(dataset_name=str(name), output_dir=str(tmp_path)), EPISODES)
    assert json.loads((tmp_path / "traces.jsonl").read_text()) == rows[0]


def test_reasons_that_differ_in_a_path_are_one_line_of_the_summary(tmp_path):
    rows = [{"messages": [asked(), answering()], "images": [f"gone/{number}.png"]} for number in range(300)]
    summary = converted(tmp_path, [*rows, PLAIN]).table()
    assert "dropped 300: image" in summary and len(summary.splitlines()) < 8
