"""Traces of tasks of one's own: the oracle zooms where their boxes are."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.trace_files import read_traces
from environments.traces import to_trace
from fovea.boxes import Box, Frame
from fovea.tasks import Target, Task
from synthesis.oracle_traces import TraceArguments, recipe_of, write_oracle_traces

CROPS = EpisodeArguments(crop_min_pixels=64 * 64, crop_max_pixels=80 * 64)


def write_tasks(folder, **fields):
    Image.new("RGB", (400, 300), "grey").save(folder / "a.png")
    row = {"images": ["a.png"], "question": "How many?", "answer": 3, **fields}
    (folder / "tasks.jsonl").write_text(json.dumps(row) + "\n")
    return str(folder / "tasks.jsonl")


def test_a_trace_zooms_into_the_tasks_own_box_and_gives_its_answer(tmp_path):
    source = write_tasks(tmp_path, boxes=[[100, 150, 200, 225]])
    arguments = TraceArguments(output_dir=str(tmp_path / "out"), dataset_name=source, noise=0, looseness=[1, 1])
    [trace] = read_traces(write_oracle_traces(arguments, CROPS))
    said = [block for message in trace["messages"] if message["role"] == "assistant" for block in [message["content"]]]
    assert "[250, 500, 500, 750]" in str(said[0]) and "<answer>3</answer>" in str(said[1])


def test_a_box_of_the_whole_image_is_no_zoom_and_the_rows_without_one_are_named(tmp_path, capsys):
    source = write_tasks(tmp_path, boxes=[[1, 0, 400, 300]], id="all-of-it")
    [trace] = read_traces(write_oracle_traces(TraceArguments(output_dir=str(tmp_path), dataset_name=source), CROPS))
    assert "tool_call" not in str(trace["messages"][2:])
    assert "1 traces, 1 of them without a zoom: all-of-it" in capsys.readouterr().out
    beside = {"metadata": {"labels": ["all", "part"], "readings": ["nothing", "3"]}}
    source = write_tasks(tmp_path, boxes=[[0, 0, 400, 300], [100, 150, 200, 225]], **beside)
    arguments = TraceArguments(output_dir=str(tmp_path), dataset_name=source, noise=0, looseness=[1, 1])
    [trace] = read_traces(write_oracle_traces(arguments, CROPS))
    said = [message["content"] for message in trace["messages"] if message["role"] == "assistant"]
    assert len(said) == 2 and '"label": "part"' in said[0] and "[250, 500, 500, 750]" in said[0]
    assert "I read 3." in said[1] and "nothing" not in said[1]


def test_a_focus_on_a_whole_image_needs_no_zoom(tmp_path):
    chain = {"foci": [[0]], "sub_questions": ["How many?"], "sub_answers": ["3"]}
    source = write_tasks(tmp_path, boxes=[[0, 0, 400, 300]], metadata=chain)
    arguments = TraceArguments(output_dir=str(tmp_path), dataset_name=source)
    [trace] = read_traces(write_oracle_traces(arguments, replace(CROPS, environment="focus")))
    said = str([message["content"] for message in trace["messages"] if message["role"] == "assistant"])
    assert "focus_images_tool" in said and "image_zoom_in_tool" not in said


def test_several_images_without_a_chain_are_focused_on_where_their_boxes_are(tmp_path, capsys):
    source = write_tasks(
        tmp_path, images=["a.png"] * 3, boxes=[{"bbox_2d": [100, 150, 200, 225], "img_idx": 2}], id="three"
    )
    arguments = TraceArguments(output_dir=str(tmp_path / "out"), dataset_name=source)
    [trace] = read_traces(write_oracle_traces(arguments, replace(CROPS, environment="focus")))
    said = [message["content"] for message in trace["messages"] if message["role"] == "assistant"]
    assert '"img_idxs": [2]' in str(said[0]) and "How many?" in str(said[0])
    assert "image_zoom_in_tool" in str(said[1]) and "<answer>3</answer>" in str(said[2]) and len(said) == 3


def test_a_task_that_cannot_be_shown_is_left_out_and_told(tmp_path, monkeypatch, capsys):
    """Files of tasks are examined when they are read; what a function returns is seen when it is shown."""
    write_tasks(tmp_path)
    whole = (tmp_path / "a.png").read_bytes()
    box = (Target(Box(0.2, 0.2, 0.5, 0.5, Frame.UNIT)),)
    tasks = [Task(f"t{number}", (whole[: len(whole) // (1 + number % 2)],), "?", "3", boxes=box) for number in range(5)]
    monkeypatch.setattr(TraceArguments, "load_tasks", lambda self: tasks)
    arguments = TraceArguments(output_dir=str(tmp_path / "out"), dataset_name="mine:tasks")
    assert len(list(read_traces(write_oracle_traces(arguments, CROPS)))) == 3
    told = capsys.readouterr().out
    assert "2 of 5 episodes were dropped: 2 not shown, the first of them because task t1 cannot be shown" in told
    assert "\n3 traces" in told


def test_tasks_without_boxes_are_refused_with_the_cure(tmp_path):
    arguments = TraceArguments(output_dir=str(tmp_path / "out"), dataset_name=write_tasks(tmp_path))
    with pytest.raises(ValueError, match="--columns boxes="):
        write_oracle_traces(arguments, CROPS)


@pytest.mark.parametrize(("mistakes", "environment"), [(0.2, "zoom"), (0.2, "chain"), (1.0, "focus"), (-0.1, "focus")])
def test_mistakes_that_cannot_be_made_are_refused(tmp_path, mistakes, environment):
    source = write_tasks(tmp_path, boxes=[[100, 150, 200, 225]])
    arguments = TraceArguments(output_dir=str(tmp_path / "out"), dataset_name=source, mistakes=mistakes)
    with pytest.raises(ValueError, match=f"--mistakes {mistakes}"):
        write_oracle_traces(arguments, EpisodeArguments(environment=environment))


def test_settings_of_traces_come_from_the_recipe_of_their_model(capsys):
    """The tiny model's crops of 56 pixels are no crops for another."""
    assert recipe_of(["--output_dir", "out"]) == ("tiny_traces.yaml", {})
    config, defaults = recipe_of(["--model_name_or_path", "Qwen/Qwen2.5-VL-7B-Instruct"])
    assert config is None and defaults["crop_max_pixels"] == 4014080 and defaults["crop_padding"] == 1.5
    assert "as in qwen2_5_vl_7b_sft.yaml" in capsys.readouterr().out
    assert recipe_of(["--model_name_or_path", "some/model"]) == (None, {})
    assert "as the processor of some/model has them" in capsys.readouterr().out


