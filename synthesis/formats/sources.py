"""Options that name a file of traces and say how it was written, the same for check and convert."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

from environments.arguments import EpisodeArguments
from environments.factories import box_frame
from environments.traces import TraceError
from fovea.arguments import PixelArguments
from fovea.boxes import Frame
from fovea.images import PixelLimits
from fovea.models.loading import Model
from synthesis.formats.frames import Finding, found_readings
from synthesis.formats.reading import ForeignTrace, numbered_foreign_traces

NUM_JUDGED = 300
"""Traces by which the frame of a file is found out."""


@dataclass(kw_only=True)
class SourceArguments(PixelArguments):
    """The traces, the model they are for, and the format of their file."""

    dataset_name: str = field(
        metadata={"help": "Traces of any format: a file, a folder with traces.jsonl, a saved dataset or a hub id."}
    )
    model_name_or_path: str = field(
        default="tiny", metadata={"help": "The model to be trained: its frame, its processor's limits, its tool."}
    )
    image_dir: str | None = field(
        default=None, metadata={"help": "Folder of relative image paths (default: the folder of the file)."}
    )
    dataset_split: str | None = field(default=None, metadata={"help": "Split of a saved or hub dataset."})
    source_frame: str | None = field(
        default=None,
        metadata={
            "help": "Frame of the file's boxes. Without it the format says it, or the crops behind the boxes tell.",
            "choices": [frame.value for frame in Frame],
        },
    )
    source_padding: float | None = field(
        default=None, metadata={"help": "Factor by which the file's tool enlarges boxes. Without it the crops tell."}
    )
    source_min_pixels: int | None = field(
        default=None, metadata={"help": "Least pixels of first views for the file's model (default: as for yours)."}
    )
    source_max_pixels: int | None = field(
        default=None, metadata={"help": "Most pixels of first views for the file's model (default: as for yours)."}
    )
    source_factor: int | None = field(
        default=None,
        metadata={"help": "Multiple to which the file's model rounds the sides of images (28: Qwen2.5-VL)."},
    )
    zoom_tools: list[str] = field(
        default_factory=list, metadata={"help": "Other names under which the file calls its zoom tool."}
    )

    @property
    def frame(self) -> Frame | None:
        """The frame that was named for the boxes of the file."""
        return Frame(self.source_frame) if self.source_frame else None

    def limits(self, model: Model) -> PixelLimits:
        """Between how many pixels the file's model saw first views."""
        limits = model.limits
        return PixelLimits(
            self.source_min_pixels or limits.min_pixels,
            self.source_max_pixels or limits.max_pixels,
            self.source_factor or limits.factor,
        )

    def traces(self, *, as_written: bool = False) -> Iterator[tuple[int, ForeignTrace | TraceError]]:
        """The traces of the file with their numbers; `as_written` leaves texts of our own form as they are."""
        return numbered_foreign_traces(
            self.dataset_name,
            zoom_tools=self.zoom_tools,
            split=self.dataset_split,
            image_dir=self.image_dir,
            as_written=as_written,
        )

    def findings(self, model: Model, episodes: EpisodeArguments) -> dict[str, Finding]:
        """The reading of boxes for each format in the file that does not tell it."""
        padding = episodes.crop_padding
        return found_readings(
            (trace for _, trace in tqdm(_first(self.traces()), desc="frames", leave=False)),
            self.limits(model),
            box_frame(episodes, model),
            frames=tuple(Frame) if self.frame is None else (self.frame,),
            paddings=(self.source_padding,) if self.source_padding else (1.0, 1.5, padding),
        )


def _first(traces: Iterator[tuple[int, ForeignTrace | TraceError]]) -> Iterator[tuple[int, ForeignTrace]]:
    """The first traces that can be read."""
    for number, trace in traces:
        if number > NUM_JUDGED:
            return
        if isinstance(trace, ForeignTrace):
            yield number, trace
