"""Chains over several pictures: what the stages make of a pool is its truth, and what is not so is left out."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.trace_files import read_traces
from fovea.chains import Chain, Step, chain_of_task
from fovea.config import ConfigError
from fovea.data.task_files import load_tasks
from fovea.jsonl import read_jsonl
from fovea.server import EndpointError
from fovea.tasks import AnswerKind
from synthesis.agent.casting import Casting
from synthesis.agent.chats import Told
from synthesis.agent.roles import RoleError, Usage
from synthesis.chains import command
from synthesis.chains.arguments import ChainArguments
from synthesis.chains.chats import ChainChat
from synthesis.chains.checking import _asked, _is_right, problems
from synthesis.chains.command import run
from synthesis.chains.index import candidates
from synthesis.chains.paths import sample_paths
from synthesis.chains.pool import image_paths, pool_of
from synthesis.chains.roles import MAX_TOKENS, UNKNOWN, Draft, Link, Profile, Relation, RelationKind, SeenObject
from synthesis.chains.stages import Job, Stage
from synthesis.chains.truth import Truth, draw_pool, relation_of, true_edges
from tests.conftest import TINY_CROPS
from tests.synthesis.chains.scripted import Endpoint, served

EPISODES = EpisodeArguments(environment="focus", max_turns=16, max_image_tokens=64, **TINY_CROPS)
STAGES = ("extract", "connect", "annotate", "ask", "look")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Sixteen scenes, drawn once."""
    folder = tmp_path_factory.mktemp("pool") / "pool"
    draw_pool(folder, 16, seed=3)
    return folder


@pytest.fixture
def arguments(pool, tmp_path):
    shutil.copytree(pool, tmp_path / "out" / "pool")
    return ChainArguments(output_dir=str(tmp_path / "out"), num_scenes=16, num_chains=12, seed=3, num_workers=2)


