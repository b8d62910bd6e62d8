"""`fovea doctor` for the cold start: the traces, what of them carries loss, whose frame their boxes are in, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from environments import doctor as shared
from environments.doctor import Subject
from environments.protocol import parse_actions
from environments.traces import Trace, blocks_of, to_trace
from fovea import memory, preflight
from fovea.answers.boxes import is_four_numbers
from fovea.boxes import Box, Frame, View
from fovea.doctor import Examination, Note, settings
from fovea.episodes import Call
from fovea.images import cut, fit
from fovea.kernels.packing import Row
from fovea.memory import Sharding
from fovea.models.loading import pixel_limits
from fovea.preflight import evenly
from sft.arguments import ARGUMENTS, check_options
from sft.collator import TraceCollator

NUM_LOOKED_AT = 50
"""Traces that are read closely."""


def examine(examination: Examination, words: Sequence[str]) -> str | None:
    """Examines what `train_sft.py` would do with these words; where the findings are to be written."""
    parsed = examination.check("settings", settings, ARGUMENTS, "tiny_sft.yaml", words)
    if parsed is None:
        return None
    script, episodes, model_args, args, doctor = parsed
    examination.check("options", _options, args, script)
    records = examination.check("traces", lambda note: script.read_traces())
    loaded = examination.check("model", lambda note: preflight.model(
        note, model_args.model_name_or_path, script, load_weights=doctor.load_weights,
        trust_remote_code=args.trust_remote_code))  # fmt: skip
    subject = loaded and examination.check("environment", lambda note: Subject.of(loaded, [], episodes))
    if subject is None:
        return doctor.json
    examination.check("coordinates", shared.coordinates, subject)
    examination.check("image sizes", shared.sizes, subject)
    if records is not None:
        examination.check("traces", _traces, records, args)
        longest = examination.check("loss mask", _loss_mask, subject, records, args.max_length)
        examination.check("boxes in traces", _boxes, subject, records)
        examination.check("crops in traces", _crops, subject, records)
        sharding = examination.check("launch", doctor.sharding) or Sharding()
        if longest:
            limit = doctor.gpu_memory_gib or memory.device_gib()
            examination.check("memory", _memory, subject, longest, script, args, model_args, sharding, limit)
    return doctor.json


def _options(note: Note, args: Any, script: Any) -> None:
    """Whether every option of TRL's that is set has its effect."""
    check_options(args, shared_prefix=script.shared_prefix)
    note.ok("every option that is set takes effect")


def _traces(note: Note, records: Sequence[dict], args: Any) -> None:
    """Whether traces open, and what the assistant says in them is its own."""
    if not records:
        note.fail("there are no traces", "look at --dataset_name and --max_traces")
        return
    looked_at = evenly(records, NUM_LOOKED_AT)
    said = [[turn["content"] for turn in record["messages"] if turn["role"] == "assistant"] for record in looked_at]
    for record in looked_at:
        to_trace(record)
    spoken_for = sum(any("<tool_response>" in text or "<image>" in text for text in texts) for texts in said)
    if spoken_for:
        note.fail(
            f"{spoken_for} of {len(looked_at)} traces have observations inside assistant turns, which would carry loss",
            "put what a tool returns into turns of its own (role tool, or user)",
        )
        return
    zooms = sum("<tool_call>" in text for texts in said for text in texts)
    if not zooms:
        note.warn("no trace calls a tool: nothing about zooming is learned from them")
    steps = len(records) // (args.per_device_train_batch_size * args.gradient_accumulation_steps)
    note.ok(f"{len(records)} traces, {zooms / len(looked_at):.1f} zooms each, about {steps} steps an epoch")


def _loss_mask(note: Note, subject: Subject, records: Sequence[dict], max_length: int | None) -> int:
    """Shows one trace, and checks that just the assistant's turns carry loss; the longest trace's tokens."""
    limits = pixel_limits(subject.model.processor)
    collator = TraceCollator(subject.renderer, subject.make_environment(), limits, max_length=max_length)
    tokenizer = subject.renderer.tokenizer
    longest = 0
    for number, record in enumerate(evenly(records, NUM_LOOKED_AT)):
        trace = to_trace(record)
        ids, mask, _ = collator.encode(trace)
        longest = max(longest, len(ids))
        if number == 0:
            shared.show(subject.renderer, ids, mask)
        carried = [token for token, counts in zip(ids, mask, strict=True) if counts]
        said = [
            token
            for message in trace.messages
            if message["role"] == "assistant"
            for token in collator.written_ids(message["content"])
        ]
        if carried != said:
            note.fail(f"trace {number}: {tokenizer.decode(carried)[:80]!r} carries loss, where the assistant said "
                      f"{tokenizer.decode(said)[:80]!r}")  # fmt: skip
            return longest
    looked_at = min(NUM_LOOKED_AT, len(records))
    note.ok(
        f"what the assistant wrote carries loss, nothing else; the {looked_at} looked at have up to {longest} tokens"
    )
    return longest


