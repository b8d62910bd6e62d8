import base64
import datetime
import io
import json
import re
from dataclasses import replace
from decimal import Decimal

import datasets
import pytest
from PIL import ExifTags, Image, ImageColor

from environments.factories import environment_factory
from environments.trace_files import read_traces
from fovea.boxes import Box, Frame
from fovea.data.columns import TaskError, parse_columns
from fovea.data.sources import StoredImage
from fovea.data.task_files import load_tasks, save_tasks, to_tasks
from fovea.images import open_image
from fovea.tasks import AnswerKind, Target


@pytest.fixture
def folder(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    return tmp_path


def write(folder, *rows):
    path = folder / "data.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_jsonl_with_our_columns(folder):
    task = load_tasks(write(folder, {"images": ["a.png"], "question": "q?", "answer": "yes"}))[0]
    assert (task.question, task.answer, task.kind) == ("q?", "yes", AnswerKind.YES_NO)


def test_columns_of_other_names_and_nested_ones(folder):
    row = {"image": "a.png", "problem": "<image>q?", "reward_model": {"ground_truth": "12"}}
    columns = parse_columns(["question=problem", "answer=reward_model.ground_truth", "images=image"])
    task = load_tasks(write(folder, row), columns=columns)[0]
    assert (task.question, task.answer, task.kind) == ("q?", "12", AnswerKind.NUMBER)


@pytest.mark.parametrize("head", [",image,question,answer", "image, question ,answer "])
def test_heads_of_tables_as_pandas_and_people_write_them(folder, head):
    path = folder / "table.csv"
    path.write_text(f"{head}\n{'0,' * head.startswith(',')}a.png,q?,7\n")
    [task] = load_tasks(path)
    assert (task.question, task.answer, task.kind) == ("q?", "7", AnswerKind.NUMBER)


def test_options_in_columns_of_their_own(folder):
    """The files of VLMEvalKit."""
    path = folder / "table.tsv"
    path.write_text("index\tquestion\tA\tB\tC\tD\tanswer\timage\n0\tWhich?\tred\tblue\tgreen\t\tB\ta.png\n")
    [task] = load_tasks(path)
    assert (task.kind, task.choices, task.answer) == (AnswerKind.CHOICE, ("red", "blue", "green"), "B")


@pytest.mark.parametrize(("size", "reason"), [((4000, 20), "sides differ"), ((12_000, 9_000), "the bound is")])
def test_pictures_that_no_environment_shows_are_told_by_their_rows(folder, size, reason):
    Image.new("1", size).save(folder / "odd.png")
    rows = [{"image": name, "question": "q?", "answer": "7"} for name in ("a.png", "odd.png")]
    with pytest.raises(TaskError, match=f"row 1 .*odd.png.*{reason}"):
        load_tasks(write(folder, *rows))


@pytest.mark.parametrize(
    "box",
    [
        [64, 96, 320, 240],
        {"bbox_2d": [64, 96, 320, 240], "label": "cup"},
        {"coordinates": [100, 200, 500, 500], "frame": "per_mille", "img_idx": None},
        {"coordinates": [0.1, 0.2, 0.5, 0.5], "frame": "unit", "img_idx": 0},
    ],
)
def test_boxes_are_shares_of_their_image_from_loading_on(folder, box):
    """The picture has 640x480 pixels."""
    row = {"images": ["a.png"], "question": "q", "answer": "x", "boxes": [box]}
    assert load_tasks(write(folder, row))[0].boxes == (Target(Box(0.1, 0.2, 0.5, 0.5, Frame.UNIT), 0),)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pixels_are_those_of_the_upright_image_in_every_kind_of_file(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(tmp_path / "a.jpg", exif=exif)
    width, height = open_image(tmp_path / "a.jpg").size
    box = [0.25 * width, 0.25 * height, 0.5 * width, 0.5 * height]
    columns = {"question": ["q"], "answer": ["x"], "boxes": [[box]]}
    data = datasets.Dataset.from_dict(
        {"images": [[{"bytes": (tmp_path / "a.jpg").read_bytes(), "path": None}]], **columns}
    )
    data = data.cast_column("images", [datasets.Image()])
    data.to_parquet(str(tmp_path / "d.parquet"))
    data.save_to_disk(str(tmp_path / "saved"))
    path = write(tmp_path, {"images": ["a.jpg"], "question": "q", "answer": "x", "boxes": [box]})
    for place in (path, tmp_path / "d.parquet", tmp_path / "saved"):
        [target] = load_tasks(place)[0].boxes
        assert target.box.coordinates == pytest.approx((0.25, 0.25, 0.5, 0.5))


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ({"bbox": [1, 2, 3, 4]}, "no known form: write .* on image 0, or"),
        ({"bbox_2d": [1, 2, 3, 4], "image": 1}, "no known form"),
        ({"bbox_2d": [1, 2, 3, 4], "img_idx": 1}, "img_idx 1 .* the row has 1 images"),
        ({"bbox_2d": [1, 2, 3, 4], "img_idx": "0"}, "img_idx .* must be a whole number"),
        ({"bbox_2d": [1, 2, 3, 4], "frame": "input"}, "whose size no file knows"),
        ({"bbox_2d": [1, 2, 3, 4], "frame": "pixels"}, "frame 'pixels' .* is unknown"),
        ([1, 2, 3, "4"], "not four finite numbers"),
        ([600, 400, 700, 470], "lies outside image 0 of 640x480 pixels"),
    ],
)
def test_a_box_that_cannot_be_meant_is_refused_with_the_form_that_can(folder, box, reason):
    with pytest.raises(TaskError, match=f"row 0 of .*{reason}"):
        load_tasks(write(folder, {"images": ["a.png"], "question": "q", "answer": "x", "boxes": [box]}))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"images": ["missing.png"], "question": "q", "answer": "x"}, "does not exist"),
        ({"images": ["a.png"], "question": " ", "answer": "x"}, "question"),
        ({"images": ["a.png"], "question": "q"}, "answer is missing"),
        ({"images": ["a.png"], "question": "q", "answer": None}, "answer is empty: fill it in"),
        ({"images": ["a.png"], "question": "q", "answer": "x", "kind": "essay"}, "essay"),
        ({"images": ["a.png"], "question": "q", "answer": "x", "boxes": [[1, 2, 3]]}, "3 entries, not four"),
        ("{broken", "not JSON"),
    ],
)
def test_a_bad_row_is_named_with_number_and_reason(folder, row, reason, capsys):
    good = {"images": ["a.png"], "question": "q", "answer": "x"}
    path = write(folder, good, row)
    with pytest.raises(TaskError, match=f"row 1 of .*{reason}"):
        load_tasks(path)
    assert len(load_tasks(path, skip_bad_rows=True)) == 1
    assert "1 bad rows skipped" in capsys.readouterr().out


