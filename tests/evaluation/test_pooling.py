"""Fewer visual tokens, and the control: which evaluations are played, and what is written of them."""

import json

import pytest

from environments.arguments import EpisodeArguments
from evaluation import attention, figures, pooling
from evaluation.attention import AttentionArguments, Shares
from evaluation.discover import POOLING, find_runs
from evaluation.pooling import PoolingArguments, analyse
from evaluation.stored import stored_run
from fovea.runs.records import read_samples

VIEWS = EpisodeArguments(environment="views", max_turns=1, max_tokens_per_turn=4)


@pytest.fixture
def arguments(tmp_path):
    return PoolingArguments(output_dir=str(tmp_path / "run" / "pooling"), factors=[1, 4], batch_size=4)


@pytest.fixture
def points(tiny, make_task, arguments):
    return analyse(tiny, [make_task(id="a"), make_task(id="b")], arguments, VIEWS)


def test_tokens_are_fewer_and_those_of_the_control_are_not(points, arguments):
    tokens = {(point.kind, point.factor): point.image_tokens for point in points}
    whole = tokens["token_pooling", 1]
    assert tokens == {
        ("token_pooling", 1): whole, ("token_pooling", 4): -(-whole // 4), ("pixel_pooling", 4): whole,
    }  # fmt: skip
    assert all(point.n == 2 and point.interval[0] <= point.accuracy <= point.interval[1] for point in points)


@pytest.mark.parametrize("kind", [PoolingArguments, AttentionArguments])
def test_fewer_tasks_are_as_many_of_each_family(kind, tmp_path):
    """Files often hold one family after the other."""
    rows = [{"question": f"{family}?", "answer": 1, "metadata": {"family": family}} for family in "aaaaabbbbc"]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {"output_dir": str(tmp_path / "out"), "dataset_name": str(tmp_path / "tasks.jsonl")}

    def families(number):
        return "".join(task.family for task in kind(max_tasks=number, **names).load_tasks())

    assert [families(number) for number in (1, 3, 5, 7, None)] == ["a", "abc", "aabbc", "aaabbbc", "aaaaabbbbc"]


def test_the_tasks_of_a_point_are_found_again(tiny, tmp_path):
    rows = [{"question": f"{family}?", "answer": 1, "metadata": {"family": family}} for family in "aaab"]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {"output_dir": str(tmp_path / "out"), "dataset_name": str(tmp_path / "tasks.jsonl")}
    arguments = PoolingArguments(max_tasks=2, factors=[1], **names)
    analyse(tiny, arguments.load_tasks(), arguments, VIEWS)
    stored = stored_run(tmp_path / "out" / "token_pooling_1")
    assert [stored.task(record).family for record in stored.records] == ["a", "b"]


def test_a_larger_factor_goes_on_from_what_is_there(points, tiny, make_task, arguments, tmp_path):
    arguments.factors = [1, 4, 2]
    more = analyse(tiny, [make_task(id="a"), make_task(id="b")], arguments, VIEWS)
    assert [(point.kind, point.factor) for point in more] == [
        ("token_pooling", 1), ("token_pooling", 2), ("pixel_pooling", 2), ("token_pooling", 4), ("pixel_pooling", 4),
    ]  # fmt: skip
    assert len(read_samples(tmp_path / "run" / "pooling" / "token_pooling_1")) == 2


def test_what_is_written_is_read_and_drawn(points, arguments, tiny, make_task, tmp_path):
    folder = tmp_path / "run" / "pooling"
    pooling.write(points, folder)
    assert pooling.read(folder / POOLING) == points
    assert len((folder / "pooling.csv").read_text().splitlines()) == 4
    attention.write([Shares(0, (0.5, 0.3, 0.2), (0.1, 0.1, 0.1), 3)], tmp_path / "run" / "attention")
    (tmp_path / "run" / "evaluation").symlink_to(folder / "token_pooling_1")
    runs = find_runs([tmp_path / "run"])
    assert len(figures._attention(runs)) == 3 and len(figures._pooling(runs)) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"factors": [0]}, "numbers from 1"),
        ({"factors": []}, "numbers from 1"),
        ({"use_vllm": True}, "where Transformers runs the model"),
        ({"openai_base_url": "http://x"}, "where Transformers runs the model"),
        ({"view_sizes_px": [64]}, "a sweep of its own"),
        ({"arms": ["with_tool"]}, "a sweep of its own"),
        ({"all_checkpoints": True}, "a sweep of its own"),
        ({"pixel_pooling": 0}, "give 1 .nothing is taken away. or more"),
    ],
    ids=str,
)
def test_what_cannot_be_pooled_is_refused_at_the_start(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        PoolingArguments(output_dir=str(tmp_path), **wrong)
