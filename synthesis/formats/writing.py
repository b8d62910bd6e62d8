"""Episodes as rows of other projects' formats.

A format with a zoom tool of its own gets the crops that this tool would return, and boxes as it reads them. The others
get the model's boxes and the environment's crops.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import get_json_schema

from environments.traces import trace_record
from fovea.boxes import UNIT_VIEW, Box, Frame, Size, coverage
from fovea.episodes import Call, Episode
from fovea.images import cut, open_image, write_png
from synthesis.formats import rows
from synthesis.formats.dialects import MARGIN, POINT_RADIUS
from synthesis.formats.replaying import WHOLE_SHARE, places_of
from synthesis.formats.rows import Drawn, WrittenTrace, centre


def _square(box: Box, size: Size) -> Box:
    """The region (UNIT) that ViGoRL's tool cuts for the centre of a box."""
    x, y = centre(box, size)
    width, height = size
    radius = POINT_RADIUS
    return Box((x - radius) / width, (y - radius) / height, (x + radius) / width, (y + radius) / height, Frame.UNIT)


def _with_margin(box: Box, size: Size) -> Box:
    """The region (UNIT) that Pixel-Reasoner's tool cuts for a box."""
    return Box(box.x1 - MARGIN, box.y1 - MARGIN, box.x2 + MARGIN, box.y2 + MARGIN, Frame.UNIT)


@dataclass(frozen=True)
class Writer:
    """The writer of a format: its row, and `is_list` for files that are one JSON list instead of a row a line.

    `tool` says what the format's own zoom tool cuts for a box (UNIT) of an image of some size.
    """

    row: Callable[[WrittenTrace], dict[str, Any]]
    tool: Callable[[Box, Size], Box] | None = None
    is_list: bool = False

    @property
    def file_name(self) -> str:
        return "traces.json" if self.is_list else "traces.jsonl"


WRITERS: dict[str, Writer] = {
    "fovea": Writer(rows.fovea),
    "chain_of_focus": Writer(rows.chain_of_focus),
    "chain_of_focus_v0": Writer(rows.chain_of_focus_v0),
    "sharegpt": Writer(rows.sharegpt),
    "swift": Writer(rows.swift),
    "trl": Writer(rows.trl),
    "hermes": Writer(rows.hermes),
    "mini_o3": Writer(rows.mini_o3, lambda box, size: box, is_list=True),
    "pixel_reasoner": Writer(rows.pixel_reasoner, _with_margin, is_list=True),
    "vigorl": Writer(rows.vigorl, _square),
}
"""The formats that can be written, by name."""


def written(
    episode: Episode, folder: Path, writer: Writer, *, frame: Frame, name: str, tools: Sequence[Callable] = ()
) -> dict[str, Any]:
    """The row of an episode whose model writes boxes in `frame`; its images go to `folder`/images.

    Raises:
        ValueError: for an episode that the format cannot express.
    """
    record = trace_record(episode, folder, name=name)
    views = [open_image(image) for image in episode.task.images]
    zooms = list(_drawn(episode, [view.size for view in views], writer, frame))
    if writer.tool is not None:
        for zoom, path in zip(zooms, record["images"][len(views) :], strict=True):
            write_png(cut(views[zoom.root], zoom.region), folder / path)
    first_size = open_image(folder / record["images"][0]).size if views else (0, 0)
    schemas = json.dumps([get_json_schema(tool) for tool in tools])
    return writer.row(WrittenTrace(record, zooms, len(views), first_size, schemas))


def _drawn(episode: Episode, sizes: Sequence[Size], writer: Writer, frame: Frame) -> Iterator[Drawn]:
    """The zooms of an episode as the format's tool is asked for them, on what it showed before."""
    ours = places_of(episode.messages, sizes, episode.framing, frame)
    theirs = [place.region for place in ours[: len(sizes)]]
    for call in (action for turn in episode.turns for action in turn.actions if isinstance(action, Call)):
        index = call.arguments.get("img_idx", 0)
        place = ours[index]
        box = Box.of(call.arguments["bbox_2d"], frame).to(Frame.UNIT, place.view).clipped(UNIT_VIEW)
        if writer.tool is None:
            yield Drawn(box, index, place.root, place.region)
            continue
        target = box.within(place.region, view=UNIT_VIEW)
        index = index if coverage(target, theirs[index]) >= WHOLE_SHARE else place.root  # theirs showed less than ours
        drawn = target.relative_to(theirs[index]).clipped(UNIT_VIEW)
        region = writer.tool(drawn, ours[0].view.input).clipped(UNIT_VIEW).within(theirs[index], view=UNIT_VIEW)
        theirs.append(region)
        yield Drawn(drawn, index, place.root, region)
