"""Faults planted in traces are each found by name, and good traces have none."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.play import play
from environments.policies.oracle import OraclePolicy
from environments.policies.replay import Replay
from environments.seats import Limits
from environments.trace_files import read_traces
from environments.traces import to_trace, write_traces
from fovea.boxes import Box, Frame
from fovea.data.task_files import save_tasks
from sft.collator import TraceCollator
from synthesis.checks.command import CheckArguments, check, main
from synthesis.checks.texts import unsupported
from synthesis.shapes import make_tasks

EPISODES = EpisodeArguments(crop_min_pixels=64 * 64, crop_max_pixels=80 * 64)


@pytest.fixture(scope="module")
def good(tmp_path_factory, _tiny):
    """Traces of an oracle, one zoom each, on scenes."""
    folder = tmp_path_factory.mktemp("good")
    tasks = make_tasks(num_tasks=6, seed=12, families={"read": 1.0})
    factory = environment_factory(EPISODES, _tiny)
    oracle = OraclePolicy(Frame.PER_MILLE, looseness=(1.5, 2.5))
    write_traces(play(oracle, tasks, environment_factory=factory, limits=Limits()), folder)
    return folder


def checked(folder, lines, **options):
    (folder / "planted.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return check(CheckArguments(dataset_name=str(folder / "planted.jsonl"), **options), EPISODES)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]


def test_good_traces_have_no_problems(good):
    checker = checked(good, lines_of(good))
    assert (checker.num_traces, checker.num_zooms, checker.problems) == (6, 6, [])


def rewritten(line, number, change):
    """A trace with the text of one message changed."""
    messages = [dict(message) for message in line["messages"]]
    messages[number]["content"] = change(messages[number]["content"])
    return {**line, "messages": messages}


def replaced_in(number, old, new):
    return lambda line: rewritten(line, number, lambda text: text.replace(old, new))


def box(change):
    def changed(text):
        numbers = json.loads(re.search(r"\[[^]]*\]", text)[0])
        return re.sub(r"\[[^]]*\]", json.dumps(change(numbers)), text)

    return lambda line: rewritten(line, 2, changed)


def answer_of(line):
    return re.search(r"<answer>(.*?)</answer>", line["messages"][-1]["content"])[1]


CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 500, 500]}}</tool_call>'
PLANTED = {
    "swapped corners": (box(lambda b: [b[2], b[3], b[0], b[1]]), "refused call"),
    "a box outside": (box(lambda b: [1100, 1100, 1200, 1200]), "refused call"),
    "a crop of another box": (lambda line: {**line, "images": [line["images"][0], "other.png"]}, "other crop"),
    "a missing image": (lambda line: {**line, "images": [line["images"][0], "images/gone.png"]}, "unreadable"),
    "a leaked answer": (
        lambda line: rewritten(line, 2, lambda t: t.replace("<think>", f"<think>It must be {answer_of(line)}. ")),
        "leaked answer",
    ),
    "two answers": (lambda line: rewritten(line, 4, lambda text: f"{text}<answer>9</answer>"), "two answers"),
    "a call after the answer": (lambda line: rewritten(line, 4, lambda text: text + CALL), "call after answer"),
    "an unclosed tag": (replaced_in(2, "</think>", ""), "unclosed tag"),
    "a wrong img_idx": (replaced_in(2, '"img_idx": 0', '"img_idx": 3'), "refused call"),
    "an unknown tool": (replaced_in(2, "image_zoom_in_tool", "zoom"), "refused call"),
    "a broken call": (replaced_in(2, '{"name"', "{name"), "unreadable call"),
    "an image without a place": (replaced_in(3, "<image>", ""), "unreadable"),
    "an image of which no text speaks": (
        lambda line: {
            "messages": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "<answer>7</answer>"}],
            "images": line["images"][:1],
        },
        "unreadable",
    ),
    "no answer": (lambda line: rewritten(line, 4, lambda text: "<think>Hm.</think>"), "no answer"),
    "a turn of the user at the end": (
        lambda line: {**line, "messages": [*line["messages"], {"role": "user", "content": "Thanks."}]},
        "trailing turn",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_in_its_line(good, name):
    plant, kind = PLANTED[name]
    noise = np.random.default_rng(0).integers(0, 255, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((64, 64)).save(good / "other.png")
    lines = lines_of(good)
    lines[3] = plant(lines[3])
    checker = checked(good, lines)
    assert {problem.line for problem in checker.problems} == {4}
    assert kind in {problem.kind for problem in checker.problems}, checker.problems


def test_a_doubled_trace_names_its_first_line(good):
    lines = lines_of(good)
    checker = checked(good, [*lines, lines[2]])
    [problem] = checker.problems
    assert (problem.line, problem.kind, problem.message) == (7, "doubled", "it is line 3 again")


def test_boxes_in_another_frame_are_told_with_the_evidence(good):
    def in_pixels(line):
        width, height = Image.open(good / line["images"][0]).size
        return box(lambda b: [b[0] * width / 1000, b[1] * height / 1000, b[2] * width / 1000, b[3] * height / 1000])(
            line
        )

    checker = checked(good, list(map(in_pixels, lines_of(good))))
    [problem] = [problem for problem in checker.problems if problem.kind == "other frame"]
    assert "read in input" in problem.message and "per_mille" in problem.message
    as_input = check(CheckArguments(dataset_name=str(good / "planted.jsonl")), replace(EPISODES, box_frame="input"))
    assert as_input.problems == []


def test_the_command_says_by_its_status_whether_something_is_wrong(good, tmp_path, monkeypatch, capsys):
    words = ["fovea data check", str(good), "--crop_min_pixels", "4096", "--crop_max_pixels", "5120"]
    for line, status in ((None, 0), ({"messages": "none"}, 1)):
        if line is not None:
            (tmp_path / "traces.jsonl").write_text(json.dumps(line) + "\n")
            words[1] = str(tmp_path)
        monkeypatch.setattr(sys, "argv", [*words, "--json", str(tmp_path / "found.json")])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == status
        assert len(json.loads((tmp_path / "found.json").read_text())) == status
    assert "unreadable: 1\n  line 1: messages is 'none'" in capsys.readouterr().out


def test_several_calls_in_a_turn_and_zooms_into_their_crops_are_no_problem(_tiny, tmp_path):
    [task] = make_tasks(num_tasks=1, seed=12, families={"compare": 1.0})
    x = [[round(1000 * value) for value in target.box.enlarged(1.5).coordinates] for target in task.boxes]
    call = '<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {}, "img_idx": {}}}}}</tool_call>'
    texts = ["<think>I zoom in twice.</think>" + "".join(call.format(box, 0) for box in x),
             "<think>Closer.</think>" + call.format([100, 100, 900, 900], 2),
             f"<think>I see.</think><answer>{task.answer}</answer>"]  # fmt: skip
    factory = environment_factory(EPISODES, _tiny)
    write_traces(play(Replay(texts), [task], environment_factory=factory, limits=Limits()), tmp_path)
    checker = check(CheckArguments(dataset_name=str(tmp_path)), EPISODES)
    assert (checker.num_zooms, checker.problems) == (3, [])


def test_a_call_of_what_is_no_tool_is_refused(good):
    lines = lines_of(good)
    lines[0] = replaced_in(2, "image_zoom_in_tool", "reset")(lines[0])
    assert [problem.kind for problem in checked(good, lines).problems] == ["refused call"]


def test_an_impossible_zoom_into_an_earlier_crop_is_refused_by_name(_tiny, tmp_path):
    [task] = make_tasks(num_tasks=1, seed=12, families={"read": 1.0})
    call = '<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {}, "img_idx": {}}}}}</tool_call>'
    for number, box in enumerate(([500, 500, 500, 500], [700, 700, 300, 300], [1200, 0, 1300, 90], "all", [1, 2])):
        texts = ["<think>I zoom in.</think>" + call.format([100, 100, 600, 600], 0),
                 "<think>Closer.</think>" + call.format(json.dumps(box), 1),
                 f"<think>I see.</think><answer>{task.answer}</answer>"]  # fmt: skip
        factory = environment_factory(EPISODES, _tiny)
        folder = tmp_path / str(number)
        write_traces(play(Replay(texts), [task], environment_factory=factory, limits=Limits()), folder)
        checker = check(CheckArguments(dataset_name=str(folder)), EPISODES)
        assert [problem.kind for problem in checker.problems] == ["refused call"], box


@pytest.mark.parametrize("thought", ["It is 12,345.", "12345 stands there", "I read 12345!"])
def test_an_answer_told_too_early_is_found_however_it_is_written(good, thought):
    lines = lines_of(good)
    lines[0] = rewritten(lines[0], -1, lambda text: "<think>I see.</think><answer>12,345</answer>")
    lines[0] = rewritten(lines[0], 2, lambda text: text.replace("<think>", f"<think>{thought} "))
    assert [problem.kind for problem in checked(good, lines).problems] == ["leaked answer"]


def test_a_picture_that_was_only_resized_is_a_near_duplicate_and_no_problem(good):
    lines = lines_of(good)
    twin = {**lines[1], "images": ["twin.jpg", lines[1]["images"][1]]}
    picture = Image.open(good / lines[1]["images"][0])
    picture.resize((picture.width + 16, picture.height + 16)).save(good / "twin.jpg", quality=80)
    checker = checked(good, [*lines, twin])
    assert [(problem.line, problem.kind) for problem in checker.problems] == [(7, "near-duplicate")]
    assert checker.num_problems == 0 and "line 2 asks the same" in checker.problems[0].message


def test_tokens_are_those_that_sft_would_see(good, tiny):
    checker = checked(good, lines_of(good))
    records = list(read_traces(good))
    environment = environment_factory(EPISODES, tiny)()
    collator = TraceCollator(make_renderer(EPISODES, tiny), environment, tiny.limits)
    assert checker.lengths == [len(collator.encode(to_trace(record))[0]) for record in records]
    limited = checked(good, lines_of(good), max_length=max(checker.lengths) - 1)
    assert {problem.kind for problem in limited.problems} == {"too long"}


def test_an_answer_that_the_last_thought_does_not_hold_is_noted():
    def notes(thought, answer):
        return [kind for kind, _ in unsupported(["", f"<think>{thought}</think><answer>{answer}</answer>"])]

    assert notes("I read 8.", "9") and notes("So (B) fits.", "C") and notes("Yes, it is.", "no")
    for fine in (("I read 8.", "8"), ("I can see it.", "8"), ("So (B) fits.", "B"), ("A car.", "C"), ("red", "blue")):
        assert not notes(*fine), fine


def test_tasks_tell_wrong_answers_and_targets_that_no_crop_shows(good, tmp_path):
    tasks = make_tasks(num_tasks=6, seed=12, families={"read": 1.0})
    lines = lines_of(good)
    zoomed = next(number for number, line in enumerate(lines) if len(line["images"]) == 2)
    moved = [replace(target, box=Box(0.01, 0.01, 0.05, 0.05, Frame.UNIT)) for target in tasks[zoomed].boxes]
    tasks[zoomed] = replace(tasks[zoomed], boxes=tuple(moved))
    wrong = (zoomed + 1) % 6
    tasks[wrong] = replace(tasks[wrong], answer=int(tasks[wrong].answer) + 1)
    save_tasks(tasks[:-1] if wrong != 5 and zoomed != 5 else tasks, tmp_path)
    checker = checked(good, lines, tasks=str(tmp_path))
    found = {(problem.line - 1, problem.kind) for problem in checker.problems}
    assert {(zoomed, "target missed"), (wrong, "wrong answer")} <= found
    assert found - {(zoomed, "target missed"), (wrong, "wrong answer")} <= {(5, "no task")}


def test_the_page_draws_what_is_wrong_and_some_that_is_not(good, tmp_path):
    lines = lines_of(good)
    lines[3] = PLANTED["two answers"][0](lines[3])
    checked(good, lines, page=str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article>") == 6 and page.count("class=problem") == 1
    assert "two answers: the turns hold 2 answers" in page and page.count("data:image/png") >= 6
