"""Gate A: can the tiny base find and read? `python -m synthesis.tiny.gate --model_name_or_path tiny --num_scenes 500`.

Each number is measured on fresh scenes and without the zoom protocol, with 95% Wilson intervals:
reading a digit from the true crop; whether the crop of the model's own box holds the digit; the whole chain with a
perfect locator; and, for a control reader, reading from the first view against the best constant answer.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from PIL import Image

from environments.policies.transformers import evaluation_mode
from environments.rendering import Renderer
from fovea.boxes import UNIT_VIEW, Box, Frame, coverage
from fovea.commands import plain_parser
from fovea.images import PixelLimits, cut, fit, open_image
from fovea.models.loading import Model, load_model
from fovea.statistics import best_constant, wilson_interval
from fovea.tasks import Task
from synthesis.shapes import ZOOM_FAMILIES, make_tasks, questions
from synthesis.tiny.architecture import FIRST_VIEW_PIXELS, TOKEN_PX
from synthesis.tiny.conversations import CROP_LIMITS


class Asker:
    """Asks a model plain questions, many at a time, as in its pre-training."""

    def __init__(self, model: Model) -> None:
        self.network = model.network
        self.renderer = Renderer(model.processor)

    def ask(self, conversations: list[list[dict]], *, max_new_tokens: int = 32, batch_size: int = 64) -> list[str]:
        """The greedy reply to each conversation."""
        replies = []
        for start in range(0, len(conversations), batch_size):
            chunk = conversations[start : start + batch_size]
            ids = [self.renderer.prompt_ids(messages, ()) for messages in chunk]
            images = [[b["image"] for m in messages for b in m["content"] if "image" in b] for messages in chunk]
            batch = self.renderer.model_inputs(ids, images)
            with evaluation_mode(self.network), torch.no_grad():
                output = self.network.generate(**batch, do_sample=False, max_new_tokens=max_new_tokens)
            written = output[:, batch["input_ids"].shape[1] :]
            replies += self.renderer.tokenizer.batch_decode(written, skip_special_tokens=True)
        return replies


def _user(text: str, image: Image.Image | None = None) -> dict:
    blocks = [] if image is None else [{"type": "image", "image": image}]
    return {"role": "user", "content": [*blocks, {"type": "text", "text": text}]}


def _assistant(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _view(task: Task) -> Image.Image:
    limit = task.first_view_max_pixels or FIRST_VIEW_PIXELS
    return fit(open_image(task.images[0]), PixelLimits(min(256, limit), limit, TOKEN_PX))


def _crop(task: Task, box: Box) -> Image.Image:
    return fit(cut(open_image(task.images[0]), box), CROP_LIMITS)


def _read_question(task: Task, index: int) -> str:
    name = task.metadata["labels"][index]
    return questions.read_question(name, task.metadata["labels"][0] if task.metadata.get("nested") else None)


def _targets(task: Task) -> list[int]:
    """Indices of the boxes that hold a digit."""
    return [index for index, reading in enumerate(task.metadata["readings"]) if reading]


def reading_from_true_crops(asker: Asker, tasks: list[Task]) -> list[bool]:
    cases = [(task, index) for task in tasks for index in _targets(task)]
    asked = [[_user(_read_question(task, index), _crop(task, task.boxes[index].box))] for task, index in cases]
    replies = asker.ask(asked, max_new_tokens=4)
    return [reply.strip() == task.metadata["readings"][i] for reply, (task, i) in zip(replies, cases, strict=True)]


def own_boxes(asker: Asker, tasks: list[Task]) -> tuple[list[bool], list[bool]]:
    """Two flags for each task: the crop of the model's own box holds the digit, and the model reads it."""
    cases = [task for task in tasks if not task.metadata.get("nested")]
    asked = [[_user(questions.locate_question(task.metadata["labels"][0]), _view(task))] for task in cases]
    boxes = [_parse_box(reply) for reply in asker.ask(asked, max_new_tokens=40)]
    glyphs = [Box.of(task.metadata["glyphs"][0], Frame.UNIT) for task in cases]
    holds = [box is not None and coverage(glyph, box) > 0.99 for box, glyph in zip(boxes, glyphs, strict=True)]
    asked = [
        [_user(_read_question(task, 0), _crop(task, box or task.boxes[0].box))]
        for task, box in zip(cases, boxes, strict=True)
    ]
    replies = asker.ask(asked, max_new_tokens=4)
    reads = [
        box is not None and reply.strip() == task.metadata["readings"][0]
        for reply, task, box in zip(replies, cases, boxes, strict=True)
    ]
    return holds, reads


