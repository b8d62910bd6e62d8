"""Every reference that is let in scores 1 as written; what could never be right, or right twice, is refused."""

import csv
import json

import pytest

from fovea.answers import constant_of, readable, score, written
from fovea.answers.boxes import boxes_in
from fovea.answers.numbers import to_number
from fovea.answers.telling import tells
from fovea.boxes import Box, Frame, Framing, View
from fovea.data.columns import TaskError
from fovea.data.references import checked, kind_of
from fovea.data.task_files import load_tasks
from fovea.tasks import AnswerKind, Target, Task

COLOURS = ("red", "dark blue", "green")


def task(answer, kind, choices=(), images=()) -> Task:
    return Task("t", tuple(images), "q?", answer, AnswerKind(kind), choices=tuple(choices))


@pytest.mark.parametrize(
    ("answer", "said", "choices", "right"),
    [
        ("No", "The answer is No.", ("Yes", "No"), 1),
        ("Yes", "Yes, there is no other.", ("Yes", "No"), 1),
        ("Yes", "Yes or No", ("Yes", "No"), 0),
        ("Yes", "No. I do not see it, so yes is wrong", ("Yes", "No"), 0),
        ("No", "(B) No", ("Yes", "No"), 1),
        ("100", "7, not 100", ("100", "7"), 0),
        ("7", "It shows 7.", ("5", "7", "9"), 1),
        ("7", "It shows 7.5", ("5", "7"), 0),
        ("7", "It is -7", ("5", "7"), 0),
        ("200", "about 1,200 px", ("200", "1,200"), 0),
        ("TV", "It is a TV.", ("TV", "radio"), 1),
        ("on", "on or off", ("on", "off"), 0),
    ],
)
def test_short_options_are_seen_in_sentences(answer, said, choices, right):
    assert score(task(answer, "choice", choices), said) == right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("No.7", 7), ("Rs.500", 500), ("about .25 m", 0.25), ("two hundred", 200), ("minus two hundred", -200),
        ("1,200 million", 1.2e9), ("a dozen eggs", 12), ("hundreds of 5", None), ("two hundred and five", None),
    ],
)  # fmt: skip
def test_numbers_are_read_with_what_stands_around_them(text, number):
    assert to_number(text) == number


@pytest.mark.parametrize(
    ("kind", "answer", "choices", "cured"),
    [
        ("yes_no", True, (), "yes"),
        ("yes_no", "False", (), "no"),
        ("yes_no", "<answer>yes</answer>", (), "yes"),
        ("number", "<think>two</think><answer>2</answer>", (), "2"),
        ("number", "\u22123", (), "\u22123"),
        ("number", "\u0663", (), "\u0663"),
        ("number", 1.5, (), 1.5),
        ("text", ["a hat", "Cap"], (), ["a hat", "Cap"]),
        ("text", "?!", (), "?!"),
        ("text", "a", (), "a"),
        ("list", ["salt and pepper", "cup"], (), ["salt and pepper", "cup"]),
        ("list", "cup, hat", (), ["cup", "hat"]),
        ("choice", "DARK BLUE", COLOURS, "DARK BLUE"),
        ("choice", "(b)", COLOURS, "(b)"),
        ("choice", "C", (), "C"),
        ("choice", "B", ("A", "B", "C"), "B"),
        ("choice", 3, ("2", "3"), 3),
    ],
)
def test_references_that_mean_one_thing_are_let_in_and_score_1_as_written(kind, answer, choices, cured):
    found = checked(task(answer, kind, choices))
    assert found.answer == cured
    assert score(found, written(found)) == 1


