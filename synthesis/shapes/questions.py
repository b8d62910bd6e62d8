"""Questions about a scene, in the words that the tiny model's pre-training and the tasks share."""

from __future__ import annotations

from collections.abc import Sequence

from synthesis.shapes.scenes import Scene, Shape


def read_question(name: str, panel: str | None = None) -> str:
    """Asks for a digit; the answer is 0 to 9.

    >>> read_question("red circle")
    'Which digit is on the red circle?'
    """
    return f"Which digit is on the {name} in the {panel}?" if panel else f"Which digit is on the {name}?"


def compare_question(first: str, second: str) -> str:
    """Asks which of two digits is larger; the answer is yes or no."""
    return f"Is the digit on the {first} larger than the digit on the {second}?"


def count_question(form: str) -> str:
    """Asks how many shapes of one form there are; the answer is a number."""
    return f"How many {form}{'es' if form.endswith('s') else 's'} are there?"


def color_question(form: str) -> str:
    """Asks for the colour of the only shape of its form."""
    return f"What color is the {form}?"


def locate_question(name: str) -> str:
    """Asks for a box, answered in the family's grounding JSON."""
    return f"Where is the {name}?"


def which_image_question(name: str) -> str:
    """Asks which image of an album shows a shape; the answer is the image's number, from 0."""
    return f"Which image shows the {name}?"


def which_images_question(names: Sequence[str]) -> str:
    """Asks which images of an album show several shapes, in their order; the answer is a list of numbers, from 0."""
    return f"Which images show {_listed(names)}?"


def image_without_question(form: str) -> str:
    """Asks for the only image of an album without shapes of a form; the answer is its number, from 0."""
    return f"Which image has no {form}?"


def sum_question(names: Sequence[str]) -> str:
    """Asks for the sum of the digits on several shapes.

    >>> sum_question(["red cross", "blue square", "cyan square"])
    'What is the sum of the digits on the red cross, the blue square and the cyan square?'
    """
    return f"What is the sum of the digits on {_listed(names)}?"


def _listed(names: Sequence[str]) -> str:
    *before, last = (f"the {name}" for name in names)
    return f"{', '.join(before)} and {last}"


def count_in_all_question(form: str) -> str:
    """Asks how many shapes of a form there are in all images of an album together."""
    return f"How many {form}{'es' if form.endswith('s') else 's'} are there in all images?"


def num_of_form(scene: Scene, form: str) -> int:
    return sum(shape.form == form for shape in scene.shapes)


def sole_shapes(scene: Scene) -> list[Shape]:
    """The shapes whose form no other shape of the scene has."""
    return [shape for shape in scene.shapes if num_of_form(scene, shape.form) == 1]
