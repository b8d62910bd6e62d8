"""The information gap: first views so small that looking is the only way.

Each task is shown at the largest first view at which the policy of now, made to answer without zooming, is wrong;
crops come from the original as ever. The idea is that of LFPC (arXiv 2603.27494), which blurs the global image until
the model just fails; here the view has fewer pixels, which also makes the prompt shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from environments.play import Policy, play
from environments.policies.forced import OPENINGS, ForcedPolicy
from environments.rendering import Renderer
from environments.seats import Limits
from fovea.episodes import Episode
from fovea.ledger import phase
from fovea.models.processors import pixel_limits
from fovea.tasks import Task

SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Sizes of the tried views, as shares of the pixels of the task's own views."""


@dataclass(frozen=True)
class Gap:
    """A task with the view it was given: `share` of its pixels; `is_known` if the whole view was enough to answer."""

    task: Task
    share: float
    is_known: bool


@phase("gap")
def narrow(
    policy: Policy,
    tasks: Sequence[Task],
    *,
    environment_factory: Callable[[], Any],
    renderer: Renderer,
    is_right: Callable[[Episode], bool],
    max_tokens: int,
    batch_size: int,
) -> list[Gap]:
    """Each task at the largest view at which the policy answers wrongly; at the smallest if it never does.

    All views are tried at once, one forced answer of at most `max_tokens` each. Tasks that open without images stay as
    they are.
    """
    limits = pixel_limits(renderer.processor)
    least = max(limits.min_pixels, limits.factor**2)
    tries = [[] if not task.images else _views(task, environment_factory(), least) for task in tasks]
    episodes = play(
        ForcedPolicy(policy, renderer, OPENINGS["answer"]),
        [view for views in tries for view in views],
        environment_factory=environment_factory,
        limits=Limits(max_turns=1, max_tokens_per_turn=max_tokens, max_completion_tokens=max_tokens),
        renderer=renderer,
        batch_size=batch_size,
    )
    gaps, start = [], 0
    for task, views in zip(tasks, tries, strict=True):
        played = episodes[start : start + len(views)]
        start += len(views)
        right = [episode.answer is not None and is_right(episode) for episode in played]
        if not views or not right[0]:
            gaps.append(Gap(task, 1.0, is_known=False))
            continue
        place = right.index(False) if False in right else len(right) - 1
        gaps.append(Gap(views[place], SHARES[place], is_known=True))
    return gaps


def _views(task: Task, environment: Any, least: int) -> list[Task]:
    """The task at each size of view, down to `least` pixels, the fewest that are shown; none if no image is shown."""
    content = environment.reset(**task.row())
    shown = [] if not isinstance(content, list) else [block["image"] for block in content if block["type"] == "image"]
    most = max((image.width * image.height for image in shown), default=0)
    return [replace(task, first_view_max_pixels=max(least, int(most * share))) for share in SHARES] if shown else []
