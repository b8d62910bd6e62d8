import json
from dataclasses import replace

import pytest
from PIL import Image

from evaluation.arguments import EvaluationArguments
from evaluation.evaluate import _summaries, main
from evaluation.played import played_already
from evaluation.playing import evaluate
from evaluation.stored import stored_run
from evaluation.summary import summarize
from evaluation.sweep import sweep
from fovea.config import ConfigError
from fovea.runs.directory import RunDirectory
from fovea.runs.records import Sample, append, read_summary
from fovea.server import EndpointError
from fovea.tasks import AnswerKind
from synthesis.shapes import make_tasks


@pytest.fixture(scope="module")
def tasks():
    return make_tasks(num_tasks=6, seed=21)


def test_an_evaluation_writes_one_scored_sample_per_task(tiny, tasks, episode_arguments, tmp_path):
    summary = evaluate(tiny, tasks, EvaluationArguments(output_dir=str(tmp_path), max_tasks=6), episode_arguments)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [task.id for task in tasks]
    assert {"score", "why", "turns", "answer", "family"} <= rows[0].keys()
    assert summary.n == 6 and read_summary(tmp_path) == summary


def test_a_stopped_evaluation_goes_on_where_it_left_off(tiny, tasks, episode_arguments, tmp_path):
    arguments = EvaluationArguments(output_dir=str(tmp_path / "whole"), batch_size=3)
    evaluate(tiny, tasks, arguments, episode_arguments)
    whole = (tmp_path / "whole" / "samples.jsonl").read_text()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "samples.jsonl").write_text("\n".join(whole.splitlines()[:3]) + "\n")
    evaluate(tiny, tasks, EvaluationArguments(output_dir=str(tmp_path / "cut"), batch_size=3), episode_arguments)
    assert (tmp_path / "cut" / "samples.jsonl").read_text() == whole


def test_several_samples_a_task_are_averaged():
    samples = [Sample(task_id=id, score=score) for id, score in (("a", 1.0), ("a", 0.0), ("b", 1.0))]
    summary = summarize(samples)
    assert (summary.n, summary.accuracy) == (2, 0.75)


def test_a_folder_of_an_evaluation_with_other_settings_is_refused(tiny, tasks, episode_arguments, tmp_path):
    arguments = EvaluationArguments(output_dir=str(tmp_path), prompt="direct")
    evaluate(tiny, tasks, arguments, episode_arguments)
    other = EvaluationArguments(output_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"prompt was .*direct.*, is .*protocol"):
        evaluate(tiny, tasks, other, episode_arguments)
    summary = evaluate(tiny, tasks, EvaluationArguments(output_dir=str(tmp_path), prompt="direct"), episode_arguments)
    assert summary.prompt == "direct"


def test_an_evaluation_that_was_killed_within_a_line_goes_on(tiny, tasks, episode_arguments, tmp_path):
    arguments = EvaluationArguments(output_dir=str(tmp_path / "whole"), prompt="direct", batch_size=3)
    evaluate(tiny, tasks, arguments, episode_arguments)
    whole = (tmp_path / "whole" / "samples.jsonl").read_text()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "samples.jsonl").write_text("\n".join(whole.splitlines()[:3]) + "\n" + whole[:40])
    arguments = EvaluationArguments(output_dir=str(tmp_path / "cut"), prompt="direct", batch_size=3)
    evaluate(tiny, tasks, arguments, episode_arguments)
    assert (tmp_path / "cut" / "samples.jsonl").read_text() == whole