@pytest.mark.parametrize(
    ("kind", "answer", "choices", "reason"),
    [
        ("yes_no", "maybe", (), "neither yes nor no"),
        ("yes_no", ["yes", "no"], (), "neither yes nor no"),
        ("number", "six or seven", (), "not one number"),
        ("number", "6 or seven", (), "not one number"),
        ("number", "3 4", (), "not one number"),
        ("number", "5\u00b2", (), "not one number"),
        ("number", float("nan"), (), "not one number"),
        ("number", float("inf"), (), "not one number"),
        ("number", True, (), "not one number"),
        ("number", "red", (), "not one number"),
        ("number", [3, 4], (), "not one number"),
        ("text", "", (), "no text"),
        ("text", " ", (), "no text"),
        ("text", [], (), "no text"),
        ("text", ["hat", None], (), "no text"),
        ("list", [], (), "no list of texts"),
        ("list", ["cup", ""], (), "no list of texts"),
        ("list", ["red, white", "cup"], (), "holds a separator"),
        ("list", ["the cup", "Cup."], (), "are the same"),
        ("box", "left", (), "holds no box"),
        ("box", [], (), "no box"),
        ("box", [[1, 2, 3]], (), "not four"),
        ("choice", "AB", COLOURS, "none of the choices"),
        ("choice", "", COLOURS, "none of the choices"),
        ("choice", "violet", COLOURS, "none of the choices"),
        ("choice", "D", COLOURS, "none of the choices"),
        ("choice", "red", (), "no letter"),
        ("choice", "A", ("red", "Red."), "choices A and B are the same"),
        ("choice", "B", ("B", "A"), "the letter of another"),
        ("choice", "A", ("red",), "leaves nothing to choose"),
        ("choice", "A", [f"colour {n}" for n in range(27)], "more than there are letters"),
        ("choice", ["A", "B"], COLOURS, "no choice"),
    ],
)
def test_references_that_could_never_be_right_or_be_right_twice_are_refused(kind, answer, choices, reason):
    with pytest.raises(TaskError, match=reason):
        checked(task(answer, kind, choices, images=("a.png",) if kind == "box" else ()))


@pytest.mark.parametrize("wrong", [".", "", "?", "!"])
def test_punctuation_is_right_only_where_it_is_the_answer(wrong):
    assert score(checked(task("?!", "text")), wrong) == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [("\u2212 5", 5.0), ("\u22125", -5.0), ("12 m\u00b2", 12.0), ("\u0661\u0662", 12.0), ("\uff17", 7.0),
     ("the red one says 7", 7.0),     ("3\u20134", None), ("10\u00b3", None), ("\u00bd", None)],
)  # fmt: skip
def test_numbers_of_all_scripts(text, number):
    assert to_number(text) == number


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [("50%", "50 %", 1), ("50%", "0.5", 1), ("50%", "50", 1), ("50%", "fifty percent", 1), ("50%", "5000%", 0),
     (100, "100%", 1), (40, "40 per cent", 1), (0.5, "50%", 1), (0.5, "5%", 0), ("$7", "$7.00", 1), ("7 €", "7", 1),
     (8, "eight boxes", 1), (21, "twenty-one", 1), (21, "twenty", 0), (0, "none", 1), (0.5, "1/2", 1),
     (1500, "1 500", 1), (1500, "1\u202f500 g", 1), (2.5, "2,50", 1), (-3, "minus 3", 1), (3, "minus 3", 0),
     (1, "no one", 0), (1, "one box", 1), (1, "the red one", 0), (1, "There is one dog.", 1), (1, "Only one.", 1),
     (1, "The total is one.", 1), (1, "The answer is **one**", 1), (1, "I see one of the dogs", 0),
     (1, "Answer: one", 1),
     (1, "It is the left one", 0), (1, "It is one of those", 0), (1, "that one", 0), (1, "There are a total of one", 1),
     (0.5, "50% of them", 1), (12, "bus-twelve", 1), (7, "seven of eight", 0), (12, "1/0", 0), (1, "page 1 500", 0)],
)  # fmt: skip
def test_numbers_as_people_write_them(reference, answer, right):
    assert score(checked(task(reference, kind_of(None, reference, (), has_image=False))), answer) == right


