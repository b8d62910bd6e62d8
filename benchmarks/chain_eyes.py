"""Lessons that teach a model to play the chain builder's roles on pictures of two shapes.

A profile names both shapes and their digits. Questions of the checks ask for digits in several numbered images. All
is asked in the builder's own words (`synthesis.chains.chats.WORDS`).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from fovea.images import cut
from fovea.models.loading import Model, load_model
from fovea.placeholders import IMAGE_LABEL
from synthesis.chains.chats import WORDS
from synthesis.chains.roles import UNKNOWN
from synthesis.shapes.scenes import NAMES, render, sample_scene

Digits = dict[str, int]
"""The digit on each shape of a picture by the shape's name, from left to right."""
Picture = tuple[Image.Image, Digits]
SIDE = 64
NUMBERS = 6
"""Images of an album are numbered below this."""


def draw(rng: np.random.Generator) -> Picture:
    """A picture of two shapes, each so large that its digit can be read."""
    names = [NAMES[index] for index in rng.choice(len(NAMES), size=2, replace=False)]
    scene = sample_scene(rng, num_shapes=2, names=names)
    image = render(scene)
    picture, digits = Image.new("RGB", (2 * SIDE, SIDE)), {}
    for place, shape in enumerate(scene.shapes):
        closeup = cut(image, shape.box).resize((SIDE, SIDE))
        picture.paste(closeup, (place * SIDE, 0))
        digits[shape.name] = shape.digit
    return picture, digits


@dataclass
class Library:
    """Pictures, and which of them show a shape."""

    pictures: list[Picture]
    showing: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int) -> Library:
        library = cls([draw(rng) for _ in tqdm(range(count), desc="pictures")])
        for place, (_, digits) in enumerate(library.pictures):
            for name in digits:
                library.showing[name].append(place)
        return library

    def any(self, rng: np.random.Generator) -> Picture:
        return self.pictures[int(rng.integers(len(self.pictures)))]

    def with_another(self, rng: np.random.Generator, name: str, digit: int) -> Picture:
        """A picture that shows the shape with another digit."""
        others = [place for place in self.showing[name] if self.pictures[place][1][name] != digit]
        return self.pictures[int(rng.choice(others))]


def profile(digits: Digits) -> dict[str, Any]:
    objects = [{"name": name.split()[1], "attributes": [name.split()[0], str(digit)]} for name, digit in digits.items()]
    return {"overview": "two shapes", "objects": objects}


Place = tuple[str, int]
"""A shape's name, and the number of an image that shows it."""


def which_digits(places: Sequence[Place]) -> str:
    """Asks for the digit at each place."""
    asked = [f"on the {name} in image {number}" for name, number in places]
    return f"Which digit is {', '.join(asked)}?"


def answer(question: str, shown: Mapping[int, Digits]) -> str:
    """The true answer to such a question, by the images that are shown."""
    places = re.findall(r"on the (\w+ \w+) in image (\d+)", question)
    digits = [shown.get(int(number), {}).get(name) for name, number in places]
    return UNKNOWN if None in digits else ", ".join(map(str, digits))


def sample_look(library: Library, rng: np.random.Generator) -> tuple[str, dict[int, Picture]]:
    """A question as the checks ask them, and the images that are shown with it."""
    length = int(rng.integers(2, 4))
    numbers = [int(number) for number in rng.choice(NUMBERS, size=length + int(rng.integers(2)), replace=False)]
    path, places = [library.any(rng)], list[Place]()
    for one, other in pairwise(numbers[:length]):
        name, digit = list(path[-1][1].items())[int(rng.integers(2))]
        path.append(library.with_another(rng, name, digit))
        places += [(name, one), (name, other)]
    shown = dict(zip(numbers, [*path, *(library.any(rng) for _ in numbers[length:])], strict=True))
    if rng.random() < 0.6:
        step = int(rng.integers(length - 1))
        asked = places[2 * step : 2 * step + 2]
        if rng.random() < 0.6:
            shown = {number: shown[number] for _, number in asked}
        elif len(shown) > 2 and rng.random() < 0.5:
            shown = {number: shown[number] for number in shown.keys() - {number for _, number in asked}}
    else:
        asked = one_an_image(places)
        if rng.random() < 0.3:
            del shown[numbers[int(rng.integers(length))]]
    return which_digits(asked), shown


