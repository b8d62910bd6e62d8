"""`fovea doctor` for the cold start: the traces, what of them carries loss, whose frame their boxes are in, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from environments import doctor as shared
from environments.doctor import Subject
from environments.protocol import parse_action
from environments.traces import Trace, blocks_of, to_trace
from fovea import memory
from fovea.boxes import Box, Frame, View
from fovea.config import parse
from fovea.doctor import DoctorArguments, Examination, Note
from fovea.episodes import Call
from fovea.images import cut, fit
from fovea.memory import Sharding
from fovea.models import pixel_limits
from fovea.packing import Row
from sft.arguments import ARGUMENTS
from sft.collator import TraceCollator

NUM_LOOKED_AT = 50
"""Traces that are read closely."""


def examine(examination: Examination, words: Sequence[str]) -> str | None:
    """Examines what `train_sft.py` would do with these words; where the findings are to be written."""
    words = [*words, *([] if torch.cuda.is_available() else ["--use_cpu", "true"])]
    parsed = examination.check("settings", _settings, words)
    if parsed is None:
        return None
    script, episodes, model_args, args, doctor = parsed
    records = examination.check("traces", lambda note: script.read_traces())
    loaded = examination.check("model", lambda note: shared.model(
        note, model_args.model_name_or_path, script, load_weights=doctor.load_weights,
        trust_remote_code=args.trust_remote_code))  # fmt: skip
    subject = loaded and examination.check("environment", lambda note: Subject.of(*loaded, [], episodes))
    if subject is None:
        return doctor.json
    examination.check("coordinates", shared.coordinates, subject, episodes.box_frame is not None)
    examination.check("image sizes", shared.sizes, subject)
    if records is not None:
        examination.check("traces", _traces, subject, records, args)
        longest = examination.check("loss mask", _loss_mask, subject, records, args.max_length)
        examination.check("boxes in traces", _boxes, subject, records, episodes)
        if longest:
            sharding, limit = doctor.sharding(), doctor.gpu_memory_gib
            examination.check("memory", _memory, subject, longest, script, args, model_args, sharding, limit)
    return doctor.json


def _settings(note: Note, words: Sequence[str]) -> tuple:
    parsed = parse((*ARGUMENTS, DoctorArguments), default_config="tiny_sft.yaml", arguments=words)
    note.ok("all options are known and agree with each other")
    return parsed


def _some(records: Sequence[dict]) -> Sequence[dict]:
    return records[:: max(1, len(records) // NUM_LOOKED_AT)][:NUM_LOOKED_AT]


def _traces(note: Note, subject: Subject, records: Sequence[dict], args: Any) -> None:
    """Whether traces open, and what the assistant says in them is its own."""
    spoken_for = 0
    zooms = 0
    for record in _some(records):
        said = [turn["content"] for turn in record["messages"] if turn["role"] == "assistant"]
        spoken_for += any("<tool_response>" in text or "<image>" in text for text in said)
        zooms += sum("<tool_call>" in text for text in said)
        to_trace(record)
    if spoken_for:
        note.fail(
            f"{spoken_for} of {len(_some(records))} traces have observations inside assistant turns, which would "
            "carry loss",
            "put what a tool returns into turns of its own (role tool, or user)",
        )
    if not zooms:
        note.warn("no trace calls a tool: nothing about zooming is learned from them")
    steps = len(records) // (args.per_device_train_batch_size * args.gradient_accumulation_steps)
    note.ok(f"{len(records)} traces, {zooms / len(_some(records)):.1f} zooms each, about {steps} steps an epoch")


def _loss_mask(note: Note, subject: Subject, records: Sequence[dict], max_length: int | None) -> int:
    """Shows one trace, and checks that just the assistant's turns carry loss; the longest trace's tokens."""
    limits = pixel_limits(subject.model.processor)
    collator = TraceCollator(subject.renderer, subject.make_environment(), limits, max_length=max_length)
    tokenizer = subject.renderer.tokenizer
    longest = 0
    for number, record in enumerate(_some(records)):
        trace = to_trace(record)
        ids, mask, _ = collator.encode(trace)
        longest = max(longest, len(ids))
        if number == 0:
            shared.show(subject.renderer, ids, mask)
        carried = tokenizer.decode([token for token, counts in zip(ids, mask, strict=True) if counts])
        said = "".join(
            "".join(block["text"] for block in blocks_of(message["content"])) + tokenizer.eos_token
            for message in trace.messages
            if message["role"] == "assistant"
        )
        if carried != said:
            note.fail(f"trace {number}: {carried[:80]!r} carries loss, where the assistant said {said[:80]!r}")
            return longest
    note.ok(f"what the assistant wrote carries loss, nothing else; traces have up to {longest} tokens")
    return longest


def _boxes(note: Note, subject: Subject, records: Sequence[dict], episodes: Any) -> None:
    """In which frame boxes give the crops that stand behind them."""
    frame = Frame(episodes.box_frame) if episodes.box_frame else subject.model.frame
    apart: dict[Frame, list[float]] = {other: [] for other in Frame}
    limits = pixel_limits(subject.model.processor)
    for record in _some(records):
        for source, numbers, crop in _zooms(to_trace(record)):
            view = View(source.size, fit(source, limits).size)
            for other, found in apart.items():
                found.append(_difference(source, Box.of(numbers, other), view, crop, episodes.crop_padding))
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


def _zooms(trace: Trace) -> Iterator[tuple[Image.Image, list[float], Image.Image]]:
    """The image that each zoom call means, the numbers of its box, and the crop behind it."""
    shown: list[Image.Image] = []
    asked: Call | None = None
    for message in trace.messages:
        images = [block["image"] for block in blocks_of(message["content"]) if block["type"] == "image"]
        if asked is not None and images:
            numbers, index = asked.arguments.get("bbox_2d"), asked.arguments.get("img_idx", 0)
            is_box = isinstance(numbers, list) and len(numbers) == 4
            if is_box and isinstance(index, int) and 0 <= index < len(shown):
                yield shown[index], numbers, images[0]
        asked = None
        shown += images
        if message["role"] == "assistant":
            action = parse_action("".join(block["text"] for block in blocks_of(message["content"])))
            asked = action if isinstance(action, Call) else None


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
    if not shared.can_estimate(note, network):
        return
    dtype = getattr(torch, model_args.dtype or "", None) or network.dtype
    prepare = partial(
        memory.as_trained,
        arguments=model_args,
        checkpointing=args.gradient_checkpointing,
        train_vision=script.train_vision,
    )
    rows = [Row([1] * 2, [1] * longest, [], 0) for _ in range(args.per_device_train_batch_size)]
    loss = memory.loss_bytes(prepare, network, dtype, rows)
    held = memory.held_bytes(
        prepare(memory.outline(network, dtype)), args.optim, sharding, in_4bit=model_args.load_in_4bit
    )
    vision = memory.vision_bytes(network, longest * len(rows))
    cures = ["a smaller --per_device_train_batch_size, --max_length or --max_pixels"]
    cures += ["--gradient_checkpointing true"] * (not args.gradient_checkpointing)
    remark = "what a trained vision tower keeps for backward is not counted" if script.train_vision else ""
    limit = limit or memory.device_gib()
    shared.memory(note, held, {"training": (loss + vision, cures)}, limit, model_args, remark)
