"""Each public benchmark is read from files in its own layout."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset, Sequence
from datasets import Image as ImageFeature
from PIL import Image

from evaluation.arguments import EvaluationArguments
from evaluation.benchmarks import BENCHMARKS, load_benchmark
from evaluation.playing import evaluate
from evaluation.scoring import verdicts
from evaluation.summary import summarize, table
from fovea.answers import score
from fovea.data.columns import TaskError
from fovea.images import open_image
from fovea.placeholders import MARK
from fovea.runs.records import read_samples

CHOICES = ["red", "blue", "NA", "None"]


def picture(colour="red", form="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (90, 60), colour).save(buffer, format=form)
    return buffer.getvalue()


def save_parquet(rows, path, **images):
    """Rows with their image columns in the form that the hub's viewer stores."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = Dataset.from_list(rows)
    for name, feature in images.items():
        data = data.cast_column(name, feature)
    data.to_parquet(str(path))


def stored(colour="red"):
    return {"bytes": picture(colour), "path": None}


def write_vstar(folder):
    (folder / "direct_attributes").mkdir(parents=True)
    (folder / "direct_attributes" / "a.jpg").write_bytes(picture(form="JPEG"))
    notes = {"target_object": ["cup"], "bbox": [[10, 20, 30, 40]], "question": "?", "options": ["red", "blue"]}
    (folder / "direct_attributes" / "a.json").write_text(json.dumps(notes))
    text = (
        "What colour is the cup? \n(A) red \n(B) blue\nAnswer with the option's letter from the given choices directly."
    )
    row = {
        "image": "direct_attributes/a.jpg",
        "text": text,
        "category": "direct_attributes",
        "label": "A",
        "question_id": 7,
    }
    (folder / "test_questions.jsonl").write_text(json.dumps(row) + "\n")


