"""The visual agent: what becomes a trace, what is given up and why, and what a kill leaves."""

import json
import sys
from dataclasses import replace

import pytest
from PIL import Image

from benchmarks.serving import scripted_chat
from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.seats import Limits
from environments.trace_files import read_traces
from evaluation.discover import find_runs
from fovea.boxes import WHOLE, Box, Frame, coverage
from fovea.config import ConfigError, read_config
from fovea.endpoint import ChatEndpoint
from fovea.placeholders import label_images, marked
from fovea.server import EndpointError
from fovea.tasks import AnswerKind, Task
from synthesis.agent.chats import ChatRole, EndpointChat, Told
from synthesis.agent.command import AgentArguments, run
from synthesis.agent.functions import FunctionRole
from synthesis.agent.questions import looked_for, question_of
from synthesis.agent.roles import ADVICE, MAX_TOKENS, Judgement, Note, RoleError, Sight, Usage, tells
from synthesis.agent.rules import CANNOT_SEE, Rules, Truth
from synthesis.agent.solving import Agent, Bounds, GivenUp, Team
from synthesis.agent.writing import played
from synthesis.joining import join
from synthesis.shapes import make_tasks

CROPS = {"crop_min_pixels": 64 * 64, "crop_max_pixels": 80 * 64}


@pytest.fixture
def factory(tiny, episode_arguments):
    return environment_factory(episode_arguments, tiny)


def team(**players):
    roles = dict.fromkeys(("locate", "look", "adjust", "verify", "summarise"), Truth(noise=0.0, looseness=(1.2, 1.5)))
    return Team(**(roles | players))


def solve(task, factory, *, bounds=None, **players):
    agent = Agent(team(**players), bounds or Bounds(), factory)
    return agent.solve(task), agent


@pytest.mark.parametrize("family", ["read", "compare", "nested", "direct"])
def test_what_is_known_becomes_a_trace_that_the_environment_plays(factory, family):
    for task in make_tasks(num_tasks=3, seed=5, families={family: 1.0}):
        solution, _ = solve(task, factory)
        episode = played(task, solution, factory, Limits())
        assert episode.num_zooms == {"read": 1, "compare": 2, "nested": 2, "direct": 0}[task.family]
        assert all(turn.well_formed for turn in episode.turns)
        for crop, target in zip(episode.crops, task.boxes, strict=False):
            assert coverage(target.box, crop.region) > 0.9


class Blind(Truth):
    """Sees nothing at first sight, and only from the `after`-th look at a crop on."""

    def __init__(self, after):
        super().__init__(noise=0.0, looseness=(1.0, 1.0))
        self.after, self.looks = after, 0

    def look(self, sight, question, notes, usage):
        self.looks += not sight.is_whole
        return str(sight.task.answer) if not sight.is_whole and self.looks >= self.after else CANNOT_SEE


def test_a_box_that_did_not_help_is_adjusted_by_the_advice_and_only_the_step_that_helped_is_kept(factory):
    [task] = make_tasks(num_tasks=1, seed=5, families={"read": 1.0})
    asked = []

    class Adjusts(Rules):
        def adjust(self, sight, box, advice, usage):
            asked.append((box, advice))
            return super().adjust(sight, box, advice, usage)

    solution, _ = solve(task, factory, look=Blind(after=3), adjust=Adjusts())
    assert len(asked) == 2 and all("larger part" in advice for _, advice in asked)
    assert len(solution.zooms) == 1
    first = asked[0][0]
    assert coverage(first, solution.zooms[0].note.sight.region) > 0.5 and "no right answer" not in solution.thoughts


def test_luck_is_not_taken_for_sight(factory):
    [task] = make_tasks(num_tasks=1, seed=5, families={"read": 1.0})

    class Guesses(Truth):
        def __init__(self):
            super().__init__()
            self.guesses = iter([str(task.answer), str(task.answer), "?"])

        def look(self, sight, question, notes, usage):
            return next(self.guesses) if sight.is_whole else str(task.answer)

    solution, _ = solve(task, factory, look=Guesses())
    assert len(solution.zooms) == 1


