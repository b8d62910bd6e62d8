"""Makes the tiny base model: `python -m synthesis.tiny.pretrain --output_dir fovea/tiny`.

What it is: four stages (see, read, speak, follow) of training on pictures of scenes and answers about them, with two
auxiliary losses. `--album_steps` adds a fifth on several images, which the shipped base does not have yet. What it is
not: it never sees the zoom protocol, neither its prompt nor a tool call nor a think or answer tag.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import render_jinja_template
from trl.chat_template_utils import qwen3_vl_chat_template

from environments.play import play
from environments.policies.oracle import OraclePolicy
from environments.seats import Limits
from environments.views import ViewSettings
from environments.zoom import ZoomEnvironment
from fovea.boxes import Frame
from fovea.commands import plain_parser
from fovea.images import PixelLimits
from fovea.kernels.vision_attention import batch_vision_attention
from fovea.models.loading import freeze_vision
from synthesis.shapes import make_tasks
from synthesis.tiny.album_conversations import sample_with_albums
from synthesis.tiny.architecture import (
    FIRST_VIEW_PIXELS,
    PROTOCOL_TOKENS,
    SPECIAL_TOKENS,
    TOKEN_PX,
    build_model,
    build_processor,
    build_tokenizer,
)
from synthesis.tiny.conversations import (
    BOX_STEP,
    CROP_LIMITS,
    Exchange,
    Picture,
    corpus,
    sample_conversation,
    sample_first_view_reading,
    sample_picture,
    sample_reading,
)
from synthesis.tiny.encoding import Encoder
from synthesis.tiny.forms import WORDS, sample_in_some_form
from synthesis.tiny.losses import DenseHeads, NumberHead, looking_loss, watched


def protocol_corpus() -> list[str]:
    """Text of the protocol, for the tokenizer's vocabulary only: the model itself is never trained on it."""
    limits = PixelLimits(TOKEN_PX**2, FIRST_VIEW_PIXELS, TOKEN_PX)
    factory = partial(ZoomEnvironment, ViewSettings(Frame.PER_MILLE, limits, CROP_LIMITS))
    oracle = OraclePolicy(Frame.PER_MILLE, box_step=BOX_STEP)
    episodes = play(oracle, make_tasks(num_tasks=200, seed=99), environment_factory=factory, limits=Limits())
    schema = get_json_schema(factory().image_zoom_in_tool)
    rendered: Any = render_jinja_template(
        [list(episode.messages) for episode in episodes], tools=[schema], chat_template=qwen3_vl_chat_template
    )
    markers = re.compile("|".join(map(re.escape, (*SPECIAL_TOKENS, *PROTOCOL_TOKENS))))
    return [part for text in rendered[0] for part in markers.split(text) if part]


def _sampled(sample: Callable[[np.random.Generator], Any], seed: int, count: int) -> list:
    rng = np.random.default_rng(seed)
    return [sample(rng) for _ in range(count)]