def test_an_endpoint_that_goes_away_is_told_with_how_to_go_on(tmp_path, monkeypatch):
    def play(*_):
        raise EndpointError("no answer from http://localhost:8000/v1")

    monkeypatch.setattr("evaluation.evaluate.evaluate", play)
    words = ["fovea eval", "tiny", "--max_tasks", "1", "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match=f"(?s)no answer from .*played is in {tmp_path}/out: the same command goes on"):
        main()


def test_a_list_may_be_the_reference_and_no_tasks_are_refused(tiny, episode_arguments, tmp_path, make_task):
    tasks = [make_task(["a", "b"], AnswerKind.LIST, id=str(number)) for number in range(2)]
    arguments = EvaluationArguments(output_dir=str(tmp_path), prompt="direct")
    assert evaluate(tiny, tasks, arguments, episode_arguments).best_constant == 1.0
    with pytest.raises(ConfigError, match="no tasks"):
        evaluate(tiny, [], EvaluationArguments(output_dir=str(tmp_path / "none")), episode_arguments)


def test_view_sizes_beyond_the_models_limit_are_refused(tiny, tasks, episode_arguments, tmp_path):
    arguments = EvaluationArguments(output_dir=str(tmp_path), prompt="direct", view_sizes_px=[64, 128])
    assert sweep(tiny, tasks, arguments, episode_arguments).keys() == {64, 128}
    arguments.view_sizes_px = [64, 9999]
    with pytest.raises(ConfigError, match="raise --max_pixels"):
        sweep(tiny, tasks, arguments, episode_arguments)


def test_an_evaluation_never_counts_questions_that_are_not_asked(tiny, episode_arguments, make_task, tmp_path):
    tasks = [make_task("7", id=name) for name in "abc"]
    arguments = EvaluationArguments(output_dir=str(tmp_path))
    assert evaluate(tiny, tasks[:2], arguments, episode_arguments).n == 2
    assert evaluate(tiny, tasks, arguments, episode_arguments).n == 3, "more of them are played"
    for others in (tasks[:2], [make_task("7", id="d")]):
        with pytest.raises(ConfigError, match="not among the"):
            evaluate(tiny, others, arguments, episode_arguments)


@pytest.mark.parametrize("change", ["question", "reference", "image", "choices", "view"])
def test_an_evaluation_of_questions_that_have_changed_since_is_refused(
    tiny, episode_arguments, make_task, picture, tmp_path, change
):
    path = tmp_path / "a.png"
    picture.save(path)
    asked = replace(make_task("B", AnswerKind.CHOICE, choices=("red", "blue")), images=(str(path),))
    arguments = EvaluationArguments(output_dir=str(tmp_path / "out"))
    evaluate(tiny, [asked], arguments, episode_arguments)
    evaluate(tiny, [asked], arguments, episode_arguments)
    if change == "image":
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    other = {"question": {"question": "Which?"}, "reference": {"answer": "A"}, "choices": {"choices": ("red", "green")},
             "view": {"first_view_max_pixels": 4096}}  # fmt: skip
    with pytest.raises(ConfigError, match=r"task t is not what .* was played on"):
        evaluate(tiny, [replace(asked, **other.get(change, {}))], arguments, episode_arguments)


def test_without_images_nobody_is_asked_for_boxes(tmp_path, picture, capsys):
    picture.save(tmp_path / "a.png")
    rows = [{"images": ["a.png"], "question": "Where?", "answer": [[1, 2, 30, 40]], "kind": "box"},
            {"images": ["a.png"], "question": "Which digit?", "answer": 7}]  # fmt: skip
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = EvaluationArguments(dataset_name=str(tmp_path / "tasks.jsonl"), output_dir="x", text_only=True)
    [task] = arguments.load_tasks()
    assert task.question == "Which digit?" and not task.images and "left out: 1 of 2 tasks" in capsys.readouterr().out


def test_what_cannot_be_shown_is_told_in_a_line_before_anything_is_written(tiny, tasks, episode_arguments, tmp_path):
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def reset(self, **row):\n        pass\n\n    def look(self) -> str:\n        '''Looks.'''\n"
    )
    blind = replace(episode_arguments, environment=f"{tmp_path}/mine.py:Mine")
    with pytest.raises(ConfigError, match=r"^task .* cannot be shown: Mine.reset returned None"):
        evaluate(tiny, tasks, EvaluationArguments(output_dir=str(tmp_path / "out")), blind)
    assert not (tmp_path / "out").exists()


def test_an_evaluation_does_not_overwrite_the_settings_of_a_training(tiny, tasks, episode_arguments, tmp_path):
    RunDirectory(tmp_path).write_start(script={"reward_funcs": ["accuracy"]})
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(ConfigError, match=f"holds a training: name {tmp_path}/evaluation"):
        evaluate(tiny, tasks, EvaluationArguments(output_dir=str(tmp_path)), episode_arguments)
    assert (tmp_path / "run.json").read_text() == before
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a training"):
        evaluate(tiny, tasks, EvaluationArguments(output_dir=str(tmp_path / "model")), episode_arguments)


def test_a_folder_is_refused_before_a_model_is_loaded(episode_arguments, tmp_path):
    RunDirectory(tmp_path).write_start(script={"reward_funcs": ["accuracy"]})
    arguments = EvaluationArguments(output_dir=str(tmp_path), model_name_or_path="nowhere")
    with pytest.raises(ConfigError, match="holds a training"):
        next(_summaries(arguments, episode_arguments))


def test_episodes_of_images_that_have_changed_since_are_refused(tiny, episode_arguments, picture, tmp_path):
    picture.save(tmp_path / "a.png")
    (tmp_path / "tasks.jsonl").write_text(json.dumps({"images": ["a.png"], "question": "Which?", "answer": "7"}) + "\n")
    arguments = EvaluationArguments(
        dataset_name=str(tmp_path / "tasks.jsonl"), output_dir=str(tmp_path / "out"), view_sizes_px=[64, 128]
    )
    sweep(tiny, arguments.load_tasks(), arguments, episode_arguments)
    folder = tmp_path / "out" / "view_64"
    assert len(stored_run(folder).groups()) == 1, "a bound on its views is no other task"
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "a.png")
    with pytest.raises(SystemExit, match="has changed since it was played"):
        stored_run(folder).groups()


def test_samples_beyond_those_that_are_asked_for_are_not_counted(tmp_path):
    append(tmp_path / "samples.jsonl", [Sample(task_id="a", sample=number, score=1.0) for number in range(4)])
    assert len(played_already(tmp_path, {"a": "hash"}, 4)) == 4
    with pytest.raises(ConfigError, match="holds 4 samples a task, more than the 2 of now"):
        played_already(tmp_path, {"a": "hash"}, 2)