def test_a_column_that_is_not_there_is_named(folder):
    path = write(folder, {"images": ["a.png"], "question": "q", "answer": "x"})
    with pytest.raises(TaskError, match="problem"):
        load_tasks(path, columns={"question": "problem"})


def test_parquet_and_saved_datasets_with_embedded_images(folder, picture):
    data = datasets.Dataset.from_dict({"images": [[picture]], "question": ["q"], "answer": ["3"]})
    data.to_parquet(str(folder / "d.parquet"))
    data.save_to_disk(str(folder / "saved"))
    for place in (folder / "d.parquet", folder / "saved"):
        task = load_tasks(place)[0]
        assert task.kind is AnswerKind.NUMBER
        assert open_image(task.images[0]).tobytes() == picture.convert("RGB").tobytes()


@pytest.mark.parametrize("content", ["nested", "bytes"])
def test_images_stay_in_their_table_until_they_are_opened(folder, picture, content):
    file = io.BytesIO()
    picture.save(file, "PNG")
    rows = {"nested": [{"pictures": [picture]}, {"pictures": []}], "bytes": [file.getvalue(), None]}[content]
    data = datasets.Dataset.from_dict({"shown": rows, "question": ["q", "q"], "answer": ["3", "4"]})
    data.save_to_disk(str(folder / "saved"))
    column = {"nested": "shown.pictures", "bytes": "shown"}[content]
    first, second = load_tasks(folder / "saved", columns={"images": column})
    assert isinstance(first.images[0], StoredImage) and not second.images
    assert open_image(first.images[0]).size == picture.size
    save_tasks([first], folder / "out")
    assert open_image(load_tasks(folder / "out")[0].images[0]).size == picture.size


