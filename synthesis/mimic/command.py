"""Items of MIMIC from annotated pictures: `fovea tasks mimic --annotations FILE --images DIR --output_dir DIR`.

Annotations are in COCO's format. Without any, procedural scenes are drawn. Four kinds of question over several images:
counting, listing, the common class, and the odd one out. Each axis of difficulty takes one or several values;
`--sweep distractors=0,2,4,8` makes each item once for every value, and changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from fovea.config import ConfigError
from synthesis.mimic.arguments import ItemArguments
from synthesis.mimic.coco import read_coco
from synthesis.mimic.drawn import drawn_pool
from synthesis.mimic.pool import Pool
from synthesis.mimic.writing import command, write_items

POOL = "pool"
"""Folder of drawn scenes."""


@dataclass(kw_only=True)
class MimicArguments(ItemArguments):
    """The pictures, and the properties of items."""

    annotations: str = field(
        default="", metadata={"help": "File of annotations in COCO's format (default: scenes are drawn)."}
    )
    images: str = field(default="", metadata={"help": "Folder of the pictures that the annotations name."})
    num_scenes: int = field(default=2000, metadata={"help": "Scenes to draw where there are no annotations."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.annotations) != bool(self.images):
            raise ConfigError(
                "--annotations and --images belong together: give the file and the folder of its pictures"
            )
        if self.num_scenes < 1:
            raise ConfigError(f"--num_scenes {self.num_scenes}: give 1 or more")


def pool_of(arguments: MimicArguments) -> Pool:
    """The pool that the arguments name; scenes are written below the output folder."""
    if arguments.annotations:
        return read_coco(
            Path(arguments.annotations), Path(arguments.images), min_area=arguments.min_area, small=arguments.small
        )
    pool = drawn_pool(arguments.num_scenes, arguments.seed)
    folder = Path(arguments.output_dir) / POOL
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in zip(tqdm(pool.names, desc="scenes", mininterval=2), pool.images, strict=True):
        paths.append(str(folder / f"{name}.jpg"))
        Path(paths[-1]).write_bytes(content)
    return replace(pool, images=paths)


def run(arguments: MimicArguments) -> Path:
    """Draws the items and writes them; the folder.

    Raises:
        ConfigError: for axes that make no item, or a pool that has none.
    """
    return write_items(arguments, pool_of, sources=[arguments.annotations] if arguments.annotations else [])


def main() -> None:
    command(MimicArguments, run, __doc__)


if __name__ == "__main__":
    main()
