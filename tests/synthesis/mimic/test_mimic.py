"""Items of MIMIC against a count over the annotations, made without the code that draws them."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fovea.config import ConfigError
from fovea.data.task_files import load_tasks
from synthesis.mimic.coco import AnnotationError, read_coco
from synthesis.mimic.command import MimicArguments, run

CATEGORIES = {1: ("person", "person"), 3: ("dog", "animal"), 4: ("cat", "animal"), 17: ("hot dog", "food"),
              62: ("cup", "kitchen"), 63: ("sheep", "animal"), 90: ("skis", "sports")}  # fmt: skip
MIN_AREA = 0.05


def annotated(folder, *, num_images=260, seed=0, everywhere=None):
    """A COCO file with gaps in its ids, crowds, small boxes, boxes over the edge and outside, and empty images."""
    rng = np.random.default_rng(seed)
    (folder / "pictures").mkdir(parents=True)
    images, annotations = [], []
    for number in range(num_images):
        width, height = (int(side) for side in rng.integers(40, 200, size=2))
        id, name = 7 + 3 * number, f"{number:012d}.png"
        images.append({"id": id, "file_name": name, "width": width, "height": height, "license": 1})
        Image.new("RGB", (width, height), (number % 256, 0, 0)).save(folder / "pictures" / name)
        kinds = [] if rng.random() < 0.1 else list(rng.choice(list(CATEGORIES), size=rng.integers(1, 4), replace=False))
        kinds = [everywhere, *kinds] if everywhere else kinds
        for kind in kinds:
            for _ in range(int(rng.choice([1, 1, 2, 3, 4]))):
                sides = rng.uniform(0.23, 0.7, size=2)
                corner = rng.uniform(-0.15, 0.9 - sides / 2)
                case = rng.random() if kind != everywhere else 1
                if case < 0.08:
                    sides = rng.uniform(0.01, 0.15, size=2)
                elif case < 0.1:
                    corner, sides = np.array([1.2, 0.5]), np.array([0.3, 0.3])
                box = [
                    float(corner[0] * width),
                    float(corner[1] * height),
                    float(sides[0] * width),
                    float(sides[1] * height),
                ]
                annotations.append(
                    {"id": len(annotations) * 2 + 11, "image_id": id, "category_id": int(kind), "bbox": box,
                     "iscrowd": int(0.1 < case < 0.13), "area": 1.0, "segmentation": [[0.0] * 8]}
                )  # fmt: skip
    annotations.append({"id": 1, "image_id": 5, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 0})
    categories = [{"id": id, "name": name, "supercategory": above} for id, (name, above) in CATEGORIES.items()]
    path = folder / "instances.json"
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": categories}))
    return MimicArguments(
        output_dir=str(folder / "out"), annotations=str(path), images=str(folder / "pictures"), seed=5
    )


class Counted:
    """Counts and possible classes of each picture in a file, by a plain loop."""

    def __init__(self, path, small="image"):
        data = json.loads(path.read_text())
        images = {image["id"]: image for image in data["images"]}
        self.certain = {image["file_name"]: Counter() for image in data["images"]}
        self.doubtful = defaultdict(set)
        for one in data["annotations"]:
            if (image := images.get(one["image_id"])) is None:
                continue
            name, kind = image["file_name"], CATEGORIES[one["category_id"]][0]
            x, y, width, height = one["bbox"]
            across = min(x + width, image["width"]) - max(x, 0)
            down = min(y + height, image["height"]) - max(y, 0)
            share = max(across, 0) * max(down, 0) / (image["width"] * image["height"])
            if one["iscrowd"] or share <= 0 or (share < MIN_AREA and small == "image"):
                self.doubtful[name].add(kind)
            elif share >= MIN_AREA:
                self.certain[name][kind] += 1

    def check(self, task):
        """Checks that an item is right, certain, and as its axes say."""
        made, axes = task.metadata, task.metadata["axes"]
        pictures, classes = made["pictures"], made["classes"]
        assert len(set(pictures)) == len(pictures) == len(task.images) == made["num_images"]
        assert all(re.search(rf"{name}$", image) for name, image in zip(pictures, task.images, strict=True))
        sure = [self.certain[name] for name in pictures]
        may = [set(self.certain[name]) | self.doubtful[name] for name in pictures]
        if task.family == "counting":
            assert not any(self.doubtful[name] & set(classes) for name in pictures)
            by_image = [sum(one[kind] for kind in classes) for one in sure]
            assert task.answer == sum(by_image) == axes["total"] and len(task.boxes) == task.answer
            assert all(any(one[kind] for one in sure) for kind in classes) and len(classes) == axes["num_classes"]
            assert sum(map(bool, by_image)) == axes["spread"] == len(pictures) - axes["distractors"]
            assert made["foci"] == [[number] for number, count in enumerate(by_image) if count]
            assert made["sub_answers"] == [str(count) for count in by_image if count]
        elif task.family == "listing":
            [category] = {above for name, above in CATEGORIES.values() if name in classes}
            mates = {name for name, above in CATEGORIES.values() if above == category}
            assert not any(self.doubtful[name] & mates for name in pictures)
            assert set(task.answer) == set(classes) == {kind for one in sure for kind in one if kind in mates}
            assert sum(bool(mates & set(one)) for one in sure) == axes["spread"] == len(pictures) - axes["distractors"]
        elif task.family == "common":
            [kind] = [name for name, _ in CATEGORIES.values() if all(name in one for one in may)]
            assert task.answer == kind and all(one[kind] for one in sure)
            assert not any(kind in self.doubtful[name] for name in pictures)
        else:
            half = len(pictures) / 2
            few = [name for name, _ in CATEGORIES.values() if 0 < sum(name in one for one in may) < half]
            assert few == [task.answer] and sum(bool(one[task.answer]) for one in sure) == axes["spread"]
            most = [name for name, _ in CATEGORIES.values() if sum(bool(one[name]) for one in sure) > half]
            assert len(most) == 1 and len(pictures) == axes["spread"] + axes["distractors"]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return annotated(tmp_path_factory.mktemp("coco"))


def drawn(arguments, **changes):
    return load_tasks(run(replace(arguments, **changes)))


@pytest.mark.parametrize("small", ["image", "box"])
@pytest.mark.parametrize("num_tasks", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_each_answer_is_the_count_over_the_annotations(arguments, tmp_path, small, num_tasks):
    tasks = drawn(arguments, output_dir=str(tmp_path), num_tasks=num_tasks, small=small)
    counted = Counted(Path(arguments.annotations), small)
    for task in tasks:
        counted.check(task)
    kinds = Counter(task.family for task in tasks)
    assert set(kinds) == {"counting", "listing", "common", "odd"} and min(kinds.values()) > 0.6 * num_tasks


def test_the_same_seed_writes_the_same_bytes_and_another_one_others(arguments, tmp_path):
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    for folder, seed in ((first, 5), (again, 5), (other, 6)):
        run(replace(arguments, output_dir=str(folder), num_tasks=20, seed=seed))
    assert (first / "tasks.jsonl").read_bytes() == (again / "tasks.jsonl").read_bytes()
    assert (first / "tasks.jsonl").read_bytes() != (other / "tasks.jsonl").read_bytes()
    manifest = json.loads((first / "manifest.json").read_text())
    assert manifest["items"]["odd"] == 20 and manifest["settings"]["seed"] == 5 and manifest["sources_sha256"]


def test_answers_are_even(arguments, tmp_path, capsys):
    tasks = drawn(
        arguments, output_dir=str(tmp_path), num_tasks=140, spread=[1, 2], distractors=[2, 3], total=[2, 3, 4]
    )
    for kind, most in (("counting", 1 / 3), ("common", 1 / 7), ("odd", 1 / 7)):
        answers = Counter(str(task.answer) for task in tasks if task.family == kind)
        assert answers.most_common(1)[0][1] <= 1.25 * most * answers.total()
    assert re.search(r"counting: 140 items, 3 answers; always '\d' is right in 0.33", capsys.readouterr().out)


@pytest.mark.parametrize(("sweep", "kinds"), [
    ("distractors=0,2,4,8,16,34", ["counting", "listing"]), ("distractors=3,5,8", ["odd"]),
    ("spread=1,2,3", ["counting", "listing"]), ("total=3,5", ["counting"]),
    ("num_classes=1,2", ["counting", "listing"]),
    ("view_px=64,128", ["counting", "listing", "common", "odd"]), ("spread=2,3,4", ["common"]),
])  # fmt: skip
def test_in_a_sweep_nothing_else_changes(arguments, tmp_path, sweep, kinds):
    tasks = drawn(arguments, output_dir=str(tmp_path), num_tasks=25, kinds=kinds, sweep=sweep, spread=[1, 2])
    axis, values = sweep.split("=")[0], [int(value) for value in sweep.split("=")[1].split(",")]
    counted, series = Counted(Path(arguments.annotations)), defaultdict(list)
    for task in tasks:
        counted.check(task)
        series[task.id.partition("@")[0]].append(task)
    assert len(series) >= 15 * len(kinds)
    for items in series.values():
        assert [item.metadata["axes"][axis] for item in items] == values
        assert [item.metadata["sweep"] for item in items] == [{"axis": axis, "value": value} for value in values]
        for one, next_one in pairwise(items):
            before, after = one.metadata["pictures"], next_one.metadata["pictures"]
            words = [item.question.rpartition("\n")[2] for item in (one, next_one)]
            still = {name for name in one.metadata["axes"] if name not in (axis, "distractors")}
            assert all(one.metadata["axes"][name] == next_one.metadata["axes"][name] for name in still)
            if axis == "num_classes":
                assert set(one.metadata["classes"]) < set(next_one.metadata["classes"])
            else:
                assert one.metadata["classes"] == next_one.metadata["classes"] and words[0] == words[1]
            if axis == "distractors":
                assert [name for name in after if name in before] == before and one.answer == next_one.answer
            if axis == "view_px":
                assert before == after and one.answer == next_one.answer
            if axis == "spread" and one.family != "common":
                assert len(before) == len(after)


def test_kinds_without_the_swept_axis_are_left_out_and_said(arguments, tmp_path, capsys):
    tasks = drawn(arguments, output_dir=str(tmp_path), num_tasks=4, sweep="distractors=2,3", spread=[1])
    assert {task.family for task in tasks} == {"counting", "listing", "odd"}
    assert "common: without the axis of --sweep distractors=2,3, left out" in capsys.readouterr().out


def test_where_nothing_can_be_drawn_no_tasks_are_left(arguments, tmp_path):
    with pytest.raises(ConfigError, match="no item could be drawn"):
        drawn(arguments, output_dir=str(tmp_path), num_tasks=2, kinds=["counting"], total=[90])
    assert not (tmp_path / "tasks.jsonl").exists()
    drawn(arguments, output_dir=str(tmp_path), num_tasks=2, kinds=["counting"])
    before = (tmp_path / "tasks.jsonl").read_text()
    with pytest.raises(ConfigError, match="no item could be drawn"):
        drawn(arguments, output_dir=str(tmp_path), num_tasks=2, kinds=["counting"], total=[90])
    assert (tmp_path / "tasks.jsonl").read_text() == before


def test_one_class_everywhere_is_the_only_common_one_and_never_odd(tmp_path):
    arguments = annotated(tmp_path, everywhere=1, seed=2)
    tasks = drawn(arguments, num_tasks=40, distractors=[0, 3])
    counted = Counted(Path(arguments.annotations))
    for task in tasks:
        counted.check(task)
        if task.family == "common":
            assert task.answer == "person"
        if task.family == "odd":
            assert task.answer != "person"
    assert {task.family for task in tasks} >= {"counting", "listing", "common"}


def broken(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(("change", "error"), [
    (lambda data: data.pop("images"), "has no images"),
    (lambda data: data["images"].append(data["images"][3]), "image 16 .* is there twice"),
    (lambda data: data["categories"].append({"id": 5, "name": "dog"}), r"category 5 \(dog\) is there twice"),
    (lambda data: data["images"][4].pop("width"), "entry 4 of images has no width"),
    (lambda data: data["images"][4].update(height=0), "image 19 is .*x0"),
    (lambda data: data["annotations"][2].update(bbox=[1, 2, 3]), r"annotation 15 has bbox \[1, 2, 3\]"),
    (lambda data: data["annotations"].append(data["annotations"][2]), "annotation 15 is there twice"),
    (lambda data: data["categories"][4].update(name="cup, mug"), "holds a separator"),
    (lambda data: data["annotations"][2].update(bbox=None), "entry 2 of annotations has no bbox"),
    (lambda data: data.update(annotations=["x"]), "entry 0 of annotations is 'x'"),
    (lambda data: data.update(annotations=[]), "show 0 classes"),
    (lambda data: [image.update(file_name="no" + image["file_name"]) for image in data["images"]], "30 are not in"),
])  # fmt: skip
def test_annotations_in_another_layout_are_refused_where_they_are(tmp_path, change, error):
    arguments = annotated(tmp_path, num_images=30)
    broken(Path(arguments.annotations), change)
    with pytest.raises((AnnotationError, ValueError), match=error):
        run(replace(arguments, num_tasks=2))


def test_a_torn_file_and_axes_that_make_nothing_are_refused(tmp_path):
    arguments = annotated(tmp_path, num_images=30)
    path = Path(arguments.annotations)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(AnnotationError, match="is no JSON"):
        run(arguments)
    for changes, error in (
        ({"kinds": ["odd"], "distractors": [1], "spread": [2]}, "--distractors, the majority, is more than"),
        ({"kinds": ["counting"], "total": [1], "spread": [2]}, "--total is at least"),
        ({"kinds": ["common"], "spread": [1]}, "--spread is 2 or more"),
    ):
        with pytest.raises(ConfigError, match=error):
            run(replace(arguments, **changes))
    for changes, error in (
        ({"kinds": ["odd one"]}, "use some of"), ({"sweep": "depth=1,2"}, "write AXIS=VALUE"),
        ({"sweep": "total=1"}, "write AXIS=VALUE"), ({"images": ""}, "belong"), ({"spread": [0]}, "begin at 1"),
        ({"min_area": 2.0}, "from 0"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=error):
            replace(arguments, **changes)


def test_without_a_file_scenes_are_drawn_and_their_truth_is_counted(tmp_path):
    folder = run(MimicArguments(output_dir=str(tmp_path), num_scenes=300, num_tasks=12))
    tasks = load_tasks(folder)
    assert len(tasks) >= 44 and all(Path(image).exists() for task in tasks for image in task.images)
    counting = next(task for task in tasks if task.family == "counting")
    assert len(counting.boxes) == counting.answer and Path(counting.images[0]).parent.name == "pool"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_square", [False, True])
def test_pictures_that_exif_turns_are_left_out_where_their_boxes_may_not_be_turned(
    tmp_path, capsys, orientation, is_square
):
    arguments = annotated(tmp_path, num_images=120)
    path = Path(arguments.annotations)
    data = json.loads(path.read_text())
    exif = Image.Exif()
    exif[274] = orientation
    before, after = data["images"][3], data["images"][8]
    for one, stored in ((before, (90, 90 if is_square else 60)), (after, (90, 90 if is_square else 60))):
        Image.new("RGB", stored, (0, one["id"], 9)).save(tmp_path / "pictures" / one["file_name"], exif=exif)
        one.update(width=stored[0], height=stored[1])
    if orientation > 4:
        after.update(width=after["height"], height=after["width"])  # annotated as it is shown
    path.write_text(json.dumps(data))
    pool = read_coco(path, tmp_path / "pictures", min_area=0.05, small="image")
    is_kept = [one["file_name"] in pool.names for one in (before, after)]
    assert is_kept == [orientation == 1, orientation == 1 or (orientation > 4 and not is_square)]
    assert ("turned by their EXIF" in capsys.readouterr().out) == (False in is_kept)


def test_pictures_that_cannot_be_opened_or_are_there_twice_are_left_out_aloud(tmp_path, capsys):
    arguments = annotated(tmp_path, num_images=60)
    first, second, third, *_ = sorted((tmp_path / "pictures").iterdir())
    first.write_bytes(b"")
    third.write_bytes(second.read_bytes())
    pool = read_coco(Path(arguments.annotations), tmp_path / "pictures", min_area=0.05, small="image")
    assert {first.name, third.name}.isdisjoint(pool.names) and len(pool.names) == 58
    said = capsys.readouterr().out
    assert f"1 images cannot be opened: left out (the first: {first.name})" in said
    assert f"1 images are another one's bytes once more: left out (the first: {third.name})" in said


def test_lists_are_asked_of_categories_that_have_a_name_and_several_classes(arguments, tmp_path, capsys):
    tasks = drawn(arguments, output_dir=str(tmp_path / "out"), num_tasks=30, kinds=["listing"])
    assert {re.search('category "([^"]+)"', task.question)[1] for task in tasks} == {"animal"}
    path = tmp_path / "none.json"
    for names in (["none"] * 7, [""] * 7, list("abcdefg")):
        data = json.loads(Path(arguments.annotations).read_text())
        for one, name in zip(data["categories"], names, strict=True):
            one["supercategory"] = name
        path.write_text(json.dumps(data))
        tasks = drawn(arguments, annotations=str(path), output_dir=str(tmp_path / "out"), num_tasks=3)
        assert {task.family for task in tasks} == {"counting", "common", "odd"}
        assert "listing: no category has two classes that can be shown, left out" in capsys.readouterr().out


@pytest.mark.parametrize("total", [[1, 2, 3, 4, 5, 6, 7], [2, 3, 4]])
def test_a_class_does_not_tell_the_total(arguments, tmp_path, total):
    tasks = drawn(arguments, output_dir=str(tmp_path), num_tasks=140, kinds=["counting"], total=total, spread=[1])
    totals = defaultdict(set)
    for task in tasks:
        totals[task.metadata["classes"][0]].add(task.answer)
    assert len(totals) == 7 and min(map(len, totals.values())) > 1
