"""Objects of the user's own by name, and what is said where there is none."""

import sys

import pytest

from fovea.jsonl import read_jsonl
from fovea.plugins import load_object


def test_objects_load_by_file_and_by_dotted_path(tmp_path):
    (tmp_path / "mine.py").write_text("def f():\n    return 42\n")
    assert load_object(f"{tmp_path}/mine.py:f")() == 42
    assert load_object("fovea.jsonl:read_jsonl") is read_jsonl
    assert load_object("fovea.jsonl.read_jsonl") is read_jsonl


def test_a_file_is_run_once_whatever_is_loaded_from_it(tmp_path):
    (tmp_path / "mine.py").write_text("class Held:\n    pass\n\n\ndef held():\n    return Held()\n")
    held, kind = load_object(f"{tmp_path}/mine.py:held"), load_object(f"{tmp_path}/mine.py:Held")
    assert isinstance(held(), kind)


def test_files_of_one_name_in_two_folders_are_two(tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "mine.py").write_text(f"value = {number}\n")
    assert [load_object(f"{tmp_path}/{number}/mine.py:value") for number in (1, 2)] == [1, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("accuracy", "write package.module:name or ./file.py:name"),
        ("fovea.jsonl:nothing", "fovea.jsonl has no 'nothing'; it has .*read_jsonl"),
        ("fovea.nowhere:f", "there is no module 'fovea.nowhere'"),
        ("./nowhere.py:f", "no file at nowhere.py: the path is relative to the current folder"),
    ],
)
def test_what_is_not_there_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        load_object(name)


def test_a_module_that_fails_to_import_another_says_which(tmp_path):
    (tmp_path / "mine.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load_object(f"{tmp_path}/mine.py:f")


def test_a_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "helper_of_mine.py").write_text("def h():\n    return 5\n")
    (tmp_path / "mine.py").write_text("from helper_of_mine import h\n")
    before = list(sys.path)
    assert load_object(f"{tmp_path}/mine.py:h")() == 5 and sys.path == before


def test_a_file_that_was_mended_is_run_again(tmp_path):
    (tmp_path / "mine.py").write_text("f = 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_object(f"{tmp_path}/mine.py:f")
    (tmp_path / "mine.py").write_text("f = 1\ng = 22\n")
    assert load_object(f"{tmp_path}/mine.py:g") == 22
