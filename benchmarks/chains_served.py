"""Chains over real endpoints: `python -m benchmarks.chains_served --output_dir runs/chains_served`.

The roles that see are played by a vLLM server on CPU, those that write by a scripted server. No model that can be
embedded here describes a picture, so `tiny` is taught to first, on other pictures than those of the pool
(`benchmarks.chain_eyes`). The builder is killed once and run again. Needs `make .venv-engines/.installed`; run it with
that environment's Python.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.chain_eyes import Digits, Place, draw, one_an_image, profile, teach, which_digits
from benchmarks.serving import scripted_chat, vllm_server
from fovea.commands import plain_parser
from fovea.images import image_hash, open_image
from fovea.jsonl import read_jsonl
from synthesis.chains.chats import WORDS


@dataclass
class Writer:
    """Plays connect, annotate and ask from what is true of the pictures."""

    known: Mapping[str, Digits]

    def reply(self, text: str, images: list[Image.Image]) -> str:
        return json.dumps(self._reply(text, images))

    def _reply(self, text: str, images: list[Image.Image]) -> Any:
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
        """The relation of two profiles: a name in both whose described digits differ, right or wrong."""
        one, other = ({f"{row['attributes'][0]} {row['name']}": row["attributes"][1:] for row in told["objects"]
                       if row["attributes"]} for told in (first, second))  # fmt: skip
        shared = sorted(name for name in one.keys() & other.keys() if one[name] != other[name])
        return {"connected": bool(shared), "by": shared[0] if shared else ""}


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
    parser = plain_parser(__doc__)
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
    with vllm_server(str(model), max_model_len=2048) as url, scripted_chat(Writer(known).reply) as pen:
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
