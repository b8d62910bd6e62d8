"""Gate B: can the tiny base tell images apart? `python -m synthesis.tiny.album_gate --num_albums 500`.

Measured on fresh albums of 2, 4 and 8 images, without the zoom protocol, with 95% Wilson intervals: which image shows a
named shape; whether the model's own image and box hold the digit that is asked for, and whether it then reads it; and,
as a control, which image when all views are blank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from fovea.boxes import UNIT_VIEW, Box, Frame, coverage
from fovea.commands import plain_parser
from fovea.images import PixelLimits, cut, fit, open_image
from fovea.models.loading import Model, load_model
from fovea.placeholders import IMAGE_LABEL
from fovea.statistics import wilson_interval
from fovea.tasks import Task
from synthesis.shapes import questions
from synthesis.shapes.albums import make_albums
from synthesis.tiny.architecture import TOKEN_PX
from synthesis.tiny.conversations import CROP_LIMITS
from synthesis.tiny.gate import Asker

SIZES = (2, 4, 8)


def _asked(task: Task, question: str, *, is_blank: bool = False) -> list[dict]:
    """The conversation of one question behind the numbered views of a task's images."""
    limits = PixelLimits(256, task.first_view_max_pixels or 128 * 128, TOKEN_PX)
    blocks: list[dict] = []
    for number, source in enumerate(task.images):
        view = fit(open_image(source), limits)
        shown = Image.new("RGB", view.size, (127, 127, 127)) if is_blank else view
        blocks += [{"type": "text", "text": IMAGE_LABEL.format(number)}, {"type": "image", "image": shown}]
        blocks.append({"type": "text", "text": "\n"})
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": question}]}]


def finding(asker: Asker, tasks: Sequence[Task], *, is_blank: bool = False) -> list[bool]:
    """For each task, True if the model names the image that shows the shape."""
    asked = [_asked(task, task.metadata["sub_questions"][0], is_blank=is_blank) for task in tasks]
    replies = asker.ask(asked, max_new_tokens=4, batch_size=16)
    return [reply.strip() == task.answer for reply, task in zip(replies, tasks, strict=True)]


def own_places(asker: Asker, tasks: Sequence[Task]) -> tuple[list[bool], list[bool], list[bool]]:
    """Three flags for each task: the model's image is right, its box holds the digit, and it reads the digit there."""
    asked = [_asked(task, questions.locate_question(task.metadata["labels"][0])) for task in tasks]
    places = [_place(reply, len(task.images)) for reply, task in
              zip(asker.ask(asked, max_new_tokens=48, batch_size=16), tasks, strict=True)]  # fmt: skip
    pairs = list(zip(places, tasks, strict=True))
    images = [place is not None and place[0] == task.boxes[0].img_idx for place, task in pairs]
    holds = [
        is_right and place is not None and coverage(task.boxes[0].box, place[1]) > 0.5
        for is_right, (place, task) in zip(images, pairs, strict=True)
    ]
    crops = []
    for place, task in pairs:
        number, box = place or (task.boxes[0].img_idx, task.boxes[0].box)
        crop = fit(cut(open_image(task.images[number]), box), CROP_LIMITS)
        blocks = [{"type": "image", "image": crop}, {"type": "text", "text": task.metadata["sub_questions"][0]}]
        crops.append([{"role": "user", "content": blocks}])
    replies = asker.ask(crops, max_new_tokens=4)
    right = [reply.strip() == task.answer for reply, task in zip(replies, tasks, strict=True)]
    reads = [is_right and is_read for is_right, is_read in zip(images, right, strict=True)]
    return images, holds, reads


def _place(reply: str, num_images: int) -> tuple[int, Box] | None:
    """The image and the box that a reply names; None where it names none that exist."""
    match = re.search(r'"image": (\d+), "bbox_2d": \[(\d+), (\d+), (\d+), (\d+)\]', reply)
    if match is None or int(match[1]) >= num_images:
        return None
    box = Box.of((int(match[place]) / 1000 for place in range(2, 6)), Frame.UNIT).clipped(UNIT_VIEW)
    return None if min(box.width, box.height) < 0.01 else (int(match[1]), box)


def measure(model: Model, *, num_albums: int, seed: int, sizes: Sequence[int] = SIZES) -> dict[str, dict[str, float]]:
    """All numbers of the gate by name: accuracy, 95% interval, n."""
    asker = Asker(model)
    results: dict[str, list[bool]] = {}
    for size in sizes:
        albums = partial(make_albums, num_tasks=num_albums, num_images=[size], prefix="gate")
        found = albums(seed=seed + size, families={"find": 1.0})
        read = albums(seed=seed + 100 + size, families={"read": 1.0})
        results[f"which_of_{size}"] = finding(asker, found)
        results[f"which_of_{size}_blank"] = finding(asker, found, is_blank=True)
        names = ("own_image", "own_box", "reading")
        results |= {f"{name}_of_{size}": hits for name, hits in zip(names, own_places(asker, read), strict=True)}
    report = {}
    for name, hits in results.items():
        low, high = wilson_interval(sum(hits), len(hits))
        report[name] = {"accuracy": sum(hits) / len(hits), "low": low, "high": high, "n": len(hits)}
    return report


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--model_name_or_path", default="tiny")
    parser.add_argument("--num_albums", type=int, default=500, help="of each size")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="images of an album")
    parser.add_argument("--seed", type=int, default=78_000)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    model = load_model(args.model_name_or_path)
    report = measure(model, num_albums=args.num_albums, seed=args.seed, sizes=args.sizes)
    for name, numbers in report.items():
        interval = f"[{numbers['low']:.3f}, {numbers['high']:.3f}]"
        print(f"{name:20s} {numbers['accuracy']:.3f} {interval}  n={numbers['n']}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