@pytest.mark.parametrize(
    ("kind", "reference", "answer", "right"),
    [("yes_no", "True", "true", 1), ("yes_no", "True", "Yes", 1), ("yes_no", True, "False.", 0),
     ("yes_no", "no", "It is not true", 0), ("yes_no", "yes", "Yes, no doubt.", 1), ("yes_no", "no", "no doubt", 0),
     ("yes_no", "yes", "Yes, there is no other.", 1), ("yes_no", "no", "No \u2014 the left one says yes", 1),
     ("yes_no", "yes", "Yes. No.", 0), ("yes_no", "yes", "True, it is red", 1), ("yes_no", "yes", "yes or no", 0),
     ("text", "don't", "don\u2019t", 1), ("text", 'the "Ox"', "The \u201cOx\u201d", 1),
     ("list", ["Milk", "Bread"], "1. Milk 2. Bread", 1), ("list", ["Milk", "Bread"], "Milk & Bread", 1),
     ("choice", "blue", "(c) blue", 1), ("choice", "blue", "c. blue", 1), ("choice", "blue", "It is the blue one.", 1),
     ("choice", "blue", "blue or red", 0), ("choice", "blue", "apple(s)", 0), ("choice", "blue", "a blue one", 1)],
)  # fmt: skip
def test_words_as_people_write_them(kind, reference, answer, right):
    choices = ("red", "green", "blue") if kind == "choice" else ()
    assert score(checked(task(reference, kind, choices)), answer) == right


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("[1, 2, 3, 4]", 1),
        ("(1,2),(3,4)", 1),
        ("<|box_start|>(1,2),(3,4)<|box_end|>", 1),
        ("It is at 1, 2, 3 and 4.", 1),
        ('```json\n[\n  {"bbox_2d": [1, 2, 3, 4], "label": "cup 2"}\n]\n```', 1),
        ('{"bbox_2d": [1, 2, 3, 4]} and {"bbox_2d": [1, 2, 3, 4]}', 2),
        ("[[1, 2, 3, 4], [1, 2, 3, 4]]", 2),
        ("bbox_2d of 3 cups: none", 0),
        ("[1, 2, 3]", 0),
        ("", 0),
    ],
)
def test_boxes_are_found_in_every_form_that_models_write(text, boxes):
    assert boxes_in(text) == [((1.0, 2.0, 3.0, 4.0), None)] * boxes


VIEWS = (View((4000, 3000), (1008, 756)), View((300, 600), (308, 616)))


@pytest.mark.parametrize("frame", list(Frame))
def test_a_perfect_grounding_scores_1_in_every_frame(frame, picture):
    targets = [Target(Box(0.25, 0.25, 0.75, 0.5, Frame.UNIT), 1), Target(Box(0.5, 0.5, 0.75, 0.75, Frame.UNIT), 1)]
    framing = Framing(frame, VIEWS)
    for some in (targets[:1], targets):
        asked = checked(task([target.to_dict() for target in some], "box", images=(picture, picture)))
        answer = written(asked, framing)
        assert score(asked, answer, framing) == pytest.approx(1, abs=1e-6)
        qwen = [{"bbox_2d": framing.write(target.box, 1), "label": "it 2", "img_idx": 1} for target in reversed(some)]
        assert score(asked, f"```json\n{json.dumps(qwen)}\n```", framing) == pytest.approx(1, abs=1e-6)


def test_boxes_too_many_too_few_or_elsewhere_cost(picture):
    framing = Framing(Frame.PER_MILLE)
    asked = checked(task([[0, 0, 320, 240], [320, 240, 640, 480]], "box", images=(picture,)))
    assert score(asked, "[[0, 0, 500, 500], [500, 500, 1000, 1000]]", framing) == 1
    assert score(asked, "[0, 0, 500, 500]", framing) == 0.5
    assert score(asked, "[[0, 0, 500, 500], [500, 500, 1000, 1000], [0, 0, 1, 1], [0, 0, 9, 9]]", framing) == 0.5
    assert score(asked, "[500, 500, 0, 0]", framing) == 0
    assert score(asked, "everywhere", framing) == 0
    half = checked(task([0, 0, 320, 240], "box", images=(picture,)))
    assert score(half, "[250, 0, 750, 500]", framing) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="in which frame"):
        score(half, "[0, 0, 500, 500]")


@pytest.mark.parametrize(
    ("answer", "images", "kind"),
    [
        ([10, 20, 30, 40], 1, "box"),
        ([[10, 20, 30, 40]], 1, "box"),
        ({"bbox_2d": [10, 20, 30, 40]}, 1, "box"),
        ([10, 20, 30, 40], 0, "list"),
        (["cat", "dog"], 1, "list"),
        (True, 1, "yes_no"),
        ("No", 1, "yes_no"),
        ("1,200", 1, "number"),
        (7, 0, "number"),
        ("nineteen", 1, "text"),
        ("False", 1, "yes_no"),
        ("50%", 1, "number"),
        ("$1,200.50", 1, "number"),
        ("12 cm", 1, "text"),
        ("7 or 8", 1, "text"),
    ],
)
def test_kinds_are_told_by_the_answer(tmp_path, picture, answer, images, kind):
    picture.save(tmp_path / "a.png")
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"images": ["a.png"] * images, "question": "q?", "answer": answer}))
    assert load_tasks(path)[0].kind.value == kind


