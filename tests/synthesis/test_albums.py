"""Albums: every answer follows from the scenes, no constant answer and no position pays."""

import re
import sys
from collections import Counter

import numpy as np
import pytest

from fovea.data.task_files import load_tasks
from fovea.statistics import best_constant
from synthesis.shapes.albums import _MAKERS, ALBUM_FAMILIES, evenly_answered, main, make_albums
from synthesis.tiny.album_conversations import sample_album_conversation, sample_album_follow_up
from synthesis.tiny.encoding import Encoder
from synthesis.tiny.forms import in_some_form


def drawn(family, size, seed):
    return _MAKERS[family](np.random.default_rng([seed, size]), size)


def named(album, name):
    shapes = [(number, shape) for number, scene in enumerate(album.scenes) for shape in scene.shapes]
    return [(number, shape) for number, shape in shapes if shape.name == name]


def numbers_of(album, form):
    return [sum(shape.form == form for shape in scene.shapes) for scene in album.scenes]


@pytest.mark.parametrize("size", [3, 8, 24])
@pytest.mark.parametrize("family", ALBUM_FAMILIES)
def test_answers_and_foci_are_what_the_scenes_show(family, size):
    for seed in range(15):
        asked = drawn(family, size, seed)
        assert len(asked.album.scenes) == size and all(scene.shapes for scene in asked.album.scenes)
        names = re.findall(r"the (\w+ \w+)(?= and|,|\?| larger)", asked.question)
        places = [named(asked.album, name) for name in names if name not in ("digits on",)]
        foci = [step.images for step in asked.steps]
        if family in ("find", "read", "compare", "sum"):
            assert all(len(place) == 1 for place in places), asked.question
            flat = [place[0] for place in places]
            assert foci == [(number,) for number, _ in flat]
            digits = [shape.digit for _, shape in flat]
            values = {"find": flat[0][0], "read": digits[0], "sum": sum(digits)}
            values["compare"] = "yes" if digits[0] > digits[-1] else "no"
            expected = str(values[family])
            assert asked.answer == expected
            assert len({number for number, _ in flat}) == len(flat)
        else:
            form = re.search(r"(square|triangle|cross)", asked.question)[1]
            counts = numbers_of(asked.album, form)
            if family == "count":
                assert int(asked.answer) == sum(counts) and foci == [(n,) for n, count in enumerate(counts) if count]
                assert [int(step.answer) for step in asked.steps] == [count for count in counts if count]
            else:
                assert counts.count(0) == 1 and foci == [(counts.index(0),)] and int(asked.answer) == counts.index(0)


def test_no_constant_answer_and_no_position_pays():
    for size in (2, 4, 8):
        for family, most in (("find", 1 / size), ("odd", 1 / size), ("read", 0.1), ("compare", 0.5), ("count", 1 / 6)):
            asked = [drawn(family, size, seed) for seed in range(400)]
            worth = best_constant([(family, one.answer) for one in asked])
            assert worth < most + 0.08, (family, size, worth)
            if family in ("find", "odd", "read"):
                first = Counter(one.steps[0].images[0] for one in asked)
                assert len(first) == size and max(first.values()) < 400 * (1 / size + 0.08)


def test_tasks_name_their_images_and_where_to_look():
    tasks = make_albums(num_tasks=12, seed=3)
    assert [task.images for task in make_albums(num_tasks=2, seed=3)] == [task.images for task in tasks[:2]]
    for task in tasks:
        assert task.prompt.count("Image ") == len(task.images) == task.metadata["num_images"]
        assert len(task.boxes) == len(task.metadata["readings"])
        assert [target.img_idx for target in task.boxes] == [focus[0] for focus in task.metadata["foci"]][
            : len(task.boxes)
        ]


def test_the_command_writes_tasks_and_says_what_guessing_is_worth(tmp_path, monkeypatch, capsys):
    words = ["--output_dir", str(tmp_path), "--num_tasks", "4", "--num_images", "2", "3", "--families", "find", "sum"]
    monkeypatch.setattr(sys, "argv", ["fovea tasks albums", *words])
    main()
    assert "best constant answer" in capsys.readouterr().out
    assert {len(task.images) for task in load_tasks(tmp_path)} <= {2, 3}
    monkeypatch.setattr(sys, "argv", ["fovea tasks albums", *words[:4], "--num_images", "25"])
    with pytest.raises(SystemExit, match="2 to 24"):
        main()
    monkeypatch.setattr(sys, "argv", ["fovea tasks albums", *words])
    with pytest.raises(SystemExit, match=r"tasks.jsonl is there already: name another --output_dir"):
        main()


def test_the_base_is_shown_where_an_answer_lies_in_an_album(tiny):
    encoder = Encoder(tiny.processor)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        exchanges = (sample_album_conversation if seed % 2 else sample_album_follow_up)(rng)
        if seed % 3 == 0:
            exchanges = in_some_form(exchanges, rng)
        encoded = encoder.encode(exchanges)
        album = exchanges[0].album
        assert len(encoded.numbered) == len(album)
        text = encoder.tokenizer.decode(encoded.ids)
        assert all(f"Image {number}: <|vision_start|>" in text for number in range(len(album)))
        assert "tool_call" not in text and "img_idx" not in text
        spans = {number: range(first, last) for first, last, number in encoded.numbered}
        assert all(encoded.ids[token] == encoder.image_id for span in spans.values() for token in span)
        with_places = [exchange for exchange in exchanges if exchange.looks or exchange.target is not None]
        for exchange, look in zip(with_places, encoded.looks, strict=True):
            if exchange.looks:
                assert {n for n, span in spans.items() for t in look.tokens if t in span} == {
                    n for n, _ in exchange.looks
                }


def test_no_answer_pays_more_than_another_where_tasks_are_evenly_answered():
    tasks = make_albums(num_tasks=60, seed=5, families={"compare": 0.7, "find": 0.3})
    drop = next(task for task in tasks if task.answer == "yes")
    uneven = [task for task in tasks if task.answer != "yes"] + [drop]
    for given in (tasks, uneven, tasks[:1]):
        kept = evenly_answered(given)
        answers = Counter(str(task.answer) for task in kept if task.family == "compare")
        assert answers["yes"] == answers["no"]
        assert [task.id for task in kept if task.family == "find"] == [t.id for t in given if t.family == "find"]
        assert [task.id for task in given if task in kept] == [task.id for task in kept]
    assert sum(task.family == "compare" for task in evenly_answered(uneven)) == 2
