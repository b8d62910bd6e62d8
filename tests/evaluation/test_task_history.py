"""How single tasks fared over a training is what its episodes say."""

from evaluation.task_history import FELL, LEVEL, NEVER, ROSE, table, task_courses
from fovea.runs.records import Rollout


def rollouts(task_id, by_step, **more):
    return [
        Rollout(task_id=task_id, step=step, question=f"Which | {task_id}?", rewards={"accuracy": score}, **more)
        for step, scores in by_step.items()
        for score in scores
    ]


TRAINING = [
    *rollouts("learned", {9: (1.0, 0.5), 2: (0.0, 0.0)}),
    *rollouts("forgotten", {0: (1.0, 1.0), 3: (0.0, 1.0)}),
    *rollouts("hopeless", {0: (0.0,), 4: (0.0,), 5: (0.0,)}, in_loss=True),
    *rollouts("back again", {0: (0.5,), 1: (1.0,), 2: (0.5,)}),
    *rollouts("once", {0: (0.0,)}),
    *rollouts("held out", {0: (0.0,), 1: (0.0,)}, mode="eval"),
    Rollout(task_id="by another reward", step=0, rewards={"mine": 1.0, "accuracy": None}),
]


def test_each_task_has_its_groups_in_the_order_of_steps():
    courses = {one.task_id: one for one in task_courses(TRAINING)}
    assert courses.keys() == {"learned", "forgotten", "hopeless", "back again", "once"}
    assert courses["learned"].success_rates == ((2, 0.0), (9, 0.75)) and courses["learned"].course == ROSE
    assert (courses["forgotten"].course, courses["forgotten"].change) == (FELL, -0.5)
    assert (courses["hopeless"].course, courses["back again"].course) == (NEVER, LEVEL)


def test_the_table_counts_all_and_names_some():
    text = table(task_courses(TRAINING), most=1)
    assert text.startswith(
        "5 tasks in 11 groups, 4 of them in several groups: 1 never right, 1 fell, 1 no change, 1 rose"
    )
    assert "| never right | hopeless | Which \\| hopeless? | 3 | 0: 0.00, 4: 0.00, 5: 0.00 |" in text
    assert "once" not in text and "back again" not in text
    long = table(task_courses(rollouts("long", {step: (0.0,) for step in range(20)})))
    assert long.endswith("| 20 | 0: 0.00, 1: 0.00, 2: 0.00, 3: 0.00, …, 16: 0.00, 17: 0.00, 18: 0.00, 19: 0.00 |")
    assert table(task_courses(rollouts("once", {0: (1.0,)}))) == ""