def one_an_image(places: Sequence[Place]) -> list[Place]:
    """The first place in each image."""
    firsts: dict[int, Place] = {}
    for place in places:
        firsts.setdefault(place[1], place)
    return list(firsts.values())


def lesson(library: Library, rng: np.random.Generator) -> tuple[list[dict[str, Any]], str]:
    """A question in the words of the chain builder, and the true reply."""
    if rng.random() < 0.4:
        image, digits = library.any(rng)
        text = {"type": "text", "text": WORDS["extract"].format()}
        return [{"type": "image", "image": image}, text], json.dumps(profile(digits))
    question, shown = sample_look(library, rng)
    blocks: list[dict[str, Any]] = []
    for number, (image, _) in sorted(shown.items()):
        blocks += [{"type": "text", "text": IMAGE_LABEL.format(number)}, {"type": "image", "image": image}]
    blocks.append({"type": "text", "text": WORDS["look"].format(question=question)})
    return blocks, answer(question, {number: digits for number, (_, digits) in shown.items()})


def encoded(model: Model, lessons: list[tuple[list[dict[str, Any]], str]]) -> dict[str, torch.Tensor]:
    """A batch of lessons, padded on the left; the loss is on their replies."""
    tokenizer = model.processor.tokenizer
    prompts, replies, images = [], [], []
    for blocks, reply in lessons:
        messages = [{"role": "user", "content": blocks}]
        prompts.append(model.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        images += [block["image"] for block in blocks if block["type"] == "image"]
        replies.append(tokenizer(reply + tokenizer.eos_token, add_special_tokens=False).input_ids)
    batch = model.processor(text=prompts, images=images)
    # A reply is tokenised apart from its prompt, as it will be written: no token spans both.
    rows = [[*prompt, *reply] for prompt, reply in zip(batch["input_ids"], replies, strict=True)]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    attended, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for place, (row, reply) in enumerate(zip(rows, replies, strict=True)):
        ids[place, width - len(row) :] = torch.tensor(row)
        attended[place, width - len(row) :] = 1
        labels[place, width - len(reply) :] = torch.tensor(reply)
    pixels = {name: torch.as_tensor(np.asarray(batch[name])) for name in ("pixel_values", "image_grid_thw")}
    is_image = (ids == model.processor.tokenizer.convert_tokens_to_ids(model.processor.image_token)).long()
    return {"input_ids": ids, "attention_mask": attended, "labels": labels, "mm_token_type_ids": is_image, **pixels}


def teach(folder: Path, num_steps: int, seed: int) -> None:
    """Teaches `tiny` the roles that see, and leaves the model in the folder."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    library, model = Library.drawn(rng, 4_000), load_model("tiny")
    network = model.network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, 50, num_steps)
    recent: list[tuple[bool, bool]] = []
    for step in (bar := tqdm(range(1, num_steps + 1), desc="lessons", mininterval=5)):
        lessons = [lesson(library, rng) for _ in range(16)]
        batch = encoded(model, lessons)
        output = network(**batch)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        labels = batch["labels"][:, 1:]
        right = ((output.logits[:, :-1].argmax(-1) == labels) | (labels == -100)).all(1).tolist()
        recent += [(len(blocks) == 2, is_right) for (blocks, _), is_right in zip(lessons, right, strict=True)]
        if step % 50 == 0:
            shares = [np.mean([right for is_profile, right in recent if is_profile == kind]) for kind in (True, False)]
            bar.write(f"step {step}: loss {output.loss:.3f}, profiles right {shares[0]:.3f}, looks {shares[1]:.3f}")
            recent.clear()
    network.save_pretrained(folder)
    model.processor.save_pretrained(folder)
