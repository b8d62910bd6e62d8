"""Writes lmms_eval_verdicts.json: what lmms-eval itself says of crafted replies, benchmark by benchmark.

    pip install --no-deps lmms_eval==0.7.3     # in an environment of its own, with what its tasks import
    python tests/evaluation/lmms_eval_verdicts.py

Rows are in each benchmark's public layout, without their images, which no rule looks at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from itertools import permutations
from pathlib import Path

FIXTURE = Path(__file__).with_suffix(".json")

ONE_LETTER = (
    "{0}", "{0}.", "({0})", "{0})", "[{0}]", "{0}:", "**{0}**", " {0} ", "\n{0}\n", "{0}, I think", "({0}", "{0}..", "`{0}`",
    "{0}. the red car", "({0}) blue", "{0}) seven", "{0}: a dog", "{0} red", "Option {0}", "option {0}.", "Choice: {0}",
    "The answer is {0}", "The answer is {0}.", "The answer is ({0}).", "the answer is {0}", "answer: {0}", "Answer: {0}",
    "Answer:{0}", "Final Answer: {0}", "Final answer: ({0})", "The correct answer is **{0}**", "The best answer is {0}",
    "Best option: {0}", "The correct option is ({0})", "Answer is {0}", "answers: {0}", "I choose {0}", "I would pick ({0})!",
    "It must be {0} because the light falls from the left side of the street", "{0} because nothing else fits in there",
    "After looking at every part of the picture for a while I am sure that it is {0}",
    "Looking at all of the image, {0} seems right, though the others are near to it as well",
    "<answer>{0}</answer>", "\\boxed{{{0}}}", "{0}\nThe car is red.", "The car is red.\n{0}", "Answer: {0}. Answer: {0}.",
)  # fmt: skip
TWO_LETTERS = (
    "{0} or {1}", "({0}) and ({1})", "{0}, not {1}", "Not {0}, but {1}", "First I thought {0}. The answer is {1}.",
    "The answer is {0}. No, the answer is {1}.", "{0}/{1}", "({0}) looks off, so ({1})", "{0}{1}",
)  # fmt: skip
FREE = (
    "", " ", "\n", ".", "?", "Z", "z", "none", "None of them", "I", "i", "red", "Red", "The red car.", "red or blue", "blue",
    "a dog", "A dog", "A man is standing at a door", "I see a cat and a dog", "the red car and the blue car", "seven", "Seven.",
    "7", "7.", "7.0", "7.00", "07", "70", "17", "-7", "= 7", "so 7", "There are 7 of them.", "It is 7 or 8", "7, 8", "1,234",
    "1234", "1234.0", "1234.004", "1.234e3", "1e3", "3.50", "3.5", ".5", "0.5", "50%", "about 3.5 px", "between 3 and 4",
    "The result is 3.5. Hence nothing more.", "could be 7\nfinal 8", "x = 1,234", "answer is", "The answer is", "answer:",
    "final answer:", "Final Answer: Red", "Final Answer: red", "The answer is red", "the answer is: red", "Answer: a dog",
    "True", "False", "true.", "(A) True", "(B) False", "yes", "No", "Yes, it is.", "Cannot determine the answer", "dog!",
    "Sorry, I can't help with images of people yet.", "I can't process this file. B", "Failed to obtain answer via API: B",
    "I'm sorry, but without the image provided I can say B", "ABCD", "BAD", "CAB", "DEED", "Éclair", "ＡB", "Ｂ", "В", "β",
    "b", "c.", "(d)", "e)", "a", "a.", "an apple", "be", "see", "answer b", "answer is c", "option d", "the answer is d.",
    "<b>B</b>", "B\u200b", "B\tred", "\tB", "B. ", "B.C", "A. B. C. D.", "A B C D", "A, B", "(A)(B)", "1. B", "B 1", "B2",
    "The image shows a red car, a blue car and a green car, of which the first one stands nearest to the viewer.",
    "the image shows nothing", "It is red" * 40, "word " * 200 + "B", "B " + "word " * 200, "B" * 50, "paper title",
    "The Paper Title", "the paper title.", "so the paper title", "is a\nis b", "thus\nthus", "So. B", "is", "= ", "result = B",
)  # fmt: skip


def replies() -> list[str]:
    """The crafted replies."""
    singles = [form.format(letter) for form in ONE_LETTER for letter in "ABCDE"]
    pairs = [form.format(*pair) for form in TWO_LETTERS for pair in permutations("ABE", 2)]
    return list(dict.fromkeys([*singles, *pairs, *FREE]))


VSTAR = {"image": "direct_attributes/a.jpg", "question_id": 0}
HR = {"index": 0, "category": "single", "cycle_category": 0, "image": ""}
MUIR = {"idx": 0, "image_relation": "Narrative", "image_type": "Slides", "image_list": []}
MME = {"index": 0, "category": "Perception/Remote Sensing", "l2-category": "color", "image": ""}
BLINK = {"idx": "val_Counting_1", "sub_task": "Counting", "image_1": None, "prompt": "How many?"}
MANTIS = {"id": "0", "images": []}
MIRB = {"question_id": 0, "image_list": [], "questions": "What?"}
NLVR2 = {"id": 0, "images": [], "question": "Is it so?"}
MVBENCH = {"video": "a.mp4"}
CARS = ["the red car", "the blue car", "a dog", "seven"]
ROWS = {
    "vstar": [
        VSTAR | {"text": "Which?\n(A) the red car\n(B) the blue car\n(C) a dog\n(D) seven\nAnswer.", "label": label,
                 "category": "direct_attributes"}
        for label in "BD"
    ],
    "hr_bench_4k": [
        HR | {"question": "Which?", "answer": answer, **dict(zip("ABCD", CARS, strict=True))} for answer in "AC"
    ],
    "muirbench": [
        MUIR | {"task": "Counting", "question": "Which? <image>", "options": CARS, "answer": answer} for answer in "BD"
    ],
    "mme_realworld": [
        MME | {"question": "Which?", "answer": answer, "multi-choice options": [
            f"({letter}) {text}" for letter, text in zip("ABCDE", [*CARS, "None of them"], strict=True)]}
        for answer in "AE"
    ],
    "blink": [
        BLINK | {"question": "Which?", "choices": CARS[:count], "answer": answer}
        for count, answer in ((4, "(C)"), (2, "(B)"))
    ],
    "mantis": [
        MANTIS | {"question_type": "multi-choice", "question": "Which?", "answer": "(B)", "options": CARS},
        MANTIS | {"question_type": "short-answer", "question": "What?", "answer": "red", "options": []},
    ],
    "mirb": [
        MIRB | {"subset": "food", "answers": "B"}, MIRB | {"subset": "count", "answers": "7"},
        MIRB | {"subset": "arxiv", "answers": "the paper title"}, MIRB | {"subset": "3d_scene", "answers": "1234"},
    ],
    "nlvr2": [NLVR2 | {"options": ["(A) True", "(B) False"], "answer": answer} for answer in "AB"],
    "mvbench": [MVBENCH | {"question": "Which?", "candidates": CARS, "answer": answer} for answer in CARS[1:3]],
}  # fmt: skip


def official() -> dict[str, Callable[[dict, str], bool]]:
    """The verdict of lmms-eval for each benchmark."""

    def tasks(name: str):
        return import_module(f"lmms_eval.tasks.{name}.utils")

    def hr_bench(row: dict, reply: str) -> bool:
        options = {letter: row[letter] for letter in "ABCD"}
        read = tasks("hrbench").hrbench_evaluator.can_infer(reply.strip(), options)
        return bool(read) and read.lower() == row["answer"].lower()

    def muirbench(row: dict, reply: str) -> bool:
        read = tasks("muirbench").MultiChoiceRegexFilter().apply([[reply]], [row])
        return (
            tasks("muirbench").muir_aggregation(
                [tasks("muirbench").muir_process_results(row, read)["muirbench_score_overall"]]
            )
            == 1
        )

    def mme(row: dict, reply: str) -> bool:
        module = tasks("mme_realworld")
        return (
            module.mme_realworld_aggregate_results(
                [module.mme_realworld_process_results(row, [reply])["mme_realworld_score"]]
            )
            == 1
        )

    def mirb(row: dict, reply: str) -> bool:
        module = tasks("mirb")
        parsed = module.mirb_process_results(row, [reply])["mirb_score"]
        compare = module.eval_multi_choice if row["answers"] in list("ABCDE") else module.eval_open
        return compare(parsed["answers"], parsed["pred_answer"])

    return {
        "vstar": lambda row, reply: next(iter(tasks("vstar_bench").vstar_process_results(row, [reply]).values()))["score"] == 1,
        "hr_bench_4k": hr_bench,
        "muirbench": muirbench,
        "mme_realworld": mme,
        "blink": lambda row, reply: tasks("blink").blink_process_results(row, [reply])["blink_acc"]["is_correct"],
        "mantis": lambda row, reply: tasks("mantis").mantis_process_results(row, [reply])["mantis_score"]["correct"],
        "mirb": mirb,
        "nlvr2": lambda row, reply: tasks("llava_interleave_bench").mcq_acc(row["answer"], reply) == 1,
        "mvbench": lambda row, reply: tasks("mvbench").mvbench_process_results(row, [reply])["mvbench_accuracy"]["score"] == 1,
    }  # fmt: skip


def judged(rule: Callable[[dict, str], bool], rows: list[dict]) -> Iterator[dict]:
    for row in rows:
        yield {"row": row, "verdicts": "".join(str(int(rule(row, reply))) for reply in replies())}


def main() -> None:
    rules = official()
    cases = {name: list(judged(rules[name], rows)) for name, rows in ROWS.items()}
    record = {"lmms_eval": version("lmms_eval"), "replies": replies(), "cases": cases}
    FIXTURE.write_text(json.dumps(record, indent=1) + "\n")
    print(len(replies()), {name: [case["verdicts"].count("1") for case in found] for name, found in cases.items()})


if __name__ == "__main__":
    main()
