"""Host memory that large images take: `python -m benchmarks.host_memory --num_images 2000`.

Groups of rollouts zoom into 3840x2160 images that lie in one dataset, through the environment and the processor as in
training, once for each bound (`image_cache_gib`) and each in a process of its own. What is printed is that process's
anonymous memory (Linux's RssAnon: without pages of files, which the kernel takes back when it needs them) above what
it had before the first image, in MiB: the highest in each tenth of the images.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from tqdm import tqdm

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.play import play
from environments.policies.oracle import OraclePolicy
from fovea.boxes import Frame
from fovea.commands import plain_parser
from fovea.data.task_files import load_tasks
from fovea.models.loading import load_outline

SIZE = (3840, 2160)
TASKS_A_STEP = 8


def make_images(folder: Path, num_images: int, seed: int) -> None:
    """A saved dataset of JPEG images, each with a question whose answer lies in a box."""

    def rows() -> Iterator[dict]:
        draw = np.random.default_rng(seed)
        for _ in tqdm(range(num_images), desc="images"):
            small = Image.fromarray(draw.integers(0, 256, size=(108, 192, 3), dtype=np.uint8))
            file = io.BytesIO()
            small.resize(SIZE, Image.Resampling.BILINEAR).save(file, "JPEG", quality=90)
            x, y = (float(draw.uniform(0, 0.9)) for _ in range(2))
            box = {"coordinates": [x, y, x + 0.1, y + 0.1], "frame": Frame.UNIT.value}
            image = {"bytes": file.getvalue(), "path": None}
            yield {"images": [image], "question": "Which digit?", "answer": "7", "boxes": [box]}

    features = datasets.Features(
        images=[datasets.Image()],
        question=datasets.Value("string"),
        answer=datasets.Value("string"),
        boxes=[{"coordinates": [datasets.Value("float64")], "frame": datasets.Value("string")}],
    )
    datasets.Dataset.from_generator(rows, features=features, cache_dir=str(folder / "cache")).save_to_disk(folder)


def anonymous_mib() -> float:
    """This process's anonymous memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def play_all(folder: Path, num_images: int, gib: float, max_pixels: int, num_generations: int) -> dict:
    """The highest MiB above the start in each tenth of the images, and seconds."""
    model = load_outline("tiny", max_pixels=max_pixels)
    arguments = EpisodeArguments(
        crop_min_pixels=max_pixels // 4, crop_max_pixels=max_pixels, max_episode_tokens=2**15, image_cache_gib=gib
    )
    factory, renderer = environment_factory(arguments, model), make_renderer(arguments, model)
    policy = OraclePolicy(model.frame)
    tasks = load_tasks(folder, limit=num_images)
    started, before, used = time.monotonic(), anonymous_mib(), []
    for first in tqdm(range(0, len(tasks), TASKS_A_STEP), desc=f"{gib} GiB"):
        chunk = [task for task in tasks[first : first + TASKS_A_STEP] for _ in range(num_generations)]
        episodes = play(
            policy, chunk, environment_factory=factory, limits=arguments.limits(), renderer=renderer,
            batch_size=len(chunk),
        )  # fmt: skip
        assert all(episode.num_zooms == 1 for episode in episodes), episodes[0]
        used.append(anonymous_mib() - before)
    curve = [round(max(part)) for part in np.array_split(used, min(10, len(used)))]
    return {"curve": curve, "seconds": round(time.monotonic() - started)}


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--num_images", type=int, default=2000)
    parser.add_argument("--bounds", type=float, nargs="+", default=[0.25, 1.0, 4.0], help="image_cache_gib")
    parser.add_argument("--max_pixels", type=int, default=1024 * 1024, help="of a first view and of a crop")
    parser.add_argument("--num_generations", type=int, default=8)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/host_memory"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = args.output_dir / f"images-{args.num_images}-{args.seed}"
    if args.only is not None:
        usage = play_all(folder, args.num_images, args.only, args.max_pixels, args.num_generations)
        print(json.dumps(usage))
        return
    if not folder.exists():
        make_images(folder, args.num_images, args.seed)
    print("| image_cache_gib | MiB in each tenth of the images | seconds |\n|---|---|---|")
    for bound in args.bounds:
        words = [sys.executable, "-m", "benchmarks.host_memory", *sys.argv[1:], "--only", str(bound)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        usage = json.loads(done.stdout.splitlines()[-1])
        print(f"| {bound} | {usage['curve']} | {usage['seconds']} |", flush=True)


if __name__ == "__main__":
    main()