def test_saved_tasks_read_back_the_same(folder, make_task):
    task = make_task(boxes=(Target(Box(0, 0, 0.5, 0.5, Frame.UNIT)),), metadata={"family": "read"})
    save_tasks([task], folder / "out")
    back = load_tasks(folder / "out")[0]
    assert (back.id, back.answer, back.kind, back.boxes, back.family) == ("t", "7", task.kind, task.boxes, "read")


def test_ids_that_differ_in_signs_alone_keep_images_of_their_own(folder, make_task):
    names = {"a/b": "red", "a_b": "blue", "a:b": "green"}
    save_tasks([replace(make_task(), id=n, images=(Image.new("RGB", (32, 32), c),)) for n, c in names.items()], folder)
    colours = {task.id: open_image(task.images[0]).getpixel((0, 0)) for task in load_tasks(folder)}
    assert colours == {name: ImageColor.getrgb(colour) for name, colour in names.items()}


def test_unknown_column_names_are_refused():
    with pytest.raises(ValueError, match="Fovea's are"):
        parse_columns(["problem=question"])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"choices": ["red", "blue"], "answer": "violet"}, "'violet' is none of the choices"),
        ({"boxes": [[10, 20, 5, 8]]}, "is empty: it needs x1 below x2"),
        ({"boxes": [10, 20, 30]}, "no known form: write"),
    ],
)
def test_what_can_never_be_scored_or_shown_is_a_bad_row(tmp_path, fields, reason):
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": "red", **fields}) + "\n")
    with pytest.raises(TaskError, match=reason):
        load_tasks(path)


@pytest.mark.parametrize("name", ["none.jsonl", "none.parquet"])
def test_a_missing_file_says_what_can_be_given(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{name}: give a file"):
        load_tasks(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="give a JSONL file of traces"):
        next(read_traces(tmp_path / name))


def test_images_as_text_are_read_from_every_column_and_kind_of_file(folder, picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    for written in (text, f"data:image/png;base64,{text}"):
        row = {"shown": written, "question": "q", "answer": "x"}
        data = datasets.Dataset.from_list([row])
        data.to_parquet(str(folder / "d.parquet"))
        for place in (write(folder, row), folder / "d.parquet"):
            [image] = load_tasks(place, columns={"images": "shown"})[0].images
            assert open_image(image).size == picture.size


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("", "an empty text"),
        (".", "is a folder"),
        ("data:image/png,raw", "data URI without base64"),
        ("data:image/png;base64,AAAA", "neither a path nor an image"),
    ],
)
def test_what_is_no_image_is_refused_on_loading(folder, image, reason):
    with pytest.raises(TaskError, match=f"row 0 of .*{reason}"):
        load_tasks(write(folder, {"images": [image], "question": "q", "answer": "x"}))


def test_an_id_that_two_rows_share_is_refused(folder):
    rows = [{"id": "a", "question": "q", "answer": "x"}, {"id": "a", "question": "r", "answer": "y"}]
    with pytest.raises(TaskError, match=r"row 1 .*id 'a' is that of row 0 already"):
        load_tasks(write(folder, *rows))


