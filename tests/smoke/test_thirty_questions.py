"""Thirty questions on pictures of a user's own, of all kinds, through every command, from three kinds of file.

Photographs taken sideways, 14 megapixels, two and three images, none, evidence in pixels, boxes as answers.
"""

import io
import json
import sys

import datasets
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw

from fovea.jsonl import read_jsonl
from tests.smoke.test_commands import run

pytestmark = pytest.mark.slow
REWARDS = ("accuracy", "format", "zoom_coverage", "zoom_iou", "zoom_cost")


def photograph(folder, number, *, size=(900, 600), orientation=1) -> tuple[str, list[int]]:
    """A picture with a white card on it; its file name, and the card's box in pixels of the upright image."""
    pixels = np.random.default_rng(number).integers(60, 200, size=(6, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    x, y, side = size[0] // 3, size[1] // 2, size[0] // 8
    box = [x, y, x + side, y + side]
    ImageDraw.Draw(image).rectangle(box, fill="white", outline="black")
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = image.transpose(back[orientation]) if orientation in back else image
    stored.save(folder / f"{number}.jpg", exif=exif, quality=85)
    return f"{number}.jpg", box


def questions(folder) -> list[dict]:
    rows = []
    for number in range(30):
        size = (4600, 3100) if number in (4, 17) else (900, 600)
        name, box = photograph(folder, number, size=size, orientation=(1, 3, 6, 8)[number % 4])
        row = {"id": f"q{number}", "images": [name], "boxes": [box], "kind": None, "choices": None}
        kind = number % 10
        if kind == 0:
            row |= {"question": "How many cards are there?", "answer": number + 1}
        elif kind == 1:
            row |= {"question": "Is there a card?", "answer": True}
        elif kind == 2:
            row |= {"question": "What lies there?", "answer": ["a card", "card", "white card"], "kind": "text"}
        elif kind == 3:
            row |= {"question": "Which colours has it?", "answer": ["white", "black and grey"]}
        elif kind == 4:
            row |= {"question": "Which colour?", "answer": "B", "choices": ["red", "white", "blue"]}
        elif kind == 5:
            row |= {"question": "Where is the card?", "answer": box, "boxes": []}
        elif kind == 6:
            other, second = photograph(folder, 100 + number)
            row |= {"question": "First: <image> second: <image> Which shows a card?", "answer": "both"}
            row |= {"images": [name, other], "boxes": [box, {"bbox_2d": second, "img_idx": 1}]}
        elif kind == 7:
            others = [photograph(folder, 200 + 2 * number + more)[0] for more in (0, 1)]
            row |= {"question": "How many pictures?", "answer": "three", "images": [name, *others], "kind": "number"}
        elif kind == 8:
            row |= {
                "question": "What is a half of x?",
                "answer": r"\frac{x}{2}",
                "kind": "math",
                "images": [],
                "boxes": [],
            }
        else:
            row |= {"question": "Name all cards.", "answer": [box, [0, 0, box[0], box[1]]], "boxes": []}
        rows.append(row)
    return rows


def write_three_forms(folder) -> dict[str, tuple[str, ...]]:
    """The options by which each form of the same questions is named."""
    rows = questions(folder)
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = []
    for row in rows:
        images = [{"bytes": (folder / name).read_bytes(), "path": None} for name in row["images"]]
        texts.append(row | {"images": images, "answer": json.dumps(row["answer"]), "boxes": json.dumps(row["boxes"])})
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("id", "question", "answer", "boxes", "kind")}
        | {"images": [datasets.Image()], "choices": [datasets.Value("string")]}
    )
    data = datasets.Dataset.from_list(texts, features=features)
    data.to_parquet(str(folder / "tasks.parquet"))
    data.save_to_disk(str(folder / "saved"))
    declared = ("--json_columns", "answer", "boxes")
    return {
        "jsonl": ("--dataset_name", str(folder / "tasks.jsonl")),
        "parquet": ("--dataset_name", str(folder / "tasks.parquet"), *declared),
        "saved": ("--dataset_name", str(folder / "saved"), *declared),
    }


def test_thirty_questions_of_all_kinds_from_three_kinds_of_file(tmp_path):
    forms = write_three_forms(tmp_path)
    traces, sft, rl = (str(tmp_path / name) for name in ("traces", "sft", "rl"))
    paid = ("--reward_funcs", *REWARDS, "--reward_weights", *"11111")
    base = ("tiny_grpo.yaml", "--model_name_or_path", "tiny", "--max_episode_tokens", "1024")
    for named in forms.values():
        examined = run("fovea", "doctor", *base, *named, *paid)
        assert "FAIL" not in examined and "zoom_coverage pays" in examined
    assert "dropped" not in run("fovea", "traces", *forms["jsonl"], "--output_dir", traces, "--max_turns", "4")
    run("fovea", "doctor", "tiny_sft.yaml", "--dataset_name", traces)
    run(sys.executable, "sft/train_sft.py", "--dataset_name", traces, "--output_dir", sft, "--max_steps", "20",
        "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")  # fmt: skip
    run(sys.executable, "rl/train_grpo.py", "--model_name_or_path", sft, *forms["parquet"], "--output_dir", rl,
        *paid, "--max_steps", "2", "--num_generations", "2",
        "--per_device_train_batch_size", "16", "--max_episode_tokens", "1024")  # fmt: skip
    scores = {}
    for form, named in forms.items():
        output = tmp_path / f"evaluation_{form}"
        run("fovea", "eval", sft, *named, "--output_dir", str(output), "--max_tokens_per_turn", "48",
            "--crop_min_pixels", "4096", "--crop_max_pixels", "5120")  # fmt: skip
        scores[form] = [(row["id"], row["answer"], row["score"]) for row in read_jsonl(output / "samples.jsonl")]
    assert len(scores["jsonl"]) == 30
    assert scores["jsonl"] == scores["parquet"] == scores["saved"]
    run("fovea", "rescore", rl, *paid)
    run("fovea", "report", rl, str(tmp_path / "evaluation_jsonl"), "--output", str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_an_orientation_is_read_as_the_picture_is_shown(tmp_path):
    from fovea.images import image_size, open_image

    for number, orientation in enumerate((1, 3, 6, 8)):
        name, box = photograph(tmp_path, number, orientation=orientation)
        image = open_image(tmp_path / name)
        assert image.size == image_size(tmp_path / name) == (900, 600)
        crop = np.asarray(image.crop([box[0] + 4, box[1] + 4, box[2] - 4, box[3] - 4]))
        assert crop.min() > 200, "the card is where its box says"
        assert Image.open(io.BytesIO((tmp_path / name).read_bytes())).size == (
            (600, 900) if orientation > 3 else (900, 600)
        )
