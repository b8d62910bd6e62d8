"""Items from OpenImages' files against a count over their rows, made without the code that draws them."""

import csv
import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fovea.config import ConfigError
from fovea.data.task_files import load_tasks
from synthesis.mimic.coco import AnnotationError
from synthesis.mimic.openimages import OpenImagesArguments, main, run

NAMES = {"/m/0": "Animal", "/m/1": "Dog", "/m/2": "Cat", "/m/3": "Vehicle", "/m/4": "Car", "/m/5": "Wheel",
         "/m/6": "Person", "/m/7": "Man", "/m/8": "Toy"}  # fmt: skip
TREE = {"LabelName": "/m/root", "Subcategory": [
    {"LabelName": "/m/0", "Subcategory": [{"LabelName": "/m/1"}, {"LabelName": "/m/2"}]},
    {"LabelName": "/m/3", "Subcategory": [{"LabelName": "/m/4", "Part": [{"LabelName": "/m/5"}]}]},
    {"LabelName": "/m/6", "Subcategory": [{"LabelName": "/m/7"}]}, {"LabelName": "/m/8"}, {"LabelName": "/m/5"},
    {"LabelName": "/m/8", "Subcategory": [{"LabelName": "/m/4"}]},
]}  # fmt: skip
PARENTS = {"/m/1": ["/m/0"], "/m/2": ["/m/0"], "/m/4": ["/m/3", "/m/8"], "/m/7": ["/m/6"]}
HEAD = "ImageID Source LabelName Confidence XMin XMax YMin YMax IsOccluded IsTruncated IsGroupOf IsDepiction IsInside"
MIN_AREA = 0.05