def test_what_is_never_right_is_given_up_within_bounds(factory):
    [task] = make_tasks(num_tasks=1, seed=5, families={"read": 1.0})
    blind = Blind(after=100)
    with pytest.raises(GivenUp, match="never right"):
        solve(task, factory, look=blind, bounds=Bounds(max_attempts=3))
    assert blind.looks == 3


NONSENSE = {
    "a tuple": (0.1, 0.1, 0.2, 0.2),
    "another frame": Box(1, 2, 3, 4, Frame.PER_MILLE),
    "outside": Box(1.5, 1.5, 2, 2, Frame.UNIT),
    "inverted": Box(0.5, 0.5, 0.2, 0.2, Frame.UNIT),
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_a_box_that_is_none_is_asked_for_again_and_then_given_up(factory, answer):
    [task] = make_tasks(num_tasks=1, seed=5, families={"read": 1.0})
    answers = []

    class Odd(Truth):
        def locate(self, sight, target, usage):
            answers.append(answer)
            return answer

    with pytest.raises(GivenUp, match="locate is unusable"):
        solve(task, factory, locate=Odd())
    assert len(answers) == 3


@pytest.mark.parametrize("text", ["", "  ", None, "x" * 5000, "<answer>7</answer>", "<|im_end|>"])
def test_texts_that_would_break_a_trace_are_refused(factory, text):
    [task] = make_tasks(num_tasks=1, seed=5, families={"read": 1.0})

    class Odd(Truth):
        def look(self, sight, question, notes, usage):
            return text

    with pytest.raises(GivenUp, match="look is unusable"):
        solve(task, factory, look=Odd())


def test_advice_and_thoughts_may_not_tell_the_answer(factory):
    [task] = make_tasks(num_tasks=1, seed=5, families={"read": 1.0})

    class Tells(Rules):
        def verify(self, task, answer, usage):
            return Judgement(False, f"It is {task.answer}.")

        def summarise(self, task, notes, answer, usage):
            return [f"It must be {task.answer}.", "So it is."]

    heard = []

    class Hears(Rules):
        def adjust(self, sight, box, advice, usage):
            heard.append(advice)
            return super().adjust(sight, box, advice, usage)

    with pytest.raises(GivenUp, match="never right"):
        solve(task, factory, verify=Tells(), adjust=Hears())
    assert set(heard) == {ADVICE}
    with pytest.raises(GivenUp, match="before it was seen"):
        solve(task, factory, summarise=Tells())


def test_what_is_looked_for_stands_in_the_task_or_is_its_question(make_task):
    plain = make_task()
    assert looked_for(plain) == [("Which digit?", "Which digit?")]
    named = replace(plain, metadata={"labels": ["a", "b"], "questions": ["a?", "b?"]})
    assert looked_for(named) == [("a", "a?"), ("b", "b?")]
    nested = replace(plain, metadata={"labels": ["a", "b"]})
    assert looked_for(nested) == [("a", ""), ("b", "Which digit?")]


ROLES = """
import numpy as np

def look(image, question, notes):
    return "7" if len(notes) == 0 and image.size[0] < 100 else "I cannot see it."

def locate(image, target, original):
    width, height = image.size
    return [0, 0, width / 4, height / 4]

def wants_more(image, target, colour):
    return None
"""


def test_functions_of_a_users_own_play_roles(tmp_path, make_task, tiny, picture, monkeypatch):
    (tmp_path / "mine.py").write_text(ROLES)
    rows = [{"images": ["a.png"], "question": "Which digit?", "answer": 7, "id": f"t{n}"} for n in range(3)]
    picture.save(tmp_path / "a.png")
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = AgentArguments(
        dataset_name=str(tmp_path / "tasks.jsonl"), output_dir=str(tmp_path / "out"), num_workers=2,
        look=f"{tmp_path}/mine.py:look", locate=f"{tmp_path}/mine.py:locate",
    )  # fmt: skip
    folder = run(arguments, EpisodeArguments(**CROPS))
    traces = list(read_traces(folder))
    assert len(traces) == 3 and all('"bbox_2d": [0, 0, 250, 250]' in t["messages"][2]["content"] for t in traces)
    [found] = find_runs([folder])
    assert len(found.main.samples) == 3 and found.main.task(found.main.samples[0]).id == "t0", "fovea report shows them"
    summary = (folder / "summary.md").read_text()
    assert "3 traces of 3 tasks (100%)" in summary and "| look | 6 |" in summary
    arguments = replace(arguments, locate=f"{tmp_path}/mine.py:wants_more", output_dir=str(tmp_path / "other"))
    with pytest.raises(TypeError, match=r"wants_more asks for \['colour'\]; in this role there are"):
        run(arguments, EpisodeArguments(**CROPS))


def arguments_of(folder, **options):
    return AgentArguments(**{"agent": "truth", "num_scenes": 9, "num_workers": 2, "output_dir": str(folder), **options})


def test_after_a_kill_the_same_command_goes_on_and_ends_as_an_undisturbed_one(tmp_path):
    episodes = EpisodeArguments(**CROPS)
    whole = run(arguments_of(tmp_path / "whole"), episodes)
    (tmp_path / "cut").mkdir()
    for name in ("run.json", "outcomes.jsonl"):
        (tmp_path / "cut" / name).write_bytes((whole / name).read_bytes())
    lines = (whole / "outcomes.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines[:4]]
    for line in kept:
        for image in (json.loads(line)["trace"] or {"images": []})["images"]:
            (tmp_path / "cut" / "images").mkdir(exist_ok=True)
            (tmp_path / "cut" / image).write_bytes((whole / image).read_bytes())
    (tmp_path / "cut" / "outcomes.jsonl").write_text("".join(kept) + lines[4][: len(lines[4]) // 2])
    again = run(arguments_of(tmp_path / "cut"), episodes)
    assert (again / "traces.jsonl").read_text() == (whole / "traces.jsonl").read_text()
    assert len((again / "outcomes.jsonl").read_text().splitlines()) == 9
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        run(arguments_of(tmp_path / "cut", seed=1), episodes)


def test_shards_are_the_whole_and_are_joined(tmp_path, monkeypatch):
    episodes = EpisodeArguments(**CROPS)
    whole = run(arguments_of(tmp_path / "whole"), episodes)
    shards = [run(arguments_of(tmp_path / f"shard-{n}", shard=f"{n}/3"), episodes) for n in range(3)]
    assert join(shards, tmp_path / "joined") == 9
    ids = {trace["id"] for trace in map(json.loads, (tmp_path / "joined" / "traces.jsonl").open())}
    assert ids == {trace["id"] for trace in map(json.loads, (whole / "traces.jsonl").open())}
    assert len(list(read_traces(tmp_path / "joined"))) == 9
    with pytest.raises(ValueError, match="both hold a trace of"):
        join([whole, shards[0]], tmp_path / "twice")
    with pytest.raises(ConfigError, match="write I/N with I from 0"):
        arguments_of(tmp_path / "x", shard="3/3").load_tasks()
    monkeypatch.setattr(sys, "argv", ["fovea"])


def test_shards_of_one_name_in_different_folders_keep_their_own_images(tmp_path):
    for number, colour in enumerate(("red", "blue")):
        folder = tmp_path / str(number) / "traces"
        (folder / "images").mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(folder / "images" / "0.png")
        line = {"id": colour, "images": ["images/0.png"], "messages": []}
        (folder / "traces.jsonl").write_text(json.dumps(line) + "\n")
    join([tmp_path / "0" / "traces", tmp_path / "1" / "traces"], tmp_path / "joined")
    for line in map(json.loads, (tmp_path / "joined" / "traces.jsonl").open()):
        shown = Image.open(tmp_path / "joined" / line["images"][0]).getpixel((0, 0))
        assert shown == Image.new("RGB", (1, 1), line["id"]).getpixel((0, 0))


@pytest.mark.parametrize("labels", [None, "it", ["it"], [1]])
def test_the_truth_knows_where_things_are_in_whatever_form_they_are_named(factory, labels):
    [task] = make_tasks(num_tasks=1, seed=5, families={"read": 1.0})
    solution, _ = solve(replace(task, metadata={**task.metadata, "labels": labels}), factory)
    assert len(solution.zooms) == 1


def test_each_size_of_view_is_a_task_of_its_own(tmp_path):
    tasks = arguments_of(tmp_path, num_scenes=2, view_sizes_px=[64, 128]).load_tasks()
    assert [task.id for task in tasks] == ["agent-0-0@64", "agent-0-0@128", "agent-0-1@64", "agent-0-1@128"]
    assert [task.first_view_max_pixels for task in tasks[:2]] == [64**2, 128**2]


def test_a_role_that_nobody_plays_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nobody plays locate: give --locate, or --agent for all roles"):
        run(arguments_of(tmp_path, agent=None, look="truth"), EpisodeArguments(**CROPS))
    with pytest.raises(ConfigError, match="--look rules: it cannot look"):
        run(arguments_of(tmp_path, look="rules"), EpisodeArguments(**CROPS))
    for word in ("qwen@", "qwen@localhost:8000/v1", "Qwen/Qwen3-VL@host"):
        with pytest.raises(ConfigError, match=f"'{word}' has no address behind the @: write NAME@https://host/v1"):
            run(arguments_of(tmp_path, look=word), EpisodeArguments(**CROPS))


def test_usage_is_counted_by_role():
    usage = Usage()
    usage.add("look", 5)
    usage.add("look", 2)
    assert (usage.requests, usage.tokens) == ({"look": 2}, {"look": 7})


def test_prompts_and_cut_replies_cost_and_remembered_ones_do_not(serve, tmp_path):
    def says(text, reason):
        usage = {"completion_tokens": 3, "prompt_tokens": 40}
        choice = {"message": {"content": text}, "finish_reason": reason}
        return 200, json.dumps({"choices": [choice], "usage": usage})

    server, usage = serve(says("wel", "length"), says("well", "stop")), Usage()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    role = ChatRole(EndpointChat(ChatEndpoint(address, "m", cache=tmp_path / "answers.jsonl"), 0.0))
    with pytest.raises(RoleError, match="cut off"):
        role.look(SIGHT, "How?", [], usage)
    assert [role.look(SIGHT, "How?", [], usage) for _ in range(2)] == ["well", "well"]
    assert usage == Usage({"look": 2}, {"look": 6}, {"look": 80}, num_asked=3)


@pytest.mark.parametrize("role", ["locate", "look", "adjust", "verify", "summarise"])
@pytest.mark.parametrize(("cut_by", "said"), [
    ("length", "cut off, raise --max_tokens {}=… with --retry_failed true"),
    ("content_filter", "by the server: content"),
])  # fmt: skip
def test_a_reply_that_was_cut_names_the_option_that_allows_more(role, cut_by, said, make_task):
    box = Box(0.1, 0.1, 0.2, 0.2, Frame.UNIT)
    shown = {"locate": (SIGHT, "cup"), "look": (SIGHT, "How?", []), "adjust": (SIGHT, box, "Look left."),
             "verify": (make_task(), "8"), "summarise": (make_task(), [], "8")}[role]  # fmt: skip
    chat = Chat("", cut_by)
    with pytest.raises(RoleError, match=said.format(role)):
        getattr(ChatRole(chat), role)(*shown, Usage())
    assert chat.max_tokens == MAX_TOKENS[role]
    with pytest.raises(RoleError):
        getattr(ChatRole(chat, max_tokens={role: 7}), role)(*shown, Usage())
    assert chat.max_tokens == 7


def test_a_model_in_this_process_is_cut_too_and_a_larger_limit_goes_on(tmp_path):
    arguments = arguments_of(
        tmp_path / "out", look="tiny", prompts="roles/tiny.yaml", num_scenes=1, max_tokens=["look=1"]
    )
    run(arguments, EpisodeArguments(**CROPS))
    cut = "| a reply was cut off, raise --max_tokens look=… with --retry_failed true | 1 |"
    assert cut in (tmp_path / "out" / "summary.md").read_text()
    run(replace(arguments, max_tokens=["look=64"], retry_failed=True), EpisodeArguments(**CROPS))
    assert "cut off" not in (tmp_path / "out" / "summary.md").read_text()
    with pytest.raises(ConfigError, match="--max_tokens look=0: write ROLE=N with N from 1"):
        run(replace(arguments, max_tokens=["look=0"]), EpisodeArguments(**CROPS))


class OnlyInTheSecond(Truth):
    """Finds its target in the second image alone, and reads it only after an adjustment."""

    def __init__(self):
        super().__init__()
        self.adjusted = []

    def locate(self, sight, target, usage):
        return Box(0.4, 0.4, 0.5, 0.5, Frame.UNIT) if sight.root == 1 else None

    def adjust(self, sight, box, advice, usage):
        self.adjusted.append(sight.root)
        return box.enlarged(2)

    def look(self, sight, question, notes, usage):
        return str(sight.task.answer) if self.adjusted and not sight.is_whole else CANNOT_SEE


def test_a_box_is_adjusted_in_the_image_that_it_is_in(factory, make_task, picture):
    task = replace(make_task(), images=(picture, picture.rotate(180)))
    player = OnlyInTheSecond()
    solution, _ = solve(task, factory, locate=player, adjust=player, look=player)
    assert player.adjusted == [1] and solution.zooms[0].arguments["img_idx"] == 1
    assert solution.zooms[0].note.sight.root == 1


def test_a_function_that_draws_on_its_image_changes_no_trace(factory, make_task):
    def look(image, question):
        image.thumbnail((4, 4))
        return "7" if image.size[0] else ""

    solution, _ = solve(make_task(), factory, look=FunctionRole(look))
    [message] = [m for m in played(make_task(), solution, factory, Limits()).messages if m["role"] == "user"]
    assert message["content"][0]["image"].width > 4


class Chat:
    frame = Frame.PER_MILLE

    def __init__(self, reply, cut_by=""):
        self.reply, self.cut_by = reply, cut_by

    def ask(self, messages, *, max_tokens, draw):
        self.max_tokens = max_tokens
        self.asked = messages[-1]["content"][-1]["text"]
        self.shown_before = [block.get("text", "image") for message in messages for block in message["content"]][:-1]
        return Told(self.reply, 1, cut_by=self.cut_by)

    def shown(self, image):
        return image


@pytest.mark.parametrize(
    ("reply", "is_right"),
    [("right", True), ("Right.", True), ("wrong: look left", False), ("Wrong", False),
     ("Right answer: 7. The given answer is 8, so it is wrong.", None), ("It depends", None)],
)  # fmt: skip
def test_a_verdict_is_one_word_that_nothing_contradicts(reply, is_right, make_task):
    role = ChatRole(Chat(reply))
    if is_right is None:
        with pytest.raises(RoleError):
            role.verify(make_task(), "8", Usage())
    else:
        assert role.verify(make_task(), "8", Usage()).is_right is is_right


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("Which is round?", "Which is round?"),
        ("<image><image><image>Which is round?", "Which is round?"),
        ("First <image>, then <image> and <image>.", "First image 0, then image 1 and image 2."),
    ],
)
def test_roles_see_images_by_the_numbers_of_the_environment(question, asked):
    pictures = tuple(Image.new("RGB", (40, 30), (number, 0, 0)) for number in range(3))
    task = Task("t", pictures, label_images(marked(question, 3), 3), "yes")
    views = [Sight(task, picture, number, WHOLE) for number, picture in enumerate(pictures)]
    crop = Sight(task, pictures[2], 2, Box(0.1, 0.1, 0.4, 0.4, Frame.UNIT))
    assert question_of(task) == asked
    chat = Chat("yes")
    ChatRole(chat).look(crop, "Is it?", [Note(view, "", "") for view in views], Usage())
    labels = [f"Image {number}: " for number in range(3)] + ["A part of image 2: "]
    assert chat.shown_before == [text for label in labels for text in (label, "image")]
    chat.reply = "none"
    ChatRole(chat).locate(views[1], "ball", Usage())
    assert chat.shown_before == ["Image 1: ", "image"]
    alone = Sight(replace(task, images=pictures[:1], question="Is it?"), pictures[0], 0, WHOLE)
    ChatRole(chat).locate(alone, "ball", Usage())
    assert chat.shown_before == ["image"]


SIGHT = Sight(Task("t", (), "", None), Image.new("RGB", (100, 50)), 0, WHOLE)


@pytest.mark.parametrize(("prompts", "asked"), [
    ({}, "Which cup?\nAnswer in a few words."), (read_config("roles/tiny.yaml"), "Which cup?"),
])  # fmt: skip
def test_a_look_is_answered_in_a_few_words_but_by_the_tiny_base(prompts, asked):
    chat = Chat("the red one")
    assert ChatRole(chat, prompts).look(SIGHT, "Which cup?", [], Usage()) == "the red one" and chat.asked == asked


@pytest.mark.parametrize("reply", [
    "none", "None.", "null", '{"bbox_2d": null}', '{"bbox_2d": []}', '[{"bbox_2d": "none"}]', "[]", "{}",
    '```json\n{"bbox_2d": null}\n```', "```json\n[]\n```", "```json\nnull\n```", "```\nnone\n```",
    "The cup is not in the image.", "The cup isn’t visible here.", "It does not appear in this picture",
    '{"bbox_2d": [null, null, null, null]}', '{"bbox_2d": "not in the image"}',
])  # fmt: skip
def test_what_is_not_there_is_said_in_many_ways(reply):
    assert ChatRole(Chat(reply)).locate(SIGHT, "the cup", Usage()) is None


def test_a_box_beside_words_is_the_answer_and_no_words_are_none():
    reply = 'The top is not visible: {"bbox_2d": [100, 200, 500, 1000]}'
    assert ChatRole(Chat(reply)).locate(SIGHT, "the cup", Usage()) == Box(0.1, 0.2, 0.5, 1.0, Frame.UNIT)
    with pytest.raises(RoleError, match="holds no box"):
        ChatRole(Chat("On the left.")).locate(SIGHT, "the cup", Usage())


@pytest.mark.parametrize("numbers", [[10, 20, 1600, 900], [0.1, 0.2, 0.5, 1.0]])
def test_a_box_in_another_frame_than_per_mille_is_refused(numbers):
    chat = Chat(json.dumps({"bbox_2d": numbers}))
    with pytest.raises(RoleError, match="not in per-mille"):
        ChatRole(chat).locate(SIGHT, "the cup", Usage())
    chat.frame = Frame.INPUT
    assert ChatRole(chat).locate(SIGHT, "the cup", Usage()) is not None


def test_an_answer_is_told_by_option_item_or_number_however_written(make_task):
    choice = make_task("B", AnswerKind.CHOICE, choices=("red", "blue"))
    assert tells("It is (B).", choice) and tells("It looks blue.", choice)
    assert not tells("Is it red or blue? I zoom in.", choice)
    assert tells("A feline, I think.", make_task(["cat", "feline"], AnswerKind.TEXT))
    assert tells("about 1,234 of them", make_task("1234")) and not tells("I see 7.5", make_task("7"))
    assert not tells("I look at it.", make_task("at", AnswerKind.TEXT))


def test_one_task_that_cannot_be_worked_on_does_not_end_the_others(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(content[:60] + bytes(len(content) - 80) + content[-20:])
    rows = [
        {"images": ["a.png"], "question": "Where?", "answer": [1, 2, 30, 40], "kind": "box", "id": "box"},
        {"images": ["broken.png"], "question": "Which?", "answer": "7", "id": "broken"},
        {"images": ["a.png"], "question": "How much?", "answer": "\\frac{1}{2}", "kind": "math", "id": "math"},
        {"images": ["a.png"], "question": "Which?", "answer": "7", "id": "labelled", "metadata": {"labels": None}},
        {"question": "Which?", "answer": "7", "id": "blind"},
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = arguments_of(tmp_path / "out", dataset_name=str(tmp_path / "tasks.jsonl"))
    run(arguments, EpisodeArguments(**CROPS))
    outcomes = {line["task_id"]: line["reason"] for line in map(json.loads, (tmp_path / "out/outcomes.jsonl").open())}
    assert outcomes["math"] == outcomes["labelled"] == "answered at sight"
    assert outcomes["blind"] == "no image" and "asks for a box" in outcomes["box"]
    assert "cannot be opened" in outcomes["broken"]


def test_a_task_with_more_images_than_the_budget_holds_is_given_up_alone(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    rows = [{"images": ["a.png"] * number, "question": "Which?", "answer": "7", "id": str(number)} for number in (1, 9)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = arguments_of(tmp_path / "out", dataset_name=str(tmp_path / "tasks.jsonl"))
    run(arguments, EpisodeArguments(**CROPS, max_image_tokens=8))
    outcomes = {line["task_id"]: line["reason"] for line in map(json.loads, (tmp_path / "out/outcomes.jsonl").open())}
    assert outcomes["1"] == "answered at sight" and "9 images have at least" in outcomes["9"]
    assert "| not shown | 1 |" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.parametrize("refusal", [400, 403])
@pytest.mark.parametrize("credit", [3, 12])
def test_an_endpoint_without_credit_ends_the_run_and_loses_nothing(tmp_path, picture, refusal, credit):
    picture.save(tmp_path / "a.png")
    rows = [{"images": ["a.png"], "question": f"Which is number {n}?", "answer": "7", "id": f"t{n}"} for n in range(5)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    left = [credit]

    def reply(text, images):
        left[0] -= 1
        return None if left[0] < 0 or "number 0?" in text else "7"

    with scripted_chat(reply, refusal) as word:
        arguments = arguments_of(tmp_path / "out", dataset_name=str(tmp_path / "tasks.jsonl"), look=word)
        with pytest.raises(EndpointError, match=f"{refusal}(.|\n)*too: look at credit"):
            run(arguments, EpisodeArguments(**CROPS))
        path = tmp_path / "out" / "outcomes.jsonl"
        written = [json.loads(line) for line in path.open()] if path.exists() else []
        assert all(outcome["task_id"] == "t0" for outcome in written if outcome["is_refused"])
        left[0] = 100
        folder = run(arguments, EpisodeArguments(**CROPS))
    assert "4 traces of 5 tasks" in (summary := (folder / "summary.md").read_text())
    assert f"| refused {refusal} | 1 |" in summary


def test_a_model_behind_another_address_goes_on_and_another_model_does_not(tmp_path):
    def reply(text, images):
        return "7"

    with scripted_chat(reply) as here, scripted_chat(reply) as there:
        arguments = arguments_of(tmp_path / "out", look=here, num_scenes=2)
        run(arguments, EpisodeArguments(**CROPS))
        run(replace(arguments, look=there, num_scenes=3), EpisodeArguments(**CROPS))
        assert len((tmp_path / "out" / "outcomes.jsonl").read_text().splitlines()) == 3
        with pytest.raises(ConfigError, match='look was "scripted", is "other"'):
            run(replace(arguments, look=there.replace("scripted", "other")), EpisodeArguments(**CROPS))


def test_tasks_that_were_given_up_are_worked_on_again_where_that_is_asked_for(tmp_path):
    word = f"{tmp_path}/mine.py:look"
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "def look(image, task): return str(task.answer) if Path(__file__).with_name('seen').exists() else '?'\n"
    )
    arguments = arguments_of(tmp_path / "out", look=word, num_scenes=3)
    run(arguments, EpisodeArguments(**CROPS))
    (tmp_path / "seen").write_text("")
    run(arguments, EpisodeArguments(**CROPS))
    assert "0 traces of 3 tasks" in (tmp_path / "out" / "summary.md").read_text()
    run(replace(arguments, retry_failed=True), EpisodeArguments(**CROPS))
    assert "3 traces of 3 tasks" in (tmp_path / "out" / "summary.md").read_text()


def test_what_others_have_finished_is_kept_when_a_role_fails(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def look(image, question, task):\n    assert not task.id.endswith('-3')\n    return str(task.answer)\n"
    )
    arguments = arguments_of(tmp_path / "out", look=f"{tmp_path}/mine.py:look", num_workers=3)
    with pytest.raises(AssertionError):
        run(arguments, EpisodeArguments(**CROPS))
    assert len((tmp_path / "out" / "outcomes.jsonl").read_text().splitlines()) >= 3
