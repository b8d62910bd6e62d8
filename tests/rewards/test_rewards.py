import asyncio
from functools import partial, wraps

import numpy as np
import pytest
import torch

from fovea.answers import score as score_answer
from fovea.boxes import Box, Frame
from fovea.tasks import AnswerKind, Target
from rewards.looking import format, zoom_cost, zoom_coverage, zoom_iou
from rewards.registry import Reward, RewardError, RewardKind, kind_of, load_reward, load_rewards, score_episodes
from rewards.trl_adapter import check_columns, score, to_trl

CHOICES = ("a red car", "a blue car", "a bus")


@pytest.mark.parametrize(
    ("kind", "reference", "answer", "expected"),
    [
        (AnswerKind.NUMBER, "7", "7", 1),
        (AnswerKind.NUMBER, "7", "seven", 1),
        (AnswerKind.NUMBER, "1200", "1,200 px", 1),
        (AnswerKind.NUMBER, "0.5", "50%", 1),
        (AnswerKind.NUMBER, "7", "6 or 7", 0),
        (AnswerKind.NUMBER, "7", "0 1 2 3 4 5 6 7 8 9", 0),
        (AnswerKind.NUMBER, "-3", "3", 0),
        (AnswerKind.YES_NO, "yes", "Yes, it is.", 1),
        (AnswerKind.YES_NO, "yes", "yes or no", 0),
        (AnswerKind.YES_NO, "yes", "", 0),
        (AnswerKind.TEXT, "the Red", "red.", 1),
        (AnswerKind.TEXT, "red", "red green blue", 0),
        (AnswerKind.CHOICE, "B", "(B)", 1),
        (AnswerKind.CHOICE, "B", "B. a blue car", 1),
        (AnswerKind.CHOICE, "B", "The answer is B", 1),
        (AnswerKind.CHOICE, "B", "a blue car", 1),
        (AnswerKind.CHOICE, "a blue car", "B", 1),
        (AnswerKind.CHOICE, "B", "(A) (B) (C)", 0),
        (AnswerKind.CHOICE, "B", "A", 0),
        (AnswerKind.LIST, ["cat", "dog"], "dog, cat", 1),
        (AnswerKind.LIST, ["cat", "dog"], "dog and bird", 0.5),
        (AnswerKind.LIST, ["cat"], ", ".join(["cat", *map(str, range(9))]), pytest.approx(2 / 11)),
        (AnswerKind.MATH, r"\frac{1}{2}", "0.5", 1),
        (AnswerKind.MATH, "2x", "x + x", 1),
        (AnswerKind.MATH, "2x", "x", 0),
    ],
)
def test_accuracy_by_kind(make_task, kind, reference, answer, expected):
    choices = CHOICES if kind is AnswerKind.CHOICE else ()
    assert score_answer(make_task(reference, kind, choices=choices), answer) == expected


def test_no_answer_is_wrong_and_not_inapplicable(make_episode):
    assert score_episodes(load_reward("accuracy"), [make_episode(None)]) == [0.0]


def test_a_reference_that_does_not_fit_its_kind_is_our_fault(make_task):
    with pytest.raises(ValueError, match="not a number"):
        score_answer(make_task("red", AnswerKind.NUMBER), "red")


def test_format_needs_every_turn_well_formed_and_an_answer(make_task, make_episode):
    assert format(make_task(), make_episode("7")) == 1.0
    assert format(make_task(), make_episode("7", well_formed=False)) == 0.0
    assert format(make_task(), make_episode(None)) == 0.0


def test_zoom_rewards_measure_against_the_target(make_task, make_episode):
    target = Box(0.0, 0.0, 0.5, 0.5, Frame.UNIT)
    task = make_task(boxes=(Target(target),))
    exact = make_episode("7", task=task, regions=[target])
    whole = make_episode("7", task=task, regions=[Box(0, 0, 1, 1, Frame.UNIT)])
    blind = make_episode("7", task=task)
    assert [zoom_iou(task, e) for e in (exact, whole, blind)] == [1.0, 0.25, 0.0]
    assert [zoom_coverage(task, e) for e in (exact, whole, blind)] == [1.0, 1.0, 0.0]
    assert [zoom_cost(task, e) for e in (exact, blind)] == [-1.0, 0.0]
    assert zoom_iou(make_task(), exact) is None


def per_episode(task, episode):
    return 1.0


def per_group(task, episodes):
    return [float(len(episodes))] * len(episodes)


def trl_style(prompts, completions, **kwargs):
    return [0.5] * len(prompts)


