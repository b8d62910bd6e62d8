"""Draws docs/boxes.png, what the page Data and scoring says about boxes: `python docs/draw_data.py`."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

from fovea.answers import score
from fovea.boxes import Box, Frame, Framing, View
from fovea.data.references import checked
from fovea.images import open_image
from fovea.tasks import AnswerKind, Task

VIEW = View(original=(1000, 500), input=(504, 252))
CUP, JUG = (100, 120, 300, 320), (600, 60, 860, 400)


def shelf() -> Image.Image:
    """A cup and a jug, 1000 x 500 pixels."""
    image = Image.new("RGB", VIEW.original, "#e8e2d4")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 400, 1000, 500), fill="#8a6d4b")
    pen.ellipse((230, 160, 300, 270), outline="#3d6b8e", width=18)
    pen.rectangle((100, 120, 260, 320), fill="#3d6b8e")
    pen.ellipse((740, 130, 860, 320), outline="#a3502f", width=24)
    pen.rectangle((600, 60, 800, 400), fill="#a3502f")
    return image


def outline(axes: Axes, box: tuple[float, float, float, float], style: str, color: str) -> None:
    x1, y1, x2, y2 = box
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linestyle=style, linewidth=2, edgecolor=color))


def show(axes: Axes, image: Image.Image, title: str, words: str) -> None:
    axes.imshow(image)
    axes.set_title(title, fontsize=10, loc="left")
    axes.text(0, -0.06, words, transform=axes.transAxes, va="top", fontsize=9, family="monospace")
    axes.set_axis_off()


def frames(axes: Axes) -> None:
    box = Box.of(CUP, Frame.ORIGINAL)
    lines = [f"{frame.value:10}[{', '.join(f'{x:g}' for x in box.to(frame, VIEW).coordinates)}]" for frame in Frame]
    show(axes, shelf(), "One box in four frames (1000 x 500, seen as 504 x 252)", "\n".join(lines))
    outline(axes, CUP, "-", "#c2185b")


def upright(left: Axes, right: Axes) -> None:
    """A file whose EXIF tag asks for a quarter turn, as it is stored and as it is read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    shelf().rotate(90, expand=True).save(file, "PNG", exif=exif)
    stored, read = Image.open(file), open_image(file.getvalue())
    show(left, stored, "Stored, with EXIF", f"{stored.width} x {stored.height}")
    show(right, read, "Read: boxes are of this picture", f"{read.width} x {read.height}\nboxes: [{list(CUP)}]")
    outline(right, CUP, "--", "#c2185b")


def answers(axes: Axes) -> None:
    task = checked(Task("t", (shelf(),), "Where?", [list(CUP), list(JUG)], AnswerKind.BOX))
    given = [(100, 160, 300, 360), JUG]
    written = [list(Box.of(box, Frame.ORIGINAL).to(Frame.PER_MILLE, VIEW).rounded().coordinates) for box in given]
    both, one = (score(task, str(boxes), Framing(Frame.PER_MILLE)) for boxes in (written, written[:1]))
    words = f"solid, both boxes: {both:.2f}\nthe cup's box alone: {one:.2f}"
    show(axes, shelf(), "Box answers: mean IoU with the reference (dashed)", words)
    for box in (CUP, JUG):
        outline(axes, box, "--", "black")
    for box in given:
        outline(axes, box, "-", "#c2185b")


def main() -> None:
    plt.rcParams["figure.constrained_layout.use"] = True
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), dpi=100)
    frames(axes[0, 0])
    answers(axes[0, 1])
    upright(axes[1, 0], axes[1, 1])
    figure.savefig(Path(__file__).with_name("boxes.png"))


if __name__ == "__main__":
    main()
