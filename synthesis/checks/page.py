"""Traces drawn as one HTML page: each picture with the boxes of the calls on it, the texts between them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Iterator, Mapping

from PIL import Image, ImageDraw

from environments.drawing import COLOURS
from environments.trace_crops import zooms_in
from environments.traces import Trace, blocks_of
from fovea.boxes import Box, Frame, View
from fovea.images import PixelLimits, fit
from synthesis.formats.dialects import Cutting

MAX_SIDE_PX = 480
_STYLE = """body { font: 14px sans-serif; max-width: 60em; margin: 2em auto } article { border-top: 2px solid #888 }
pre { white-space: pre-wrap; background: #f4f4f4; padding: .5em; margin: .3em 0 } img { margin: .3em; max-width: 100% }
.problem { color: #b00 } .role { color: #666; font-size: 80% }"""


def page(title: str, drawn: Iterable[str]) -> Iterator[str]:
    """The page, part by part."""
    yield f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    yield f"<h1>{html.escape(title)}</h1>"
    yield from drawn


def article(
    name: str, trace: Trace, problems: Iterable[str], cutting: Cutting, frame: Frame, limits: PixelLimits
) -> str:
    """One trace with what is wrong about it. Boxes are drawn as `cutting` means them, or as `frame` does."""
    boxes = _boxes_by_picture(trace, cutting.frame or frame, limits)
    parts = [f"<article><h2>{html.escape(name)}</h2>"]
    parts += [f"<p class=problem>{html.escape(problem)}</p>" for problem in problems]
    for message in trace.messages:
        if message["role"] == "system":
            continue
        parts.append(f"<div class=role>{message['role']}</div>")
        for block in blocks_of(message["content"]):
            if block["type"] == "text":
                parts.append(f"<pre>{html.escape(block['text'])}</pre>")
            else:
                parts.append(_picture(block["image"], boxes.get(id(block["image"]), ())))
    return "".join([*parts, "</article>"])


def _boxes_by_picture(trace: Trace, frame: Frame, limits: PixelLimits) -> Mapping[int, list[Box]]:
    """Boxes in UNIT by the identity of the picture that they are drawn on."""
    boxes: dict[int, list[Box]] = {}
    for zoom in zooms_in(trace):
        view = View(zoom.source.size, fit(zoom.source, limits).size)
        boxes.setdefault(id(zoom.source), []).append(Box.of(zoom.numbers, frame).to(Frame.UNIT, view))
    return boxes


def _picture(image: Image.Image, boxes: Iterable[Box]) -> str:
    scale = min(1.0, MAX_SIDE_PX / max(image.size))
    shown = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen, view = ImageDraw.Draw(shown), View(shown.size, shown.size)
    for number, box in enumerate(boxes):
        x1, y1, x2, y2 = box.to(Frame.ORIGINAL, view).clipped(view).coordinates
        pen.rectangle(
            (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=COLOURS[number % len(COLOURS)], width=2
        )
    file = io.BytesIO()
    shown.save(file, "PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
