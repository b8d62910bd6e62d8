"""Checks of traces: tokens that carry loss, the frame of boxes, the sizes of crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from doctor.environment import Subject
from doctor.episode import show_tokens
from doctor.findings import Note, evenly
from environments.trace_crops import FrameEvidence, zooms_in
from environments.traces import to_trace
from fovea.boxes import Size
from fovea.images import PixelLimits
from fovea.models.processors import pixel_limits
from sft.collator import TraceCollator

NUM_LOOKED_AT = 50
"""Traces that are read closely."""


def unfit_traces(note: Note, records: Sequence[dict], args: Any) -> None:
    """Traces that do not open, and observations inside assistant turns."""
    if not records:
        note.fail("there are no traces", "look at --dataset_name and --max_traces")
        return
    looked_at = evenly(records, NUM_LOOKED_AT)
    texts = [[turn["content"] for turn in record["messages"] if turn["role"] == "assistant"] for record in looked_at]
    for record in looked_at:
        to_trace(record)
    spoken_for = sum(any("<tool_response>" in text or "<image>" in text for text in written) for written in texts)
    if spoken_for:
        note.fail(
            f"{spoken_for} of {len(looked_at)} traces have observations inside assistant turns, which would carry loss",
            "put what a tool returns into turns of its own (role tool, or user)",
        )
        return
    zooms = sum("<tool_call>" in text for written in texts for text in written)
    if not zooms:
        note.warn(
            "no trace calls a tool: nothing about zooming is learned from them",
            'write calls as <tool_call>{"name": …, "arguments": {…}}</tool_call> (docs/my_data.md)',
        )
    steps = len(records) // (args.per_device_train_batch_size * args.gradient_accumulation_steps)
    note.ok(f"{len(records)} traces, {zooms / len(looked_at):.1f} zooms each, about {steps} steps an epoch")


def misplaced_loss(note: Note, subject: Subject, records: Sequence[dict], max_length: int | None) -> int:
    """Loss on anything but the assistant's turns; shows one trace, and returns the tokens of the longest."""
    limits = pixel_limits(subject.model.processor)
    collator = TraceCollator(subject.renderer, subject.make_environment(), limits, max_length=max_length)
    tokenizer = subject.renderer.tokenizer
    longest = 0
    for number, record in enumerate(evenly(records, NUM_LOOKED_AT)):
        trace = to_trace(record)
        ids, mask, _ = collator.encode(trace)
        longest = max(longest, len(ids))
        if number == 0:
            show_tokens(subject.renderer, ids, mask)
        carried = [token for token, counts in zip(ids, mask, strict=True) if counts]
        written = [
            token
            for message in trace.messages
            if message["role"] == "assistant"
            for token in collator.written_ids(message["content"])
        ]
        if carried != written:
            note.fail(
                f"trace {number}: {tokenizer.decode(carried)[:80]!r} carries loss, where the assistant wrote "
                f"{tokenizer.decode(written)[:80]!r}",
                "take marks of turns out of the assistant's texts; if there are none, please report it",
            )
            return longest
    looked_at = min(NUM_LOOKED_AT, len(records))
    note.ok(
        f"what the assistant wrote carries loss, nothing else; the {looked_at} looked at have up to {longest} tokens"
    )
    return longest


def boxes_in_another_frame(note: Note, subject: Subject, records: Sequence[dict]) -> None:
    """Boxes that give the crops behind them only if they are read in another frame."""
    evidence = FrameEvidence(pixel_limits(subject.model.processor), paddings=(subject.padding,))
    for record in evenly(records, NUM_LOOKED_AT):
        evidence.add(to_trace(record))
    if not evidence.num_zooms:
        note.warn(
            "no zoom with a crop behind it was found",
            "put each crop into the turn behind its call, as the tool's image",
        )
        return
    if misread := evidence.misread(subject.frame):
        best, words = misread
        note.fail(words, f"convert the boxes with `fovea data convert`, or train with --box_frame {best.value}")
        return
    note.ok(f"{evidence.num_zooms} boxes read in {subject.frame.value} give the crops behind them")


def may_be_within(size: Size, limits: PixelLimits) -> bool:
    """Returns True if these limits may produce an image of this size; their rule rounds sides to whole patches last."""
    (width, height), patch = size, limits.factor
    least, most = (width - patch) * (height - patch), (width + patch) * (height + patch)
    return least < limits.max_pixels and most > limits.min_pixels


def crops_of_another_size(note: Note, subject: Subject, records: Sequence[dict]) -> None:
    """Crops of other sizes than this training's environment shows them in."""
    limits = subject.crop_limits
    zooms = [zoom.crop for record in evenly(records, NUM_LOOKED_AT) for zoom in zooms_in(to_trace(record))]
    if limits is None or not zooms:
        return
    off = [crop.size for crop in zooms if not may_be_within(crop.size, limits)]
    if len(off) > len(zooms) / 10:
        note.fail(
            f"{len(off)} of {len(zooms)} crops are not as rollouts show them ({limits.min_pixels} to "
            f"{limits.max_pixels} pixels), the first has {off[0][0]}x{off[0][1]}",
            "write the traces with the crop_min_pixels and crop_max_pixels of this training, or train with theirs",
        )
        return
    note.ok(f"{len(zooms)} crops have sizes at which rollouts show them")