def test_mixed_types_read_the_same_from_every_kind_of_file(tmp_path, picture):
    import datasets

    answers = [7, "red", ["cat", "dog"], [64, 48, 320, 240], True]
    boxes = [None, [[0, 0, 64, 48]], [{"bbox_2d": [0, 0, 64, 48], "img_idx": 0}], [], None]
    picture.save(tmp_path / "a.png")
    rows = [
        {"images": ["a.png"], "question": "q?", "answer": a, "boxes": b} for a, b in zip(answers, boxes, strict=True)
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [row | {"answer": json.dumps(row["answer"]), "boxes": json.dumps(row["boxes"])} for row in rows]
    data = datasets.Dataset.from_list(texts)
    data.to_parquet(str(tmp_path / "tasks.parquet"))
    expected = [(t.kind, t.answer, t.boxes) for t in load_tasks(tmp_path / "tasks.jsonl")]
    declared = load_tasks(tmp_path / "tasks.parquet", json_columns=["answer", "boxes"])
    assert [(t.kind, t.answer, t.boxes) for t in declared] == expected
    assert [kind.value for kind, *_ in expected] == ["number", "text", "list", "box", "yes_no"]


@pytest.mark.parametrize("spell", [json.dumps, str], ids=["json", "python"])
@pytest.mark.parametrize("sign", [",", ";"])
def test_a_table_of_texts_gives_the_tasks_of_the_same_rows(tmp_path, picture, spell, sign):
    """As json.dumps or pandas write lists, objects and booleans into CSV."""
    picture.save(tmp_path / "a.png")
    rows = [
        {"images": ["a.png"], "question": f"q{number}?", "answer": answer, "kind": kind, "boxes": boxes,
         "choices": choices}
        for number, (answer, kind, boxes, choices) in enumerate([
            (7, None, [[0, 0, 64, 48]], None), ("Jazz in June", None, None, None),
            ([64, 48, 320, 240], None, None, None),
            (["half past nine", "9.30"], "text", None, None), (["cat", "dog"], None, None, None),
            (True, None, None, None), (False, None, None, None), ("$7.50", None, None, None),
            ("[sic]", None, None, None),
            ("b", None, [{"bbox_2d": [0.1, 0.1, 0.2, 0.2], "frame": "unit"}], ["x y", "z, z"]),
        ])
    ]  # fmt: skip
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (tmp_path / "tasks.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=sign)
        writer.writeheader()
        cells = [{name: "" if value is None else value if isinstance(value, str) else spell(value)
                  for name, value in row.items()} for row in rows]  # fmt: skip
        writer.writerows(cells)
    wanted, found = ([(t.kind, t.answer, t.boxes, t.choices) for t in load_tasks(tmp_path / f"tasks.{ending}")]
                     for ending in ("jsonl", "csv"))  # fmt: skip
    assert [(kind, str(answer), *rest) for kind, answer, *rest in found] == [
        (kind, str(answer), *rest) for kind, answer, *rest in wanted
    ]


def test_the_text_of_a_list_is_refused_as_an_answer_of_no_named_kind(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"question": "q?", "answer": "[1, 2]"}))
    with pytest.raises(TaskError, match="name the column in --json_columns"):
        load_tasks(path)
    assert load_tasks(path, json_columns=["answer"])[0].kind is AnswerKind.LIST
    path.write_text(json.dumps({"question": "q?", "answer": "[1, 2)", "kind": "math"}))
    assert load_tasks(path)[0].answer == "[1, 2)"


@pytest.mark.parametrize(
    "answer",
    ["A. red\nB. dark blue\nC. green", "[A] and [B]", "**A** or **B**", "A) or B)", "answer is A or B", "Answer: A, B",
     "(A) or B", "Option A is wrong, B is right", "A. dark blue", "A, B, C"],
)  # fmt: skip
def test_an_answer_that_names_two_options_is_wrong(answer):
    assert score(checked(task("A", "choice", COLOURS)), answer) == 0


@pytest.mark.parametrize("answer", ["A", "(A)", "a", "The answer is A", "A. red", "red", "**A**", "Answer: (A) red"])
def test_an_answer_that_names_one_option_is_read(answer):
    assert score(checked(task("A", "choice", COLOURS)), answer) == 1


