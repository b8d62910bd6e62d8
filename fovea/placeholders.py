r"""Placeholders of images in a text: `<image>` in files, one character inside. A literal one is written `\<image>`."""

from __future__ import annotations

import re

PLACEHOLDER = "<image>"
MARK = "\ufffc"
"""Stands for an image in a question once it is loaded (Unicode's object replacement character)."""
IMAGE_LABEL = "Image {}: "
"""The label before an image that the text mentions by its number."""
ANY_LABEL = IMAGE_LABEL.format("[0-9]+")
"""The pattern of such labels."""
_REAL = re.compile(r"(?<!\\)<image>")
_NUMBERED = re.compile(r"(?<!\\)<image[ _]?(\d+)>")
_ANY = re.compile(r"<image(?:[ _]?\d+)?>")


def escaped(text: str) -> str:
    r"""A text in which no `<image>` is a placeholder any more.

    >>> escaped("see <image>")
    'see \\<image>'
    """
    return _ANY.sub(lambda match: f"\\{match[0]}", text)


def unescaped(text: str) -> str:
    r"""A text without the escapes.

    >>> unescaped(r"see \<image> and \<image 1>")
    'see <image> and <image 1>'
    """
    return re.sub(rf"\\({_ANY.pattern})", r"\1", text)


def parts_of(text: str) -> list[str]:
    r"""The texts between the placeholders of a text, escapes taken off: one more than there are images.

    >>> parts_of(r"<image> is not \<image>")
    ['', ' is not <image>']
    """
    return [unescaped(part) for part in _REAL.split(text)]


def marked(question: str, num_images: int) -> str:
    """A question of a file with `MARK` where images stand; without placeholders all of them stand before it.

    Numbered placeholders (`<image 1>`, `<image_2>`) are read where they count the images in their order.

    >>> marked("First: <image 1> Second: <image 2>", 2) == f"First: {MARK} Second: {MARK}"
    True

    Raises:
        ValueError: for placeholders that are not one for each image.
    """
    if MARK in question:
        raise ValueError(
            f"question holds the character U+FFFC, which stands for an image here: take it out, or write {PLACEHOLDER}"
        )
    numbers = [int(number) for number in _NUMBERED.findall(question)]
    if numbers:
        if numbers != list(range(1, num_images + 1)):
            raise ValueError(
                f"question holds placeholders of images {numbers}, and the row has {num_images} images: name each "
                "once, in order from 1, or write the text without angle brackets"
            )
        question = _NUMBERED.sub(PLACEHOLDER, question)
    parts = parts_of(question)
    if len(parts) == 1 or (len(parts) - 1 == num_images and not "".join(parts[:-1]).strip()):
        return parts[-1].strip()
    if len(parts) - 1 != num_images:
        raise ValueError(
            f"question holds {len(parts) - 1} {PLACEHOLDER} placeholders for {num_images} images: give one for each, "
            f"or none; where the text itself is meant write \\{PLACEHOLDER}"
        )
    return MARK.join(parts).strip()


def refuse_placeholders(text: str, column: str) -> None:
    """Raises ValueError if a text that shows no images holds a placeholder of one."""
    if _REAL.search(text) or _NUMBERED.search(text):
        raise ValueError(
            f"{column} {text!r} holds a placeholder of an image, which only questions show: where the text itself is "
            f"meant write \\{PLACEHOLDER}"
        )


def label_images(question: str, num_images: int) -> str:
    """The question with each image's number before it; images without a place in it stand first.

    >>> label_images("Which is larger?", 2).replace(MARK, "<image>")
    'Image 0: <image>\\nImage 1: <image>\\nWhich is larger?'
    >>> label_images(f"Look at {MARK} now.", 1).replace(MARK, "<image>")
    'Look at \\nImage 0: <image> now.'
    """
    if question.count(MARK) != num_images:
        question = f"{MARK}\n" * num_images + question.replace(MARK, "")
    *before, last = question.split(MARK)
    labelled = []
    for number, part in enumerate(before):
        label = IMAGE_LABEL.format(number)
        apart = "" if part.endswith(("\n", label)) or not part else "\n"
        labelled.append(part if part.endswith(label) else f"{part}{apart}{label}")
    return MARK.join([*labelled, last])
