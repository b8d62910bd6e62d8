"""The published rules give the published tools' verdicts, and the strict one those of a careful reader."""

import json
from pathlib import Path

import pytest
from PIL import Image

from evaluation.benchmarks import BENCHMARKS
from evaluation.scoring import verdicts
from fovea.data.task_files import to_tasks

RECORD = json.loads(Path(__file__).with_name("lmms_eval_verdicts.json").read_text())


def task_of(name, row, folder):
    """The task of a row whose images are a picture in `folder`."""
    picture = folder / "picture.png"
    Image.new("RGB", (64, 64)).save(picture)
    places = {"image": str(picture), "image_list": [str(picture)], "images": [str(picture)], "image_1": str(picture)}
    row = {**row, **{place: value for place, value in places.items() if place in row}}
    if name == "mvbench":
        frames = folder / "video" / "a"
        frames.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(frames / "0001.jpg")
    file = folder / "json" / "action_count.json"
    columns = BENCHMARKS[name].columns(row, file)
    columns["metadata"] = {"benchmark": name, **columns.get("metadata", {})}
    return to_tasks([columns], source=name, folder=folder)[0]


@pytest.mark.parametrize("name", RECORD["cases"])
def test_lmms_eval_rules_give_the_tools_own_verdicts(tmp_path, name):
    assert len(RECORD["replies"]) >= 300
    for case in RECORD["cases"][name]:
        task = task_of(name, case["row"], tmp_path)
        said = [verdicts(task, reply)["lmms-eval"] == 1 for reply in RECORD["replies"]]
        official = [verdict == "1" for verdict in case["verdicts"]]
        differ = [reply for reply, a, b in zip(RECORD["replies"], said, official, strict=True) if a != b]
        assert not differ and 0 < sum(official) < len(official)
