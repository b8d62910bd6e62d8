"""Memory and time that OpenImages' files take: `python -m benchmarks.openimages --num_rows 5000000`.

Made-up files in the released layout, a sixth of a row's picture each, 600 classes as unevenly frequent as in life. The
reading and the drawing run in a process of their own, whose peak memory is printed.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from fovea.commands import plain_parser
from synthesis.mimic.openimages import OpenImagesArguments, run

NUM_CLASSES = 600
BOXES_PER_IMAGE = 8.4
"""As in OpenImages' training part: 14.6 million boxes in 1.74 million pictures."""


def write_files(folder: Path, num_rows: int, seed: int) -> None:
    """boxes.csv, classes.csv and labels.csv."""
    rng = np.random.default_rng(seed)
    num_images = max(1, int(num_rows / BOXES_PER_IMAGE))
    picture = np.sort(rng.integers(num_images, size=num_rows))
    share = 1 / np.arange(1, NUM_CLASSES + 1)
    kind = rng.choice(NUM_CLASSES, size=num_rows, p=share / share.sum())
    ids = np.array([f"{number * 2654435761 % 2**64:016x}" for number in range(num_images)])
    labels = np.array([f"/m/{number:05x}" for number in range(NUM_CLASSES)])
    sides = rng.uniform(0.1, 0.7, size=(num_rows, 2)).astype(np.float32)
    corner = (rng.random((num_rows, 2)) * (1 - sides)).astype(np.float32)
    flags = {name: (rng.random(num_rows) < 0.03).astype(np.int8) for name in ("IsGroupOf", "IsDepiction", "IsInside")}
    none = np.zeros(num_rows, np.int8)
    columns = {
        "ImageID": ids[picture], "Source": np.full(num_rows, "xclick"), "LabelName": labels[kind],
        "Confidence": none + 1, "XMin": corner[:, 0], "XMax": corner[:, 0] + sides[:, 0], "YMin": corner[:, 1],
        "YMax": corner[:, 1] + sides[:, 1], "IsOccluded": none, "IsTruncated": none, **flags,
    }  # fmt: skip
    csv.write_csv(pa.table(columns), folder / "boxes.csv")
    absent = rng.integers(num_images, size=num_rows // 2), rng.integers(NUM_CLASSES, size=num_rows // 2)
    said = {
        "ImageID": np.concatenate([ids[picture], ids[absent[0]]]),
        "Source": np.full(num_rows + len(absent[0]), "verification"),
        "LabelName": np.concatenate([labels[kind], labels[absent[1]]]),
        "Confidence": np.concatenate([none + 1, np.zeros(len(absent[0]), np.int8)]),
    }
    csv.write_csv(pa.table(said), folder / "labels.csv")
    names = "".join(f"{label},Class {number}\n" for number, label in enumerate(labels))
    (folder / "classes.csv").write_text(names)


def measured(folder: Path, num_tasks: int) -> tuple[float, float]:
    """Seconds of reading and drawing, and the peak memory of the process in GiB."""
    started = time.perf_counter()
    boxes, classes, labels = (str(folder / f"{name}.csv") for name in ("boxes", "classes", "labels"))
    run(
        OpenImagesArguments(
            output_dir=str(folder / "out"), num_tasks=num_tasks, boxes=boxes, classes=classes, labels=labels
        )
    )
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--num_rows", type=int, default=5_000_000, help="boxes")
    parser.add_argument("--num_tasks", type=int, default=1000, help="items of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, args.num_rows, args.seed)
        size = sum(path.stat().st_size for path in folder.glob("*.csv")) / 2**30
        with get_context("spawn").Pool(1) as pool:
            seconds, peak = pool.apply(measured, (folder, args.num_tasks))
    print("| boxes | files, GiB | items | s | peak memory, GiB |")
    print("|---|---|---|---|---|")
    print(f"| {args.num_rows:,} | {size:.2f} | {4 * args.num_tasks:,} | {seconds:.0f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