def _parse_box(reply: str) -> Box | None:
    match = re.search(r"\[(\d+), (\d+), (\d+), (\d+)\]", reply)
    if not match:
        return None
    box = Box.of((int(value) / 1000 for value in match.groups()), Frame.UNIT).clipped(UNIT_VIEW)
    return None if box.is_empty or min(box.width, box.height) < 0.01 else box


def perfect_locator_chain(asker: Asker, tasks: list[Task]) -> list[bool]:
    """Crops of the true boxes, read one after the other, then the task's own question."""
    conversations: list[list[dict]] = [[] for _ in tasks]
    replies = [""] * len(tasks)
    for step in range(2):
        active = [i for i, task in enumerate(tasks) if step < len(_targets(task))]
        for i in active:
            index = _targets(tasks[i])[step]
            conversations[i].append(_user(_read_question(tasks[i], index), _crop(tasks[i], tasks[i].boxes[index].box)))
        for i, reply in zip(active, asker.ask([conversations[i] for i in active], max_new_tokens=4), strict=True):
            conversations[i].append(_assistant(reply))
            replies[i] = reply
    compared = [i for i, task in enumerate(tasks) if task.family == "compare"]
    asked = [[*conversations[i], _user(tasks[i].question)] for i in compared]
    for i, reply in zip(compared, asker.ask(asked, max_new_tokens=4), strict=True):
        replies[i] = reply
    return [reply.strip() == task.answer for reply, task in zip(replies, tasks, strict=True)]


def reading_from_first_views(asker: Asker, tasks: list[Task]) -> list[bool]:
    asked = [[_user(task.question, _view(task))] for task in tasks]
    return [r.strip() == t.answer for r, t in zip(asker.ask(asked, max_new_tokens=4), tasks, strict=True)]


def measure(model: Model, *, num_scenes: int, seed: int) -> dict[str, dict[str, float]]:
    """All numbers of the gate by name: accuracy, 95% interval, n."""
    shares = {family: 1.0 for family in ZOOM_FAMILIES}
    tasks = make_tasks(num_tasks=num_scenes, seed=seed, families=shares, prefix="gate")
    asker = Asker(model)
    holds, reads = own_boxes(asker, make_tasks(num_tasks=num_scenes, seed=seed + 1, families={"read": 1}))
    results = {
        "reading_from_true_crops": reading_from_true_crops(asker, tasks),
        "own_box_holds_the_digit": holds,
        "own_box_then_reading": reads,
        "perfect_locator_chain": perfect_locator_chain(asker, tasks),
        "reading_from_first_views": reading_from_first_views(asker, tasks),
    }
    report = {}
    for name, hits in results.items():
        low, high = wilson_interval(sum(hits), len(hits))
        report[name] = {"accuracy": sum(hits) / len(hits), "low": low, "high": high, "n": len(hits)}
    for family in ZOOM_FAMILIES:
        chain = [
            hit for hit, task in zip(results["perfect_locator_chain"], tasks, strict=True) if task.family == family
        ]
        report[f"perfect_locator_chain/{family}"] = {"accuracy": sum(chain) / len(chain), "n": len(chain)}
    report["best_constant_answer"] = {
        "accuracy": best_constant([(task.family, task.answer) for task in tasks]),
        "n": len(tasks),
    }
    return report


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--model_name_or_path", default="tiny")
    parser.add_argument("--num_scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=77_000)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    report = measure(load_model(args.model_name_or_path), num_scenes=args.num_scenes, seed=args.seed)
    for name, numbers in report.items():
        interval = f" [{numbers['low']:.3f}, {numbers['high']:.3f}]" if "low" in numbers else ""
        print(f"{name:32s} {numbers['accuracy']:.3f}{interval}  n={numbers['n']}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