def released(folder, *, num_images=400, seed=0, heading=True):
    """Files in the released layout: groups, depictions, insides, unknown flags, small boxes, and human labels."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    boxes, labels = [], []
    for _ in range(num_images):
        image = f"{rng.integers(2**63):016x}"
        shown = rng.choice(list(NAMES), size=rng.integers(1, 4), replace=False)
        for label in shown:
            for _ in range(int(rng.choice([1, 1, 2, 3]))):
                sides = rng.uniform(0.23, 0.6, size=2) if rng.random() > 0.08 else rng.uniform(0.02, 0.2, size=2)
                corner = rng.uniform(0, 1 - sides)
                flags = [int(flag) for flag in rng.choice([0, 1, -1], p=[0.97, 0.02, 0.01], size=3)]
                place = [corner[0], corner[0] + sides[0], corner[1], corner[1] + sides[1]]
                boxes.append([image, "xclick", label, 1, *(f"{value:.6f}" for value in place), 0, 0, *flags])
        for label in NAMES:
            if label in shown:
                labels.append([image, "verification", label, int(rng.random() > 0.02)])
            elif rng.random() < 0.5:
                labels.append([image, "verification", label, int(rng.random() < 0.05)])
    write(folder / "boxes.csv", [HEAD.split(), *boxes])
    write(folder / "classes.csv", [["LabelName", "DisplayName"]] * heading + [list(pair) for pair in NAMES.items()])
    write(folder / "labels.csv", [["ImageID", "Source", "LabelName", "Confidence"], *labels])
    (folder / "hierarchy.json").write_text(json.dumps(TREE))
    files = {name: str(folder / f"{name}.csv") for name in ("boxes", "classes", "labels")}
    return OpenImagesArguments(
        output_dir=str(folder / "out"), hierarchy=str(folder / "hierarchy.json"), **files, num_tasks=60, seed=3
    )


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def read(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def tasks_of(folder):
    """The tasks, once the pictures that they need are there."""
    (folder / "images").mkdir(exist_ok=True)
    for line in (folder / "needed.txt").read_text().split():
        Image.new("RGB", (64, 64)).save(folder / "images" / f"{line.removeprefix('train/')}.jpg")
    return load_tasks(folder)


class Counted:
    """Counts of each picture in the files, by plain loops."""

    def __init__(self, arguments):
        self.certain, self.doubtful, self.absent = defaultdict(Counter), defaultdict(set), defaultdict(set)
        self.boxes = defaultdict(list)
        boxed = defaultdict(set)
        for row in read(arguments.boxes):
            image, label = row["ImageID"], row["LabelName"]
            boxed[image].add(label)
            area = (float(row["XMax"]) - float(row["XMin"])) * (float(row["YMax"]) - float(row["YMin"]))
            if not area >= MIN_AREA or any(row[flag] != "0" for flag in ("IsGroupOf", "IsDepiction", "IsInside")):
                self.doubt(image, label)
            else:
                self.boxes[image].append({NAMES[one] for one in self.up(label)})
                for one in self.up(label):
                    self.certain[image][NAMES[one]] += 1
            self.doubtful[image] |= {NAMES[one] for one in PARENTS if label in PARENTS[one]}  # an animal may be a dog
        for row in read(arguments.labels):
            image, label = row["ImageID"], row["LabelName"]
            if (row["Confidence"] == "1") != any(label in self.up(one) for one in boxed[image]):
                self.doubt(image, label)
            elif row["Confidence"] == "0":
                self.absent[image] |= {NAMES[one] for one in NAMES if label in self.up(one)}

    def up(self, label):
        return [label, *PARENTS.get(label, ())]

    def doubt(self, image, label):
        family = {*self.up(label), *(child for child in PARENTS if label in PARENTS[child])}
        self.doubtful[image] |= {NAMES[one] for one in family}

    def check(self, task):
        pictures, classes = task.metadata["pictures"], task.metadata["classes"]
        axes = task.metadata["axes"]
        above = {NAMES[child]: [NAMES[parent] for parent in parents] for child, parents in PARENTS.items()}
        assert len(set(pictures)) == len(pictures) <= 10
        sure = [self.certain[name] for name in pictures]
        may = [set(self.certain[name]) | self.doubtful[name] for name in pictures]
        if task.family in ("counting", "listing"):
            shows = [sum(bool(box & set(classes)) for box in self.boxes[name]) for name in pictures]
            assert not any(self.doubtful[name] & set(classes) for name in pictures)
            assert sum(map(bool, shows)) == axes["spread"] == len(pictures) - axes["distractors"]
            for name, count in zip(pictures, shows, strict=True):
                assert count or set(classes) <= self.absent[name]
            if task.family == "counting":
                assert sum(shows) == task.answer
                for name, one in zip(pictures, sure, strict=True):
                    assert {kind for kind in classes if not one[kind]} <= self.absent[name]
                return
            [category] = set(re.findall('category "([^"]+)"', task.question))
            members = {NAMES[one] for one in NAMES if category in {NAMES[up] for up in self.up(one)}}
            members -= {NAMES[parent] for parents in PARENTS.values() for parent in parents}
            assert set(task.answer) == set(classes)
            assert set.union(*may) & members == set(classes)
            return
        names = task.answer if isinstance(task.answer, list) else [task.answer]
        half = len(pictures) / 2
        for kind in NAMES.values():
            if task.family == "common":
                is_right = all(kind in one for one in may)
            else:
                is_right = 0 < sum(kind in one for one in may) < half
            assert is_right == (kind in names), (kind, names, may)
        assert set(names[1:]) <= set(above.get(names[0], ()))
        assert all(one[names[0]] for one in sure) or task.family == "odd"


@pytest.mark.parametrize(
    "axes",
    [
        {"sweep": "spread=0,1"}, {"sweep": "num_classes=0,1"}, {"sweep": "view_px=0,64"}, {"view_px": [0]},
        {"sweep": "distractors=2,20"}, {"sweep": "total=0,2"},
    ],
    ids=str,
)  # fmt: skip
def test_values_of_a_sweep_keep_the_bounds_of_their_axis(tmp_path, axes):
    with pytest.raises(ConfigError, match=r"values begin at|10 at most"):
        replace(released(tmp_path, num_images=5), **axes)


@pytest.mark.parametrize(("seed", "num_images", "num_tasks"), [
    (0, 400, 60), (1, 400, 60), pytest.param(2, 20_000, 1000, marks=pytest.mark.slow),
])  # fmt: skip
def test_each_answer_is_the_count_over_the_rows(tmp_path, seed, num_images, num_tasks):
    arguments = released(tmp_path, num_images=num_images, seed=seed, heading=bool(seed))
    arguments = replace(arguments, num_tasks=num_tasks)
    folder = run(arguments)
    counted, tasks = Counted(arguments), tasks_of(folder)
    for task in tasks:
        counted.check(task)
    kinds = Counter(task.family for task in tasks)
    assert set(kinds) == {"counting", "listing", "common", "odd"} and min(kinds.values()) > 20
    assert any(isinstance(task.answer, list) for task in tasks if task.family in ("common", "odd"))
    needed = (folder / "needed.txt").read_text().split()
    assert set(needed) == {f"train/{name}" for task in tasks for name in task.metadata["pictures"]}
    assert all(str(folder / "images") in image for image in tasks[0].images)


def test_without_labels_what_has_no_box_is_absent(tmp_path):
    folder = run(replace(released(tmp_path), labels=None, hierarchy=None))
    tasks = [task for task in tasks_of(folder) if task.family == "counting"]
    boxed = defaultdict(set)
    for row in read(tmp_path / "boxes.csv"):
        boxed[row["ImageID"]].add(NAMES[row["LabelName"]])
    for task in tasks:
        shows = [bool(boxed[name] & set(task.metadata["classes"])) for name in task.metadata["pictures"]]
        assert sum(shows) == task.metadata["axes"]["spread"]


@pytest.mark.parametrize(("name", "change", "error"), [
    ("boxes.csv", lambda text: text.replace("XMin", "Left"), "has no columns ImageID"),
    ("boxes.csv", lambda text: text.replace(",1,0.", ",1,x.", 1), "has no columns .*to float"),
    ("boxes.csv", lambda text: text.replace(",1,0.", ",1,nan,0.", 1).replace(",0,0,0", ",0,0", 1), "rows without XMin"),
    ("boxes.csv", lambda text: text.replace("/m/", "/n/"), "no box of a class"),
    ("boxes.csv", lambda text: HEAD.replace(" ", ",") + "\n", "no box of a class"),
    ("classes.csv", lambda text: text.replace("Cat", "Dog"), "names a label or a class twice"),
    ("classes.csv", lambda text: text.replace("Cat", "Cat,2"), "is not LabelName,DisplayName"),
    ("labels.csv", lambda text: text.replace("Confidence", "Sure"), "has no columns ImageID, LabelName, Confidence"),
    ("hierarchy.json", lambda text: text[:-3], "is no hierarchy"),
    ("hierarchy.json", lambda text: "[3]", "is no hierarchy"),
])  # fmt: skip
def test_files_in_another_layout_are_refused(tmp_path, name, change, error):
    arguments = released(tmp_path, num_images=30)
    path = tmp_path / name
    path.write_text(change(path.read_text()))
    with pytest.raises(AnnotationError, match=error):
        run(arguments)


def test_more_than_ten_images_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="make 12 images: the training data have 10 at most"):
        replace(released(tmp_path, num_images=5), spread=[2], distractors=[10])


@pytest.mark.parametrize("name", ["boxes.csv", "classes.csv", "labels.csv", "hierarchy.json"])
def test_a_file_that_is_not_there_is_named(tmp_path, monkeypatch, name):
    arguments = released(tmp_path, num_images=5)
    (tmp_path / name).unlink()
    files = {option: getattr(arguments, option) for option in ("boxes", "classes", "labels", "hierarchy", "output_dir")}
    words = [word for option, path in files.items() for word in (f"--{option}", path)]
    monkeypatch.setattr("sys.argv", ["fovea tasks openimages", *words])
    with pytest.raises(SystemExit, match=f"{name}.*name a file, or a folder, that is there"):
        main()