async def trl_async(completions, **kwargs):
    return [0.5] * len(completions)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (per_episode, RewardKind.EPISODE),
        (per_group, RewardKind.GROUP),
        (trl_style, RewardKind.TRL),
        (trl_async, RewardKind.TRL),
    ],
)
def test_signatures_are_told_apart_by_parameter_names(function, kind):
    assert kind_of(function) is kind


@pytest.mark.parametrize("function", [lambda x: 1.0, lambda episode, completions: 1.0])
def test_an_ambiguous_signature_is_refused_with_the_cure(function):
    with pytest.raises(ValueError, match=r"take \(task, episode\)"):
        kind_of(function)


def test_rewards_load_by_name_file_and_model_id(tmp_path):
    (tmp_path / "mine.py").write_text("def brightness(task, episode):\n    return 0.25\n")
    reward = load_reward(f"{tmp_path}/mine.py:brightness")
    assert (reward.name, reward.kind) == ("brightness", RewardKind.EPISODE)
    assert load_reward("org/reward-model").kind is RewardKind.MODEL
    with pytest.raises(ValueError, match="accuracy, format"):
        load_reward("acuracy")
    for name in (f"{tmp_path}/mine.py", "./mine.py", "mine.py"):
        with pytest.raises(ValueError, match="add the function in it"):
            load_reward(name)


def test_groups_are_the_consecutive_episodes_of_one_task(make_task, make_episode):
    first, second = make_task(), make_task()
    episodes = [make_episode("7", task=first)] * 3 + [make_episode("7", task=second)] * 2
    assert score_episodes(Reward("g", RewardKind.GROUP, per_group), episodes) == [3, 3, 3, 2, 2]


@pytest.mark.parametrize("bad", [float("nan"), "1", [1.0], float("inf")])
def test_a_reward_must_return_a_finite_number_or_none(make_episode, bad):
    with pytest.raises(RewardError, match="finite number"):
        score_episodes(Reward("bad", RewardKind.EPISODE, lambda task, episode: bad), [make_episode("7")])


def test_a_reward_that_raises_names_itself_and_the_task(make_episode):
    def broken(task, episode):
        raise KeyError("oops")

    with pytest.raises(RewardError, match="broken raised KeyError on task t"):
        score_episodes(Reward("broken", RewardKind.EPISODE, broken), [make_episode("7")])


def test_the_trl_form_reads_episodes_from_their_column(make_episode):
    scored = to_trl(load_reward("accuracy"))
    assert scored.__name__ == "accuracy"
    assert scored(["p"] * 2, ["c"] * 2, episode=[make_episode("7"), make_episode("8")], task=[None]) == [1.0, 0.0]
    assert to_trl(Reward("t", RewardKind.TRL, trl_style))(prompts=["p"], completions=["c"]) == [0.5]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (KeyError("solution"), "reward mine raised KeyError on task t: 'solution'"),
        ([float("nan")], "reward mine returned nan on task t: it must be a finite number, or None"),
        ([1.0, 2.0], "returned 2 values for 1 completions"),
        (0.5, "it must be a list of 1 numbers"),
    ],
)
def test_a_reward_in_the_trl_form_that_fails_names_itself_and_the_task(make_episode, values, reason, is_async):
    def mine(prompts, completions, **columns):
        if isinstance(values, Exception):
            raise values
        return values

    async def mine_async(prompts, completions, **columns):
        return mine(prompts, completions, **columns)

    reward = Reward("mine", RewardKind.TRL, mine_async if is_async else mine)
    with pytest.raises(RewardError, match=reason):
        score(reward, [make_episode("7")])


def test_a_reward_in_the_trl_form_gets_every_column_of_the_rows_and_none_where_one_has_none(make_task, make_episode):
    row = {"difficulty": 3, "answer": "raw", "completions": ["theirs"], "episode": 4, "task": "counting"}
    tasks = [make_task(columns=row), make_task(columns={"hint": "left"})]
    seen = {}

    def mine(prompts, completions, **columns):
        seen.update(columns)
        return [None, 0.5]

    assert score(Reward("mine", RewardKind.TRL, mine), [make_episode("7", task=task) for task in tasks]) == [None, 0.5]
    assert (seen["difficulty"], seen["hint"], seen["answer"]) == ([3, None], [None, "left"], ["7", "7"])


