"""The rows of public benchmarks, in the layouts of their own files, as the columns of tasks."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from evaluation.options import asked_with, option_lines, plain_options, split_options
from fovea.data.sources import Row
from fovea.placeholders import PLACEHOLDER

NUM_FRAMES = 8
"""Frames shown of a video: evenly spaced, as most harnesses do for MVBench."""


def vstar(row: Row, file: Path) -> dict[str, Any]:
    """Copies on the hub hold the pictures themselves, and no boxes."""
    question, options = split_options(row["text"])
    image, boxes = row["image"], []
    if isinstance(image, str):
        path = file.parent / image
        image = str(path)
        if (annotations := path.with_suffix(".json")).exists():
            found = json.loads(annotations.read_text()).get("bbox", [])
            boxes = [[x, y, x + width, y + height] for x, y, width, height in found]
    return {
        "id": f"vstar-{row['question_id']}",
        "images": [image],
        "question": question,
        "choices": options,
        "answer": row["label"],
        "boxes": boxes,
        "metadata": {"family": row["category"]},
    }


def hr_bench(row: Row, file: Path) -> dict[str, Any]:
    """Each question stands there with its options in four orders, which are one cluster."""
    options, image = [row[letter] for letter in "ABCD" if row.get(letter)], row["image"]
    num_bytes = len(image if isinstance(image, (str, bytes)) else image.view())
    cluster = "|".join([row["question"], *sorted(map(str, options)), str(num_bytes)])
    metadata = {"family": row["category"], "cycle": str(row["cycle_category"]), "cluster": cluster}
    return {
        "id": f"{file.stem}-{row['index']}",
        "images": [image],
        **asked_with(row["question"], options),
        "answer": row["answer"],
        "metadata": metadata,
    }


def mme_realworld(row: Row, file: Path) -> dict[str, Any]:
    options = row.get("multi-choice options", row.get("options"))
    if isinstance(options, str):
        options = ast.literal_eval(options)
    return {
        "id": f"mme_realworld-{row['index']}",
        "images": [row.get("image") or row["bytes"]],
        **asked_with(
            row["question"], plain_options([option.replace("（", "(").replace("）", ")") for option in options])
        ),
        "answer": row["answer"],
        "metadata": {"family": row["category"], "subfamily": row["l2-category"]},
    }


def muirbench(row: Row, file: Path) -> dict[str, Any]:
    """Options may be images, by the question's placeholder. Each question has a counterpart without an answer."""
    pair = {str(row["idx"]), str(row.get("counterpart_idx") or row["idx"])}
    return {
        "id": f"muirbench-{row['idx']}",
        "images": row["image_list"],
        "kind": "choice",
        **asked_with(row["question"], list(row["options"])),
        "answer": row["answer"],
        "metadata": {
            "family": row["task"],
            "cluster": "|".join(sorted(pair)),
        },
    }


def blink(row: Row, file: Path) -> dict[str, Any]:
    """`prompt` is what is asked: it explains the task, and holds what some questions lack. Its options are ours."""
    images = [row[name] for name in sorted(row) if re.fullmatch(r"image_\d+", name) and row[name] is not None]
    prompt = _without_options(row.get("prompt") or "")
    return {
        "id": row["idx"],
        "images": images,
        **asked_with(prompt or row["question"], list(row["choices"])),
        "answer": row["answer"].strip("()"),
        "metadata": {"family": row["sub_task"]},
    }


def mantis(row: Row, file: Path) -> dict[str, Any]:
    """A question with fewer placeholders than images begins with the images that it lacks, as the authors ask it."""
    is_choice = row["question_type"] == "multi-choice"
    lacking = len(row["images"]) - row["question"].count(PLACEHOLDER)
    question = f"{PLACEHOLDER * lacking} {row['question']}" if 0 < lacking < len(row["images"]) else row["question"]
    options = plain_options(list(row["options"])) if is_choice else []
    return {
        "id": f"mantis-{row['id']}",
        "images": row["images"],
        "kind": "choice" if is_choice else "text",
        **asked_with(question, options),
        "answer": row["answer"],
        "metadata": {"family": row.get("category") or row["question_type"]},
    }


_WORD, _SYMBOL, _NUMBER = "Answer with a single word.", "Answer with the option symbol.", "Answer with a single number."
_MIRB_ASKS = {
    **dict.fromkeys(("analogy", "attribute", "plot_code", "visual_chain", "sightseeing"), _WORD),
    **dict.fromkeys(("codeu", "food", "image_jigsaw"), _SYMBOL),
    "arxiv": "Answer with the paper title.",
    "count": _NUMBER,
    "3d_scene": f"The following images are different views of the same 3D scene. {_NUMBER}",
}
"""Texts that the authors' evaluation and lmms-eval put before a question, by subset."""


def mirb(row: Row, file: Path) -> dict[str, Any]:
    return {
        "id": f"mirb-{row['subset']}-{row['question_id']}",
        "images": row["image_list"],
        "question": f"{_MIRB_ASKS.get(row['subset'], '')} {row['questions']}".strip(),
        "kind": "choice" if row["answers"] in list("ABCDE") else None,
        "answer": row["answers"],
        "metadata": {"family": row["subset"]},
    }


