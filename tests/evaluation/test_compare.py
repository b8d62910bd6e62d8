import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from evaluation.arguments import EvaluationArguments
from evaluation.compare import compare, table
from evaluation.discover import find_runs
from evaluation.evaluated import load
from evaluation.report import from_markdown
from evaluation.samples import sample_of
from evaluation.summary import summarize
from evaluation.summary import table as summary_table
from fovea.models.names import resolve_path, weights_mark
from fovea.runs.directory import RunDirectory
from fovea.runs.records import Sample, append, read_samples


def write(folder, scores, families=None, tokens=10):
    """An evaluation; a list among `scores` holds the samples of one question."""
    folder.mkdir(parents=True)
    rows = [
        {"id": f"q{index}", "sample": number, "family": (families or ["read"] * len(scores))[index], "score": score,
         "num_tokens": tokens or 10, "num_context_tokens": tokens, "num_zooms": 1}
        for index, samples in enumerate(scores)
        for number, score in enumerate(samples if isinstance(samples, list) else [samples])
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return folder


def test_the_difference_is_b_minus_a_with_flips_by_question(tmp_path):
    a = write(tmp_path / "a", [1, 0, 0, 0, 1, 0], ["read"] * 3 + ["direct"] * 3)
    b = write(tmp_path / "b", [0, 1, 1, 1, 1, 0], ["read"] * 3 + ["direct"] * 3)
    result = compare(a, b)
    [pair] = result["pairs"]
    assert (pair["n"], pair["accuracy_a"], pair["accuracy_b"]) == (6, pytest.approx(2 / 6), pytest.approx(4 / 6))
    assert pair["difference"] == pytest.approx(2 / 6)
    assert pair["flips"] == {"gained": 3, "lost": 1} and pair["lost"] == ["q0"] and pair["gained"] == ["q1", "q2", "q3"]
    assert pair["families"]["direct"]["difference"] == pytest.approx(1 / 3)
    assert pair["interval"][0] <= pair["difference"] <= pair["interval"][1]
    assert "| read | 3 |" in table(result)


def test_swapping_a_and_b_flips_the_sign_and_keeps_the_p_value(tmp_path):
    rng = np.random.default_rng(0)
    a = write(tmp_path / "a", rng.integers(0, 2, 50).tolist())
    b = write(tmp_path / "b", rng.integers(0, 2, 50).tolist())
    [there], [back] = compare(a, b)["pairs"], compare(b, a)["pairs"]
    assert there["difference"] == -back["difference"] and there["p_value"] == back["p_value"]


def test_three_runs_make_three_pairs_whose_p_values_are_adjusted_for_their_number(tmp_path):
    folders = [write(tmp_path / name, [value] * 9 + [1]) for name, value in (("a", 0), ("b", 0), ("c", 1))]
    pairs = compare(*folders)["pairs"]
    assert [(pair["a"][-1], pair["b"][-1]) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs[1]["p_value"] == pytest.approx(2 / 2**9)
    assert pairs[1]["p_adjusted"] == pytest.approx(3 * 2 / 2**9), "their one family is the same test"
    assert pairs[0]["p_adjusted"] == 1


def test_samples_give_their_mean_and_the_chance_that_one_of_k_is_right(tmp_path):
    a, b = write(tmp_path / "a", [[1, 0, 0, 0], [0, 0, 0, 0]]), write(tmp_path / "b", [[1, 1, 0, 0], [1, 0, 0, 0]])
    result = compare(a, b)
    one, other = result["runs"][str(a)], result["runs"][str(b)]
    assert one["accuracy"] == 0.125 and one["pass_at_k"] == {1: 0.125, 2: 0.25, 4: 0.5}
    assert other["pass_at_k"][2] == pytest.approx((5 / 6 + 0.5) / 2) and "| pass@4 |" in table(result)


def test_several_seeds_widen_the_interval_by_what_they_differ(tmp_path):
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, 80)
    for seed in range(3):
        write(tmp_path / "a" / str(seed), base.tolist())
        changed = np.where(rng.random(80) < 0.2 + 0.3 * seed, 1, base)
        write(tmp_path / "b" / str(seed), changed.tolist())
    [pair] = compare(tmp_path / "a" / "*", tmp_path / "b" / "*")["pairs"]
    [single] = compare(tmp_path / "a" / "1", tmp_path / "b" / "1")["pairs"]
    assert pair["difference"] > 0 and np.diff(pair["interval"]) > 1.5 * np.diff(single["interval"])
    assert compare(tmp_path / "a" / "*", tmp_path / "b" / "1")["runs"][str(tmp_path / "a" / "*")]["num_seeds"] == 3


def test_settings_of_all_seeds_and_those_that_only_one_has_are_told(tmp_path):
    for name, seed, limits in (("a", 0, {}), ("a", 1, {}), ("b", 0, {"max_turns": 4}), ("b", 1, {"max_turns": 8})):
        folder = write(tmp_path / name / str(seed), [1, 0, seed])
        RunDirectory(folder).write_start(evaluation={"seed": seed, "prompt": "direct", "new": None}, episodes=limits)
    write(tmp_path / "old" / "0", [1, 0, 1])
    assert compare(tmp_path / "a" / "*", tmp_path / "b" / "*")["changed_settings"] == ["max_turns: None, 4 / 8"]
    assert compare(tmp_path / "old" / "*", tmp_path / "b" / "*")["changed_settings"] == [], "nothing is known of it"


def test_questions_that_are_shown_otherwise_are_told(tmp_path):
    for name, hashes in (("a", ("x", "y", None)), ("b", ("x", "z", "w"))):
        samples = [Sample(task_id=str(n), score=n % 2, task_hash=one) for n, one in enumerate(hashes)]
        append(RunDirectory(tmp_path / name).path / "samples.jsonl", samples)
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert comparison["changed_settings"] == ["questions whose images, options or view size differ: 1"]
    assert "view size differ: 1" in table(comparison)


def test_intervals_of_several_seeds_end_where_accuracies_do(tmp_path):
    for seed in range(2):
        write(tmp_path / "none" / str(seed), [0] * 40)
        write(tmp_path / "all" / str(seed), [1] * 36 + [seed] * 4)
    result = compare(tmp_path / "none" / "*", tmp_path / "all" / "*")
    none, every = (run["interval"] for run in result["runs"].values())
    assert none[0] == 0 and none[1] > 0 and every[0] < 1 and every[1] == 1
    assert result["pairs"][0]["interval"][1] == 1


def test_the_frontier_is_what_none_beats_with_fewer_tokens(tmp_path):
    cheap = write(tmp_path / "cheap", [1, 0], tokens=5)
    dear = write(tmp_path / "dear", [1, 0], tokens=50)
    best = write(tmp_path / "best", [1, 1], tokens=70)
    runs = compare(cheap, dear, best)["runs"]
    assert [runs[str(folder)]["on_frontier"] for folder in (cheap, dear, best)] == [True, False, True]


def test_questions_that_only_share_their_ids_are_not_paired(tmp_path):
    a, b = write(tmp_path / "a", [1, 0]), write(tmp_path / "b", [1, 0])
    rows = [json.loads(line) | {"question": "another"} for line in (b / "samples.jsonl").read_text().splitlines()]
    (b / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="q0 is not the same"):
        compare(a, b)


def test_several_benchmarks_are_compared_in_one_go(tmp_path):
    for run, value in (("a", 0), ("b", 1)):
        for name in ("vstar", "blink"):
            write(tmp_path / run / name, [value, 0, value], ["x", "x", "y"])
    [pair] = compare(tmp_path / "a", tmp_path / "b")["pairs"]
    assert pair["n"] == 6 and set(pair["families"]) == {
        "vstar",
        "vstar: x",
        "vstar: y",
        "blink",
        "blink: x",
        "blink: y",
    }
    assert pair["families"]["blink"]["n"] == 3 and pair["lost"] == [] and "vstar/q0" in pair["gained"]


def test_checkpoints_of_the_same_questions_are_not_pooled_as_benchmarks(tmp_path):
    samples = [Sample(task_id=f"q{number}", question="?", reference="7", score=number % 2) for number in range(4)]
    for name in ("checkpoint-10", "checkpoint-20"):
        append(RunDirectory(tmp_path / name).path / "samples.jsonl", samples)
    with pytest.raises(SystemExit, match=r"several evaluations of the same questions: name one of .*checkpoint-10, "):
        load(tmp_path)
    for name in ("checkpoint-10", "checkpoint-20"):
        RunDirectory(tmp_path / name).write_start(evaluation={"benchmark": name})
    assert load(tmp_path).summary()["n"] == 8


def test_a_folder_with_brackets_in_its_name_is_no_pattern(tmp_path):
    for name, score in (("lr[1]", 1), ("lr1", 0)):
        write(tmp_path / name, [score, score])
    assert load(tmp_path / "lr[1]").summary()["accuracy"] == 1
    assert load(tmp_path / "lr[0-9]").summary()["accuracy"] == 0


def test_a_runs_folder_stands_for_its_evaluation(tmp_path):
    for run in ("a", "b"):
        write(tmp_path / run / "evaluation", [1, 0])
        write(tmp_path / run / "evaluation_noise", [0, 0])
    assert compare(tmp_path / "a", tmp_path / "b")["pairs"][0]["n"] == 2


def test_runs_can_be_compared_by_a_published_rule(tmp_path):
    a, b = write(tmp_path / "a", [0, 0]), write(tmp_path / "b", [0, 0])
    for folder, scores in ((a, (0, 0)), (b, (1, 1))):
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        rows = [row | {"scores": {"strict": 0, "lmms-eval": score}} for row, score in zip(rows, scores, strict=True)]
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert compare(a, b, rule="lmms-eval")["pairs"][0]["difference"] == 1.0
    with pytest.raises(SystemExit, match="no verdicts by 'mine': use one of strict, lmms-eval"):
        compare(a, b, rule="mine")


def test_a_mean_over_questions_that_is_not_the_published_one_is_told(tmp_path):
    for name, within in (("families", "abbb"), ("none", [None] * 4)):
        samples = [
            Sample(task_id=str(n), score=0, scores={"mimic": float(n == 0)}, within=one) for n, one in enumerate(within)
        ]
        append(RunDirectory(tmp_path / name).path / "samples.jsonl", samples)
        said = table(compare(tmp_path / name, tmp_path / name, rule="mimic"))
        assert ("by mimic: mean over questions, not the published mean" in said) == (name == "families")


def test_a_family_of_one_question_tells_nothing(tmp_path):
    for seed in range(2):
        write(tmp_path / "a" / str(seed), [1, 0, 1], ["x", "x", "y"])
    part = compare(tmp_path / "a" / "*", tmp_path / "a" / "0")["pairs"][0]["families"]["y"]
    assert (part["interval"], part["p_value"]) == ([-1.0, 1.0], 1.0)


def test_unpaired_or_too_few_questions_are_refused(tmp_path):
    a, b = write(tmp_path / "a", [1, 0]), write(tmp_path / "b", [1, 0, 1])
    with pytest.raises(ValueError, match="different questions"):
        compare(a, b)
    c, d = write(tmp_path / "c", [1]), write(tmp_path / "d", [0])
    with pytest.raises(ValueError, match="at least 2"):
        compare(c, d)


def test_the_command_writes_json_and_markdown(tmp_path):
    a, b = write(tmp_path / "a", [1, 0, 1]), write(tmp_path / "b", [1, 1, 1])
    target = tmp_path / "out" / "c.json"
    words = [sys.executable, "-m", "fovea.cli", "compare", str(a), str(b), "--json", str(target)]
    subprocess.run(words, check=True, capture_output=True)
    keys = {"n", "accuracy_a", "accuracy_b", "difference", "interval", "p_value", "flips", "families"}
    assert keys <= json.loads(target.read_text())["pairs"][0].keys()
    assert target.with_suffix(".md").exists()


def test_an_evaluation_of_weights_that_are_no_longer_there_is_told_where_it_is_read(tmp_path, make_episode, capsys):
    """By whoever loads it; a folder that does not say whose weights it is of, or whose checkpoint has gone, is not."""
    checkpoint = tmp_path / "rl"
    shutil.copytree(resolve_path("tiny"), checkpoint)
    marks = {"now": weights_mark(str(checkpoint)), "before": "other", "unknown": None}
    for name, mark in marks.items():
        run = RunDirectory(checkpoint / name)
        arguments = EvaluationArguments(output_dir=str(run.path), model_name_or_path=str(checkpoint))
        run.write_start(evaluation=arguments, weights={} if mark is None else {"mark": mark})
        append(run.path / "samples.jsonl", [sample_of(make_episode("7"), 0)])
        load(run.path)
        assert ("before it was trained anew: evaluate it again" in capsys.readouterr().out) == (name == "before")
    find_runs([checkpoint])
    assert capsys.readouterr().out.count("trained anew") == 1
    (checkpoint / "config.json").unlink()
    load(checkpoint / "before")
    assert "trained anew" not in capsys.readouterr().out


def test_without_the_tokens_of_all_prompts_there_is_no_frontier(tmp_path):
    """An endpoint does not say what its prompts cost: as nothing they would always be the cheapest."""
    known = write(tmp_path / "known", [1, 0], tokens=50)
    unknown = write(tmp_path / "endpoint", [1, 0], tokens=None)
    comparison = compare(known, unknown)
    assert not any(run["on_frontier"] for run in comparison["runs"].values())
    assert "context_tokens" not in comparison["runs"][str(unknown)] and "on the frontier:" not in table(comparison)


def test_questions_that_ask_the_same_count_once(tmp_path):
    """HR-Bench's four rotations: four times the questions are no more evidence."""
    rng = np.random.default_rng(0)
    scores = {name: rng.integers(0, 2, 40).tolist() for name in ("a", "b")}
    once = [write(tmp_path / name, values) for name, values in scores.items()]
    turned = []
    for name, values in scores.items():
        folder = write(tmp_path / f"{name}4", [value for value in values for _ in range(4)])
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        rows = [row | {"cluster": f"c{number // 4}"} for number, row in enumerate(rows)]
        (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        turned.append(folder)
    [expected], [found] = compare(*once)["pairs"], compare(*turned)["pairs"]
    for name in ("n", "difference", "interval", "p_value", "flips"):
        assert found[name] == pytest.approx(expected[name]) if name != "flips" else found[name] == expected[name]
    old = write(tmp_path / "old", [value for value in scores["a"] for _ in range(4)])
    assert compare(old, turned[1])["pairs"][0]["interval"] == pytest.approx(expected["interval"]), "told by the other"
    for one, four in zip(once, turned, strict=True):
        assert summarize(read_samples(four)).interval == summarize(read_samples(one)).interval
        assert load(four).summary()["interval"] == load(one).summary()["interval"]


def test_names_of_families_break_no_table(tmp_path):
    folder = write(tmp_path / "a", [1, 0, 1], ["read | small", "a\n\nb", "cut \ud83d"])
    for text in (table(compare(folder, folder)), summary_table(summarize(read_samples(folder)))):
        assert all(name in text for name in ("| read \\| small | 1 |", "| a b | 1 |", "| cut ? | 1 |"))
        text.encode()
        page = "".join(from_markdown(text))
        assert all(f"<td>{name}</td><td>1</td>" in page for name in ("read | small", "a b", "cut ?"))


def test_questions_without_a_family_do_not_stand_in_the_row_of_all(tmp_path):
    folder = write(tmp_path / "a", [1, 0, 1, 1], ["all", "all", "read", "read"])
    for text in (table(compare(folder, folder)), summary_table(summarize(read_samples(folder)))):
        assert all(f"\n| {name} |" in text for name in ("all | 4", "no family | 2", "read | 2"))
    alone = write(tmp_path / "b", [1, 0, 1, 1], ["all"] * 4)
    assert "no family" not in table(compare(alone, alone)) + summary_table(summarize(read_samples(alone)))
