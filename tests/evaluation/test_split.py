"""Effect of the tool: gains less harms are the difference, and planted checkpoints are told apart."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import play
from environments.policies.oracle import turn_of
from environments.probes.tools import with_tools
from environments.seats import Limits, Reply
from evaluation import split
from evaluation.compare import compare, table
from evaluation.discover import ARMS, SCHEMA_ONLY, WITH_TOOL, WITHOUT_TOOL, find_runs
from evaluation.evaluated import Evaluated
from evaluation.evidence import evidence
from evaluation.report import from_markdown
from evaluation.samples import sample_of
from fovea.episodes import Answer, Call, Turn
from fovea.runs.directory import RunDirectory
from fovea.runs.records import Sample, append
from fovea.tasks import Task

CALL = turn_of("I zoom in.", "image_zoom_in_tool", {"bbox_2d": [0, 0, 500, 500]})
RIGHT, WRONG = "<think>.</think>\n<answer>7</answer>", "<think>.</think>\n<answer>4</answer>"


def evaluated(scores, calls=None):
    """Scores [seeds][questions][samples] as stored evaluations; `calls` of the same shape says which called a tool."""

    def sample(score, question, is_called):
        turn = Turn("", Call("zoom", {}) if is_called else Answer("7"), None)
        return Sample(task_id=question, question="?", reference="7", answer="7", score=score, turns=(turn,))

    calls = calls or [[[False] * len(samples) for samples in seed] for seed in scores]
    seeds = tuple(
        {
            f"q{number}": [sample(score, f"q{number}", one) for score, one in zip(samples, made, strict=True)]
            for number, (samples, made) in enumerate(zip(seed, called, strict=True))
        }
        for seed, called in zip(scores, calls, strict=True)
    )
    return Evaluated("some", (), seeds, {})


@st.composite
def arms(draw):
    num_seeds, num_questions, num_samples = (draw(st.integers(1, most)) for most in (3, 6, 3))
    shape = (num_seeds, num_questions, num_samples)
    size = num_seeds * num_questions * num_samples
    scores = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=size, max_size=size)
    calls = st.lists(st.booleans(), min_size=size, max_size=size)
    return tuple(np.array(draw(one)).reshape(shape).tolist() for one in (scores, scores, calls))


@given(arms())
def test_gains_less_harms_are_the_difference_on_every_question(drawn):
    without_scores, with_scores, calls = drawn
    without_tool, with_tool = evaluated(without_scores), evaluated(with_scores, calls)
    ids = sorted(with_tool.families)
    values = split.terms(with_tool, without_tool, ids)
    total = sum(sign * values[name] for name, sign in split.SIGNS.items())
    assert total == pytest.approx(with_tool.scores(ids) - without_tool.scores(ids))
    assert all((value >= -1e-12).all() for value in values.values())
    for name, factors in split.factors(with_tool, without_tool, ids, {}).items():
        product = factors["mass"] * factors["policy"] * factors["quality"]
        assert product == pytest.approx(values[name].mean())


def test_a_case_worked_by_hand():
    """Ten questions: four wrong without the tool (three called, two of them right; one not called and right), six right
    without it (two called, one of them wrong; four not called, one of them wrong)."""
    without = [[[0.0]] * 4 + [[1.0]] * 6]
    calls = [[[c] for c in (1, 1, 1, 0, 1, 1, 0, 0, 0, 0)]]
    with_tool = [[[float(s)] for s in (1, 1, 0, 1, 0, 1, 0, 1, 1, 1)]]
    given_arms = evaluated(with_tool, calls), evaluated(without)
    values = {name: value.mean() for name, value in split.terms(*given_arms, [f"q{n}" for n in range(10)]).items()}
    expected = {"call_gain": 0.2, "schema_gain": 0.1, "call_harm": 0.1, "schema_harm": 0.1}
    assert values == pytest.approx(expected)
    factors = split.factors(*given_arms, [f"q{n}" for n in range(10)], {})
    assert factors["call_gain"] == pytest.approx({"mass": 0.4, "policy": 0.75, "quality": 2 / 3})
    assert factors["schema_harm"] == pytest.approx({"mass": 0.6, "policy": 4 / 6, "quality": 1 / 4})


class Planted:
    """Checkpoints by what they do: `needs` the tool, `ignores` it, or is `harmed` by its description."""

    def __init__(self, kind):
        self.kind = kind

    def reply(self, conversations, *, max_tokens):
        return [Reply(self._write(conversation)) for conversation in conversations]

    def _write(self, conversation):
        if self.kind == "ignores":
            return RIGHT
        if self.kind == "harmed":
            return WRONG if conversation.tools else RIGHT
        seen = [message for message in conversation.messages if message["role"] == "tool"]
        if not conversation.tools:
            return WRONG
        if not seen:
            return CALL
        return RIGHT if any(block["type"] == "image" for block in seen[0]["content"]) else WRONG


@pytest.fixture
def planted(tmp_path, tiny):
    tasks = [Task(f"t{n}", (Image.new("RGB", (200, 200), (n, 0, 0)),), "Which digit?", "7") for n in range(12)]
    factory = environment_factory(EpisodeArguments(crop_min_pixels=64 * 64, crop_max_pixels=80 * 64), tiny)
    for kind in ("needs", "ignores", "harmed"):
        for arm in (WITH_TOOL, WITHOUT_TOOL, SCHEMA_ONLY):
            changed = with_tools(factory, ARMS[arm].get("tools", "true"))
            episodes = play(Planted(kind), tasks, environment_factory=changed, limits=Limits(4))
            folder = RunDirectory(tmp_path / kind / arm)
            folder.write_start(evaluation={"output_dir": str(folder.path), "dataset_name": "gone.jsonl"})
            append(tmp_path / kind / arm / "samples.jsonl", (sample_of(episode, 0) for episode in episodes))
    return tmp_path


def test_planted_checkpoints_are_told_apart(planted):
    comparison = compare(*(planted / kind for kind in ("ignores", "needs", "harmed")))
    needs, ignores, harmed = (
        comparison["split"]["checkpoints"][str(planted / kind)] for kind in ("needs", "ignores", "harmed")
    )
    values = [{name: term["value"] for name, term in one["terms"].items() if term["value"]} for one in (needs, harmed)]
    assert values == [{"call_gain": 1.0}, {"schema_harm": 1.0}]
    assert ignores["gap"]["difference"] == 0 and not any(term["value"] for term in ignores["terms"].values())
    assert [one["against"][SCHEMA_ONLY]["difference"] for one in (needs, ignores, harmed)] == [1.0, 0.0, 0.0]
    assert needs["terms"]["call_gain"]["interval"][0] > 0.5
    change = comparison["split"]["changes"][0]
    assert (change["with"]["difference"], change["without"]["difference"]) == (0.0, -1.0)
    assert change["call_gain"]["difference"] == 1.0
    assert "| call gain | 1.000 | 1.000 | 1.000 |" in table(comparison)
    json.dumps(comparison)


def test_a_report_has_the_split_of_its_runs(planted):
    for kind in ("needs", "harmed"):
        (planted / "runs" / kind).mkdir(parents=True)
        (planted / kind).rename(planted / "runs" / kind / "arms")
    runs = find_runs([planted / "runs" / "needs", planted / "runs" / "harmed"])
    [(heading, text)] = evidence(runs)
    assert heading == "What the tool did" and str(planted) not in text
    assert "| needs / arms | call gain | 1.000 | 1.000 | 1.000 |" in text
    page = "".join(from_markdown(text))
    assert "<td>needs / arms</td><td>0.000</td><td>1.000</td><td>+1.000</td>" in page
    assert "A = needs / arms, B = harmed / arms" in page and "|" not in page
    path = planted / "runs" / "harmed" / "arms" / SCHEMA_ONLY / "samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(True)[:-1]))
    assert "different questions" in next(text for _, text in evidence(runs))


def test_arms_of_several_seeds_are_paired_by_seed(planted):
    """Seeds differ in how many questions they answer at all; within each, the tool adds the same."""
    rng = np.random.default_rng(0)
    for seed, share in enumerate((0.2, 0.5, 0.8)):
        right = rng.permutation(12) < 12 * share
        for arm, score in ((WITHOUT_TOOL, right), (WITH_TOOL, right | (np.arange(12) < 3))):
            folder = planted / f"seed_{seed}" / "arms" / arm
            folder.mkdir(parents=True)
            rows = [
                Sample(task_id=f"q{n}", question="?", reference="7", score=float(one)) for n, one in enumerate(score)
            ]
            append(folder / "samples.jsonl", rows)
    [one] = split.split(planted / "seed_*" / "arms")["checkpoints"].values()
    low, high = one["gap"]["interval"]
    assert low <= one["gap"]["difference"] <= high and high - low < 0.6
    assert one["gap"]["difference"] == pytest.approx(one["terms"]["schema_gain"]["value"])


def test_one_question_that_only_one_arm_holds_is_refused(planted):
    path = planted / "needs" / SCHEMA_ONLY / "samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(True)[:-1]))
    with pytest.raises(ValueError, match="different questions"):
        split.split(planted / "needs")


def test_four_orders_of_one_question_count_once(tmp_path):
    """In what the tool did as in a comparison: four times the questions are no more evidence."""
    rng = np.random.default_rng(0)
    scores = {arm: rng.integers(0, 2, 20).astype(float) for arm in (WITH_TOOL, WITHOUT_TOOL)}
    for times in (1, 4):
        for arm, values in scores.items():
            rows = [
                Sample(task_id=f"q{n:02}-{k}", question="?", reference="7", score=value, cluster=f"q{n}")
                for n, value in enumerate(values)
                for k in range(times)
            ]
            append(RunDirectory(tmp_path / str(times) / arm).path / "samples.jsonl", rows)
    once, four_times = (next(iter(split.split(tmp_path / str(times))["checkpoints"].values())) for times in (1, 4))
    assert once == four_times
    compared = compare(tmp_path / "4" / WITHOUT_TOOL, tmp_path / "4" / WITH_TOOL)["pairs"][0]
    assert four_times["gap"]["interval"] == compared["interval"]
