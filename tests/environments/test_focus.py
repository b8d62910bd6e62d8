"""The focus environment and its chains: what is shown, what a model can do wrong, and that both forms say the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.check import check_environment
from environments.factories import environment_factory
from environments.focus import OVERVIEW_TOKENS, ChainEnvironment, FocusEnvironment
from environments.play import play
from environments.policies.chain_oracle import NOT_HERE, ChainOraclePolicy
from environments.rendering import Renderer
from environments.seats import Limits, Reply, opening
from environments.trace_files import read_traces
from environments.traces import to_trace, trace_record, unfit, write_fit_traces
from environments.views import ViewSettings
from fovea.boxes import Box, Frame
from fovea.chains import Chain, ChainError, Step, chain_of, chain_of_task, problem_of, read_steps, written_steps
from fovea.data.task_files import load_tasks, save_tasks
from fovea.episodes import FaultKind, Focus, ModelFault
from fovea.images import PixelLimits
from fovea.placeholders import MARK
from fovea.runs.records import Sample
from fovea.tasks import AnswerKind, Target, Task
from rewards.accuracy import accuracy
from rewards.focusing import chain_format, focus_f1, focus_precision, focus_recall, image_cost
from synthesis.checks.calls import CallChecker
from synthesis.formats.dialects import Cutting
from synthesis.oracle_traces import TraceArguments, write_oracle_traces
from synthesis.shapes.albums import make_albums
from tests.conftest import TINY_CROPS

LIMITS = PixelLimits(16 * 16, 160 * 160, 16)
EPISODES = EpisodeArguments(environment="focus", max_image_tokens=48, **TINY_CROPS)
LONG = Limits(16, 512, 100_000)


def environment(frame=Frame.PER_MILLE, **settings):
    return FocusEnvironment(ViewSettings(frame, LIMITS, LIMITS, **{"max_image_tokens": 24, **settings}))


@pytest.fixture
def pictures():
    """Five images, each of one level of grey at its left and another at its right."""
    rows = []
    for number in range(5):
        pixels = np.full((480, 640, 3), 20 * number + 10, dtype=np.uint8)
        pixels[:, 320:] = 255 - 20 * number
        rows.append(Image.fromarray(pixels))
    return tuple(rows)


@pytest.fixture(scope="module")
def albums():
    return make_albums(num_tasks=24, seed=8)


@pytest.fixture
def played(albums, tiny):
    """The albums, played by the oracle in an environment of ours."""

    def play_in(name, **options):
        arguments = EpisodeArguments(environment=name, max_image_tokens=48, **TINY_CROPS)
        factory = environment_factory(arguments, tiny)
        return play(ChainOraclePolicy(tiny.frame, **options), albums, environment_factory=factory, limits=LONG)

    return play_in


def images_of(blocks):
    return [block["image"] for block in blocks if block["type"] == "image"]


def test_all_images_are_shown_small_behind_their_numbers_and_some_are_brought_back_whole(pictures):
    task = Task("t", pictures, "Which is brightest?", "4")
    blocks = opening(environment(), task)[1]["content"]
    views = images_of(blocks)
    assert [block["text"] for block in blocks if block["type"] == "text"] == [
        "Image 0: ", *(f"\nImage {number}: " for number in range(1, 5)), "\nWhich is brightest?"
    ]  # fmt: skip
    assert sum(view.width * view.height // 256 for view in views) <= 24
    used = environment()
    used.reset(task=task)
    answered = used.focus_images_tool("Which?", [3, 1])
    assert [block["text"] for block in answered if block["type"] == "text"] == ["Image 3: ", "\nImage 1: "]
    assert answered[0]["focus"] == Focus((3, 1), "Which?")
    for view, number in zip(images_of(answered), (3, 1), strict=True):
        assert view.size == (160, 112) or view.width * view.height > 0.8 * LIMITS.max_pixels
        assert np.asarray(view)[0, 0, 0] == 20 * number + 10


def test_the_chain_environment_numbers_its_images_too(pictures):
    chain = ChainEnvironment(ViewSettings(Frame.PER_MILLE, LIMITS, LIMITS))
    texts = [block.get("text") for block in chain.reset(task=Task("t", pictures[:2], "Which?", "1"))]
    assert texts == ["Image 0: ", None, "\nImage 1: ", None, "\nWhich?"]


@pytest.mark.parametrize("number", [1, 3000])
def test_any_number_of_images_has_an_overview_where_no_budget_was_asked_for(number):
    task = Task("t", (Image.new("RGB", (40, 40)),) * number, "?", "")
    assert len(images_of(environment(max_image_tokens=None).reset(task=task))) == number
    assert images_of(environment(max_image_tokens=None, crops="random").reset(task=task))


def test_a_random_image_of_a_task_with_one_is_the_same(pictures):
    used = environment(crops="random")
    used.reset(task=Task("t", pictures[:1], "?", ""))
    assert len(images_of(used.focus_images_tool("Which?", [0]))) == 1


class Boxes:
    """Focuses on the second image and answers with a box in its larger view."""

    def reply(self, conversations, *, max_tokens):
        replies = []
        for conversation in conversations:
            call = '{"name": "focus_images_tool", "arguments": {"question": "?", "img_idxs": [1]}}'
            view = conversation.images[-1]
            box = [0, 0, view.width // 2, view.height // 2]
            is_first = len(conversation.messages) == 2
            answer = json.dumps({"bbox_2d": box, "img_idx": 1})
            replies.append(Reply(f"<tool_call>{call}</tool_call>" if is_first else f"<answer>{answer}</answer>"))
        return replies


def test_a_box_answer_is_read_in_the_view_that_the_model_saw_last(pictures):
    box = Target(Box(0, 0, 0.5, 0.5, Frame.UNIT), 1).to_dict()
    task = Task("t", pictures, "Where is it?", [box], AnswerKind.BOX)
    [episode] = play(Boxes(), [task], environment_factory=lambda: environment(Frame.INPUT), limits=LONG)
    assert accuracy(task, episode) == pytest.approx(1.0, abs=0.05)
    assert str(episode.framing.views[1].input[0]) in episode.turns[0].observation.text


def test_images_that_stand_in_the_question_get_their_numbers_there(pictures):
    task = Task("t", pictures[:2], f"Is {MARK} brighter than {MARK}?", "no")
    blocks = opening(environment(), task)[1]["content"]
    assert [block.get("text", "<image>") for block in blocks] == [
        "Is \nImage 0: ", "<image>", " brighter than \nImage 1: ", "<image>", "?"
    ]  # fmt: skip


def test_without_a_budget_of_its_own_the_overview_has_the_default(pictures):
    blocks = environment(max_image_tokens=None).reset(task=Task("t", pictures * 8, "?", ""))
    assert 0 < sum(view.width * view.height // 256 for view in images_of(blocks)) <= OVERVIEW_TOKENS


@pytest.mark.parametrize("frame", [Frame.PER_MILLE, Frame.INPUT, Frame.UNIT, Frame.ORIGINAL])
def test_boxes_in_a_focused_image_are_those_of_its_larger_view(pictures, frame):
    used = environment(frame)
    used.reset(task=Task("t", pictures, "?", ""))
    small = used.framing.views[2]
    used.focus_images_tool("Which?", [2])
    view = used._seen[2].view
    assert view.input[0] > 2 * small.input[0] and view.original == small.original
    width, height = view.extent(frame)
    crop = used.image_zoom_in_tool([width / 2, 0, width, height / 2], img_idx=2)[0]["crop"]
    assert crop.region.coordinates == pytest.approx((0.5, 0, 1, 0.5), abs=0.01) and (crop.img_idx, crop.root) == (5, 2)


@pytest.mark.parametrize("indices", [[], [5], [-1], [0, 0], [0.0], ["0"], [True], 0, None, {}, "01", [[0]], [0] * 99])
def test_what_is_no_subset_of_the_images_is_told_back(pictures, indices):
    used = environment()
    used.reset(task=Task("t", pictures, "?", ""))
    with pytest.raises(ModelFault, match="img_idxs") as caught:
        used.focus_images_tool("Which?", indices)
    assert caught.value.kind is FaultKind.BAD_IMAGE_INDEX and len(used._seen) == 5


@pytest.mark.parametrize(("mode", "differs"), [("true", False), ("target", False), ("noise", True), ("blank", True),
                                               ("random", True)])  # fmt: skip
def test_probes_of_crops_reach_focused_images(pictures, mode, differs):
    task = Task("t", pictures, "?", "")
    plain, probed = environment(), environment(crops=mode)
    shown = []
    for used in (plain, probed):
        used.reset(task=task)
        shown.append(images_of(used.focus_images_tool("Which?", [2]))[0])
    assert shown[0].size == shown[1].size and (np.asarray(shown[0]) != np.asarray(shown[1])).any() == differs


def test_both_environments_pass_their_own_check(pictures):
    task = Task("t", pictures, "Which?", "1")
    calls = [
        ("focus_images_tool", {"question": "?", "img_idxs": [1, 2]}),
        ("image_zoom_in_tool", {"bbox_2d": [0, 0, 500, 500]}),
    ]
    passed = check_environment(environment, task=task, calls=calls)
    assert sum(line.startswith("answers ") for line in passed) == 2
    settings = ViewSettings(Frame.PER_MILLE, LIMITS, LIMITS)
    assert "documents its tools: none" in check_environment(lambda: ChainEnvironment(settings), task=task)


@pytest.mark.parametrize("name", ["focus", "chain"])
def test_the_oracle_plays_the_chain_of_a_task_and_it_is_read_off_the_episode(played, name):
    for episode in played(name):
        task = episode.task
        assert chain_of(episode) == chain_of_task(task)
        assert problem_of(chain_of(episode), len(task.images)) is None
        assert [focus_f1(task, episode), chain_format(task, episode)] == [1.0, 1.0]
        boxes = len(task.boxes) if name == "focus" else 0
        assert (episode.num_zooms, episode.faults, episode.answer) == (boxes, (), str(task.answer))
        for crop, target in zip(episode.crops, task.boxes, strict=False):
            assert crop.root == target.img_idx
            assert crop.region.coordinates == pytest.approx(target.box.coordinates, abs=0.002)


def test_mistakes_are_found_wanting_and_the_chain_goes_on(played):
    straight, searching = played("focus"), played("focus", mistakes=0.5)
    wrong = 0
    for episode, right in zip(searching, straight, strict=True):
        chain = chain_of(episode)
        missed = [step for step in chain.steps if step.answer == NOT_HERE]
        kept = [step for step in chain.steps if step.answer != NOT_HERE]
        assert Chain(tuple(kept), chain.answer) == chain_of(right) and unfit(episode) is None
        for step in missed:
            needed = [set(one.images) for one in kept if one.question == step.question]
            assert needed and not any(images & set(step.images) for images in needed)
        assert len({(step.question, step.images) for step in missed}) == len(missed)
        wrong += len(missed)
    assert wrong > len(straight) / 4
    again = played("focus", mistakes=0.5)
    assert [episode.foci for episode in again] == [episode.foci for episode in searching]


def test_focus_is_paid_by_the_images_that_the_chain_needs(played):
    task = Task("t", (Image.new("RGB", (32, 32)),) * 4, "?", "1", metadata={"foci": [[0], [1, 2]]})
    episode = next(one for one in played("focus") if one.foci and one.foci[0].images == (1,))
    assert len({image for focus in episode.foci for image in focus.images}) == 1
    assert focus_precision(task, episode) == 1.0
    assert focus_recall(task, episode) == pytest.approx(1 / 3)
    assert focus_f1(task, episode) == pytest.approx(0.5)
    bare = Task("t", task.images, "?", "1")
    assert focus_f1(bare, episode) is None and image_cost(bare, episode) is None


def test_image_tokens_and_foci_are_kept_in_records(albums, tiny):
    renderer, factory = Renderer(tiny.processor), environment_factory(EPISODES, tiny)
    oracle = ChainOraclePolicy(tiny.frame)
    [episode] = play(oracle, albums[:1], environment_factory=factory, limits=LONG, renderer=renderer)
    shown = sum(renderer.image_inputs(image).num_tokens for image in episode.record.images)
    assert episode.num_image_tokens == shown > 48 and image_cost(albums[0], episode) == -shown / 1000
    again = Sample.from_json(json.loads(json.dumps(Sample.of(episode, score=1.0).to_json()))).episode(albums[0])
    assert again.foci == episode.foci != () and again.num_image_tokens == shown


texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)
steps = st.builds(Step, texts, st.lists(st.integers(0, 30), min_size=1, max_size=4, unique=True).map(tuple), texts)


@given(st.lists(steps, min_size=1, max_size=6))
def test_steps_are_read_as_they_were_written(chain):
    assert read_steps(written_steps(chain)) == tuple(chain)


STEP = "Question {}: How many?\nImages: 0, 2\nAnswer: 3\nStop: {}"


LAST = STEP.format(1, "yes")


@pytest.mark.parametrize("text", ["", "I see it.", STEP.format(2, "yes"), STEP.format(1, "no"), STEP.format(1, "maybe"),
                                  STEP.format("1" * 5000, "yes"),
                                  f"{LAST}\n{STEP.format(2, 'yes')}", f"{LAST}\nSo.", LAST.replace("0, 2", "0 2"),
                                  LAST.replace("3", " ")])  # fmt: skip
def test_a_text_that_is_no_chain_is_refused(text):
    with pytest.raises(ChainError, match="step"):
        read_steps(text)


@pytest.mark.parametrize("metadata", [{"foci": 3}, {"foci": [[2]]}, {"foci": [[]]}, {"foci": [[0, 0]]}, {"foci": ["0"]},
                                      {"foci": ""},
                                      {"foci": [[0]], "sub_answers": []}, {"foci": [[0]], "sub_questions": "?"},
                                      {"foci": [[True]]}])  # fmt: skip
def test_a_chain_that_is_none_of_the_tasks_images_is_refused_where_the_task_is_read(metadata, tmp_path, pictures):
    save_tasks([Task("t", pictures[:2], "How many?", "1")], tmp_path)
    row = json.loads((tmp_path / "tasks.jsonl").read_text())
    (tmp_path / "tasks.jsonl").write_text(json.dumps(row | {"metadata": metadata}) + "\n")
    with pytest.raises(ValueError, match=r"row 0 .*metadata"):
        load_tasks(tmp_path)


def test_a_chain_of_a_step_without_answer_has_a_problem():
    assert problem_of(Chain((Step("?", (0,), " "),)), 1) == "step 1 has no answer"
    assert problem_of(Chain((Step("?", (1,), "a"),)), 1) == "step 1 names the images [1] of 1"
    assert problem_of(Chain(()), 1) == "it has no steps"


@pytest.mark.parametrize("frame", [Frame.PER_MILLE, Frame.INPUT, Frame.UNIT])  # no trace holds the original's size
def test_traces_of_the_oracle_are_read_and_checked(albums, tmp_path, tiny, frame):
    factory = environment_factory(replace(EPISODES, box_frame=frame.value), tiny)
    episodes = play(ChainOraclePolicy(frame, noise=0.1), albums[:8], environment_factory=factory, limits=LONG)
    assert not write_fit_traces(episodes, tmp_path)
    checker = CallChecker(factory(), frame, tiny.limits, 1.0)
    for record, episode in zip(read_traces(tmp_path), episodes, strict=True):
        found = checker.examine(to_trace(record), Cutting(None, 1.0))
        assert found.problems == [] and found.num_calls == len(episode.foci) + episode.num_zooms
        assert [root for root, _ in found.regions] == [crop.root for crop in episode.crops]


@pytest.mark.parametrize(("change", "kind"), [
    (lambda text: text.replace('"img_idxs": [', '"img_idxs": [7, '), "refused call"),
    (lambda text: text.replace("focus_images_tool", "focus_tool"), "refused call"),
])  # fmt: skip
def test_a_focus_that_rollouts_would_refuse_is_found(played, tmp_path, tiny, change, kind):
    episode = next(one for one in played("focus") if one.foci and len(one.task.images) < 7)
    row = trace_record(episode, tmp_path, name="0")
    (tmp_path / "traces.jsonl").write_text(json.dumps(row | {"messages": [
        message | {"content": change(message["content"])} for message in row["messages"]]}))  # fmt: skip
    [record] = read_traces(tmp_path)
    checker = CallChecker(environment_factory(EPISODES, tiny)(), tiny.frame, tiny.limits, 1.0)
    assert kind in {name for name, _ in checker.examine(to_trace(record), Cutting(None, 1.0)).problems}


def test_another_image_behind_a_focus_is_found(tmp_path, tiny, picture):
    chain = Chain((Step("?", (1,), "1"),))
    task = Task("t", (picture, picture.rotate(90, expand=True)), "?", "1", metadata=chain.metadata())
    factory = environment_factory(EPISODES, tiny)
    [episode] = play(ChainOraclePolicy(tiny.frame), [task], environment_factory=factory, limits=LONG)
    row = trace_record(episode, tmp_path, name="0")
    Image.open(tmp_path / row["images"][0]).resize((160, 112)).save(tmp_path / row["images"][2])
    (tmp_path / "traces.jsonl").write_text(json.dumps(row))
    checker = CallChecker(factory(), tiny.frame, tiny.limits, 1.0)
    [record] = read_traces(tmp_path)
    assert [kind for kind, _ in checker.examine(to_trace(record), Cutting(None, 1.0)).problems] == ["other crop"]


def test_a_task_whose_chain_says_foci_alone_is_refused_by_name(tmp_path, pictures):
    save_tasks([Task("half", pictures[:2], "How many?", "1", metadata={"foci": [[1]]})], tmp_path / "tasks")
    arguments = TraceArguments(dataset_name=str(tmp_path / "tasks"), output_dir=str(tmp_path / "traces"))
    with pytest.raises(ValueError, match=r"task half has a chain that cannot be played: step 1 has no question"):
        write_oracle_traces(arguments, EPISODES)


def test_what_is_brought_back_is_full_size_however_small_the_first_views_are(pictures):
    """The information gap makes first views small, and looking has to help."""
    sizes = []
    for most in (None, 32 * 32):
        task = Task("t", pictures, "q", "7", first_view_max_pixels=most)
        one = environment()
        one.reset(task=task)
        [image] = images_of(one.focus_images_tool("Which?", [1]))
        sizes.append(image.size)
    assert sizes[0] == sizes[1]
