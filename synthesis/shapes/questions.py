"""What can be asked about a scene, in the words that the tiny model's pre-training and the tasks share."""

from __future__ import annotations

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


def num_of_form(scene: Scene, form: str) -> int:
    return sum(shape.form == form for shape in scene.shapes)


def sole_shapes(scene: Scene) -> list[Shape]:
    """The shapes whose form no other shape of the scene has."""
    return [shape for shape in scene.shapes if num_of_form(scene, shape.form) == 1]
