"""JSONL files of processes that may be killed within a line, and of people who edit them."""

import fcntl
import json
from threading import Thread

import pytest

from fovea.jsonl import append_lines, cut_torn_line, read_jsonl, replacing


def test_a_last_line_cut_off_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert len(read_jsonl(tmp_path / "a.jsonl")) == 2
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_a_broken_line_before_the_last_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"a.jsonl line 2 is no JSON"):
        read_jsonl(tmp_path / "a.jsonl")


def test_only_line_feeds_end_lines(tmp_path):
    """Thoughts may hold other ends of lines: U+2028, U+0085."""
    rows = [{"a": "one\u2028two\u0085three"}, {"a": "\u2028"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert read_jsonl(tmp_path / "a.jsonl") == rows


def test_a_file_stays_as_it_is_until_all_that_replaces_it_is_there(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write('{"a": 2}\n')
        raise RuntimeError
    assert read_jsonl(path) == [{"a": 1}] and list(tmp_path.iterdir()) == [path]
    with replacing(path) as file:
        file.write('{"a": 2}\n')
    assert read_jsonl(path) == [{"a": 2}]


def test_what_was_torn_off_makes_room_for_the_next_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a"')
    cut_torn_line(path)
    with path.open("a") as file:
        file.write('{"a": 2}\n')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    cut_torn_line(tmp_path / "none.jsonl")


def test_what_an_editor_leaves_is_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}')
    cut_torn_line(path)
    assert path.read_text() == '{"a": 1}\n\n{"a": 2}\n' and read_jsonl(path) == [{"a": 1}, {"a": 2}]


def test_lines_are_appended_while_no_other_process_writes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = Thread(target=append_lines, args=(path, ['{"a": 3}\n']))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        other.write('{"a": 2}\n')
    waiting.join(10)
    assert [row["a"] for row in read_jsonl(path)] == [1, 2, 3]


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=r"a.jsonl cannot be locked.*other machines may be lost"):
        append_lines(tmp_path / "a.jsonl", ['{"a": 1}\n'])
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}]
