"""Chains over real endpoints: `python -m benchmarks.chains_served --output_dir runs/chains_served`.

The roles that see are played by a vLLM server on CPU, those that write by a scripted server. No model that can be
embedded here describes a picture, so `tiny` is taught to first: what pictures of two shapes show, and which digits are
on them, in the builder's own words, on other pictures than those of the pool. The builder is killed
once and run again. Needs `make .venv-engines/.installed`; run it with that environment's Python.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from benchmarks.serving import vllm_server
from fovea.images import cut, image_hash, open_image
from fovea.jsonl import read_jsonl
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
    """What is asked as the builder asks it, and the true reply."""
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


@dataclass
class Writer:
    """Plays connect, annotate and ask from what is true of the pictures."""

    known: Mapping[str, Digits]

    def reply(self, text: str, images: list[Image.Image]) -> Any:
        if text.startswith(WORDS["connect"][:10]):
            return self._connect(*(json.loads(line.partition(": ")[2]) for line in text.split("\n")[1:3]))
        if text.startswith(WORDS["annotate"][:10]):
            name = text.partition("to do with this: ")[2].partition("\n")[0]
            one, other = (self.known[image_hash(image)].get(name) for image in images)
            if one is None or other is None or one == other:
                return {"kind": "none"}
            return {"kind": "semantic", "sentence": f"the {name} shows {one} in the first and {other} in the second"}
        links = re.findall(r"Image (\d+) to image (\d+) \(\w+\): the (\w+ \w+) shows (\d) in the first and (\d)", text)
        steps, places, digits = [], list[Place](), dict[Place, str]()
        for first, second, name, one, other in links:
            here = [(name, int(first)), (name, int(second))]
            digits |= zip(here, (one, other), strict=True)
            steps.append({"question": which_digits(here), "answer": f"{one}, {other}"})
            places += here
        asked = one_an_image(places)
        return {"steps": steps, "question": which_digits(asked), "answer": ", ".join(digits[place] for place in asked)}

    def _connect(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        """What both profiles name with different digits, as they were described, not as it is."""
        one, other = ({f"{row['attributes'][0]} {row['name']}": row["attributes"][1:] for row in told["objects"]
                       if row["attributes"]} for told in (first, second))  # fmt: skip
        shared = sorted(name for name in one.keys() & other.keys() if one[name] != other[name])
        return {"connected": bool(shared), "by": shared[0] if shared else ""}


@contextmanager
def served(writer: Writer) -> Iterator[str]:
    """An OpenAI-compatible endpoint of the writer, while it is up, as a role is cast."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            blocks = request["messages"][-1]["content"]
            blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
            text = "".join(block["text"] for block in blocks if block["type"] == "text")
            urls = [block["image_url"]["url"] for block in blocks if block["type"] == "image_url"]
            images = [open_image(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
            told = json.dumps(writer.reply(text, images))
            choice = {"message": {"content": told}, "finish_reason": "stop"}
            body = json.dumps({"choices": [choice], "usage": {"completion_tokens": len(told.split())}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"scripted@http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def build(folder: Path, eyes: str, pen: str, num_chains: int, *, killed_after: int | None = None) -> None:
    """Runs the builder; it is killed when so many pairs have been asked about."""
    told = [
        "fovea traces chains --num_images 2 3 --max_uses 2 --num_candidates 8 --temperature 0 --max_asks 1",
        f"--images {folder / 'pool'} --output_dir {folder / 'chains'} --num_chains {num_chains}",
        f"--agent {eyes} --connect {pen} --annotate {pen} --ask {pen}",
        "--max_image_tokens 64 --crop_min_pixels 4096 --crop_max_pixels 5120",
    ]
    words = " ".join(told).split()
    print("$", *words, flush=True)
    process = subprocess.Popen(words)
    while process.poll() is None:
        time.sleep(0.2)
        if killed_after is not None and len(lines_of(folder, "connect")) >= killed_after:
            process.kill()
            process.wait()
            print(f"killed after {len(lines_of(folder, 'connect'))} pairs", flush=True)
            return
    if process.returncode:
        raise SystemExit(process.returncode)


def lines_of(folder: Path, stage: str) -> list[dict[str, Any]]:
    path = folder / "chains" / f"{stage}.jsonl"
    return read_jsonl(path) if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_pictures", type=int, default=260, help="in the pool")
    parser.add_argument("--num_chains", type=int, default=300, help="paths along which questions are asked")
    parser.add_argument("--num_steps", type=int, default=1_200, help="of teaching the roles that see")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    folder = chosen.output_dir
    model, pool = folder / "eyes", folder / "pool"
    if not (model / "model.safetensors").exists():
        teach(model, chosen.num_steps, chosen.seed)
    pool.mkdir(parents=True, exist_ok=True)
    rng, known = np.random.default_rng(chosen.seed + 1), {}
    for number in range(chosen.num_pictures):
        image, digits = draw(rng)
        image.save(pool / f"{number:04d}.png")
        known[image_hash(image)] = digits
    with vllm_server(str(model), max_model_len=2048) as url, served(Writer(known)) as pen:
        eyes = f"{model}@{url}/v1"
        build(folder, eyes, pen, chosen.num_chains, killed_after=chosen.num_pictures)
        before = {line["key"] for line in lines_of(folder, "extract") + lines_of(folder, "connect")}
        build(folder, eyes, pen, chosen.num_chains)
    keys = [line["key"] for line in lines_of(folder, "extract") + lines_of(folder, "connect")]
    profiles = {Path(line["about"][0]).name: line.get("value") for line in lines_of(folder, "extract")}
    num_right = sum(
        told is not None and profile(known[image_hash(open_image(pool / name))])["objects"] == _objects(told)
        for name, told in profiles.items()
    )
    print(f"{len(before)} lines before the kill, {len(keys) - len(set(keys))} of them made twice; "
          f"{num_right} of {len(profiles)} profiles right in all")  # fmt: skip


def _objects(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": one["name"], "attributes": list(one["attributes"])} for one in told["objects"]]


if __name__ == "__main__":
    main()
