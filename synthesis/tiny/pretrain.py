"""Makes the tiny base model: `python -m synthesis.tiny.pretrain --output_dir fovea/tiny`.

What it is: next-token training on answers about scenes, with a dense auxiliary loss on the vision tokens whose heads
are thrown away. What it is not: it never sees the zoom protocol (no system prompt, tool call or think/answer tag).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import Qwen3VLForConditionalGeneration
from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import render_jinja_template
from trl.chat_template_utils import qwen3_vl_chat_template

from environments.play import Limits, play
from environments.policies import OraclePolicy
from environments.zoom import ZoomEnvironment, ZoomSettings
from fovea.attention import batch_vision_attention
from fovea.boxes import Frame
from fovea.images import PixelLimits
from synthesis.shapes import make_tasks
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
    dense_targets,
    sample_chart,
    sample_conversation,
    sample_crop,
)
from synthesis.scenes import COLORS, FORMS

NUM_BINS = 50
IMAGE = "<|vision_start|>{}<|vision_end|>"
FILLER = "the a of in on is are what where how many scene image answer one two left right near far".split()
"""Words put before some conversations, so that the model bears a prompt of any length."""


def protocol_corpus() -> list[str]:
    """Text of the protocol, for the tokenizer's vocabulary only: the model itself is never trained on it."""
    limits = PixelLimits(TOKEN_PX**2, FIRST_VIEW_PIXELS, TOKEN_PX)
    factory = partial(ZoomEnvironment, ZoomSettings(Frame.PER_MILLE, limits, CROP_LIMITS))
    oracle = OraclePolicy(Frame.PER_MILLE, box_step=BOX_STEP)
    episodes = play(oracle, make_tasks(num_tasks=200, seed=99), environment_factory=factory, limits=Limits())
    schema = get_json_schema(factory().image_zoom_in_tool)
    rendered, _ = render_jinja_template(
        [list(episode.messages) for episode in episodes], tools=[schema], chat_template=qwen3_vl_chat_template
    )
    markers = re.compile("|".join(map(re.escape, (*SPECIAL_TOKENS, *PROTOCOL_TOKENS))))
    return [part for text in rendered for part in markers.split(text) if part]


class Encoder:
    """Conversations to token ids, labels and dense targets."""

    def __init__(self, processor) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_id = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.ids = lru_cache(200_000)(lambda text: tuple(self.tokenizer(text, add_special_tokens=False).input_ids))

    def encode(self, exchanges: list[Exchange], *, filler: str = "") -> tuple[list[int], list[int]]:
        """Token ids and labels (-100 where there is no loss) of one conversation."""
        ids = list(self.ids(f"<|im_start|>system\n{filler}<|im_end|>\n")) if filler else []
        labels = [-100] * len(ids)
        for exchange in exchanges:
            asked = list(self.ids("<|im_start|>user\n"))
            if exchange.picture is not None:
                height, width = exchange.picture.pixels.shape[:2]
                start, end = self.ids(IMAGE.format(""))
                asked += [start, *[self.image_id] * (height * width // TOKEN_PX**2), end]
            asked += [*self.ids(exchange.question), *self.ids("<|im_end|>\n<|im_start|>assistant\n")]
            answer = [*self.ids(exchange.answer), *self.ids("<|im_end|>")]
            newline = list(self.ids("\n"))
            ids += asked + answer + newline
            labels += [-100] * len(asked) + answer + [-100] * len(newline)
        return ids, labels

    def batch(self, conversations: list[list[Exchange]], *, filler: str) -> dict[str, torch.Tensor]:
        """Model inputs of right-padded conversations, `labels` [B, N] and `dense` [vision tokens, 7]."""
        encoded = [self.encode(conversation, filler=filler) for conversation in conversations]
        length = max(len(ids) for ids, _ in encoded)
        input_ids = torch.full((len(encoded), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(encoded), length), -100)
        attention_mask = torch.zeros((len(encoded), length), dtype=torch.long)
        for row, (ids, targets) in enumerate(encoded):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            labels[row, : len(ids)] = torch.tensor(targets)
            attention_mask[row, : len(ids)] = 1
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
            "mm_token_type_ids": (input_ids == self.image_id).long(),
            **self.images([e.picture for c in conversations for e in c if e.picture is not None]),
        }

    def images(self, pictures: list[Picture]) -> dict[str, torch.Tensor]:
        """`pixel_values`, `image_grid_thw` and `dense` [vision tokens, 7] of pictures."""
        images = [torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1) for picture in pictures]
        pixels = self.processor.image_processor(images=images, do_resize=False, return_tensors="pt")
        dense = np.concatenate([dense_targets(p, token_px=TOKEN_PX, num_bins=NUM_BINS) for p in pictures])
        return {**pixels, "dense": torch.from_numpy(dense)}


