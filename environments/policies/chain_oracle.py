"""The policy that knows the chain: it plays from a task's own sub-questions, foci, sub-answers and boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Any
from zlib import crc32

import numpy as np

from environments.focus import FOCUS_TOOL
from environments.policies.oracle import OraclePolicy, label_of, turn_of, zooms_of
from environments.seats import Conversation
from fovea.answers import written
from fovea.boxes import Frame, Framing
from fovea.chains import Chain, Step, chain_of_task, written_steps
from fovea.placeholders import MARK
from fovea.tasks import Target, Task


class ChainOraclePolicy(OraclePolicy):
    """Focuses for each step of the task's chain, zooms into the boxes of its images, and answers; see `OraclePolicy`.

    A task of several images without a chain has one step, on the images that its boxes are in.
    Before a focus it makes a mistake with the probability `mistakes`, and after that maybe another: it looks at an
    image that the step does not need, and answers that sub-question with `NOT_HERE`. Where there is no tool to focus
    with, it writes the chain as text.
    """

    def _write(self, conversation: Conversation) -> str:
        task, chain = conversation.task, chain_of_task(conversation.task)
        focuses = any(tool.__name__ == FOCUS_TOOL for tool in conversation.tools)
        if chain is None and focuses:
            chain = _implied_chain(conversation)
        if chain is None:
            return super()._write(conversation)
        answer = f"<answer>{written(task, conversation.framing)}</answer>"
        if not focuses:
            return f"<think>\n{written_steps(chain.steps)}\n</think>\n{answer}"
        calls = self._calls(chain, task)
        done = sum(message["role"] == "tool" for message in conversation.messages)
        if done == len(calls):
            return f"<think>{chain.steps[-1].answer}</think>\n{answer}"
        call = calls[done]
        if isinstance(call, Target):
            view = (conversation.framing or Framing(self.frame)).view(call.img_idx)
            label = label_of(task, task.boxes.index(call))
            arguments = {"bbox_2d": self._drawn(call.box, view), "label": label, "img_idx": call.img_idx}
            return turn_of("I zoom in.", "image_zoom_in_tool", arguments)
        return turn_of("I look.", FOCUS_TOOL, call)

    def _calls(self, chain: Chain, task: Task) -> list[dict[str, Any] | Target]:
        """The calls of a chain in order: the arguments of a focus, and each box to zoom into when its image is seen."""
        calls: list[dict[str, Any] | Target] = []
        left = [task.boxes[place] for place in zooms_of(task)]
        before = ""
        for step in self._with_mistakes(chain, task):
            said = {"answer": before} if before else {}
            calls.append({**said, "question": step.question, "img_idxs": list(step.images)})
            before = step.answer
            if step not in chain.steps:
                continue
            calls += [target for target in left if target.img_idx in step.images]
            left = [target for target in left if target.img_idx not in step.images]
        return calls

    def _with_mistakes(self, chain: Chain, task: Task) -> Iterator[Step]:
        """The steps, and before each the wrong ones that are made, the same whenever it is asked.

        An image is wrong that no step of the same sub-question needs.
        """
        rng = np.random.default_rng([self.seed, crc32(task.id.encode())])
        for step in chain.steps:
            right = {image for other in chain.steps if other.question == step.question for image in other.images}
            wrong = [image for image in rng.permutation(len(task.images)).tolist() if image not in right]
            made = takewhile(lambda _: rng.random() < self.mistakes, wrong)
            yield from (replace(step, images=(image,), answer=NOT_HERE) for image in made)
            yield step


def _implied_chain(conversation: Conversation) -> Chain | None:
    """One step on the images that the task's boxes are in; None for a single image, or without boxes."""
    task = conversation.task
    if len(task.images) < 2 or not task.boxes:
        return None
    images = tuple(sorted({target.img_idx for target in task.boxes}))
    question = " ".join(task.question.replace(MARK, " ").split())
    return Chain((Step(question, images, written(task, conversation.framing)),))


NOT_HERE = "not here"
"""The answer to a sub-question that was asked of a wrong image."""

CHAINED = ("focus", "chain")
"""Environments in which tasks are played by their chains."""


def make_oracle(environment: str, frame: Frame, **options: Any) -> OraclePolicy:
    """The oracle for an environment of ours, by name; the options are those of `OraclePolicy`."""
    return (ChainOraclePolicy if environment in CHAINED else OraclePolicy)(frame, **options)