def test_rewards_in_the_trl_form_keep_their_names_whatever_they_are(make_episode):
    class Asking:
        async def __call__(self, prompts, completions, **columns):
            return [0.5] * len(completions)

    for function in (partial(trl_style), Asking()):
        reward = Reward("mine", RewardKind.TRL, function)
        assert to_trl(reward).__name__ == "mine" and score(reward, [make_episode("7")]) == [0.5]


def test_two_rewards_of_one_name_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text("def mine(task, episode):\n    return 1.0\n")
    with pytest.raises(ValueError, match="would both be logged as 'mine'"):
        load_rewards([f"{tmp_path}/a.py:mine", f"{tmp_path}/b.py:mine"])


@pytest.mark.parametrize("value", [np.float32(0.5), np.array(0.5), np.array([0.5]), torch.tensor(0.5), np.int64(1)])
def test_numbers_of_numpy_and_torch_are_numbers(value, make_episode):
    episode = make_episode("7")
    for reward in (
        Reward("one", RewardKind.EPISODE, lambda task, episode: value),
        Reward("group", RewardKind.GROUP, lambda task, episodes: [value for _ in episodes]),
    ):
        assert score_episodes(reward, [episode]) == [value.item()]
    whole = Reward("array", RewardKind.GROUP, lambda task, episodes: np.ones(len(episodes)))
    assert score_episodes(whole, [episode]) == [1.0]


@pytest.mark.parametrize("value", [np.float32("nan"), np.ones(2), "1", [1.0]])
def test_what_is_no_number_is_refused(value, make_episode):
    with pytest.raises(RewardError, match="must be a finite number"):
        score_episodes(Reward("one", RewardKind.EPISODE, lambda task, episode: value), [make_episode("7")])


def test_a_misspelt_parameter_is_told_with_the_names_that_there_are():
    with pytest.raises(ValueError, match="asks for taks: it is given task and episode, by these names"):
        kind_of(lambda taks, episode: 1.0)


def test_a_column_that_no_row_has_is_told_before_anything_is_played(make_task):
    def paid(completions, family, answer, weight=1.0, **kwargs):
        return [1.0] * len(completions)

    reward = Reward("paid", RewardKind.TRL, paid)
    with pytest.raises(ValueError, match=r"paid asks for family, a column that no row has: .* answer, choices, id"):
        check_columns([reward], [make_task()])
    check_columns([reward], [make_task(columns={"family": "read"})])
    check_columns([Reward("other", RewardKind.EPISODE, lambda task, episode: 1.0)], [make_task()])


async def slow(task, episode):
    return 0.5


async def slow_group(task, episodes):
    return [0.25] * len(episodes)


def by_position(task, episode, /):
    return 1.0


def decorated(function):
    @wraps(function)
    def inner(t, e):
        return function(t, e)

    return inner


def any_arguments(function):
    @wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


def plain(task, episode):
    return 0.75


def few_columns(completions, answer):
    return [float(one == "7") for one in answer]


def of_the_trainer(prompts, completions, completion_ids, trainer_state, log_metric, **columns):
    log_metric("seen", 1.0)
    return [float(len(ids)) for ids in completion_ids]


@pytest.mark.parametrize(
    ("function", "paid"),
    [(slow, 0.5), (slow_group, 0.25), (any_arguments(plain), 0.75), (few_columns, 1.0), (of_the_trainer, 0.0)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_rewards_are_called_as_they_can_be(make_episode, function, paid):
    episodes = [make_episode("7"), make_episode("7")]
    assert score(Reward("r", kind_of(function), function), episodes) == [paid, paid]


def test_asynchronous_rewards_share_a_loop(make_episode):
    """Clients that are kept belong to the loop in which they were made."""
    loops = []

    async def asked(task, episode):
        loops.append(asyncio.get_running_loop())
        return 1.0

    score(Reward("asked", kind_of(asked), asked), [make_episode("7"), make_episode("8")])
    assert loops[0] is loops[1] and not loops[0].is_closed()


@pytest.mark.parametrize("function", [by_position, decorated(plain)])
def test_a_reward_that_cannot_be_called_by_name_is_refused_when_it_is_named(function):
    with pytest.raises(ValueError, match="cannot be called by the names of its parameters"):
        kind_of(function)


def test_rewards_of_one_maker_are_told_apart_by_their_names(tmp_path):
    made = "def make(n):\n    def reward(task, episode):\n        return n\n    return reward\n"
    code = f"{made}short, long = make(1), make(2)\n"
    (tmp_path / "mine.py").write_text(code)
    assert [one.name for one in load_rewards([f"{tmp_path}/mine.py:short", f"{tmp_path}/mine.py:long"])] == [
        "short",
        "long",
    ]