@pytest.fixture(scope="module")
def finished(pool, tmp_path_factory):
    """The folder of a run that is whole, and its arguments."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(pool, folder / "pool")
    arguments = ChainArguments(output_dir=str(folder), num_scenes=16, num_chains=4, seed=3, num_workers=2)
    return run(arguments, EPISODES), arguments


def lines(folder, name):
    return {line["key"]: line for path in sorted(Path(folder).glob(f"{name}*.jsonl")) for line in read_jsonl(path)}


def compare_with_truth(folder):
    """Compares edges, relations and chains with scenes.jsonl, edge by edge; the number of chains and of edges."""
    edges = true_edges(folder / "pool")

    def pair(line):
        return frozenset(str(Path(path).relative_to(folder / "pool")) for path in line["about"])

    asked = {pair(line): line["value"] for line in lines(folder, "connect").values()}
    assert {pair for pair, shared in asked.items() if shared} == set(edges) & set(asked)
    for line in lines(folder, "annotate").values():
        first, second = (str(Path(path).relative_to(folder / "pool")) for path in line["about"])
        expected = {relation_of(a, b).kind for a, b in edges[frozenset((first, second))]}
        assert line["value"]["kind"] in expected
    tasks = load_tasks(folder / "tasks")
    truth, usage, num_edges = Truth(folder / "pool"), Usage(), 0
    for task in tasks:
        chain, images = chain_of_task(task), dict(enumerate(map(Image.open, task.images)))
        names = [str(Path(image).relative_to(folder / "pool")) for image in task.images]
        for step in chain.steps:
            num_edges += 1
            assert frozenset(names[image] for image in step.images) in edges
            assert truth.look(step.question, images, usage) == step.answer
        asked = task.question.rpartition("\n")[2]
        assert truth.look(asked, images, usage) == chain.answer == task.answer
    return len(tasks), num_edges


def test_chains_of_a_pool_are_its_truth_and_traces_of_them_the_environments(arguments, monkeypatch):
    folder = run(arguments, EPISODES)
    num_chains, num_edges = compare_with_truth(folder)
    assert num_chains >= 6 and num_edges > num_chains
    traces = list(read_traces(folder))
    assert len(traces) == num_chains
    text = traces[0]["messages"][2]["content"]
    assert "focus_images_tool" in text and json.loads(re.search(r"\{.*\}", text)[0])["arguments"]["question"]
    asked_again = {name: (folder / f"{name}.jsonl").read_bytes() for name in STAGES}
    run(arguments, replace(EPISODES, environment="chain"))
    assert asked_again == {name: (folder / f"{name}.jsonl").read_bytes() for name in STAGES}
    assert all("Question 1: In which image" in trace["messages"][2]["content"] for trace in read_traces(folder))
    assert all(len(trace["messages"]) == 3 for trace in read_traces(folder))


@pytest.mark.slow
def test_500_procedural_chains_are_true_edge_by_edge(tmp_path):
    arguments = ChainArguments(output_dir=str(tmp_path), num_scenes=400, num_chains=900, seed=1, num_workers=2)
    run(arguments, EPISODES)
    num_chains, num_edges = compare_with_truth(tmp_path)
    assert num_chains >= 500 and num_edges >= 1000
    assert not [line for line in lines(tmp_path, "look").values() if line["value"]]


class Killed(Exception):
    pass


def test_what_a_retry_has_found_stays_found_whatever_other_files_say(tmp_path):
    for number in range(2):
        lines = [{"key": "a", "failed": "cut off"}] if number else [{"key": "b", "value": 1}]
        (tmp_path / f"connect-{number}-of-2.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = Stage(tmp_path, "connect", retries=True)
    assert "a" not in again.lines
    again.work({key: Job(key, lambda usage: 7) for key in "ab"}, 1)
    for retries in (False, True):
        assert [Stage(tmp_path, "connect", retries=retries).lines[key]["value"] for key in "ab"] == [7, 1]


def test_a_killed_run_goes_on_and_ends_as_if_undisturbed(arguments, pool, tmp_path, monkeypatch):
    undisturbed = run(replace(arguments, output_dir=str(tmp_path / "whole")), EPISODES)
    calls, bound = [], [0]
    for name in STAGES:
        stock = getattr(Truth, name)

        def counted(self, *args, stock=stock):
            calls.append(1)
            if bound[0] and len(calls) > bound[0]:
                raise Killed
            return stock(self, *args)

        monkeypatch.setattr(Truth, name, counted)
    asked = [sum(line["requests"].get(name, 0) for line in lines(undisturbed, name).values()) for name in STAGES]
    for place in range(len(STAGES)):
        calls.clear()
        bound[0] = asked[place] // 2
        with pytest.raises(Killed):
            run(arguments, EPISODES)
        calls.clear()
        bound[0] = 0
        if place < len(STAGES) - 1:
            run(replace(arguments, stage=STAGES[place]), EPISODES)
            assert len(calls) < asked[place]
    with (Path(arguments.output_dir) / "look.jsonl").open("a") as file:
        file.write('{"key": "torn')
    again = run(arguments, EPISODES)
    assert (again / "traces.jsonl").read_bytes() == (undisturbed / "traces.jsonl").read_bytes()
    for name in STAGES:
        assert lines(again, name).keys() == lines(undisturbed, name).keys()


def test_a_line_that_was_mended_is_used_and_what_follows_made_anew(arguments):
    folder = run(arguments, EPISODES)
    before = {name: lines(folder, name) for name in STAGES}
    path = folder / "extract.jsonl"
    rows = read_jsonl(path)
    mended = next(row for row in rows if any(row["about"][0] in line["about"] for line in before["ask"].values()))
    mended["value"]["objects"] = [{"name": "elephant", "attributes": ["pink"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(arguments, EPISODES)
    assert lines(folder, "extract") == {**before["extract"], mended["key"]: mended}
    new = [line for key, line in lines(folder, "connect").items() if key not in before["connect"]]
    assert new and any(mended["about"][0] in line["about"] and line["value"] is None for line in new)
    assert not any(mended["about"][0] in map(str, step) for task in load_tasks(folder / "tasks")
                   for step in [[task.images[image] for image in chain_of_task(task).images]])  # fmt: skip


@pytest.mark.parametrize(("stage", "mend", "fails"), [
    ("annotate", lambda value: "so", "annotate.jsonl, the line of key"),
    ("ask", lambda value: value | {"foci": [[0, 9]] * len(value["foci"])}, "step 1 names the images"),
    ("extract", lambda value: 3, "extract.jsonl, the line of key"),
    ("ask", lambda value: value | {"question": "And how many of the statements hold?"}, None),
    ("annotate", lambda value: value | {"kind": "semantic"}, None),
    ("extract", lambda value: value | {"overview": "Other words."}, None),
])  # fmt: skip
def test_what_was_mended_into_nothing_is_named_and_what_was_shown_is_asked_anew(arguments, stage, mend, fails):
    folder = run(arguments, EPISODES)
    before = {name: lines(folder, name) for name in STAGES}
    rows = read_jsonl(folder / f"{stage}.jsonl")
    place = next(place for place, row in enumerate(rows) for line in before["ask"].values()
                 if "value" in row and set(row["about"]) <= set(line["about"]))  # fmt: skip
    rows[place]["value"] = mend(rows[place]["value"])
    (folder / f"{stage}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    if fails:
        with pytest.raises(ValueError, match=fails):
            run(arguments, EPISODES)
        return
    run(arguments, EPISODES)
    after = {name: lines(folder, name) for name in STAGES}
    assert after[stage][rows[place]["key"]]["value"] == rows[place]["value"]
    for name in {"extract": ("connect", "ask"), "annotate": ("ask",), "ask": ("look",)}[stage]:
        assert after[name].keys() - before[name].keys()


@pytest.mark.parametrize(("stage", "mend", "problem"), [
    ("ask", lambda value: value | {"answer": None}, "None is no text"),
    ("ask", lambda value: value | {"sub_answers": [None] * len(value["foci"])}, "None is no text"),
    ("ask", lambda value: value | {"sub_answers": "7" * len(value["foci"])}, "'7+' is no list"),
    ("ask", lambda value: value | {"foci": ["01"] * len(value["foci"])}, "'01' is no list"),
    ("look", lambda value: None, "None is no list"),
    ("look", lambda value: "told: it", "'told: it' is no list"),
])  # fmt: skip
def test_null_is_no_word_and_a_text_no_list(finished, stage, mend, problem):
    folder, arguments = finished
    content = (folder / f"{stage}.jsonl").read_text()
    rows = [json.loads(line) for line in content.splitlines()]
    row = next(row for row in rows if "value" in row)
    row["value"] = mend(row["value"])
    (folder / f"{stage}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        with pytest.raises(ValueError, match=rf"{stage}.jsonl, the line of key {row['key']}: .*{problem}"):
            run(replace(arguments, stage="write"), EPISODES)
    finally:
        (folder / f"{stage}.jsonl").write_text(content)


def test_an_editor_that_leaves_out_the_last_end_of_line_loses_nothing(arguments):
    folder = run(arguments, EPISODES)
    path = folder / "ask.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    kept = lines(folder, "ask")
    run(arguments, EPISODES)
    assert lines(folder, "ask") == kept
    path.write_text(path.read_text().replace("{", "", 1))
    with pytest.raises(ValueError, match=r"ask.jsonl line 1 is no JSON"):
        run(arguments, EPISODES)


def test_failed_lines_are_worked_on_again_where_that_is_asked_for(arguments, monkeypatch):
    stock = Truth.extract
    monkeypatch.setattr(Truth, "extract", lambda *args: None)
    folder = run(arguments, EPISODES)
    monkeypatch.setattr(Truth, "extract", stock)
    run(arguments, EPISODES)
    assert all("failed" in line for line in lines(folder, "extract").values())
    run(replace(arguments, retry_failed=True), EPISODES)
    assert all("value" in line for line in lines(folder, "extract").values())


def test_a_retry_of_one_stage_leaves_the_failed_lines_of_those_before_it(arguments, monkeypatch):
    folder = run(replace(arguments, stage="extract"), EPISODES)
    rows = read_jsonl(folder / "extract.jsonl")
    rows[0] = {"key": rows[0]["key"], "about": rows[0]["about"], "failed": "cut off"}
    (folder / "extract.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with monkeypatch.context() as patch:
        patch.setattr(Truth, "connect", lambda *args: 3)
        run(replace(arguments, stage="connect"), EPISODES)
    run(replace(arguments, stage="connect", retry_failed=True), EPISODES)
    assert all("value" in line for line in lines(folder, "connect").values())
    assert "failed" in lines(folder, "extract")[rows[0]["key"]]


def test_traces_of_all_images_at_once_hold_the_answers_alone(arguments):
    folder = run(arguments, replace(EPISODES, environment="views", max_image_tokens=None))
    texts = [trace["messages"][2]["content"] for trace in read_traces(folder)]
    assert texts and all(re.fullmatch(r"<think>I can see it.</think>\n<answer>\d</answer>", text) for text in texts)


def test_shards_of_stages_come_to_the_same(arguments, tmp_path):
    whole = run(replace(arguments, output_dir=str(tmp_path / "whole")), EPISODES)
    with pytest.raises(ConfigError, match=r"lines of extract are missing: finish --stage extract"):
        run(replace(arguments, stage="connect", shard="0/3"), EPISODES)
    for stage in STAGES:
        for shard in ("2/3", "0/3", "1/3"):
            run(replace(arguments, stage=stage, shard=shard), EPISODES)
    folder = run(replace(arguments, stage="write"), EPISODES)
    assert (folder / "traces.jsonl").read_bytes() == (whole / "traces.jsonl").read_bytes()
    assert len(list(folder.glob("ask-*-of-3.jsonl"))) == 3


def test_a_chain_that_cannot_be_shown_is_left_out_and_said(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "out")
    arguments = replace(finished[1], output_dir=str(folder))
    sizes = sorted(len(task.images) for task in load_tasks(finished[0] / "tasks"))
    assert sizes[0] < sizes[-1]
    run(arguments, replace(EPISODES, max_image_tokens=sizes[0]))
    fewer = len(list(read_traces(folder)))
    assert 0 < fewer == sizes.count(sizes[0]) < len(sizes)
    summary = (folder / "summary.md").read_text()
    assert f"| traces | {fewer} |" in summary
    assert f"| trace: not shown, {sizes[-1]} images have at least" in summary


@pytest.mark.parametrize(("options", "problem"), [
    ({"shard": "0/2"}, "needs --stage"), ({"shard": "2/2", "stage": "ask"}, "write I/N"),
    ({"num_images": [1]}, "begins at 2"),
])  # fmt: skip
def test_options_that_cannot_be_are_refused(options, problem):
    with pytest.raises(ConfigError, match=problem):
        ChainArguments(output_dir="out", **options)


def test_nobody_knows_the_truth_of_other_pictures(pool, tmp_path):
    arguments = ChainArguments(output_dir=str(tmp_path), images=str(pool / "images"))
    with pytest.raises(ConfigError, match="nobody plays extract and connect"):
        run(arguments, EPISODES)
    with pytest.raises(ConfigError, match="truth of your own pictures"):
        run(replace(arguments, output_dir=str(tmp_path / "b"), agent="truth"), EPISODES)


def test_a_command_that_failed_does_not_stand_in_the_way_of_the_right_one(pool, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def play(**shown): return {'overview': 'A scene.'} if 'image' in shown else None"
    )
    arguments = ChainArguments(output_dir=str(tmp_path / "out"), images="nowhere", agent=f"{tmp_path}/mine.py:play")
    with pytest.raises(FileNotFoundError):
        run(arguments, EPISODES)
    folder = run(replace(arguments, images=str(pool / "images")), EPISODES)
    assert len(lines(folder, "extract")) == 16 and not [
        line for line in lines(folder, "connect").values() if line["value"]
    ]


@pytest.mark.parametrize("refusal", [400, 401, 402, 403])
def test_an_endpoint_plays_all_roles_and_comes_to_the_same_chains(arguments, pool, tmp_path, refusal, finished):
    folder = tmp_path / "asked"
    played = Endpoint(Truth(pool))
    with served(played, refusal) as word:
        asked = replace(arguments, output_dir=str(folder), images=str(pool / "images"), agent=word, num_chains=4)
        played.fails_after = 40
        with pytest.raises(EndpointError, match=str(refusal)):
            run(asked, EPISODES)
        answered = [line for name in STAGES for line in lines(folder, name).values()]
        assert 0 < len(answered) <= 40 and all("value" in line for line in answered)
        played.fails_after = None
        run(asked, EPISODES)
    with served(played) as elsewhere:
        num_requests = played.num_requests
        run(replace(asked, agent=elsewhere), EPISODES)
        assert played.num_requests == num_requests, "behind another port it is the same model"
    ours, theirs = ([chain_of_task(task) for task in load_tasks(one / "tasks")] for one in (folder, finished[0]))
    assert ours == theirs and ours
    assert "| look |" in (folder / "summary.md").read_text()


def test_lines_that_knew_the_address_are_still_used_and_lines_of_others_are_told(arguments, monkeypatch, capsys):
    with monkeypatch.context() as earlier:
        earlier.setattr(command.Cast, "words", command.Cast.former_words)
        folder = run(arguments, EPISODES)
    before = {name: lines(folder, name) for name in STAGES}
    run(arguments, EPISODES)
    assert before == {name: lines(folder, name) for name in STAGES}
    assert "not used" not in capsys.readouterr().out
    (folder / "mine.py").write_text("def extract(image): return {'overview': 'A scene.'}\n")
    run(replace(arguments, extract=f"{folder}/mine.py:extract", stage="extract"), EPISODES)
    assert "extract: 16 lines are kept but not used, 16 are to be made" in capsys.readouterr().out


def test_lines_are_known_by_who_made_them_and_not_by_where_it_is(tmp_path):
    def words(word, temperature=0.7):
        chosen = ChainArguments(output_dir=str(tmp_path), images="photos", agent=word, temperature=temperature)
        return command.cast(chosen).words["look"]

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text("def look(): pass\n")
    (tmp_path / "b" / "other.py").write_text("def look(): return 1\n")
    here, there = "org/m@http://localhost:8000/v1", "org/m@https://host:1/v1"
    assert words(here) == words(there) == words("org/m")
    assert words(here) != words(here.replace("org/m", "org/n")) and words(here) != words(here, 0.0)
    mine = words(f"{tmp_path}/a/mine.py:look")
    assert mine == words(f"{tmp_path}/b/mine.py:look", 0.0) and mine != words(f"{tmp_path}/b/mine.py:ask")
    assert mine != words(f"{tmp_path}/b/other.py:look")


class CutChat:
    """A chat model that never comes to an end."""

    def ask(self, messages, *, max_tokens, draw):
        self.max_tokens = max_tokens
        return Told("<think>Well", max_tokens, cut_by="length")

    def shown(self, image):
        return image


@pytest.mark.parametrize("role", STAGES)
def test_a_reply_that_was_cut_names_the_option_that_allows_more(role):
    image, profile = Image.new("RGB", (8, 8)), Profile("A hat.")
    shown = {"extract": (image,), "connect": (profile, profile), "annotate": (image, image, "a hat"),
             "ask": ({0: profile, 2: profile}, LINKS), "look": ("What?", {0: image})}[role]  # fmt: skip
    chat, steps = CutChat(), 128 if role == "ask" else 0
    for limits, most in (({}, MAX_TOKENS[role] + steps), ({role: 7}, 7 + steps)):
        with pytest.raises(RoleError, match=f"cut off, raise --max_tokens {role}=… with --retry_failed true"):
            getattr(ChainChat(chat, max_tokens=limits), role)(*shown, Usage())
        assert chat.max_tokens == most


def test_cut_replies_are_counted_with_their_cure(arguments, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(Casting, "_made", lambda self, word: self.of_chat(CutChat()))
    folder = run(replace(arguments, images=str(pool / "images"), agent="m", max_tokens=["extract=9"]), EPISODES)
    cure = "| extract: a reply was cut off, raise --max_tokens extract=… with --retry_failed true | 16 |"
    assert cure in (folder / "summary.md").read_text()
    assert "at most 9 tokens" in (folder / "extract.jsonl").read_text()


def test_what_no_role_may_answer_is_left_out_and_said(arguments, pool, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import itertools\nBAD = itertools.cycle([None, 3, [], {}, {'overview': ''}, {'overview': 7}, "
        "{'objects': ['a']}, {'overview': '<think>'}, {'overview': 'x' * 3000}])\n"
        "def bad(image): return next(BAD)\ndef other(**values): return None\n"
    )
    asked = replace(arguments, images=str(pool / "images"), output_dir=str(tmp_path / "bad"), max_asks=1,
                    extract=f"{tmp_path}/mine.py:bad", agent=f"{tmp_path}/mine.py:other")  # fmt: skip
    folder = run(asked, EPISODES)
    found = lines(folder, "extract").values()
    assert len(found) == 16 and all("failed" in line for line in found)
    assert "0 traces of 0 paths" in (folder / "summary.md").read_text()


@pytest.mark.parametrize("value", [
    None, "so", {"kind": "causal", "sentence": "a"}, {"kind": "spatial"}, 3, {"kind": "spatial", "sentence": ""},
    {"kind": "temporal", "sentence": "a"},
])  # fmt: skip
def test_relations_are_of_three_kinds(value):
    if value is None:
        assert Relation.of(value) is None
        return
    with pytest.raises(RoleError):
        Relation.of(value)


LINKS = (Link(2, 0, "a hat", Relation(RelationKind.SEMANTIC, "both")),)


@pytest.mark.parametrize("value", [
    None, [], {"steps": []}, {"steps": [3], "question": "?", "answer": "a"},
    {"steps": [{"question": "?", "answer": ""}], "question": "?", "answer": "a"},
    {"steps": [{"question": "?", "answer": None}], "question": "?", "answer": "a"},
    {"steps": [{"question": "?", "answer": "a"}] * 2, "question": "?", "answer": "a"},
    {"steps": [{"question": "?", "answer": "a"}], "question": "", "answer": "a"},
    {"steps": [{"question": "?", "answer": "<answer>a</answer>"}], "question": "?", "answer": "a"},
])  # fmt: skip
def test_drafts_have_a_step_for_each_link(value):
    with pytest.raises(RoleError):
        Draft.of(value, LINKS, 3)
    good = {"steps": [{"question": "Which\nhat?", "answer": 3}], "question": "So?", "answer": True}
    with pytest.raises(RoleError):
        Draft.of(good, LINKS, 3)
    draft = Draft.of({**good, "answer": 1.5}, LINKS, 3)
    assert draft.chain == Chain((Step("Which hat?", (0, 2), "3"),), "1.5")


IMAGES = {number: Image.new("RGB", (8, 8)) for number in range(3)}
GOOD = Chain((Step("Which hat is on both?", (0, 1), "red"), Step("Who wears it twice?", (1, 2), "Ann")), "42")


def answering(known):
    """Answers a question if exactly the images that it needs are among those shown."""

    def look(question, images):
        needs, answer = known[question]
        return answer if needs <= set(images) else UNKNOWN

    return look


KNOWN = {"Which hat is on both?": ({0, 1}, "red"), "Who wears it twice?": ({1, 2}, "Ann"), "So?": ({0, 1, 2}, "42")}


@pytest.mark.parametrize(("changes", "problem"), [
    ({}, []),
    ({"Which hat is on both?": ({0, 1}, "blue")}, ["not answerable: step 1"]),
    ({"Which hat is on both?": ({0, 2}, "red")}, ["not answerable: step 1"]),
    ({"Who wears it twice?": (set(), "Ann")}, ["answerable without: step 2"]),
    ({"So?": ({0, 1, 2}, "41")}, ["not answerable: the final question"]),
    ({"So?": ({0, 1}, "42")}, ["answerable without: the final question from all but image 2"]),
])  # fmt: skip
def test_the_checks_find_what_a_chain_is_not(changes, problem):
    found = list(problems("So?", GOOD, IMAGES, answering(KNOWN | changes)))
    assert len(found) == len(problem) and all(a.startswith(b) for a, b in zip(found, problem, strict=True))


def test_a_final_question_that_tells_an_answer_is_found():
    known = KNOWN | {"Is it Ann's red hat?": KNOWN["So?"]}
    assert any(
        problem.startswith("told") for problem in problems("Is it Ann's red hat?", GOOD, IMAGES, answering(known))
    )


@pytest.mark.parametrize(("reply", "objects"), [
    ({"objects": "none", "interactions": "none"}, []),
    ({"objects": ["a red car", "", None, 7]}, ["a red car", "7"]),
    ({"objects": [{"name": "car", "attributes": {"colour": "red"}}, {"attributes": ["old"]}]}, ["colour red car"]),
    ({"objects": [{"name": "car", "attributes": "red"}], "interactions": ["n/a"]}, ["red car"]),
])  # fmt: skip
def test_profiles_are_read_as_chat_models_write_them(reply, objects):
    profile = Profile.from_json({"overview": "A street.", **reply})
    assert [one.words for one in profile.objects] == objects and profile.interactions == ()


def test_relations_agree_with_themselves_seen_from_the_other_image():
    before = Relation(RelationKind.TEMPORAL, "a", "first")
    assert before.agrees(Relation(RelationKind.TEMPORAL, "b", "second"))
    assert not before.agrees(before) and not before.agrees(Relation(RelationKind.SPATIAL, "b"))


def test_a_relation_that_differs_both_ways_is_left_out(arguments, monkeypatch):
    stock, kinds = Truth.annotate, [RelationKind.SPATIAL, RelationKind.TEMPORAL]

    def annotate(self, first, second, shared, usage):
        kinds.reverse()
        return Relation(kinds[0], stock(self, first, second, shared, usage).words)

    monkeypatch.setattr(Truth, "annotate", annotate)
    folder = run(replace(arguments, num_workers=1), EPISODES)
    assert {line["failed"].partition(":")[0] for line in lines(folder, "annotate").values()} == {
        "the relation differs both ways"
    }


def test_copies_and_broken_files_are_left_out_of_a_pool(pool, tmp_path):
    paths = image_paths(str(pool / "images"), tmp_path)[:3]
    copy, broken = tmp_path / "copy.jpg", tmp_path / "broken.png"
    Image.open(paths[0]).resize((500, 500)).save(copy, quality=80)
    broken.write_bytes(b"no image")
    (tmp_path / "list.txt").write_text("\n".join(map(str, [*paths, copy, broken])) + "\n\n")
    found = pool_of(image_paths(str(tmp_path / "list.txt"), tmp_path), tmp_path)
    assert list(found.pictures.values()) == paths and found.alike == (copy,) and found.broken == (broken,)
    with pytest.raises(FileNotFoundError, match="give a folder"):
        image_paths(str(tmp_path / "gone"), tmp_path)
    (tmp_path / "list.txt").write_text("gone.png\n")
    with pytest.raises(FileNotFoundError, match=r"names .*gone\.png"):
        image_paths(str(tmp_path / "list.txt"), tmp_path)


def test_what_is_not_read_of_a_folder_is_said_and_a_dangling_link_is_a_broken_picture(tmp_path, capsys):
    folder, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    (folder / "deeper").mkdir(parents=True)
    elsewhere.mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "deeper" / "a.png")
    Image.new("RGB", (32, 32), "red").save(elsewhere / "b.png")
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (folder / "linked").symlink_to(elsewhere)
    for name in ("a.heic", "b.HEIC", "c.jfif", "README"):
        (folder / name).write_bytes(b"")
    paths = image_paths(str(folder), tmp_path / "out")
    assert paths == [folder / "deeper" / "a.png", folder / "gone.jpg"]
    assert capsys.readouterr().out == f"left out of {folder}: 2 .heic, 1 .jfif, 1 linked folder, 1 no suffix\n"
    found = pool_of(paths, tmp_path)
    assert list(found.pictures.values()) == paths[:1] and found.broken == (folder / "gone.jpg",)


def test_paths_are_connected_different_and_use_no_edge_too_often():
    edges = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a"), ("x", "y")]
    paths = sample_paths(edges, 50, (2, 3), seed=0, max_uses=2)
    uses: dict[frozenset, int] = {}
    for path in paths:
        assert len(path) in (2, 3) and len(set(path)) == len(path)
        for pair in pairwise(path):
            assert pair in edges or pair[::-1] in edges
            uses[frozenset(pair)] = uses.get(frozenset(pair), 0) + 1
    assert max(uses.values()) <= 2 and len({frozenset(path) for path in paths}) >= 5
    assert sample_paths([], 5, (2,), seed=0) == []


def test_a_graph_with_an_edge_less_has_nearly_the_same_paths():
    rng = np.random.default_rng(0)
    edges = sorted({tuple(sorted(map(str, pair))) for pair in rng.integers(200, size=(400, 2)) if pair[0] != pair[1]})
    whole = set(sample_paths(edges, 1000, (2, 3, 4), seed=0))
    for place in range(0, 400, 40):
        fewer = set(sample_paths([*edges[:place], *edges[place + 1 :]], 1000, (2, 3, 4), seed=0))
        assert len(whole - fewer) < 0.1 * len(whole)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_index_finds_the_connected_images_at_a_fraction_of_the_questions(tmp_path, seed):
    draw_pool(tmp_path, 30, seed=seed)
    truth, edges = Truth(tmp_path), true_edges(tmp_path)
    profiles = {f"images/{n:06d}.png": truth.extract(Image.open(tmp_path / f"images/{n:06d}.png"), Usage())
                for n in range(30)}  # fmt: skip
    pairs = set(map(frozenset, candidates(profiles, 4)))
    assert len(pairs) <= 0.3 * 435 and len(pairs & set(edges)) >= 0.95 * len(edges)


def test_words_of_any_script_are_found():
    words = {"a": "红色雨伞", "b": "一把红色雨伞", "c": "木桌", "d": "\u19b0 x", "e": '"x" OR (y*', "f": ""}
    profiles = {key: Profile(text or ".", objects=(SeenObject(text),) if text else ()) for key, text in words.items()}
    assert ("a", "b") in candidates(profiles, 1) and not [pair for pair in candidates(profiles, 5) if "f" in pair]
    assert candidates({}, 4) == [] and candidates({"a": profiles["a"]}, 4) == []


def test_the_command_says_what_it_wrote(arguments, monkeypatch, capsys):
    words = ["fovea traces chains", "--output_dir", arguments.output_dir, "--num_scenes", "16", "--seed", "3"]
    monkeypatch.setattr("sys.argv", [*words, "--num_chains", "4", "--max_image_tokens", "64"])
    command.main()
    assert "traces of 4 paths" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*words, "--num_scenes", "17"])
    with pytest.raises(SystemExit, match="num_scenes was 16, is 17"):
        command.main()


@pytest.mark.parametrize("answer", ["Nan", "inf", "Infinity"])
def test_an_answer_that_python_takes_for_a_number_is_a_text(answer):
    assert _asked("Who is it?", answer).kind is AnswerKind.TEXT


@pytest.mark.parametrize(("reply", "expected"), [
    ("red", True), ("It is red.", True), ("The hat is red, I think.", True),
    ("It is not red.", False), ("It isn't red.", False), ("It was never red", False), ("red or blue", False),
    ("I cannot tell whether it is red or blue.", False), ("I see no hat that is red", False), ("red, not blue", False),
    ("cannot tell", False), ("I can’t say; perhaps red", False), ("It cannot be determined: red", False),
])  # fmt: skip
def test_a_sentence_is_right_if_it_neither_denies_the_answer_nor_names_another(reply, expected):
    assert _is_right(_asked("Which colour?", "red"), reply) is expected


def test_who_cannot_tell_is_never_right_and_an_answer_may_deny_something_itself():
    assert not _is_right(_asked("How many?", "7"), "cannot tell if there are 7")
    assert _is_right(_asked("Which sign?", "no parking"), "It is a no parking sign.")


@pytest.mark.parametrize(("question", "answer", "is_told"), [
    ("Do Image 0 and Image 2 show as many cups?", "yes", False),
    ("Do Images 1 or 2 show as many cups?", "yes", False),
    ("Given that there are 2 cups, do the images show as many?", "yes", True),
    ("Given that the cup is crimson, what colour is the cup?", "crimson", True),
    ("Is the cup crimson or blue?", "crimson", False),
])  # fmt: skip
def test_a_question_tells_what_it_states_but_no_number_of_an_image(question, answer, is_told):
    chain = Chain((Step("How many cups are there?", (0, 1), "2"),), answer)
    found = list(problems(question, chain, IMAGES, lambda question, images: UNKNOWN))
    assert any(problem.startswith("told") for problem in found) is is_told
