"""Writes mimic_verdicts.json: what the released code of MIMIC itself says of crafted replies, task by task.

    git clone https://github.com/anurag-198/MIMIC       # read at commit dc19c82
    pip install word2number==1.1
    python tests/evaluation/mimic_verdicts.py MIMIC/lmm_eval/lmms_eval/tasks/mimic

The filters and sums of each task are called as lmms-eval calls them; of that tool only a base class is stood in for.
The stored verdicts are of the filters, sums and number reading of the four files, copied by hand: there was no clone.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import permutations
from pathlib import Path
from types import ModuleType
from typing import Any

FIXTURE = Path(__file__).with_suffix(".json")
NUMBERS = (
    "{0}", "{0}.", " {0} ", "{0}!", "{0},", "'{0}'", "\"{0}\"", "({0})", "**{0}**", "{0} dogs", "There are {0} dogs.",
    "there are {0} in all", "Answer: {0}", "The answer is {0}", "the total is {0}, I think", "{0}\n", "\n{0}", "{0}.0",
    "{0}0", "-{0}", "+{0}", "={0}", "{0}/2", "{0} or 3", "3 or {0}", "<answer>{0}</answer>", "<think>2</think>{0}",
    "{0};", ".{0}", "{0} and {0}", "Image 1 shows 2, image 2 shows 3: {0}", "{0} (2 + 3)", "2 + 3 = {0}", "{0}th",
    "no{0}",
)  # fmt: skip
WORDS = (
    "five", "Five", "FIVE", "five.", "five,", "five dogs", "There are five dogs.", "twenty-one", "twenty one",
    "two three",
    "two and three", "two cats and three dogs", "two, three", "one two three", "one two three four", "a b c d five",
    "one two three four five", "hundred", "one hundred", "one hundred five", "two hundred and five", "a hundred",
    "thousand",
    "five thousand", "thousand five", "zero thousand five", "one million", "million one", "five point zero",
    "five point",
    "point five", "at this point 5", "five point twenty", "no one knows: 5", "one of them, 5 in all",
    "the one with 5 dogs",
    "none", "zero", "zero five", "fivety", "fifth", "a dozen", "several", "many", "too many", "no dogs", "ten five",
    "nineteen", "ninety nine", "thirty-five", "fifteen", "fifty", "five-", "-five", "five hundred hundred",
    "half a dozen",
    "two thousand thousand", "one thousand million", "five point point", "point", "minus five", "five or six",
    "six or five",
)  # fmt: skip
ODD_NUMBERS = (
    "", " ", "\n", ".", "?", "5 5", "5,5", "5.5", "0.5", "05", "005", "5_0", "_5", "5e0", "0x5", "٥", "５", "五", "⁵",
    "Ⅴ", "5️⃣",
    "1,000", "1000", "10", "50", "15", "55", "v", "V", "b5", "5b", "five5", "5five", "5 five", "six 5",
    "there is 1 dog and 4",
    "wrong answer", "True", "I see 5 dogs in image 1 and 0 in image 2.", "Image 5 shows none.", "5 " * 60,
    "word " * 80 + "5",
)  # fmt: skip
ONE_NAME = (
    "{0}", "{0}.", " {0}", "{0} ", "\n{0}", "{0}\n", "{0}s", "{0}es", "{1}{0}", "a {0}", "the {0}", "A {0}.",
    "It is a {0}",
    "The answer is {0}", "answer: {0}!", "**{0}**", "'{0}'", "\"{0}\"", "({0})", "not {0}", "no {0}", "{0} or {1}",
    "{1} or {0}", "{0}, {1}", "{1}, {0}", "{0},{1}", "{0} and {1}", "{1} and {0}", "{0}; {1}", "{0}\n{1}",
    "- {0}\n- {1}",
    "1. {0}\n2. {1}", "{0}/{1}", "{0}, {1}, zebra", "zebra, {0}, {1}", "zebra, {1}", "zebra", "zebra, {0}", "{0}, {0}",
    "{1}, {1}", "{0}, and {1}", "[{0}, {1}]", "The classes are {0}, {1}", "{0} , {1}", "{0},  {1}", ", {0}",
    ", {0}, {1}",
    "{0}, {1},", "{0}, {1}.", "{1}, {0}.", "x, {0}, {1}", "<answer>{0}</answer>", "<answer>{0}, {1}</answer>",
    "{0} {1}",
)  # fmt: skip
NAMES = ("dog", "Dog", "DOG", "hot dog", "cat", "fire hydrant", "person", "people", "doge", "do g")
FREE_NAMES = (
    "",
    " ",
    ".",
    ",",
    ", ",
    "none",
    "None",
    "unknown",
    "animals",
    "everything",
    "word " * 90 + "dog",
    "d, o, g",
)


def replies() -> dict[str, list[str]]:
    """The crafted replies: of numbers, and of names."""
    numbers = [form.format(number) for form in NUMBERS for number in ("5", "6", "15", "five", "0", "one")]
    names = [form.format(*pair) for form in ONE_NAME for pair in permutations(NAMES[:4], 2)]
    singles = [form.format(name, "cat") for form in ONE_NAME for name in NAMES[4:]]
    return {
        "counting": list(dict.fromkeys([*numbers, *WORDS, *ODD_NUMBERS])),
        "names": list(dict.fromkeys([*names, *singles, *FREE_NAMES])),
    }


TRUTHS = {"counting": ["5", "0", "1"], "common": ["dog", "hot dog"], "oddone": ["cat", "fire hydrant"],
          "listing": ["dog", "dog, cat", "cat, dog, hot dog"]}  # fmt: skip


def module_of(path: Path) -> Any:
    stub = ModuleType("lmms_eval.filters.extraction")
    stub.ExtendedRegexFilter = type("ExtendedRegexFilter", (), {})  # type: ignore[attr-defined]
    transformation = ModuleType("lmms_eval.filters.transformation")
    transformation.MapFilter = object  # type: ignore[attr-defined]
    for name, module in (("lmms_eval", ModuleType("lmms_eval")), ("lmms_eval.filters", ModuleType("filters")),
                         (stub.__name__, stub), (transformation.__name__, transformation)):  # fmt: skip
        sys.modules[name] = module
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    folder, said = Path(sys.argv[1]), replies()
    cases = []
    for task, truths in TRUTHS.items():
        module = module_of(folder / f"{task}_utils.py")
        for truth in truths:
            row = {"task": task, "idx": 0, "id": 0, "gt": truth}
            verdicts = []
            for reply in said["counting" if task == "counting" else "names"]:
                [read] = module.MultiChoiceRegexFilter_1().apply([[reply]], [row])
                score = module.aggregation([{"pred": read, "task": task, "idx": 0, "answer": truth}])
                verdicts.append(round(score[2], 6) if task == "listing" else int(score))  # of a list its F1
            cases.append({"task": task, "truth": truth, "verdicts": verdicts})
    FIXTURE.write_text(json.dumps({"replies": said, "cases": cases}) + "\n")
    print({name: len(texts) for name, texts in said.items()})


if __name__ == "__main__":
    main()
