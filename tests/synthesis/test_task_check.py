"""`fovea data tasks`: what a file holds, and all that is wrong with it."""

import io
import json
import sys

import datasets
import pytest
from PIL import Image

from environments.trace_files import read_traces
from environments.traces import TraceError
from fovea.data.columns import TaskError
from fovea.data.task_files import load_tasks
from synthesis.checks import tasks as command
from synthesis.formats.reading import numbered_foreign_traces


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["fovea data tasks", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        command.main()
    return end.value.code, capsys.readouterr().out


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_are_counted_by_kind_and_every_bad_one_is_named(tmp_path, picture, monkeypatch, capsys):
    picture.save(tmp_path / "a.png")
    row = {"images": ["a.png"], "question": "How | many?"}
    path = write(
        tmp_path / "tasks.jsonl",
        row | {"answer": 7}, row | {"answer": 8, "boxes": [[0, 0, 64, 48]]}, row | {"answer": "a cup"},
        row | {"answer": 1, "kind": "cup"}, row | {"answer": True, "images": ["b.png"]},
        row | {"answer": 2, "bboxes": [[0, 0, 64, 48]]},
    )  # fmt: skip
    code, text = run(monkeypatch, capsys, path)
    assert code == 1 and "4 tasks, 2 problems" in text
    assert "| number | 3 | 1 | 0.333 | How \\| many? | 7 |" in text and "| text | 1 | 0 |" in text
    assert "row 3 of" in text and "kind 'cup' is unknown" in text and "row 4 of" in text
    assert "column 'bboxes'" in text
    assert run(monkeypatch, capsys, write(tmp_path / "good.jsonl", row | {"answer": 7}))[0] == 0
    shown = run(monkeypatch, capsys, path, "--max_problems", "1")[1]
    assert "row 4 of" not in shown and "and 1 more (--max_problems)" in shown
    answers = ["yes", 3, 2.5, ["a", "b"], [1, 2], True, "B", "$\\frac12$"]
    kinds = [*((answer, None) for answer in answers), (["hat", "cap"], "text"), ([[1, 2, 30, 40]], "box")]
    rows = [row | {"answer": answer} | ({"kind": kind} if kind else {}) for answer, kind in kinds]
    rows[6]["choices"] = ["a", "b"]
    code, text = run(monkeypatch, capsys, write(tmp_path / "kinds.jsonl", *rows))
    assert code == 0 and f"{len(rows)} tasks, 0 problems" in text, "an answer of each kind, several texts among them"
    measured = write(tmp_path / "measured.jsonl", row | {"answer": "12.5 kEUR"}, row | {"answer": "5 cups of tea"})
    assert "1 answers are a number with a unit, such as '12.5 kEUR'" in run(monkeypatch, capsys, measured)[1]


def halves():
    """Pictures cut in the middle, by format."""
    noise = Image.effect_noise((320, 240), 64).convert("RGB")
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        file = io.BytesIO()
        noise.save(file, kind)
        whole = file.getvalue()
        yield pytest.param(whole, whole[: len(whole) * 2 // 3], id=kind)


@pytest.mark.parametrize(("whole", "half"), halves())
@pytest.mark.parametrize("place", ["file", "parquet", "base64"])
def test_a_part_of_a_picture_is_refused_when_it_is_loaded(tmp_path, whole, half, place):
    import base64

    def load(content):
        (tmp_path / "a.img").write_bytes(content)
        row = {"images": ["a.img"], "question": "q?", "answer": 7}
        if place == "base64":
            row["images"] = [base64.b64encode(content).decode()]
        path = write(tmp_path / "tasks.jsonl", row)
        if place == "parquet":
            path = tmp_path / "tasks.parquet"
            datasets.Dataset.from_list([row | {"images": [{"bytes": content, "path": None}]}]).to_parquet(str(path))
        return load_tasks(path)

    assert load(whole)
    with pytest.raises(TaskError, match=r"row 0 .*whole PNG|row 0 .*neither a path nor"):
        load(half)


def test_the_end_of_a_thumbnail_is_no_end_of_a_picture(tmp_path):
    """A JPEG that was cut soon behind the thumbnail in its EXIF block, whose own end is near the file's."""
    noise, thumbnail, file = Image.effect_noise((320, 240), 64), io.BytesIO(), io.BytesIO()
    noise.resize((64, 48)).save(thumbnail, "JPEG")
    noise.save(file, "JPEG", exif=b"Exif\0\0" + thumbnail.getvalue())
    content = file.getvalue()
    part = content[: content.index(b"\xff\xd9") + 700]
    (tmp_path / "a.jpg").write_bytes(part)
    with pytest.raises(TaskError, match=r"row 0 .*whole PNG"):
        load_tasks(write(tmp_path / "tasks.jsonl", {"images": ["a.jpg"], "question": "q?", "answer": 7}))
    (tmp_path / "a.jpg").write_bytes(content)
    assert load_tasks(tmp_path / "tasks.jsonl")


def test_conversations_and_tasks_are_told_apart(tmp_path):
    path = write(tmp_path / "traces.jsonl", {"messages": [{"role": "user", "content": "?"}]})
    with pytest.raises(TaskError, match="a trace for SFT"):
        load_tasks(path)
    path = write(tmp_path / "traces.jsonl", {"question": "?", "answer": 7})
    with pytest.raises(TraceError, match="fovea data tasks"):
        list(read_traces(path))
    [(_, problem)] = numbered_foreign_traces(path)
    assert "fovea data tasks" in str(problem)


@pytest.mark.parametrize("name", ["tasks.csv", "tasks.tsv", "tasks.jsonl", "tasks.json"])
@pytest.mark.parametrize("row", ["Wie groß?,7", "How big?,groß"])
def test_latin_1_is_named_with_its_cure(tmp_path, name, row):
    path = tmp_path / name
    path.write_bytes(f"question,answer\n{row}\n".encode("latin-1"))
    with pytest.raises(TaskError, match="save it as UTF-8"):
        load_tasks(path)


def test_which_split_of_several_is_read_is_said(tmp_path, capsys):
    rows = datasets.Dataset.from_list([{"question": "q?", "answer": "7"}])
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(str(tmp_path / "both"))
    load_tasks(tmp_path / "both")
    assert "the splits train, test: train is read" in capsys.readouterr().out
    load_tasks(tmp_path / "both", split="test")
    assert "is read" not in capsys.readouterr().out