@pytest.mark.parametrize(
    ("answer", "right"),
    [("B. dark red", 1), ("(B) dark red", 1), ("dark red", 1), ("B. dark red, not red", 0), ("B. red", 0),
     ("A. dark red", 0), ("B. red wine", 0)],
)  # fmt: skip
def test_an_option_that_another_contains_is_not_named_by_it(answer, right):
    assert score(checked(task("B", "choice", ("red", "dark red", "red wine"))), answer) == right


@pytest.mark.parametrize(
    ("text", "number"),
    [(".5", 0.5), ("-.5 m", -0.5), ("Total\u20147", 7.0), ("bus-12", 12.0), ("\u20133", -3.0), ("9" * 400, None),
     ("1e999", None),     ("50%.", 0.5), ("3.5.", 3.5), ("There are 7.", 7.0)],
)  # fmt: skip
def test_signs_points_and_sizes_of_numbers(text, number):
    assert to_number(text) == number


@pytest.mark.parametrize(
    "text",
    [f"[{'1' * 400}, 2, 3, 4]", f"({'1' * 400}, 2, 3, 4)", f"({'1' * 400},2),(3,4)", f"{'1' * 400} 2 3 4",
     '{"bbox_2d": [NaN, 1, 2, 3]}'],
)  # fmt: skip
def test_numbers_that_no_box_can_have_are_no_box_and_stop_nothing(text, picture):
    asked = checked(task([0, 0, 320, 240], "box", images=(picture,)))
    assert score(asked, text, Framing(Frame.PER_MILLE)) == 0
    assert score(asked, "[" * 2000 + "1, 2, 3, 4" + "]" * 2000, Framing(Frame.PER_MILLE)) < 0.01


@pytest.mark.parametrize("written_as", [json.dumps, list])
def test_a_box_reference_keeps_its_frame_also_as_text(written_as, picture):
    boxes = [{"bbox_2d": [100, 200, 300, 400], "frame": "per_mille"}]
    [found] = checked(task(written_as(boxes), "box", images=(picture,))).answer
    assert found["coordinates"] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_lists_with_bullets_are_lists():
    for answer in ("- cup\n- hat", "1. cup\n2. hat", "* cup\n* hat"):
        assert score(checked(task(["cup", "hat"], "list")), answer) == 1


BOX = {"coordinates": [0.25, 0.5, 0.75, 1.0], "frame": "unit"}


@pytest.mark.parametrize(
    ("kind", "answer", "choices", "images", "told"),
    [
        ("number", 7, (), 1, "7"),
        ("text", ["hat", "cap"], (), 1, "hat or cap"),
        ("list", ["cup", "hat"], (), 1, "cup, hat"),
        ("choice", "b", COLOURS, 1, "B. dark blue"),
        ("choice", "green", COLOURS, 1, "C. green"),
        ("choice", "C", (), 1, "C"),
        ("box", [BOX], (), 1, "[0.250, 0.500, 0.750, 1.000]"),
        (
            "box", [BOX, BOX | {"img_idx": 1}], (), 2,
            "[0.250, 0.500, 0.750, 1.000] on image 0; [0.250, 0.500, 0.750, 1.000] on image 1",
        ),
    ],
)  # fmt: skip
def test_people_are_told_a_reference_in_their_words(kind, answer, choices, images, told):
    assert readable(task(answer, kind, choices, [None] * images)) == told


DEGREES = ("25 °C", "30 °C", "35 °C")
SIDES = ("A is closer", "B is closer")
BOTH = ("red", "blue", "Both A and B")
CHINESE = ("红色", "蓝色")