def test_what_is_written_can_be_read_again_however_thin_the_pictures(tmp_path, capsys):
    """A strip that is within the bounds, and beyond them once it is resized, becomes no trace."""
    rows = []
    for number, size in enumerate([(400, 300), (300, 400), (60, 5000), (640, 480)]):
        Image.new("RGB", size, "grey").save(tmp_path / f"{number}.png")
        box = [0, 0, size[0] // 2, size[1] // 2]
        rows.append({"images": [f"{number}.png"], "question": "How many?", "answer": 3, "boxes": [box]})
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = TraceArguments(output_dir=str(tmp_path / "out"), dataset_name=str(tmp_path), max_pixels=65536)
    records = list(read_traces(write_oracle_traces(arguments, CROPS)))
    assert len(records) == 3 and all(to_trace(record) for record in records)
    assert "1 of 4 episodes were dropped: 1 an image resized to 16x2336, too thin" in capsys.readouterr().out


@pytest.mark.parametrize("metadata", [{"labels": "cup", "readings": "3"}, {"labels": ["cup"], "readings": [3]}])
def test_a_text_alone_is_a_list_of_one_and_labels_may_be_fewer_than_boxes(tmp_path, metadata):
    source = write_tasks(tmp_path, boxes=[[100, 150, 200, 225], [10, 10, 60, 60]], metadata=metadata)
    [trace] = read_traces(write_oracle_traces(TraceArguments(output_dir=str(tmp_path), dataset_name=source), CROPS))
    said = [message["content"] for message in trace["messages"] if message["role"] == "assistant"]
    assert (
        '"label": "cup"' in said[0] and '"label"' not in said[1].replace('"label": ""', "") and "I read 3." in said[1]
    )
