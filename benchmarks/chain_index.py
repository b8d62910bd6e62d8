"""Does the index find connected images, at what cost? `python -m benchmarks.chain_index --plot docs/chain_index.svg`.

Pools of made-up profiles, from 30 to a million. A profile has five objects, whose names are drawn as words are in
language (Zipf), each with two attributes. Profiles come in pairs of one event: they share one object of any name and
its attributes, told in another order, and nothing else on purpose. Recall is the share of these pairs among candidates.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fovea.commands import plain_parser
from synthesis.chains.index import ProfileIndex, words_of
from synthesis.chains.roles import Profile, SeenObject

NUM_NAMES, NUM_ATTRIBUTES, NUM_OBJECTS = 20_000, 400, 5
MAX_QUERIES = 2_000


def profiles(number: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Keys and words of so many profiles; those of numbers 2n and 2n + 1 are of one event."""
    rng = np.random.default_rng(seed)
    shared: SeenObject | None = None
    for index in range(number):
        names = np.minimum(rng.zipf(1.3, size=NUM_OBJECTS), NUM_NAMES)
        attributes = rng.integers(NUM_ATTRIBUTES, size=(NUM_OBJECTS, 2))
        objects = [SeenObject(f"thing{name}", tuple(f"like{one}" for one in pair))
                   for name, pair in zip(names, attributes, strict=True)]  # fmt: skip
        if index % 2 and shared is not None:
            objects[0] = SeenObject(shared.name, shared.attributes[::-1])
        else:
            objects[0] = shared = SeenObject(f"thing{rng.integers(1, NUM_NAMES)}", objects[0].attributes)
        order = rng.permutation(NUM_OBJECTS)
        yield str(index), words_of(Profile("A picture.", "", tuple(objects[place] for place in order)))


def measure(number: int, num_candidates: int, folder: Path, seed: int) -> dict[str, float]:
    """Of a pool: recall, candidates an image, seconds to build, milliseconds a query, and the size of the file."""
    path = folder / f"{number}.sqlite"
    started = time.perf_counter()
    index = ProfileIndex(path)
    index.add(tqdm(profiles(number, seed), total=number, desc=f"{number} profiles"))
    built = time.perf_counter() - started
    step = max(1, number // MAX_QUERIES)
    queries = [(key, words) for key, words in profiles(number, seed) if int(key) % step == 0]
    started = time.perf_counter()
    nearest = {key: index.nearest(key, words, num_candidates) for key, words in queries}
    asked = time.perf_counter() - started
    hits = [str(int(key) ^ 1) in found for key, found in nearest.items()]
    report = {
        "profiles": number, "recall": float(np.mean(hits)), "queries": len(hits),
        "candidates": float(np.mean([len(found) for found in nearest.values()])), "build_s": built,
        "query_ms": 1000 * asked / len(queries), "file_mib": path.stat().st_size / 2**20,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip
    path.unlink()
    return report


def plot(reports: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(10, 2.8))
    sizes = [report["profiles"] for report in reports]
    for panel, (name, label) in zip(
        panels, (("recall", "recall"), ("candidates", "pairs asked about, an image"), ("query_ms", "ms a query")),
        strict=True,
    ):  # fmt: skip
        panel.plot(sizes, [report[name] for report in reports], marker="o")
        panel.set(xscale="log", xlabel="images in the pool", title=label, ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=[30, 300, 2_000, 20_000, 200_000, 1_000_000])
    parser.add_argument("--num_candidates", type=int, default=4, help="for each image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--plot", type=Path, help="also draw them here (.svg, .png)")
    args = parser.parse_args()
    print("| images | recall | asked about, an image | of all pairs | build, s | ms a query | file, MiB | peak, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for number in args.sizes:
            one = measure(number, args.num_candidates, Path(folder), args.seed)
            share = one["candidates"] * 2 / (number - 1)
            cost = f"{one['build_s']:.1f} | {one['query_ms']:.2f} | {one['file_mib']:.0f}"
            print(
                f"| {number:,} | {one['recall']:.3f} (n={one['queries']}) | {one['candidates']:.2f} "
                f"| at most {share:.2%} | {cost} | {one['peak_memory_mib']:.0f} |", flush=True,
            )  # fmt: skip
            reports.append(one)
    if args.json:
        args.json.write_text(json.dumps(reports, indent=2) + "\n")
    if args.plot:
        plot(reports, args.plot)


if __name__ == "__main__":
    main()