@pytest.mark.parametrize(
    ("question", "kept"),
    [
        ("<image><image>Which?", "Which?"),
        ("Which? ", "Which?"),
        ("First: <image> second: <image>", "First: \ufffc second: \ufffc"),
        ("First: <image 1> second: <image_2>", "First: \ufffc second: \ufffc"),
        (r"What is \<image>?", "What is <image>?"),
        (r"What is \<image 1>?", "What is <image 1>?"),
    ],
)
def test_placeholders_keep_their_place(folder, question, kept, tiny, episode_arguments):
    task = load_tasks(write(folder, {"images": ["a.png", "a.png"], "question": question, "answer": "x"}))[0]
    assert task.question == kept
    environment = environment_factory(episode_arguments, tiny)()
    kinds = [block["type"] for block in environment.reset(**task.row())]
    assert kinds == (["text", "image"] * 2 if "\ufffc" in kept else ["image", "image", "text"])
    save_tasks([task], folder / "out")
    assert load_tasks(folder / "out")[0].question == kept


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"question": "<image> or <image>?"}, "2 <image> placeholders for 1 images"),
        ({"question": "See <image 2>"}, r"placeholders of images \[2\], and the row has 1"),
        ({"choices": ["<image>", "b"], "answer": "b"}, "choice '<image>' holds a placeholder"),
        ({"answer": "<image 1>"}, "answer '<image 1>' holds a placeholder"),
    ],
)
def test_placeholders_without_an_image_are_refused_with_the_escape(folder, fields, reason):
    with pytest.raises(TaskError, match=reason):
        load_tasks(write(folder, {"images": ["a.png"], "question": "q", "answer": "x", **fields}))


def test_escapes_are_taken_off_choices_and_answers_and_written_back(folder):
    row = {
        "images": ["a.png"],
        "question": "q",
        "answer": r"\<image>",
        "choices": [r"\<image>", r"\<image 2>"],
        "id": "a/b",
    }
    task = load_tasks(write(folder, row))[0]
    assert (task.answer, task.choices) == ("<image>", ("<image>", "<image 2>"))
    save_tasks([task], folder / "out")
    again = load_tasks(folder / "out")[0]
    assert (again.answer, again.choices, again.id) == (task.answer, task.choices, "a/b")


def test_a_file_whose_name_could_be_base64_is_a_file(folder, picture):
    name = "a" * 64
    picture.save(folder / name, "PNG")
    assert load_tasks(write(folder, {"images": [name], "question": "q", "answer": "x"}))[0].images == (
        str(folder / name),
    )


def test_of_several_splits_train_is_read_or_one_is_named(tmp_path):
    def saved(name, *splits):
        rows = {split: datasets.Dataset.from_list([{"question": split, "answer": "3"}]) for split in splits}
        datasets.DatasetDict(rows).save_to_disk(tmp_path / name)
        return tmp_path / name

    assert load_tasks(saved("both", "test", "train"))[0].question == "train"
    assert load_tasks(saved("one", "test"))[0].question == "test"
    assert load_tasks(tmp_path / "both", split="test")[0].question == "test"
    with pytest.raises(ValueError, match="has the splits test, dev: name one with --dataset_split"):
        load_tasks(saved("none", "test", "dev"))
    with pytest.raises(ValueError, match="has the splits test: name one"):
        load_tasks(tmp_path / "one", split="train")


BROKEN_SOURCES = {
    "a.parquet": b"no parquet",
    "empty.parquet": b"",
    "quote.tsv": b'index\timage\n"1\t2\n3',
    "bytes.tsv": b"index\timage\n\xf7\xff\t2\n",
    "empty.tsv": b"",
    "folder/a.json": b"{",
    "saved/dataset_info.json": b"{}",
}


@pytest.mark.parametrize("name", BROKEN_SOURCES)
def test_a_source_that_cannot_be_read_is_named(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(BROKEN_SOURCES[name])
    source = tmp_path / name if "/" not in name else (tmp_path / name).parent
    with pytest.raises((TaskError, FileNotFoundError), match=re.escape(source.name)):
        load_tasks(source)


@pytest.mark.parametrize(
    "content",
    [b"hello", b"<html>404</html>", b"", b"%PDF-1.4", b"\x00" * 64, b"RIFF....WAVEfmt ", b"BMW 3"],
    ids=["text", "page", "empty", "pdf", "zeros", "sound", "word"],
)
@pytest.mark.parametrize("is_file", [True, False], ids=["file", "bytes"])
def test_a_file_that_is_no_image_is_a_bad_row(folder, content, is_file, capsys):
    if is_file:
        (folder / "b.png").write_bytes(content)
    rows = [{"images": ["a.png"], "question": "q?", "answer": "yes"}] * 2
    rows[1] = rows[1] | {"images": ["b.png" if is_file else {"bytes": content}]}
    with pytest.raises(TaskError, match=r"row 1 of s: .*image"):
        to_tasks(rows, source="s", folder=folder)
    assert len(to_tasks(rows, source="s", folder=folder, skip_bad_rows=True)) == 1
    assert "1 bad rows skipped" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "RGBA"])
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "webp", "tiff", "ppm", "ico", "jp2"])
def test_every_kind_of_image_is_let_in(tmp_path, mode, kind):
    picture = Image.new("RGB", (32, 32), "red").convert(mode)
    try:
        picture.save(tmp_path / f"a.{kind}")
    except (OSError, ValueError, KeyError):
        pytest.skip(f"Pillow writes no {kind} of mode {mode}")
    assert load_tasks(write(tmp_path, {"images": [f"a.{kind}"], "question": "q?", "answer": "yes"}))