@pytest.mark.parametrize(
    ("choices", "reference", "answer", "right"),
    [
        *((DEGREES, "A", answer, 1) for answer in ("A. 25 °C", "(A) 25 °C", "The answer is A. 25 °C", "**A**: 25 °C")),
        *((DEGREES, "A", answer, 0) for answer in ("B. 25 °C", "A. 30 °C", "A. 25 °C or B. 30 °C")),
        (("Vitamin C", "Vitamin D"), "A", "A. Vitamin C", 1),
        (("Paris", "Washington, D.C."), "B", "B. Washington, D.C.", 1),
        (BOTH, "C", "(C) Both A and B", 1), (BOTH, "A", "(C) Both A and B", 0),
        (SIDES, "B", "A. B is closer", 0), (SIDES, "A", "A. A is closer", 1),
        (SIDES[::-1], "A", "A. B is closer", 1),
        (("-1", "1"), "B", "\u22121", 0), (("-1", "1"), "A", "x = \u22121", 1), (("-1", "1"), "B", "x = \u22121", 0),
        *((CHINESE, "B", answer, 1) for answer in (r"\boxed{B}", r"so $\boxed{\text{B}}$.", "$B$", "答案：B", "Ｂ")),
        (CHINESE, "B", "（B）蓝色", 1),
        *((("3", "-3", "0"), "B", answer, 1) for answer in ("(B) -3", "B. -3", "B: -3", "The answer is B. -3")),
        (("0", "3", "-3"), "B", "B. -3", 0), (("0", "3", "-3"), "B", "(B) - 3", 1),
        *((("cat", "dog"), "B", answer, 1) for answer in ("The answer is a dog.", "Option: a dog", "A dog")),
        (("a cat", "a dog"), "B", "Answer: a dog", 1),
        *((("$x$", "$y$"), "A", answer, 1) for answer in ("$x$", "x", "A. $x$", r"\boxed{$x$}")),
        ((r"$30^\circ$", r"$60^\circ$"), "A", r"$30^\circ$", 1), (("$5", "$10", "$15"), "B", "$10$", 1),
        ((r"$12 \text{ cm}$", r"$13 \text{ cm}$"), "A", r"$12 \text{ cm}$", 1),
        (CHINESE, "A", r"\boxed{B}", 0),
    ],
)  # fmt: skip
def test_an_option_is_named_by_a_letter_and_its_text_whatever_the_text_holds(choices, reference, answer, right):
    assert score(task(reference, "choice", choices), answer) == right


@pytest.mark.parametrize(
    ("kind", "reference", "answer", "right"),
    [
        ("text", "红色", "红色。", 1), ("list", ["猫", "狗"], "猫、狗", 1), ("list", ["猫", "狗"], "狗，猫", 1),
        ("yes_no", "yes", "The statement is true.", 1), ("yes_no", "no", "It is false.", 1),
        ("yes_no", "yes", "It is false.", 0), ("yes_no", "yes", "True or false?", 0),
        ("number", 0, "There are none.", 1), ("yes_no", "yes", "It is not true.", 0),
        ("yes_no", "no", "There is no true circle.", 1), ("yes_no", "no", "It's true that there is no dog", 1),
    ],
)  # fmt: skip
def test_ordinary_wording_of_several_languages_is_read(kind, reference, answer, right):
    assert score(task(reference, kind), answer) == right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12 cm^2", 12), ("7 m2", 7), ("12 (twelve)", 12), ("12 (thirteen)", None), (r"$\frac{1}{2}$", 0.5),
        (r"\boxed{7}", 7), ("3 or2", None), ("3x2", None),
        ("5 × 10^-1", 0.5), ("negative 3", -3), ("2^3", None), ("5 × 3", None), ("5e2", 500),
    ],
)  # fmt: skip
def test_numbers_with_units_formulas_and_words_beside_them(text, number):
    assert to_number(text) == (number if number is None else pytest.approx(number))


@pytest.mark.parametrize("reference", ["b", "(B)", "B", "blue"])
@pytest.mark.parametrize("text", ["It is blue.", "The answer is (B).", "The answer is B.", "wrong. Option B is right"])
def test_a_choice_is_told_by_letter_or_text_however_the_reference_is_written(reference, text):
    assert tells(text, task(reference, "choice", ("red", "blue")))
    assert not tells("Is it the red or the blue one?", task(reference, "choice", ("red", "blue")))
    assert not tells("(b) zoom in. Compare option B with the others", task(reference, "choice", ("red", "blue")))


@pytest.mark.parametrize("written_as", ["A", "a", "(A)", "red"])
def test_references_of_choices_compare_by_their_letter(written_as):
    question = task(written_as, "choice", ("red", "blue"))
    assert constant_of(question) == constant_of(question, "The answer is A") == "A"
    assert constant_of(question, "who knows") == "who knows"


@pytest.mark.parametrize(
    ("answer", "right"), [("No cars.", 1), ("There are no cars here", 1), ("no idea", 0), ("No", 0)]
)
def test_none_of_what_was_asked_for_is_zero(answer, right):
    question = Task("t", (), "How many cars are there?", 0, AnswerKind.NUMBER)
    assert score(question, answer) == right
