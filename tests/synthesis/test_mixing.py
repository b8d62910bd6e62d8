"""Mixtures: shares, duplicates, held-out pictures, and benchmark pictures that stay out."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from environments.trace_files import read_traces
from fovea.config import ConfigError
from fovea.data.task_files import load_tasks, save_tasks
from fovea.images import open_image
from synthesis.duplicates import HashTable, alike, perceptual_hash
from synthesis.mixing import main, mix


def photo(seed, size=(160, 120)):
    """A picture like no other: coarse noise."""
    noise = np.random.default_rng(seed).integers(0, 256, size=(12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def tasks(folder, seeds, *, question="What is it?", suffix=".png"):
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number, seed in enumerate(seeds):
        photo(seed).save(folder / f"pictures/{number}{suffix}")
        rows.append(
            {
                "id": f"{folder.name}-{number}",
                "images": [f"pictures/{number}{suffix}"],
                "question": question,
                "answer": str(seed),
            }
        )
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def traces(folder, seeds, said="It is here."):
    tasks(folder, seeds)
    rows = []
    for line in (folder / "tasks.jsonl").read_text().splitlines():
        row = json.loads(line)
        messages = [
            {"role": "user", "content": f"<image>{row['question']}"},
            {"role": "assistant", "content": f"<think>{said}</think><answer>{row['answer']}</answer>"},
        ]
        rows.append({"messages": messages, "images": row["images"], "id": row["id"]})
    (folder / "tasks.jsonl").unlink()
    (folder / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def answers(folder):
    return sorted(int(task.answer) for task in load_tasks(folder))


def test_weights_are_shares_and_no_row_comes_twice(tmp_path):
    a, b = tasks(tmp_path / "a", range(12)), tasks(tmp_path / "b", range(100, 104))
    table = mix([a, b], tmp_path / "out", weights=[2, 1], seed=3)
    found = answers(tmp_path / "out")
    assert len(found) == len(set(found)) == 12 and found[8:] == [100, 101, 102, 103]
    assert "| 8 | 0 | 4 | 0 |" in table
    mix([a, b], tmp_path / "all")
    assert answers(tmp_path / "all") == [*range(12), *range(100, 104)]
    order = [line for line in (tmp_path / "out/tasks.jsonl").read_text().splitlines()]
    mix([a, b], tmp_path / "again", weights=[2, 1], seed=3)
    assert [line for line in (tmp_path / "again/tasks.jsonl").read_text().splitlines()] == order


def test_the_same_of_the_same_picture_is_a_duplicate_however_it_is_encoded(tmp_path):
    a, b = tasks(tmp_path / "a", [1, 2, 3]), tasks(tmp_path / "b", [2, 3, 4], suffix=".bmp")
    table = mix([a, b], tmp_path / "out")
    assert answers(tmp_path / "out") == [1, 2, 3, 4] and "2 duplicates" in table
    other = tasks(tmp_path / "c", [1], question="Where is it?")
    mix([a, other], tmp_path / "two")
    assert answers(tmp_path / "two") == [1, 1, 2, 3]
    mix([a, other], tmp_path / "one", per_image=1)
    assert answers(tmp_path / "one") == [1, 2, 3]


def test_a_picture_counts_in_every_row_that_shows_it(tmp_path):
    folder = tmp_path / "several"
    folder.mkdir()
    for number in range(4):
        photo(number).save(folder / f"{number}.png")
    pairs = [(0, 1), (1, 2), (2, 3), (3, 0)]
    rows = [
        {"images": [f"{a}.png", f"{b}.png"], "question": "Which?", "answer": place}
        for place, (a, b) in enumerate(pairs)
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mix([str(folder)], tmp_path / "out", per_image=1)
    assert answers(tmp_path / "out") == [0, 2]


def test_two_ways_to_the_same_answer_are_two_traces(tmp_path):
    a, b, c = traces(tmp_path / "a", [1, 2]), traces(tmp_path / "b", [2]), traces(tmp_path / "c", [2], said="I looked.")
    mix([a, b, c], tmp_path / "out")
    assert len(list(read_traces(tmp_path / "out"))) == 3


def test_pictures_of_a_benchmark_stay_out_when_they_were_resized_and_compressed(tmp_path):
    bench = tmp_path / "bench"
    (bench / "pictures").mkdir(parents=True)
    photo(2, (640, 480)).resize((233, 171)).save(bench / "pictures/0.jpg", quality=60)
    (bench / "tasks.jsonl").write_text(
        json.dumps({"image": "pictures/0.jpg", "question": "Else?", "answer": "x"}) + "\n"
    )
    table = mix([tasks(tmp_path / "a", [1, 2, 3])], tmp_path / "out", forbidden=[str(bench)])
    assert answers(tmp_path / "out") == [1, 3] and "1 pictures of --against" in table


def test_held_out_pictures_are_in_no_row_that_is_trained_on(tmp_path):
    seeds = [number // 3 for number in range(120)]
    source = tmp_path / "a"
    tasks(source, seeds)
    rows = [json.loads(line) for line in (source / "tasks.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["question"] = f"Question {number}?"
    rows.append(
        {**rows[0], "id": "both", "question": "Compare?", "images": [row["images"][0] for row in rows[::3]][:40]}
    )
    (source / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = mix([str(source)], tmp_path / "out", held_out=0.3)
    kept, held_out = answers(tmp_path / "out"), answers(tmp_path / "out/held_out")
    assert len(kept) + len(held_out) == 120 and not set(kept) & set(held_out)
    assert 4 <= len(set(held_out)) <= 22
    assert "1 pictures of both sides" in table


@pytest.mark.parametrize(
    "words, message",
    [
        (["a", "b", "--weights", "1"], "--weights [1.0] for 2 sources"),
        (["a", "t"], "mix traces alone, and tasks alone"),
        (["a", "gone"], "no traces.jsonl or tasks.jsonl at gone"),
        (["a", "--held_out", "1"], "--held_out 1.0 is a share"),
        (["a", "broken"], "line 1: not JSON"),
        (["a", "--against", "a"], "nothing is left to mix"),
        (["a", "foreign"], "line 1: it is no row of traces or tasks"),
    ],
)
def test_what_cannot_be_mixed_is_said(tmp_path, monkeypatch, words, message):
    tasks(tmp_path / "a", [1]), tasks(tmp_path / "b", [2]), traces(tmp_path / "t", [3])
    for name, line in (("broken", "{"), ("foreign", '{"conversations": []}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "traces.jsonl").write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fovea data mix", *words, "--output_dir", "out"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert message in str(exit_.value)


def test_a_picture_that_cannot_be_opened_is_counted(tmp_path):
    source = tasks(tmp_path / "a", [1, 2])
    (tmp_path / "a/pictures/0.png").write_bytes(b"nothing")
    assert "1 pictures that cannot be opened" in mix([source], tmp_path / "out")


def test_looks_are_kept_by_size_and_compression_and_told_apart():
    table = HashTable()
    for seed in range(200):
        table.add(perceptual_hash(photo(seed)), seed)
    for seed in range(0, 200, 10):
        file = io.BytesIO()
        photo(seed).resize((100, 81)).save(file, "JPEG", quality=70)
        assert list(table.owners_of(perceptual_hash(Image.open(file)))) == [seed]
    assert len(alike(perceptual_hash(photo(500)), np.stack([perceptual_hash(photo(seed)) for seed in range(50)]))) == 0


def test_pictures_that_change_slowly_are_on_one_side(tmp_path):
    """Each frame of a film looks like the next one, and the last not at all like the first."""
    first, last = (np.asarray(photo(seed), dtype=float) for seed in (1, 2))
    source = tmp_path / "film"
    (source / "pictures").mkdir(parents=True)
    rows = []
    for number in range(41):
        mixed = first + (last - first) * number / 40
        Image.fromarray(mixed.astype(np.uint8)).save(source / f"pictures/{number}.png")
        row = {"image": f"pictures/{number}.png", "question": f"Question {number}?", "answer": str(number)}
        rows.append(json.dumps({"id": str(number), **row}) + "\n")
    (source / "tasks.jsonl").write_text("".join(rows))
    photo(3).save(source / "other.png")
    with (source / "tasks.jsonl").open("a") as file:  # what is no part of the film may be on any side
        file.write(json.dumps({"id": "other", "image": "other.png", "question": "Else?", "answer": "99"}) + "\n")
    film, num_mixed = set(range(41)), 0
    for seed in range(8):
        mixed = tmp_path / f"out-{seed}"
        try:
            mix([str(source)], mixed, held_out=0.5, seed=seed)
        except ValueError as error:
            assert "| 0 | 42 |" in str(error)
            continue
        num_mixed += 1
        assert (film & set(answers(mixed)), film & set(answers(mixed / "held_out"))) in ((film, set()), (set(), film))
    assert num_mixed >= 3


def test_a_picture_in_the_column_image_is_kept_and_kept_out(tmp_path):
    source = tmp_path / "a"
    tasks(source, [1, 2])
    rows = [json.loads(line) for line in (source / "tasks.jsonl").read_text().splitlines()]
    for row, change in zip(
        rows, (lambda images: {"image": images[0]}, lambda images: {"images": images[0]}), strict=True
    ):
        row |= change(row.pop("images"))
    (source / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mix([str(source)], tmp_path / "out")
    assert [len(task.images) for task in load_tasks(tmp_path / "out")] == [1, 1]
    with pytest.raises(ValueError, match="2 pictures of --against"):
        mix([str(source)], tmp_path / "none", forbidden=[str(source)])


def test_weights_leave_what_is_held_out_alone(tmp_path):
    a, b = tasks(tmp_path / "a", range(40)), tasks(tmp_path / "b", range(100, 103))
    mix([a, b], tmp_path / "out", weights=[3, 1], held_out=0.2, seed=1)
    held_out = answers(tmp_path / "out/held_out")
    assert len(held_out) >= 4 and not set(held_out) & set(answers(tmp_path / "out"))


def test_ids_are_told_apart_in_mixtures_of_mixtures(tmp_path):
    names = []
    for number in range(3):
        source = tmp_path / f"s{number}"
        names.append(tasks(source, [10 * number + 1, 10 * number + 2]))
        text = (source / "tasks.jsonl").read_text()
        (source / "tasks.jsonl").write_text(text.replace(f"s{number}-", ""))
    mix(names[:2], tmp_path / "two")
    mix([str(tmp_path / "two"), names[2], tasks(tmp_path / "other", [50])], tmp_path / "three")
    assert len({task.id for task in load_tasks(tmp_path / "three")}) == 7


def test_linked_pictures_arrive_and_the_sources_stay_what_they_are(tmp_path):
    source = tmp_path / "a"
    tasks(source, [1, 2])
    (source / "pictures/0.png").rename(tmp_path / "blob")
    (source / "pictures/0.png").symlink_to("../../blob")
    mix([str(source)], tmp_path / "out")
    before = (tmp_path / "blob").read_bytes()
    assert [open_image(task.images[0]).size for task in load_tasks(tmp_path / "out")] == [(160, 120)] * 2
    save_tasks([replace(task, images=(photo(9, (30, 20)),)) for task in load_tasks(tmp_path / "out")], tmp_path / "out")
    assert (tmp_path / "blob").read_bytes() == before


def test_a_folder_that_is_read_or_full_is_not_mixed_into(tmp_path):
    source = tasks(tmp_path / "a", [1, 2])
    with pytest.raises(ConfigError, match="which is read"):
        mix([source], tmp_path / "a")
    mix([source], tmp_path / "out", held_out=0.5)
    with pytest.raises(ConfigError, match=r"holds tasks\.jsonl already"):
        mix([source], tmp_path / "out")


def test_other_choices_make_another_task_and_a_missing_crop_drops_its_trace(tmp_path):
    source = tmp_path / "a"
    tasks(source, [1])
    row = json.loads((source / "tasks.jsonl").read_text())
    rows = [{**row, "id": str(n), "choices": ["1", str(n)]} for n in (2, 3)]
    (source / "tasks.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    mix([str(source)], tmp_path / "out")
    assert len(load_tasks(tmp_path / "out")) == 2
    traces(tmp_path / "t", [1, 2])
    rows = [json.loads(line) for line in (tmp_path / "t/traces.jsonl").read_text().splitlines()]
    rows[0]["images"].append("gone.png")
    rows[0]["messages"][1:1] = [{"role": "assistant", "content": "<tool_call>{}</tool_call>"},
                                {"role": "tool", "content": "<image>"}]  # fmt: skip
    (tmp_path / "t/traces.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert "1 pictures that cannot be opened" in mix([str(tmp_path / "t")], tmp_path / "mixed")
