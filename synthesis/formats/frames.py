"""The frame of a file's boxes. If its format does not tell it, the crops behind the boxes do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from environments.trace_crops import FrameEvidence, Reading, zooms_in
from environments.traces import TraceError, to_trace
from fovea.boxes import Frame
from fovea.data.task_files import BAD_ROW
from fovea.images import PixelLimits
from synthesis.formats.dialects import Cutting
from synthesis.formats.reading import ForeignTrace
from synthesis.formats.wording import Changes, calls_in


@dataclass
class Finding:
    """The reading of a format's boxes: the evidence, and the reading that fits most traces."""

    evidence: FrameEvidence
    usual: Reading | None

    def words(self) -> str:
        """The reading and its evidence, for a summary."""
        meant = (
            f"boxes are read in {self.usual[0].value}, enlarged x{self.usual[1]:g}" if self.usual else "no reading fits"
        )
        measure = f"median difference of {self.evidence.num_zooms} crops in levels"
        return f"{meant} ({measure}: {self.evidence.words()})"


def found_readings(
    traces: Iterable[ForeignTrace],
    limits: PixelLimits,
    preferred: Frame,
    *,
    frames: Sequence[Frame],
    paddings: Sequence[float],
) -> dict[str, Finding]:
    """For each format that does not say how its boxes are meant, what the crops behind them tell.

    `limits` are those of first views for the model of the file. Of frames that fit alike `preferred` is taken.
    """
    evidence: dict[str, FrameEvidence] = {}
    for foreign in traces:
        if foreign.cutting.frame is not None:
            continue
        of_format = FrameEvidence(limits, frames=frames, paddings=paddings)
        with suppress(*BAD_ROW):  # such a trace is dropped by name when it is converted
            evidence.setdefault(foreign.format, of_format).add(to_trace(foreign.record))
    return {name: Finding(one, one.best(preferred)) for name, one in evidence.items()}


def evidence_of(findings: Mapping[str, Finding]) -> dict[str, str]:
    """The readings that crops decided, by format, for a summary."""
    return {name: finding.words() for name, finding in findings.items() if finding.evidence.num_zooms}


def cutting_of(foreign: ForeignTrace, finding: Finding | None, given: Cutting, changes: Changes) -> Cutting:
    """The reading of a trace's boxes; `given` where no crop can tell.

    Raises:
        TraceError: where nothing tells.
    """
    texts = [message["content"] for message in foreign.record["messages"] if message["role"] == "assistant"]
    if foreign.cutting.frame is not None or not any("bbox_2d" in call for text in texts for call in calls_in(text)):
        return foreign.cutting
    trace = to_trace(foreign.record)
    if finding is None or not any(True for _ in zooms_in(trace)):
        if given.frame is None:
            raise TraceError("no crop tells in which frame its boxes are: name it with --source_frame")
        return given
    reading = finding.usual and finding.evidence.reading_of(trace, finding.usual)
    if reading is None:
        raise TraceError(
            "its crops do not show what is under its boxes in any frame: pixels of a resized image need "
            "--source_max_pixels and --source_factor"
        )
    if reading != finding.usual:
        changes.counts[f"traces whose boxes are read in {reading[0].value} x{reading[1]:g}, as their crops show"] += 1
    return Cutting(*reading)
