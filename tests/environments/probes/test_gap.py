"""The information gap shows each task at the largest view at which a forced answer is wrong."""

from dataclasses import dataclass, field, replace

from environments.factories import environment_factory
from environments.probes.gap import SHARES, narrow
from environments.rendering import Renderer
from environments.seats import Reply
from fovea.answers import score
from fovea.boxes import Box, Frame
from fovea.tasks import AnswerKind, Target
from synthesis.shapes import make_tasks


@dataclass
class Sees:
    """A policy that answers rightly as long as the first view has more than `needs[id]` pixels."""

    renderer: Renderer
    needs: dict[str, float]
    sizes: list = field(default_factory=list)

    def reply(self, conversations, *, max_tokens):
        return [self.answered(conversation) for conversation in conversations]

    def answered(self, conversation):
        view, task = conversation.images[0], conversation.task
        self.sizes.append(view.size)
        answer = task.answer if view.width * view.height > self.needs[task.id] else "?"
        ids = self.renderer.tokenizer(f"{answer}</answer>", add_special_tokens=False).input_ids
        return Reply(f"{answer}</answer>", tuple(ids))


def test_each_task_gets_the_largest_view_that_is_not_enough(tiny, episode_arguments):
    renderer = Renderer(tiny.processor)
    tasks = make_tasks(num_tasks=4, seed=12, families={"direct": 1.0})
    full = [task.first_view_max_pixels for task in tasks]
    needs = dict(zip([task.id for task in tasks], [1e9, full[1] * 0.4, full[2] * 0.99, -1], strict=True))
    policy = Sees(renderer, needs)
    gaps = narrow(
        policy,
        tasks,
        environment_factory=environment_factory(episode_arguments, tiny),
        renderer=renderer,
        is_right=lambda episode: episode.answer == episode.task.answer,
        max_tokens=20,
        batch_size=8,
    )
    assert [gap.share for gap in gaps] == [1.0, 0.25, 0.5, SHARES[-1]]
    assert [gap.is_known for gap in gaps] == [False, True, True, True]
    assert gaps[0].task is tasks[0] and gaps[1].task.first_view_max_pixels <= full[1] // 4
    assert gaps[1].task.images == tasks[1].images and gaps[1].task.boxes == tasks[1].boxes


def test_a_task_without_images_stays_as_it_is(tiny, episode_arguments, make_task):
    task = make_task()
    blind = type(task)("words", (), "What is 1 + 1?", "2")
    [gap] = narrow(
        Sees(Renderer(tiny.processor), {}),
        [blind],
        environment_factory=environment_factory(episode_arguments, tiny),
        renderer=Renderer(tiny.processor),
        is_right=lambda episode: True,
        max_tokens=20,
        batch_size=8,
    )
    assert gap.task is blind and gap.share == 1.0


def test_tasks_that_ask_for_boxes_are_judged_in_the_frame_that_the_model_writes(tiny, episode_arguments, make_task):
    renderer = Renderer(tiny.processor)
    box = Target(Box(0.1, 0.1, 0.5, 0.5, Frame.UNIT))
    task = make_task([box.to_dict()], AnswerKind.BOX)

    class Draws(Sees):
        def answered(self, conversation):
            text = "[100, 100, 500, 500]</answer>"
            return Reply(text, tuple(self.renderer.tokenizer(text, add_special_tokens=False).input_ids))

    [gap] = narrow(
        Draws(renderer, {}),
        [task],
        environment_factory=environment_factory(replace(episode_arguments, box_frame="per_mille"), tiny),
        renderer=renderer,
        is_right=lambda episode: score(episode.task, episode.answer, episode.framing) == 1,
        max_tokens=40,
        batch_size=8,
    )
    assert gap.is_known and gap.share == SHARES[-1]