@pytest.mark.parametrize("box", [[0.1, 0.2, 0.5, 0.5], [0, 0, 1, 1], {"bbox_2d": [0.3, 0.3, 0.4, 0.4]}])
@pytest.mark.parametrize("column", ["boxes", "answer"])
def test_shares_without_their_frame_are_refused_with_it(folder, box, column):
    row = {"images": ["a.png"], "question": "q", "answer": "x"} | {column: [box]}
    with pytest.raises(TaskError, match=r'within one pixel of image 0.*"frame": "unit"'):
        load_tasks(write(folder, row))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"img": "a.png"}, "if it holds images, say --columns images=img"),
        ({"imgs": ["a.png"]}, "if it holds images, say --columns images=imgs"),
        ({"Image": "a.png"}, "if it holds images, say --columns images=Image"),
        ({"image_paths": ["a.png"]}, "if it holds images, say --columns images=image_paths"),
        ({"image": "a.png", "bboxes": [[1, 2, 30, 40]]}, "if it holds boxes, say --columns boxes=bboxes"),
        ({"image": "a.png", "bbox": [[1, 2, 30, 40]]}, "if it holds boxes, say --columns boxes=bbox"),
        ({"image": "a.png", "options": ["x", "y"]}, "if it holds choices, say --columns choices=options"),
        ({"image": "a.png", "width": 640, "split": "train", "source": "coco", "category": "x"}, ""),
        ({"images": ["a.png"], "boxes": [[1, 2, 30, 40]], "bbox": None, "img": None}, ""),
    ],
)
def test_a_column_that_nobody_reads_is_told_where_its_name_is_near(folder, row, told, capsys):
    load_tasks(write(folder, {"question": "q", "answer": "x", **row}))
    said = capsys.readouterr().out
    assert told in said if told else not said


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_tables_are_read_with_their_own_sign(folder, sign):
    """A spreadsheet's file: a mark of the encoding, quotes, line breaks within."""
    head, row = (
        ["image", "question", "answer", "boxes"],
        ["a.png", f'"one{sign} two\n""three""?"', "7", '"[[1, 2, 30, 40]]"'],
    )
    path = folder / "table.csv"
    path.write_text(f"{sign.join(head)}\n{sign.join(row)}\n", encoding="utf-8-sig")
    [task] = load_tasks(path, json_columns=["boxes"])
    assert (task.question, task.kind, len(task.boxes)) == (f'one{sign} two\n"three"?', AnswerKind.NUMBER, 1)


@pytest.mark.parametrize("choice", [Decimal("1.5"), datetime.date(2026, 1, 2), True], ids=str)
def test_choices_may_be_whatever_a_table_holds(folder, choice):
    row = {"images": ["a.png"], "question": "q?", "choices": [choice, "blue"], "answer": "B"}
    assert to_tasks([row], source="x", folder=folder)[0].choices == (str(choice), "blue")


@pytest.mark.parametrize("choice", [{"label": "A", "text": "red"}, ["red"], None, float("nan")], ids=str)
def test_choices_are_texts_or_numbers(folder, choice):
    row = {"images": ["a.png"], "question": "q?", "choices": [choice, "blue"], "answer": "B"}
    with pytest.raises(TaskError, match="choice A is"):
        to_tasks([row], source="x", folder=folder)