def write_hr_bench(folder, name="hr_bench_4k"):
    header = ["index", "question", "answer", "category", *"ABCD", "cycle_category", "image"]
    first = [0, "Which?", "A", "single", *CHOICES, 0, base64.b64encode(picture()).decode()]
    second = [1, "Which?", "B", "cross", "7", "8", "9", "", 0, "0"]
    lines = ["\t".join(str(value) for value in row) for row in (header, first, second)]
    (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")


def write_mme(folder):
    options = [f"({letter}) {text}" for letter, text in zip("ABCDE", [*CHOICES, "unsure"], strict=True)]
    row = {
        "index": 3,
        "question": "Which?",
        "multi-choice options": options,
        "answer": "E",
        "category": "Perception/Remote Sensing",
        "l2-category": "color",
        "bytes": base64.b64encode(picture()).decode(),
    }
    save_parquet([row], folder / "data" / "train-00000-of-00001.parquet")


def write_muirbench(folder):
    row = {
        "idx": 0,
        "task": "Counting",
        "image_relation": "n",
        "image_type": "s",
        "question": "<image> or <image>?",
        "options": CHOICES,
        "answer": "D",
        "image_list": [stored(), stored("blue")],
    }
    save_parquet([row], folder / "data" / "test-00000.parquet", image_list=Sequence(ImageFeature()))


def write_blink(folder):
    row = {
        "idx": "val_Counting_1",
        "sub_task": "Counting",
        "question": "How many?",
        "image_1": stored(),
        "image_2": stored("blue"),
        "image_3": None,
        "image_4": None,
        "choices": CHOICES,
        "answer": "(C)",
        "prompt": "p",
    }
    save_parquet(
        [row], folder / "Counting" / "val-00000.parquet", **{f"image_{n}": ImageFeature() for n in (1, 2, 3, 4)}
    )
    hidden = {**row, "answer": "hidden", "idx": "test_Counting_1"}
    save_parquet(
        [hidden], folder / "Counting" / "test-00000.parquet", **{f"image_{n}": ImageFeature() for n in (1, 2, 3, 4)}
    )


def write_nlvr2(folder):
    row = {
        "id": "dev-1",
        "question": "Both?",
        "images": [stored(), stored()],
        "options": ["(A) True", "(B) False"],
        "answer": "B",
    }
    save_parquet([row], folder / "test.parquet", images=Sequence(ImageFeature()))


def write_mantis(folder):
    choice = {
        "id": "1",
        "question_type": "multi-choice",
        "question": "<image> Which?",
        "answer": "B",
        "options": ["(A) red", "(B) blue"],
        "images": [stored()],
    }
    short = {**choice, "id": "2", "question_type": "short-answer", "answer": "two cats", "options": []}
    save_parquet([choice, short], folder / "mantis_eval" / "test-0.parquet", images=Sequence(ImageFeature()))


def write_mirb(folder):
    rows = [
        {"question_id": n, "subset": subset, "questions": "What?", "answers": answer, "image_list": [stored()]}
        for n, (subset, answer) in enumerate([("food", "B"), ("count", "7")])
    ]
    save_parquet(rows, folder / "data" / "test.parquet", image_list=Sequence(ImageFeature()))


def write_mmiu(folder):
    (folder / "Low-level").mkdir(parents=True)
    (folder / "Low-level" / "a.jpg").write_bytes(picture(form="JPEG"))
    row = {
        "task": "jigsaw",
        "question": "Which?",
        "context": "Two parts.",
        "options": "A: red\nB: blue\n",
        "output": "B",
        "input_image_path": ["./Low-level/a.jpg"],
    }
    save_parquet([row], folder / "all.parquet")


def write_mvbench(folder):
    frames = folder / "video" / "clevrer" / "v1"
    frames.mkdir(parents=True)
    for number in range(20):
        Image.new("RGB", (30, 30), (number, 0, 0)).save(frames / f"{number:04d}.png")
    (folder / "json").mkdir()
    row = {"video": "v1.mp4", "question": "What moves?", "candidates": CHOICES, "answer": "blue"}
    (folder / "json" / "moving_count.json").write_text(json.dumps([row]))


def write_mimic(folder):
    """A folder a task; a list is one text."""
    truths = {"counting": 3, "common": "dog", "listing": "cat, dog", "oddone": "hot dog"}
    for task, truth in truths.items():
        number = {"idx": 7} if task == "counting" else {"id": 7}
        row = {"images": [stored(), stored()], "question": "What?", "gt": truth, "task": f"{task}_2", **number}
        save_parquet([row], folder / task / "test-00000-of-00001.parquet", images=Sequence(ImageFeature()))


LAYOUTS = {
    "vstar": (write_vstar, 1, "A", "direct_attributes", 1), "hr_bench_4k": (write_hr_bench, 2, "A", "single", 1),
    "mme_realworld_lite": (write_mme, 1, "E", "Perception/Remote Sensing", 1), "muirbench": (write_muirbench, 1, "D", "Counting", 2),
    "blink": (write_blink, 1, "C", "Counting", 2), "nlvr2": (write_nlvr2, 1, "B", "no family", 2),
    "mantis": (write_mantis, 2, "B", "multi-choice", 1), "mirb": (write_mirb, 2, "B", "food", 1),
    "mmiu": (write_mmiu, 1, "B", "jigsaw", 1), "mvbench": (write_mvbench, 1, "B", "moving_count", 8),
    "mimic": (write_mimic, 4, "dog", "common", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_benchmark_is_read_in_its_public_layout(tmp_path, name):
    write, count, answer, family, num_images = LAYOUTS[name]
    write(tmp_path)
    tasks = load_benchmark(name, tmp_path)
    first = tasks[0]
    assert (len(tasks), first.answer, first.family, len(first.images)) == (count, answer, family, num_images)
    assert len({task.id for task in tasks}) == count
    assert all(open_image(image).width in (30, 90) for task in tasks for image in task.images)
    assert "<image>" not in first.question and first.choices[:2] in ((), ("red", "blue"), ("True", "False"))


def test_options_of_muirbench_may_be_images(tmp_path):
    write_muirbench(tmp_path)
    [path] = tmp_path.glob("data/*.parquet")
    row = Dataset.from_parquet(str(path))[0] | {
        "question": "Which is like <image>?", "options": ["<image>", "<image>", "neither"], "answer": "B",
        "image_list": [stored(), stored("blue"), stored()],
    }  # fmt: skip
    save_parquet([row], path, image_list=Sequence(ImageFeature()))
    [task] = load_benchmark("muirbench", tmp_path)
    assert task.question.count(MARK) == len(task.images) == 3 and "(C) neither" in task.question
    assert score(task, "(B)") == 1 and score(task, "A") == 0


def test_options_that_read_like_missing_values_stay_and_a_row_may_name_anothers_image(tmp_path):
    write_hr_bench(tmp_path)
    first, second = load_benchmark("hr_bench_4k", tmp_path)
    assert first.choices == tuple(CHOICES) and second.choices == ("7", "8", "9")
    assert open_image(second.images[0]).tobytes() == open_image(first.images[0]).tobytes()


def test_vstar_has_the_boxes_of_its_targets(tmp_path):
    write_vstar(tmp_path)
    [target] = load_benchmark("vstar", tmp_path)[0].boxes
    width, height = open_image(load_benchmark("vstar", tmp_path)[0].images[0]).size
    assert target.box.coordinates == pytest.approx((10 / width, 20 / height, 40 / width, 60 / height))


def test_frames_of_a_video_are_evenly_spaced(tmp_path):
    write_mvbench(tmp_path)
    images = load_benchmark("mvbench", tmp_path)[0].images
    assert [open_image(image).getpixel((0, 0))[0] for image in images] == [1, 3, 6, 8, 11, 13, 16, 18]


def test_what_is_not_there_or_not_in_the_layout_is_named(tmp_path):
    with pytest.raises(ValueError, match="unknown: use one of vstar"):
        load_benchmark("vstarr", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none of test_questions.jsonl"):
        load_benchmark("vstar", tmp_path)
    (tmp_path / "test_questions.jsonl").write_text('{"text": "?"}\n')
    with pytest.raises(TaskError, match="row 0 of vstar: not in the layout"):
        load_benchmark("vstar", tmp_path)
    write_mvbench(tmp_path)
    (tmp_path / "video" / "clevrer" / "v1").rename(tmp_path / "video" / "elsewhere")
    with pytest.raises(TaskError, match="extract the frames"):
        load_benchmark("mvbench", tmp_path)


def test_an_evaluation_reports_every_rule_and_where_they_differ(tiny, tmp_path, episode_arguments):
    write_hr_bench(tmp_path)
    arguments = EvaluationArguments(
        output_dir=str(tmp_path / "out"), benchmark="hr_bench_4k", dataset_name=str(tmp_path), prompt="direct"
    )
    summary = evaluate(tiny, arguments.load_tasks(), arguments, episode_arguments)
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert summary.rules.keys() == {"strict", "vlmevalkit", "lmms-eval"} == rows[0]["scores"].keys()
    differing = (tmp_path / "out" / "disagreements.jsonl").read_text().splitlines()
    assert len(differing) == sum(len(set(row["scores"].values())) > 1 for row in rows)


def test_mimic_is_scored_by_task_and_its_mean_is_that_of_the_tasks(tiny, tmp_path, episode_arguments):
    write_mimic(tmp_path)
    arguments = EvaluationArguments(
        output_dir=str(tmp_path / "out"), benchmark="mimic", dataset_name=str(tmp_path), prompt="direct"
    )
    tasks = arguments.load_tasks()
    assert [task.family for task in tasks] == ["common", "counting", "listing", "odd"]
    assert [task.answer for task in tasks] == ["dog", 3, ["cat", "dog"], "hot dog"]
    evaluate(tiny, tasks, arguments, episode_arguments)
    samples = read_samples(tmp_path / "out")
    said = {"common": "a hot dog", "counting": "three", "listing": "cat, dog", "odd": "cat and dog"}
    turned = [
        replace(sample, answer=said[sample.family], scores=verdicts(task, said[sample.family]))
        for sample, task in zip(samples, tasks, strict=True)
    ]
    summary = summarize(turned)
    by_task = {family: part.rules["mimic"] for family, part in summary.families.items()}
    assert by_task == {"common": 1, "counting": 1, "listing": 0.5, "odd": 0} and summary.rules["mimic"] == 2.5 / 4
    corrected = {family: part.rules["mimic-corrected"] for family, part in summary.families.items()}
    assert corrected == {"common": 0, "counting": 1, "listing": 1, "odd": 0}
    assert "| listing, by mimic | 1 | 0.500 |" in table(summary)


def test_every_benchmark_has_its_layout_tested():
    assert {name.removesuffix("_lite").replace("8k", "4k") for name in BENCHMARKS} == {
        name.removesuffix("_lite") for name in LAYOUTS
    }


def test_options_of_mmiu_may_go_over_several_lines(tmp_path):
    write_mmiu(tmp_path)
    [path] = tmp_path.rglob("*.parquet")
    row = Dataset.from_parquet(str(path))[0] | {"options": "A: one\nmore of it\nB: two\nC: three\n"}
    save_parquet([row], path)
    [task] = load_benchmark("mmiu", tmp_path)
    assert task.choices == ("one\nmore of it", "two", "three") and task.answer == "B"


def rewritten(folder, **changes):
    """Changes the one row of the one Parquet file below a folder."""
    [path] = folder.rglob("*.parquet")
    save_parquet([Dataset.from_parquet(str(path))[0] | changes], path)


@pytest.mark.parametrize(
    ("options", "answer", "right", "wrong"),
    [
        ("A:The fourth image\nB:The third\nC:The first", "B", "B", "(C)"),
        ("A: [0, 1]\nB: [1, 0]\nC: [0, 1]\nD: [2, 1]", "D", "(D)", "A"),
        ("A: B\nB: A\nC: C", "A", "A", "B"),
        ("A: one\nC: an odd line of it\nB: two", "B", "B. two", "A"),
    ],
)
def test_options_of_mmiu_as_they_are_released(tmp_path, options, answer, right, wrong):
    """Letters without a blank behind them, equal options, options that are letters."""
    write_mmiu(tmp_path)
    rewritten(tmp_path, options=options, output=answer)
    [task] = load_benchmark("mmiu", tmp_path)
    assert score(task, right) == 1 and score(task, wrong) == 0
    assert verdicts(task, right)["vlmevalkit"] == 1 and verdicts(task, wrong)["vlmevalkit"] == 0


def test_rows_without_an_answer_are_left_out_and_counted(tmp_path, capsys):
    write_mmiu(tmp_path)
    [path] = tmp_path.rglob("*.parquet")
    row = Dataset.from_parquet(str(path))[0]
    save_parquet([row, row | {"output": None}, row], path)
    assert len(load_benchmark("mmiu", tmp_path)) == 2
    assert "1 rows of mmiu have no answer" in capsys.readouterr().err


def test_options_that_a_context_lists_are_not_asked_twice(tmp_path):
    write_mmiu(tmp_path)
    rewritten(tmp_path, context="Two parts.\nSelect from the following choices.\nA: red\nB: blue\n")
    [task] = load_benchmark("mmiu", tmp_path)
    assert task.prompt == "Two parts.\nWhich?\n(A) red\n(B) blue"


def test_blink_is_asked_by_its_prompt_without_the_options(tmp_path):
    write_blink(tmp_path)
    assert load_benchmark("blink", tmp_path)[0].question == "p"
    for path in tmp_path.rglob("*.parquet"):
        row = Dataset.from_parquet(str(path))[0]
        prompt = (
            'If we use both for the action: "Scrape", which?\nSelect from the following choices.\n(A) red\n(B) blue'
        )
        save_parquet([row | {"prompt": prompt}], path, **{f"image_{n}": ImageFeature() for n in (1, 2, 3, 4)})
    assert load_benchmark("blink", tmp_path)[0].question == 'If we use both for the action: "Scrape", which?'


def test_nlvr2_of_another_collection(tmp_path):
    row = {"question": "Both are red.", "answer": "True", "left_image": stored(), "right_image": stored("blue")}
    save_parquet(
        [row],
        tmp_path / "data" / "balanced_test_public-0.parquet",
        left_image=ImageFeature(),
        right_image=ImageFeature(),
    )
    [task] = load_benchmark("nlvr2", tmp_path)
    assert (
        len(task.images) == 2
        and task.question.endswith("Both are red.")
        and score(task, "A") == score(task, "true") == 1
    )


def test_vstar_of_another_collection(tmp_path):
    row = {"text": "Which?\n(A) red\n(B) blue", "label": "A", "category": "c", "question_id": 1, "image": stored()}
    save_parquet([row], tmp_path / "data" / "test-0.parquet", image=ImageFeature())
    [task] = load_benchmark("vstar", tmp_path)
    assert (task.choices, task.answer, task.boxes) == (("red", "blue"), "A", ())


def test_mirb_says_what_an_answer_is(tmp_path):
    write_mirb(tmp_path)
    assert [task.question for task in load_benchmark("mirb", tmp_path)] == [
        "Answer with the option symbol. What?", "Answer with a single number. What?",
    ]  # fmt: skip


def test_mantis_may_lack_placeholders(tmp_path):
    write_mantis(tmp_path)
    [path] = tmp_path.rglob("*.parquet")
    row = Dataset.from_parquet(str(path))[0] | {"images": [stored(), stored("blue")], "question": "Is <image> it?"}
    save_parquet([row], path, images=Sequence(ImageFeature()))
    [task] = load_benchmark("mantis", tmp_path)
    assert task.question == f"{MARK} Is {MARK} it?"


@pytest.mark.parametrize("reply", ["E", "(E)", "E. None of the choices provided"])
def test_options_that_are_images_are_scored_by_all_their_letters(tmp_path, reply):
    write_muirbench(tmp_path)
    [path] = tmp_path.glob("data/*.parquet")
    options = ["<image>", "<image>", "<image>", "<image>", "None of the choices provided"]
    row = Dataset.from_parquet(str(path))[0] | {
        "question": "Which is like <image>?", "options": options, "answer": "E", "image_list": [stored()] * 5,
    }  # fmt: skip
    save_parquet([row], path, image_list=Sequence(ImageFeature()))
    [task] = load_benchmark("muirbench", tmp_path)
    assert verdicts(task, reply)["vlmevalkit"] == 1


def write_parts(folder, names, **row):
    write_mvbench(folder)
    for name in names:
        (folder / "video" / name).mkdir(parents=True)
        for number in range(60):
            Image.new("RGB", (30, 30), (number, 0, 0)).save(folder / "video" / name / f"{number:05d}.jpg", quality=100)
    [path] = folder.rglob("moving_count.json")
    [known] = json.loads(path.read_text())
    path.write_text(json.dumps([known | row]))


def first_levels(folder):
    [task] = load_benchmark("mvbench", folder)
    return [int(Path(image).stem) for image in task.images]


def test_frames_of_a_part_of_a_video(tmp_path):
    """Of the frames that the benchmark has, three a second; of a film, what was extracted for the row."""
    write_parts(tmp_path, ["tvqa/show_1"], video="show_1", start=5.0, end=10.0)
    assert min(first_levels(tmp_path)) >= 15 and max(first_levels(tmp_path)) < 30


def test_a_part_of_a_film_needs_frames_of_its_own(tmp_path):
    write_parts(tmp_path, ["star/v9"], video="v9.mp4", start=5.5, end=10.0)
    with pytest.raises(TaskError, match=r"no folder of frames v9_5\.5_10 below"):
        load_benchmark("mvbench", tmp_path)
    (tmp_path / "video" / "star" / "v9").rename(tmp_path / "video" / "star" / "v9_5.5_10")
    assert max(first_levels(tmp_path)) > 50


def test_two_folders_of_one_name_are_not_guessed_between(tmp_path):
    write_parts(tmp_path, ["star/v9", "sta/v9"], video="v9.mp4")
    with pytest.raises(TaskError, match="leave one folder of this name"):
        load_benchmark("mvbench", tmp_path)


def test_rotations_of_a_question_are_one_cluster(tmp_path):
    write_hr_bench(tmp_path)
    [path] = tmp_path.glob("*.tsv")
    head, first, second = path.read_text().splitlines()
    turned = first.split("\t")
    turned[0], turned[4:8], turned[8] = "2", [*turned[5:8], turned[4]], "1"
    path.write_text("\n".join([head, first, second, "\t".join(turned)]) + "\n")
    clusters = [task.metadata["cluster"] for task in load_benchmark("hr_bench_4k", tmp_path)]
    assert clusters[0] == clusters[2] != clusters[1]