def mmiu(row: Row, file: Path) -> dict[str, Any] | None:
    """None for a row without an answer, which the authors' evaluation leaves out."""
    if row["output"] is None:
        return None
    options = row["options"]
    lines = options if isinstance(options, list) else option_lines(options)
    context = _without_options(row.get("context") or "")
    return {
        "images": row["input_image_path"],
        **asked_with(f"{context}\n{row['question']}".strip(), plain_options(lines)),
        "answer": row["output"],
        "metadata": {"family": row["task"]},
    }


def nlvr2(row: Row, file: Path) -> dict[str, Any]:
    """As in TIGER-Lab/NLVR2, or in lmms-lab/NLVR2, whose question is the statement alone."""
    if "left_image" in row:
        return {
            "images": [row["left_image"], row["right_image"]],
            "question": f"Is this statement about the two images true or false? {row['question']}",
            "choices": ["True", "False"],
            "answer": str(row["answer"]),
        }
    return {
        "id": f"nlvr2-{row['id']}",
        "images": row["images"],
        **asked_with(row["question"], plain_options(list(row["options"]))),
        "answer": row["answer"],
    }


def _without_options(text: str) -> str:
    """A question up to the options that it lists itself."""
    return re.split(r"\s*Select (?:from|between) the following", text, maxsplit=1)[0].strip()


def mvbench(row: Row, file: Path) -> dict[str, Any]:
    """Frames are those in a folder of the video's name below the benchmark's, wherever it lies.

    Of a row with `start` and `end` it is `NAME_START_END`, with that part alone; frames that the benchmark itself has
    are three a second, and are cut.
    """
    part = (row["start"], row["end"]) if row.get("start") is not None and row.get("end") is not None else None
    return {
        "images": _frames(file.parent.parent, Path(row["video"]), part, file.stem),
        "question": row["question"],
        "choices": row["candidates"],
        "answer": ascii_uppercase[list(row["candidates"]).index(row["answer"])],
        "metadata": {"family": file.stem},
    }


FRAMES_A_SECOND = 3
"""Of the videos that MVBench has as frames (TVQA's)."""


_MVBENCH_SOURCES = {
    **dict.fromkeys(("action_sequence", "action_prediction", "object_interaction"), "star"),
    **dict.fromkeys(
        ("object_existence", "moving_direction", "moving_count", "moving_attribute", "counterfactual_inference"),
        "clevrer",
    ),
    **dict.fromkeys(("object_shuffle", "action_count", "state_change", "character_order"), "perception"),
}
"""Names of the video folders that several of MVBench's tasks share."""


def _frames(folder: Path, video: Path, part: tuple[float, float] | None = None, task: str = "") -> list[str]:
    """Files of `NUM_FRAMES` frames, evenly spaced over a video or a `part` of it, (start, end) in seconds.

    Of several folders that bear the video's name, the one is taken that lies where the `task` has its videos.

    Raises:
        ValueError: if the video's frames are not there, or in several folders.
    """
    is_film = video.suffix in (".mp4", ".avi", ".webm", ".mkv")
    name = str(video.with_suffix("") if is_film else video)
    own = f"{name}_{part[0]:g}_{part[1]:g}" if part else name
    names = [own] if is_film else list(dict.fromkeys((own, name)))
    found = next(
        (paths for one in names if (paths := [path for path in sorted(folder.glob(f"**/{one}")) if path.is_dir()])), []
    )
    if not found:
        seconds = f" from {part[0]:g} s to {part[1]:g} s" if part else ""
        raise ValueError(
            f"no folder of frames {own} below {folder}: extract the frames of {video}{seconds} there (ffmpeg)"
        )
    if len(found) > 1 and (source := _MVBENCH_SOURCES.get(task)):
        found = [path for path in found if source in str(path.relative_to(folder)).lower()] or found
    if len(found) > 1:
        raise ValueError(f"the frames of {video} may be {found[0]} or {found[1]}: leave one folder of this name")
    [frame_folder] = found
    frames = [path for path in frame_folder.iterdir() if path.suffix in (".jpg", ".jpeg", ".png")]
    frames.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)])
    if part and frame_folder.name == Path(name).name:
        first, end = (int(seconds * FRAMES_A_SECOND) for seconds in part)
        frames = frames[first : max(end, first + 1)]
    if not frames:
        raise ValueError(f"{frame_folder} holds no frames (.jpg, .png) of {video}")
    num_frames = min(NUM_FRAMES, len(frames))
    return [str(frames[int((index + 0.5) * len(frames) / num_frames)]) for index in range(num_frames)]


def mimic(row: Row, file: Path) -> dict[str, Any]:
    """The released files have one folder a task; the answer to a list is one text."""
    named = f"{file.parent.name} {file.stem} {row['task']}".lower()
    kind = next((kind for kind in ("counting", "listing", "common", "odd") if kind in named), None)
    if kind is None:
        raise ValueError(f"{named!r} names none of MIMIC's tasks, counting, listing, common and oddone")
    truth = row["gt"]
    if kind == "listing" and isinstance(truth, str):
        truth = truth.split(", ")
    return {
        "id": f"mimic-{kind}-{file.stem}-{row['idx'] if row.get('idx') is not None else row['id']}",
        "images": row["images"],
        "question": row["question"],
        "kind": {"counting": "number", "listing": "list"}.get(kind, "text"),
        "answer": truth,
        "metadata": {"family": kind, "subfamily": row["task"]},
    }