def _boxes(note: Note, subject: Subject, records: Sequence[dict]) -> None:
    """In which frame boxes give the crops that stand behind them."""
    frame = subject.frame
    apart: dict[Frame, list[float]] = {other: [] for other in Frame}
    limits = pixel_limits(subject.model.processor)
    for record in evenly(records, NUM_LOOKED_AT):
        for source, numbers, crop in _zooms(to_trace(record)):
            view = View(source.size, fit(source, limits).size)
            for other, found in apart.items():
                found.append(_difference(source, Box.of(numbers, other), view, crop, subject.padding))
    if not apart[frame]:
        note.warn("no zoom with a crop behind it was found")
        return
    typical = {other: median(found) for other, found in apart.items()}
    best = min(typical, key=lambda other: typical[other])
    if best is not frame and typical[best] < 0.7 * typical[frame]:
        note.fail(
            f"boxes give the crops behind them if they are read in {best.value}, but this model reads {frame.value}",
            f"convert the boxes, or train with --box_frame {best.value}",
        )
        return
    note.ok(f"{len(apart[frame])} boxes read in {frame.value} give the crops behind them")


def _crops(note: Note, subject: Subject, records: Sequence[dict]) -> None:
    """Whether crops have the sizes at which this training's environment shows them."""
    limits = subject.crop_limits
    zooms = [crop for record in evenly(records, NUM_LOOKED_AT) for _, _, crop in _zooms(to_trace(record))]
    if limits is None or not zooms:
        return
    least, most = 0.75 * limits.min_pixels, 1.25 * limits.max_pixels  # sizes are rounded to whole patches
    off = [crop.size for crop in zooms if not least <= crop.width * crop.height <= most]
    if len(off) > len(zooms) / 10:
        note.fail(
            f"{len(off)} of {len(zooms)} crops are not as rollouts show them ({limits.min_pixels} to "
            f"{limits.max_pixels} pixels), the first has {off[0][0]}x{off[0][1]}",
            "write the traces with the crop_min_pixels and crop_max_pixels of this training, or train with theirs",
        )
        return
    note.ok(f"{len(zooms)} crops have sizes at which rollouts show them")


def _zooms(trace: Trace) -> Iterator[tuple[Image.Image, list[float], Image.Image]]:
    """The image that each zoom call means, the numbers of its box, and the crop behind it."""
    shown: list[Image.Image] = []
    asked: list[Call] = []
    for message in trace.messages:
        images = [block["image"] for block in blocks_of(message["content"]) if block["type"] == "image"]
        if message["role"] == "assistant":
            actions = parse_actions("".join(block["text"] for block in blocks_of(message["content"])))
            asked = [action for action in actions if isinstance(action, Call)]
        for crop in images if message["role"] == "tool" else ():
            call = asked.pop(0) if asked else Call("", {})
            numbers, index = call.arguments.get("bbox_2d"), call.arguments.get("img_idx", 0)
            if is_four_numbers(numbers) and isinstance(index, int) and 0 <= index < len(shown):
                yield shown[index], list(numbers or ()), crop
        shown += images


def _difference(source: Image.Image, box: Box, view: View, crop: Image.Image, padding: float) -> float:
    """Mean difference of levels (0 to 255) between a crop and what is under the box; 255 if nothing is."""
    inside = box.to(Frame.UNIT, view).enlarged(padding).clipped(view)
    if inside.is_empty:
        return 255.0
    size = (32, 32)
    found = cut(source, inside).resize(size, Image.Resampling.BOX), crop.resize(size, Image.Resampling.BOX)
    first, second = (np.asarray(image, dtype=float) for image in found)
    return float(np.abs(first - second).mean())


def _memory(
    note: Note, subject: Subject, longest: int, script: Any, args: Any, model_args: Any, sharding: Sharding,
    limit: float | None,
) -> None:  # fmt: skip
    """What one process needs, and whether that fits."""
    network = subject.model.network
    if not preflight.can_estimate(note, network):
        return
    dtype = getattr(torch, model_args.dtype or "", None) or network.dtype

    def prepare(given: Any) -> Any:
        options = {"checkpointing": args.gradient_checkpointing, "train_vision": script.train_vision}
        return memory.as_trained(given, arguments=model_args, **options)

    rows = [Row([1] * 2, [1] * longest, [], 0) for _ in range(args.per_device_train_batch_size)]
    loss = memory.loss_bytes(prepare, network, dtype, rows, autocast=torch.bfloat16 if args.bf16 else None)
    whole = prepare(memory.outline(network, dtype))
    held = memory.held_bytes(whole, model_args, args.optim, sharding)
    vision = memory.vision_bytes(whole, longest * len(rows))
    cures = ["a smaller --per_device_train_batch_size, --max_length or --max_pixels"]
    cures += ["--gradient_checkpointing true"] * (not args.gradient_checkpointing)
    remark = "what a trained vision tower keeps for backward is not counted" if script.train_vision else ""
    preflight.memory(note, held, {"training": (loss + vision, cures)}, limit, model_args, remark)