def sample_pool(sample: Callable[[np.random.Generator], Any], *, seed: int, size: int, num_workers: int = 2) -> list:
    """`size` samples made by `num_workers` processes; the same for the same seed."""
    chunk = 250
    with ProcessPoolExecutor(num_workers) as executor:
        parts = executor.map(partial(_sampled, sample), range(seed, seed + size // chunk), [chunk] * (size // chunk))
        return [item for part in tqdm(parts, total=size // chunk, desc="scenes") for item in part]


def learning_rate(step: int, *, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then cosine decay to a twentieth of `peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


class Log:
    """Running means, one JSON line every `every` steps."""

    def __init__(self, path: Path, stage: str, *, every: int = 25) -> None:
        self.path, self.stage, self.every = path, stage, every
        self.recent: list[dict[str, float]] = []
        self.started = time.time()

    def add(self, step: int, values: dict[str, float]) -> None:
        self.recent.append(values)
        if (step + 1) % self.every == 0:
            means = {name: round(float(np.mean([row[name] for row in self.recent])), 4) for name in values}
            line = {"stage": self.stage, "step": step + 1, **means, "seconds": round(time.time() - self.started, 1)}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.recent.clear()


def learn_to_see(
    model,
    heads: DenseHeads,
    encoder: Encoder,
    pool: list[Picture],
    *,
    steps: int,
    batch_size: int,
    peak: float,
    log: Log,
    save_dir: Path,
) -> None:
    """First stage: the vision tower alone, on crops and eye charts, by the dense loss."""
    parameters = [*model.model.visual.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    rng = np.random.default_rng(0)
    for step in tqdm(range(steps), desc="see"):
        batch = encoder.images([pool[i] for i in rng.choice(len(pool), size=batch_size)])
        dense = batch.pop("dense")
        output = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"])
        loss = heads(output.pooler_output, dense)
        _update(loss, optimizer, learning_rate(step, steps=steps, peak=peak))
        log.add(step, {"dense_loss": loss.item(), **heads.accuracies(output.pooler_output.detach(), dense)})
    model.save_pretrained(save_dir)


def learn_to_speak(
    model,
    heads: DenseHeads | None,
    encoder: Encoder,
    pool: list[list[Exchange]],
    *,
    steps: int,
    batch_size: int,
    peak: float,
    log: Log,
    save_dir: Path,
    number_heads: nn.ModuleList | None = None,
) -> None:
    """The model on conversations, with the looking loss beside it, and the dense loss unless the tower is frozen.

    With two `number_heads` visual tokens also learn, below the layer that looks, in which picture of an album they are,
    and behind it answers learn in which picture they lie.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": trained}, *({"params": list(part.parameters())} for part in (heads, number_heads) if part)]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    rng = np.random.default_rng(1)
    batches = _batches_of_like_length(pool, encoder, batch_size, rng)
    with watched(model) as seen:
        for step in tqdm(range(steps), desc=log.stage):
            conversations = next(batches)
            filler = " ".join(rng.choice(WORDS, size=int(rng.integers(1, 120)))) if rng.random() < 0.15 else ""
            batch = encoder.batch(conversations, filler=filler)
            dense, looks = batch.pop("dense"), batch.pop("looks")
            targets = [batch.pop("numbers"), batch.pop("looked_in")]
            output = model(**batch)
            counted = zip(number_heads or (), seen.hidden, targets, strict=False)
            losses = {
                "loss": output.loss,
                "dense_loss": heads(seen.features[0], dense) if heads else torch.zeros(()),
                "look_loss": looking_loss(seen.attention[0], looks),
                "number_loss": sum((head(states, target) for head, states, target in counted), torch.zeros(())),
            }
            seen.clear()
            total = sum(WEIGHTS[name] * loss for name, loss in losses.items())
            _update(total, optimizer, learning_rate(step, steps=steps, peak=peak))
            log.add(step, {name: value.item() for name, value in losses.items()})
            if (step + 1) % 200 == 0:
                model.save_pretrained(save_dir)


WEIGHTS = {"loss": 1.0, "dense_loss": 0.1, "look_loss": 0.2, "number_loss": 1.0}
"""Of the losses in their sum."""


def _batches_of_like_length(
    pool: list[list[Exchange]], encoder: Encoder, batch_size: int, rng: np.random.Generator
) -> Iterator[list[list[Exchange]]]:
    """Batches without end; eight at a time are drawn and sorted by length, so that little is padding."""
    lengths = [len(encoder.encode(conversation).ids) for conversation in tqdm(pool, desc="lengths")]
    while True:
        chosen = sorted(rng.choice(len(pool), size=batch_size * 8), key=lengths.__getitem__)
        batches = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
        rng.shuffle(batches)
        yield from ([pool[index] for index in batch] for batch in reversed(batches))


def _update(loss: torch.Tensor, optimizer: torch.optim.Optimizer, rate: float) -> None:
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = rate
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def read_arguments() -> argparse.Namespace:
    parser = plain_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("fovea/tiny"), help="where weights and processor go")
    parser.add_argument("--start_from", help="a model to go on from, with its tokenizer")
    parser.add_argument(
        "--control", action="store_true", help="only read first views, and no follow-up questions: gate A's control"
    )
    parser.add_argument("--see_steps", type=int, default=1500, help="steps of the vision tower alone")
    parser.add_argument("--read_steps", type=int, default=700, help="steps on single crops")
    parser.add_argument("--speak_steps", type=int, default=2200, help="steps on whole conversations")
    parser.add_argument(
        "--follow_steps", type=int, default=2000, help="steps on follow-up questions and prescribed forms, tower frozen"
    )
    parser.add_argument(
        "--album_steps",
        type=int,
        default=0,
        help="steps with albums among them, tower frozen; the shipped base has none",
    )
    parser.add_argument("--pool_size", type=int, default=9000, help="distinct samples of each stage")
    parser.add_argument("--learning_rate", type=float, default=8e-4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load_or_build(start_from: str | None, seed: int) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """The model to go on from, or an untrained one with a tokenizer made for it."""
    if start_from:
        processor = Qwen3VLProcessor.from_pretrained(start_from)
        return Qwen3VLForConditionalGeneration.from_pretrained(start_from), processor
    texts = [*corpus(np.random.default_rng(seed), num_conversations=400), *protocol_corpus()]
    processor = build_processor(build_tokenizer(texts, vocab_size=768))
    return build_model(processor.tokenizer), processor


def main() -> None:
    args = read_arguments()
    torch.manual_seed(args.seed)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    model, processor = load_or_build(args.start_from, args.seed)
    processor.save_pretrained(args.output_dir)
    batch_vision_attention(model).train()
    encoder, heads = Encoder(processor), DenseHeads(model.config.get_text_config().hidden_size)
    path = args.output_dir / "pretrain_log.jsonl"
    settings = {name: value for name, value in vars(args).items() if name != "output_dir"}
    path.write_text(json.dumps({"parameters": model.num_parameters(), **settings}) + "\n")
    seed, size = 1_000_000 * (args.seed + 1), args.pool_size
    options: dict[str, Any] = {"peak": args.learning_rate, "save_dir": args.output_dir}
    if args.see_steps:
        pool = sample_pool(sample_picture, seed=seed, size=size)
        learn_to_see(model, heads, encoder, pool, steps=args.see_steps, batch_size=40, log=Log(path, "see"), **options)
    if args.read_steps:
        pool = sample_pool(sample_reading, seed=seed + 100_000, size=size)
        options |= {"steps": args.read_steps, "batch_size": 64}
        learn_to_speak(model, heads, encoder, pool, log=Log(path, "read"), **options)
    sample = sample_first_view_reading if args.control else sample_conversation
    pool = sample_pool(sample, seed=seed + 200_000, size=size)
    options |= {"steps": args.speak_steps, "batch_size": 16}
    if args.speak_steps:
        learn_to_speak(model, heads, encoder, pool, log=Log(path, "speak"), **options)
    if args.follow_steps and not args.control:
        freeze_vision(model)
        pool = sample_pool(sample_in_some_form, seed=seed + 300_000, size=size)
        options |= {"steps": args.follow_steps, "peak": args.learning_rate / 2}
        learn_to_speak(model, None, encoder, pool, log=Log(path, "follow"), **options)
    if args.album_steps and not args.control:
        freeze_vision(model)
        pool = sample_pool(sample_with_albums, seed=seed + 400_000, size=size)
        options |= {"steps": args.album_steps, "peak": args.learning_rate / 2}
        width = model.config.get_text_config().hidden_size
        options["number_heads"] = nn.ModuleList([NumberHead(width), NumberHead(width)])
        learn_to_speak(model, None, encoder, pool, log=Log(path, "albums"), **options)
    model.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
