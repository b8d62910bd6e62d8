"""In which frame are the boxes of a file? The crops behind them tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from environments.trace_crops import difference, zooms_in
from environments.traces import Trace
from fovea.boxes import Box, Frame, View
from fovea.images import PixelLimits, fit

MAX_ZOOMS = 2000
"""Zooms by which a file is judged: more do not make the median surer."""


class FrameEvidence:
    """How far crops are from what is under their boxes, for each frame and each padding that they may have."""

    def __init__(
        self, limits: PixelLimits, *, frames: Sequence[Frame] = tuple(Frame), paddings: Sequence[float]
    ) -> None:
        self._limits = limits
        self._readings = [(frame, padding) for frame in frames for padding in dict.fromkeys(paddings)]
        self._apart: dict[tuple[Frame, float], list[float]] = defaultdict(list)
        self.num_zooms = 0

    def add(self, trace: Trace) -> None:
        """Takes the zooms of a trace into account."""
        for zoom in zooms_in(trace):
            if self.num_zooms == MAX_ZOOMS:
                return
            self.num_zooms += 1
            view = View(zoom.source.size, fit(zoom.source, self._limits).size)
            for frame, padding in self._readings:
                apart = difference(zoom.source, Box.of(zoom.numbers, frame), view, zoom.crop, padding)
                self._apart[frame, padding].append(apart)

    def typical(self) -> dict[tuple[Frame, float], float]:
        """The median difference (levels, 0 to 255) of each reading; empty without zooms."""
        return {reading: median(apart) for reading, apart in self._apart.items()}

    def best(self, preferred: Frame) -> tuple[Frame, float]:
        """The frame and the padding that give the crops best; of equal ones the preferred frame.

        Raises:
            ValueError: without zooms.
        """
        typical = self.typical()
        if not typical:
            raise ValueError("there are no crops by which frames could be told apart")
        rank = {preferred: 0, Frame.ORIGINAL: 2}
        return min(typical, key=lambda reading: (round(typical[reading], 1), rank.get(reading[0], 1)))

    def words(self) -> str:
        """The evidence of the best readings, for a message."""
        several = len({padding for _, padding in self._readings}) > 1
        ranked = sorted(self.typical().items(), key=lambda item: item[1])[:4]
        return ", ".join(
            f"{frame.value}{f' x{padding:g}' if several else ''} {value:.1f}" for (frame, padding), value in ranked
        )
