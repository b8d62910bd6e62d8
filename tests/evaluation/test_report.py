"""The report's numbers are those of the episodes, as anyone can recompute them."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from evaluation import figures, view
from evaluation.arguments import EvaluationArguments
from evaluation.differences import compare_runs, headline
from evaluation.discover import find_runs
from evaluation.playing import evaluate
from evaluation.plots import frontier, learning_curves
from evaluation.report import _differences, as_script, main, thinned
from evaluation.rescore import main as rescore_main
from evaluation.stored import StoredRun, stored_run
from evaluation.summary import summarize
from evaluation.trajectories import Trajectories
from evaluation.view import make_server
from fovea.data.task_files import load_tasks, save_tasks
from fovea.runs.directory import RunDirectory
from fovea.runs.records import SAMPLES, Rollout, Sample, append
from synthesis.mimic.command import MimicArguments
from synthesis.mimic.command import run as run_mimic
from synthesis.shapes import make_tasks
from synthesis.shapes.albums import make_albums


@pytest.fixture
def run(tiny, tmp_path, episode_arguments):
    """Two evaluations of the tiny base, one of them with the bare question."""
    save_tasks(make_tasks(num_tasks=8, seed=3), tmp_path / "tasks")
    for name, prompt in (("evaluation", "direct"), ("evaluation_protocol", "protocol")):
        arguments = EvaluationArguments(
            output_dir=str(tmp_path / "run" / name), dataset_name=str(tmp_path / "tasks"), prompt=prompt
        )
        RunDirectory(arguments.output_dir).write_start(evaluation=arguments, episodes=episode_arguments)
        evaluate(tiny, load_tasks(tmp_path / "tasks"), arguments, episode_arguments)
    return tmp_path / "run"


def test_every_accuracy_is_what_rescoring_the_episodes_finds(run, tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    monkeypatch.setattr("sys.argv", ["fovea report", str(run), "--output", str(page)])
    main()
    text = page.read_text()
    shown = re.findall(r"<tr><td>run</td><td>(\w+)</td><td>8</td><td>([\d.]+)</td>", text)
    assert [name for name, _ in shown] == ["evaluation_protocol", "evaluation"]  # the bare question is a baseline
    for name, accuracy in shown:
        target = tmp_path / f"{name}.json"
        words = ["fovea rescore", str(run / name), "--reward_funcs", "accuracy", "--json", str(target)]
        monkeypatch.setattr("sys.argv", words)
        rescore_main()
        assert f"{json.loads(target.read_text())['mean_after']:.3f}" == accuracy
    assert text.count('id="picture-') == 8
    assert not re.search(r'(src|href)="https?:', text)


def test_accuracy_is_drawn_against_the_axis_that_tasks_were_swept_over(tiny, tmp_path, episode_arguments, monkeypatch):
    words = {"kinds": ["counting", "odd"], "sweep": "distractors=2,3,4", "total": [2], "spread": [1], "num_tasks": 2}
    tasks = run_mimic(MimicArguments(output_dir=str(tmp_path / "tasks"), num_scenes=200, **words))
    out = tmp_path / "run" / "evaluation"
    arguments = EvaluationArguments(output_dir=str(out), dataset_name=str(tasks), prompt="direct")
    RunDirectory(arguments.output_dir).write_start(evaluation=arguments, episodes=episode_arguments)
    evaluate(tiny, load_tasks(tasks), arguments, episode_arguments)
    monkeypatch.setattr("sys.argv", ["fovea report", str(out.parent), "--output", str(tmp_path / "report.html")])
    main()
    text = (tmp_path / "report.html").read_text()
    assert "accuracy by distractors, counting" in text and "accuracy by distractors, odd" in text


def test_the_headline_says_what_changed_and_whether_it_may_be_chance(tiny, tmp_path, episode_arguments):
    tasks = make_tasks(num_tasks=12, seed=3)
    save_tasks(tasks, tmp_path / "tasks")
    rights = {"a/evaluation": 2, "b/evaluation": 11, "b/evaluation_noise": 1, "c/evaluation": 11}
    for name, num_right in rights.items():
        arguments = EvaluationArguments(output_dir=str(tmp_path / name), dataset_name=str(tmp_path / "tasks"))
        crops = "noise" if "noise" in name else "true"
        RunDirectory(arguments.output_dir).write_start(
            evaluation=arguments, episodes=replace(episode_arguments, crops=crops)
        )
        samples = [Sample(task_id=task.id, score=float(n < num_right)) for n, task in enumerate(tasks)]
        append(tmp_path / name / SAMPLES, samples)
    runs = find_runs([tmp_path / name for name in "abc"])
    compared = compare_runs(runs)
    first, noise = headline(runs[:2], compared)
    assert first.startswith("b answers 75.0 points more than a: 0.917 after 0.167, 12 questions, 95% interval")
    assert noise == "With noise in place of its crops b comes to 0.083."
    assert headline(runs[1:], compared)[1] == "The interval includes 0, so that this may be chance."
    assert headline(runs[:1], compare_runs(runs[:1])) == [] == headline([], compare_runs([]))


def test_a_difference_of_limits_is_told_beside_the_headline(tmp_path):
    for name, max_turns in (("a", 4), ("b", 8)):
        run = RunDirectory(tmp_path / name / "evaluation")
        run.write_start(evaluation={"prompt": "direct"}, episodes={"max_turns": max_turns})
        append(run.path / SAMPLES, [Sample(task_id=str(n), score=float(name == "b")) for n in range(9)])
    runs = find_runs([tmp_path / name for name in "ab"])
    compared = compare_runs(runs)
    assert headline(runs, compared)[1] == "They were evaluated under different settings: max_turns: 4, 8."
    assert "a and b were evaluated under different settings: max_turns: 4, 8" in "".join(_differences(compared))


def test_every_benchmark_of_two_runs_is_compared_under_its_name(tmp_path):
    for run, scores in (("a", (0, 1, 0)), ("b", (1, 0, 0))):
        for name, score in zip(("hr", "vstar", "vstar_noise"), scores, strict=True):
            folder = RunDirectory(tmp_path / run / name)
            folder.write_start(episodes={"crops": "noise" if "noise" in name else "true"})
            append(folder.path / SAMPLES, [Sample(task_id=f"{name}-{n}", score=float(score)) for n in range(9)])
    runs = find_runs([tmp_path / name for name in "ab"])
    compared = compare_runs(runs)
    assert [(pair.name_a, pair.name_b) for pair in compared.between] == [
        ("a / hr", "b / hr"),
        ("a / vstar", "b / vstar"),
    ]
    hr, vstar = headline(runs, compared)
    assert hr.startswith("b / hr answers 100.0 points more than a / hr")
    assert vstar.startswith("b / vstar answers 100.0 points fewer than a / vstar")


def test_sets_of_other_images_under_one_id_are_drawn_on_their_own(tmp_path, picture):
    shown = Trajectories()
    turned = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for name, image in (("a", picture), ("b", turned), ("c", picture)):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "a.png")
        row = {"id": "0", "images": ["a.png"], "question": "Which?", "answer": "7"}
        (tmp_path / name / "tasks.jsonl").write_text(json.dumps(row) + "\n")
        for is_text_only in (True, False):
            run = RunDirectory(tmp_path / name / str(is_text_only))
            dataset = str(tmp_path / name / "tasks.jsonl")
            run.write_start(evaluation={"dataset_name": dataset, "output_dir": "", "text_only": is_text_only})
            append(run.path / SAMPLES, [Sample(task_id="0", question="Which?", score=1.0)])
            stored = StoredRun(run.path, SAMPLES)
            shown.add(shown.add_set(name, str(is_text_only), stored), stored, stored.records)
    keys = [episode["task"] for episode in shown.episodes]
    assert keys[1] == keys[5] != keys[3] and keys[0] == keys[1], "without images it is the same question"
    assert [len(shown.tasks[key]["images"]) for key in keys] == [1] * 6
    assert shown.tasks[keys[1]]["images"] != shown.tasks[keys[3]]["images"]


def test_of_many_pictures_the_viewer_shows_the_same_questions_of_each_evaluation(tmp_path, monkeypatch):
    save_tasks(make_albums(num_tasks=8, seed=3, num_images=(4,)), tmp_path / "tasks")
    tasks = load_tasks(tmp_path / "tasks")
    for name, count in (("a", 8), ("b", 8), ("c", 3)):
        run = RunDirectory(tmp_path / name)
        run.write_start(evaluation={"dataset_name": str(tmp_path / "tasks"), "output_dir": ""})
        append(
            run.path / SAMPLES, [Sample(task_id=task.id, question=task.question, score=1.0) for task in tasks[:count]]
        )
    page = tmp_path / "report.html"
    words = ["fovea report", *(str(tmp_path / name) for name in "abc"), "--output", str(page), "--max_pictures", "12"]
    monkeypatch.setattr("sys.argv", words)
    main()
    text = page.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    shown = [{episode["task"] for episode in data["episodes"] if episode["set"] == number} for number in range(3)]
    assert len(shown[0]) == 3 and shown[0] == shown[1] and len(shown[2]) == 3
    assert [one.get("sampled") for one in data["sets"]] == [[3, 8], [3, 8], None]
    assert data["tasks"].keys() == shown[0] | shown[2]
    pictures = {key for task in data["tasks"].values() for key in task["images"]}
    assert set(re.findall(r'id="picture-([^"]+)"', text)) == pictures
    assert re.findall(r"<tr><td>([abc])</td><td>[^<]*</td><td>([38])</td>", text)[:3] == [
        ("a", "8"),
        ("b", "8"),
        ("c", "3"),
    ]


@pytest.mark.parametrize(("other", "pairs"), [("ab", 1), ("bc", 0), ("cd", 0)])
def test_a_run_is_compared_with_itself_where_it_was_asked_the_same(tmp_path, other, pairs):
    """Other questions altogether are no other condition; some of them are told to differ."""
    for name, ids in (("evaluation", "ab"), ("evaluation_other", other)):
        run = RunDirectory(tmp_path / "run" / name)
        run.write_start(evaluation={"dataset_name": "x"})
        append(run.path / SAMPLES, [Sample(task_id=id, score=1.0) for id in ids])
    compared = compare_runs(find_runs([tmp_path / "run"]))
    assert len(compared.results) == pairs
    assert len(compared.skipped) == (other == "bc")


def test_texts_cannot_end_their_script():
    assert "<" not in as_script({"text": "</script><!--"}) and json.loads(as_script({"a": "<&>"})) == {"a": "<&>"}


def test_a_long_training_is_thinned_group_by_group():
    rollouts = [Rollout(task_id="t", step=step) for step in range(100) for _ in range(8)]
    kept = thinned(rollouts, 10)
    assert len(kept) == 80 and {rollout.step for rollout in kept} == set(range(0, 100, 10))


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="holds no episodes"):
        find_runs([tmp_path])
    with pytest.raises(SystemExit, match="named twice"):
        find_runs([tmp_path, tmp_path])


def test_an_evaluation_that_was_killed_within_its_first_line_is_left_out(run):
    torn = run / "evaluation_torn"
    torn.mkdir()
    (torn / "samples.jsonl").write_text('{"id": "a", "sco')
    [found] = find_runs([run])
    assert "evaluation_torn" not in found.evaluations and len(found.evaluations) == 2


def test_losses_of_sft_and_grpo_are_drawn_apart_and_a_single_point_too():
    sft, rl = [{"step": 1, "loss": 2.5}], [{"step": step, "loss": 0.1, "reward": 0.5} for step in (1, 2, 3)]
    drawn = [re.findall(r">([^<>]+)</text>", plot) for plot in learning_curves({"sft": sft, "rl": rl})]
    of_sft, of_grpo = ([text for text in drawn if title in text] for title in ("SFT loss, nats a token", "GRPO loss"))
    assert len(drawn) == 3 and len(of_sft) == len(of_grpo) == 1
    assert "sft" in of_sft[0] and "rl" not in of_sft[0]
    assert "rl" in of_grpo[0] and "sft" not in of_grpo[0]
    assert {"1", "2", "3", "step", "loss"} <= {*of_grpo[0]} and not {"1.5", "2.5"} & {*of_grpo[0]}


def test_a_legend_of_many_stands_below_the_points():
    points = {f"run {number}": (float(number), 0.5, (0.4, 0.6)) for number in range(12)}
    few = dict(list(points.items())[:4])
    few_pt, many_pt = (float(re.findall(r'height="([\d.]+)pt"', frontier("tokens", some))[0]) for some in (few, points))
    assert many_pt > few_pt + 50


def test_a_taken_port_is_told_in_a_line(run, monkeypatch):
    server = make_server([run], port=0)
    try:
        monkeypatch.setattr("sys.argv", ["fovea view", str(run), "--port", str(server.server_port)])
        with pytest.raises(SystemExit, match=f"cannot serve at 127.0.0.1:{server.server_port}.*--port"):
            view.main()
    finally:
        server.server_close()
    monkeypatch.setattr("sys.argv", ["fovea view", str(run), "--port", "99999"])
    with pytest.raises(SystemExit, match=r"cannot serve at 127.0.0.1:99999: .*0-65535. Give another --port"):
        view.main()


@pytest.mark.parametrize(
    ("error", "is_told"), [(BrokenPipeError, False), (ConnectionResetError, False), (KeyError, True)]
)
def test_a_reader_who_leaves_is_no_error(run, capsys, error, is_told):
    server = make_server([run], port=0)
    try:
        raise error("gone")
    except error:
        server.handle_error(None, ("127.0.0.1", 1))
    finally:
        server.server_close()
    assert ("Traceback" in capsys.readouterr().err) is is_told


def test_groups_that_are_never_sometimes_and_always_right_are_drawn_by_step(monkeypatch):
    scores = {
        (0, "a"): (0, 0),
        (0, "b"): (0, 1),
        (1, "a"): (1, 1),
        (1, "b"): (0.5, 0.5),
        (1, "c"): (0, 0),
        (1, "d"): (1, 1),
    }
    rollouts = [
        Rollout(task_id=task, step=step, rewards={"accuracy": float(score)})
        for (step, task), both in scores.items()
        for score in both
    ]
    rollouts += [Rollout(task_id="e", step=1, mode="eval", rewards={"accuracy": 1.0}), Rollout(task_id="f", step=1)]
    drawn = {}
    monkeypatch.setattr(figures.plots, "by_step", lambda title, curves: drawn.update({title: curves}) or "")
    training = SimpleNamespace(name="rl", training=SimpleNamespace(rollouts=rollouts))
    assert len(figures._groups([training, SimpleNamespace(name="base", training=None)])) == 1
    assert drawn == {
        "groups of rl that are right": {
            "never": [(0.0, 0.5), (1.0, 0.25)],
            "sometimes": [(0.0, 0.5), (1.0, 0.25)],
            "always": [(0.0, 0.0), (1.0, 0.5)],
        }
    }


def test_samples_of_a_question_count_once_against_an_axis(monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures.plots, "against_axis", lambda axis, curves: drawn.update({axis: curves}) or "")
    samples = [Sample(task_id=str(n // 8), score=float(n % 2)) for n in range(32)]
    run = SimpleNamespace(name="rl", evaluations={"evaluation": SimpleNamespace(folder="rl", samples=samples)})
    task = {"family": "read", "sweep": {"axis": "images", "value": 2}}
    episodes = [{"set": 0, "task": "t", "score": sample.score} for sample in samples]
    shown = SimpleNamespace(sets=[{"folder": "rl"}], tasks={"t": task}, episodes=episodes)
    assert len(figures._by_axis([run], shown)) == 1
    [curve] = drawn["images, read"].values()
    assert curve == {2: (0.5, summarize(samples).interval)}


def test_a_folder_whose_evaluations_lie_below_it_names_them(run):
    with pytest.raises(SystemExit, match=r"did you mean .*/evaluation or .*/evaluation_protocol\?"):
        stored_run(run)


@pytest.mark.parametrize("count", ["0", "-3", "2.5", "x"])
@pytest.mark.parametrize("option", ["--max_pictures", "--max_image_px", "--max_training_groups"])
def test_counts_begin_at_one(option, count, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fovea report", "RUN", option, count])
    with pytest.raises(SystemExit):
        main()
    assert f"argument {option}: '{count}': give a whole number from 1" in capsys.readouterr().err