@pytest.mark.parametrize("filling", [[None], [None, None], [float("nan")]], ids=str)
def test_tables_fill_up_choices_with_nothing(folder, filling):
    row = {"images": ["a.png"], "question": "q?", "choices": ["red", "blue", *filling], "answer": "B"}
    [task] = to_tasks([row], source="x", folder=folder)
    assert task.choices == ("red", "blue")


@pytest.mark.parametrize("image", [3, 2.5, False, [["a.png"]], {"a": 1}, [[[0, 0, 0]]]], ids=str)
def test_what_is_no_image_is_told_by_its_row(folder, image):
    with pytest.raises(TaskError, match="row 0 of x: an image is"):
        to_tasks([{"images": [image], "question": "q?", "answer": "7"}], source="x", folder=folder)


def test_missing_cells_of_pandas_are_missing(folder):
    nan = float("nan")
    row = {"image": nan, "question": "q?", "answer": "7", "choices": nan, "boxes": nan, "metadata": nan, "id": nan}
    [task] = to_tasks([row], source="x", folder=folder)
    assert (task.images, task.choices, task.boxes, task.id) == ((), (), (), "0")
    with pytest.raises(TaskError, match="answer is empty"):
        to_tasks([row | {"answer": nan}], source="x", folder=folder)


def test_classes_inside_of_columns_are_read_by_their_names(folder):
    names = datasets.ClassLabel(names=["cat", "dog"])
    inside = {"family": names, "seen": datasets.Sequence(names), "boxes": [{"kind": names}]}
    features = datasets.Features({"question": datasets.Value("string"), "answer": names, "metadata": inside})
    row = {"question": "?", "answer": 1, "metadata": {"family": 1, "seen": [0, 1], "boxes": [{"kind": 0}]}}
    datasets.Dataset.from_list([row], features=features).save_to_disk(folder / "saved")
    [task] = load_tasks(folder / "saved")
    assert task.metadata == {"family": "dog", "seen": ["cat", "dog"], "boxes": [{"kind": "cat"}]}


def test_classes_are_read_by_their_names(folder):
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": names, "tags": datasets.Sequence(names)}
    )
    rows = [
        {"question": "cat or dog?", "answer": 1, "tags": [0, 1]},
        {"question": "And here?", "answer": 0, "tags": []},
    ]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(folder / "saved")
    tasks = load_tasks(folder / "saved")
    assert [task.answer for task in tasks] == ["dog", "cat"] and tasks[0].columns["tags"] == ["cat", "dog"]


def test_a_renamed_column_may_be_left_out_of_rows_but_not_of_all(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    rows = [{"pic": "a.png", "query": f"Which of {number}?", "gold": "7"} for number in range(4)]
    rows[2] |= {"options": ["7", "8"], "evidence": [10, 20, 30, 40]}
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"images": "pic", "question": "query", "answer": "gold", "choices": "options", "boxes": "evidence"}
    tasks = load_tasks(path, columns=columns)
    assert [len(task.choices) for task in tasks] == [len(task.boxes) * 2 for task in tasks] == [0, 0, 2, 0]
    for options in ({}, {"skip_bad_rows": True}, {"problems": []}):
        with pytest.raises(
            TaskError, match=r"no column 'opts' for choices in the first rows: .*evidence, gold, options"
        ):
            load_tasks(path, columns={**columns, "choices": "opts"}, **options)
    with pytest.raises(
        TaskError, match="question is missing: name its column with --columns question=…, one of gold, pic"
    ):
        load_tasks(path)


@pytest.mark.parametrize("name", ["data/nothing", "./nothing", "a/b/c", "/nowhere/at/all"])
def test_a_path_that_leads_nowhere_is_not_looked_for_on_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(datasets, "load_dataset", lambda *words, **options: pytest.fail("the hub was asked"))
    with pytest.raises(FileNotFoundError, match=f"nothing is at {name}: name a file, a folder, or a hub id"):
        load_tasks(name)


def test_an_address_of_a_picture_is_not_taken_for_a_path(tmp_path):
    row = {"question": "Which?", "answer": "7", "images": ["https://example.com/a.png"]}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(TaskError, match="is an address, which is not fetched: download it"):
        load_tasks(tmp_path)
