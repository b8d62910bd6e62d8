import json
import subprocess
import sys

import numpy as np
import pytest

from evaluation.compare import compare, table


def write(folder, scores, families=None):
    folder.mkdir()
    lines = [
        json.dumps(
            {"id": f"q{index}", "sample": 0, "family": (families or ["read"] * len(scores))[index], "score": score}
        )
        for index, score in enumerate(scores)
    ]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_the_difference_is_b_minus_a_with_flips_by_question(tmp_path):
    a = write(tmp_path / "a", [1, 0, 0, 0, 1, 0], ["read"] * 3 + ["direct"] * 3)
    b = write(tmp_path / "b", [0, 1, 1, 1, 1, 0], ["read"] * 3 + ["direct"] * 3)
    result = compare(a, b)
    assert (result["n"], result["accuracy_a"], result["accuracy_b"]) == (6, pytest.approx(2 / 6), pytest.approx(4 / 6))
    assert result["difference"] == pytest.approx(2 / 6)
    assert result["flips"] == {"gained": 3, "lost": 1}
    assert result["families"]["direct"]["difference"] == pytest.approx(1 / 3)
    assert result["interval"][0] <= result["difference"] <= result["interval"][1]
    assert "| read | 3 |" in table(result)


def test_swapping_a_and_b_flips_the_sign_and_keeps_the_p_value(tmp_path):
    rng = np.random.default_rng(0)
    a = write(tmp_path / "a", rng.integers(0, 2, 50).tolist())
    b = write(tmp_path / "b", rng.integers(0, 2, 50).tolist())
    there, back = compare(a, b), compare(b, a)
    assert there["difference"] == -back["difference"] and there["p_value"] == back["p_value"]


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
    assert keys <= json.loads(target.read_text()).keys()
    assert target.with_suffix(".md").exists()
