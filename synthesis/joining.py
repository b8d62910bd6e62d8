"""Puts the shards of a job array together: `fovea data join DIR/shard-* --output_dir DIR`.

Each shard is a folder with traces.jsonl. Images are linked, or copied where the file system has no links.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from environments.traces import TraceError
from fovea.commands import plain_parser
from fovea.jsonl import read_jsonl, replacing
from synthesis.arguments import refuse_own_folder


def join(shards: Sequence[Path], folder: Path) -> int:
    """Writes the traces of all shards, in the order of their names, to one folder; how many there are.

    Raises:
        FileNotFoundError: for a shard without traces.
        TraceError: if a trace of one id is there twice.
    """
    refuse_own_folder(folder, shards)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    known: dict[str, Path] = {}
    with replacing(folder / "traces.jsonl") as file:
        for order, shard in enumerate(tqdm(sorted(shards), desc="shards")):
            if not (shard / "traces.jsonl").exists():
                raise FileNotFoundError(
                    f"{shard / 'traces.jsonl'} does not exist: run the command of this shard first, or leave the "
                    "shard out"
                )
            for number, record in enumerate(read_jsonl(shard / "traces.jsonl")):
                name = record.get("id") or f"{shard.name}-{len(known)}"
                if name in known:
                    raise TraceError(
                        f"{known[name]} and {shard} both hold a trace of {name!r}: name each shard once, and play "
                        "each task in one shard"
                    )
                known[name] = shard
                places = [f"images/{order}-{number}-{Path(image).name}" for image in record["images"]]
                for image, place in zip(record["images"], places, strict=True):
                    linked(shard / image, folder / place)
                file.write(json.dumps({**record, "images": places, "id": name}) + "\n")
    return len(known)


def linked(source: Path, target: Path) -> None:
    """Puts a file to another place without a copy of its content, where the file system can."""
    source = source.resolve()  # a link to a relative link would lead nowhere
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("shards", nargs="+", type=Path, metavar="SHARD", help="folders with traces.jsonl")
    parser.add_argument("--output_dir", required=True, type=Path, help="where the joined traces go")
    args = parser.parse_args()
    try:
        number = join(args.shards, args.output_dir)
    except (FileNotFoundError, TraceError) as error:
        raise SystemExit(str(error)) from error
    print(f"{number} traces of {len(args.shards)} shards: {args.output_dir / 'traces.jsonl'}")


if __name__ == "__main__":
    main()