class DenseHeads(nn.Module):
    """Reads form, colour, digit and box coordinates off each vision token; used in pre-training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(FORMS) + 2, len(COLORS), 10, *[NUM_BINS] * 4]
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sum of the mean cross entropies of all targets; features [T, width], targets [T, 7]."""
        weights = torch.ones(self.sizes[0])
        weights[0] = 0.2
        losses = []
        for column, logits in enumerate(self.linear(features).split(self.sizes, dim=-1)):
            if (targets[:, column] != -100).any():
                weight = weights if column == 0 else None
                losses.append(cross_entropy(logits, targets[:, column], weight=weight, ignore_index=-100))
        return torch.stack(losses).sum()

    def accuracies(self, features: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Shares of tokens with the right form (where there is one), colour and digit."""
        report = {}
        for column, (name, logits) in enumerate(zip(("form", "color", "digit"), self.linear(features).split(self.sizes, dim=-1))):
            counted = targets[:, column] > (0 if name == "form" else -1)
            report[name] = (logits.argmax(-1) == targets[:, column])[counted].float().mean().item()
        return report


def _conversations(seed: int, count: int) -> list[list[Exchange]]:
    rng = np.random.default_rng(seed)
    return [sample_conversation(rng) for _ in range(count)]


def _pictures(seed: int, count: int) -> list[Picture]:
    rng = np.random.default_rng(seed)
    return [sample_chart(rng) if index % 2 else sample_crop(rng) for index in range(count)]


def sample_pool(sample: Callable[[int, int], list], *, seed: int, size: int, num_workers: int = 2) -> list:
    """`size` samples made by `num_workers` processes; the same for the same seed."""
    chunk = 250
    with ProcessPoolExecutor(num_workers) as executor:
        parts = executor.map(sample, range(seed, seed + size // chunk), [chunk] * (size // chunk))
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
    model, heads: DenseHeads, encoder: Encoder, pool: list[Picture], *, steps: int, batch_size: int, peak: float, log: Log
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


def learn_to_speak(
    model,
    heads: DenseHeads,
    encoder: Encoder,
    pool: list[list[Exchange]],
    *,
    steps: int,
    batch_size: int,
    peak: float,
    log: Log,
    save_dir: Path,
) -> None:
    """Second stage: the whole model on conversations, the dense loss beside it."""
    captured: list[torch.Tensor] = []
    hook = model.model.visual.register_forward_hook(lambda *args: captured.append(args[-1].pooler_output))
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *heads.parameters()], lr=peak, betas=(0.9, 0.98), weight_decay=0.01
    )
    rng = np.random.default_rng(1)
    queue: list[list[int]] = []
    for step in tqdm(range(steps), desc="speak"):
        if not queue:
            chosen = sorted(rng.choice(len(pool), size=batch_size * 8), key=lambda i: len(pool[i]))
            queue = [chosen[i * batch_size : (i + 1) * batch_size] for i in range(8)]
            rng.shuffle(queue)
        filler = " ".join(rng.choice(FILLER, size=int(rng.integers(1, 120)))) if rng.random() < 0.15 else ""
        batch = encoder.batch([pool[i] for i in queue.pop()], filler=filler)
        dense = batch.pop("dense")
        captured.clear()
        loss = model(**batch).loss
        dense_loss = heads(captured[0], dense)
        _update(loss + 0.1 * dense_loss, optimizer, learning_rate(step, steps=steps, peak=peak))
        log.add(step, {"loss": loss.item(), "dense_loss": dense_loss.item()})
        if (step + 1) % 200 == 0:
            model.save_pretrained(save_dir)
    hook.remove()


def _update(loss: torch.Tensor, optimizer: torch.optim.Optimizer, rate: float) -> None:
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = rate
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("fovea/tiny"), help="where weights and processor go")
    parser.add_argument("--seeing_model", help="skip the first stage: take the vision tower that it left in this folder")
    parser.add_argument("--see_steps", type=int, default=1500, help="steps of the vision tower alone")
    parser.add_argument("--speak_steps", type=int, default=2200, help="steps of the whole model")
    parser.add_argument("--num_pictures", type=int, default=12000)
    parser.add_argument("--num_conversations", type=int, default=9000)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    texts = [*corpus(np.random.default_rng(args.seed), num_conversations=400), *protocol_corpus()]
    tokenizer = build_tokenizer(texts, vocab_size=768)
    processor, model = build_processor(tokenizer), build_model(tokenizer)
    processor.save_pretrained(args.output_dir)
    batch_vision_attention(model).train()
    encoder, heads = Encoder(processor), DenseHeads(model.config.text_config.hidden_size)
    path = args.output_dir / "pretrain_log.jsonl"
    settings = {name: value for name, value in vars(args).items() if name != "output_dir"}
    path.write_text(json.dumps({"parameters": model.num_parameters(), **settings}) + "\n")
    first_seed = 1_000_000 * (args.seed + 1)
    options = {"peak": args.learning_rate}
    if args.seeing_model:
        seeing = Qwen3VLForConditionalGeneration.from_pretrained(args.seeing_model)
        model.model.visual.load_state_dict(seeing.model.visual.state_dict())
    else:
        pictures = sample_pool(_pictures, seed=first_seed, size=args.num_pictures)
        learn_to_see(model, heads, encoder, pictures, steps=args.see_steps, batch_size=40, log=Log(path, "see"), **options)
        model.save_pretrained(args.output_dir)
    conversations = sample_pool(_conversations, seed=first_seed + 100_000, size=args.num_conversations)
    options |= {"steps": args.speak_steps, "batch_size": 16, "save_dir": args.output_dir}
    learn_to_speak(model, heads, encoder, conversations, log=Log(path, "speak"), **options)
    model.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
