"""Rewards for which images an episode focused on, how well its chain is formed, and what its images cost."""

from __future__ import annotations

from fovea.chains import chain_of, chain_of_task, problem_of
from fovea.episodes import Episode
from fovea.tasks import Task
from rewards.looking import format


def focus_precision(task: Task, episode: Episode) -> float | None:
    """Share of the images focused on that the task's foci name; 0.0 without focus, None for a task without foci."""
    shared, focused, _ = _images(task, episode)
    return None if shared is None else shared / focused if focused else 0.0


def focus_recall(task: Task, episode: Episode) -> float | None:
    """Share of the images in the task's foci that were focused on; None for a task without foci."""
    shared, _, needed = _images(task, episode)
    return None if shared is None else shared / needed


def focus_f1(task: Task, episode: Episode) -> float | None:
    """Harmonic mean of focus precision and recall; None for a task without foci."""
    shared, focused, needed = _images(task, episode)
    return None if shared is None else 2 * shared / (focused + needed)


def chain_format(task: Task, episode: Episode) -> float:
    """1.0 if the format was kept and every sub-question has a question, images of the task and an answer."""
    chain = chain_of(episode)
    is_whole = chain is not None and problem_of(chain, len(task.images)) is None
    return format(task, episode) if is_whole else 0.0


def image_cost(task: Task, episode: Episode) -> float | None:
    """Minus the visual tokens of all images that were seen, in thousands; None where they are not known."""
    return None if episode.num_image_tokens is None else -episode.num_image_tokens / 1000


def _images(task: Task, episode: Episode) -> tuple[int | None, int, int]:
    """Numbers of images: focused and needed (None if unknown), focused, needed."""
    wanted, chain = chain_of_task(task), chain_of(episode)
    needed = set(wanted.images) if wanted else {target.img_idx for target in task.boxes}
    focused = set(chain.images) if chain else set()
    return len(focused & needed) if needed else None, len(focused), len(needed)
