"""Trace files as other projects publish them, written by hand from their layouts and not by our writers."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SIDE = (640, 480)


@dataclass
class Zoom:
    """A box (shares of image `image`), and what of the picture its crop shows."""

    image: int
    box: tuple
    region: tuple = ()
    drawn: tuple = ()
    """The box as a share of the picture."""
    size: tuple = SIDE
    """Of the image that is zoomed into, in pixels."""


def inside(box, region):
    """A share of a region as a share of the picture."""
    left, top, right, bottom = region
    width, height = right - left, bottom - top
    return (left + box[0] * width, top + box[1] * height, left + box[2] * width, top + box[3] * height)


def clipped(box):
    return tuple(min(1.0, max(0.0, value)) for value in box)


def exact(box):
    return box


def with_margin(box):
    return clipped((box[0] - 0.1, box[1] - 0.1, box[2] + 0.1, box[3] + 0.1))


def half_larger(box):
    dx, dy = (box[2] - box[0]) / 4, (box[3] - box[1]) / 4
    return clipped((box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy))


def square(box):
    x, y = round((box[0] + box[2]) / 2 * SIDE[0]), round((box[1] + box[3]) / 2 * SIDE[1])
    return clipped(((x - 182) / SIDE[0], (y - 182) / SIDE[1], (x + 182) / SIDE[0], (y + 182) / SIDE[1]))


class Story:
    """A question, zooms by turns, an answer, and the crops that a project's tool gives for them."""

    def __init__(self, picture: Image.Image, turns, tool=exact, *, upscale: float = 1.0) -> None:
        self.turns, self.crops = [], []
        self.pictures = [picture]
        regions = [(0.0, 0.0, 1.0, 1.0)]
        for turn in turns:
            zooms = []
            for image, box in turn:
                drawn = inside(box, regions[image])
                region = inside(tool(box), regions[image])
                pixels = [round(value * side) for value, side in zip(region, SIDE * 2, strict=True)]
                crop = picture.crop(pixels)
                self.crops.append(crop.resize([round(upscale * side) for side in crop.size]))
                zooms.append(Zoom(image, box, region, drawn, self.pictures[image].size))
            regions += [zoom.region for zoom in zooms]
            self.turns.append(zooms)
            self.pictures = [picture, *self.crops]

    @property
    def zooms(self):
        return [zoom for turn in self.turns for zoom in turn]

    def paths(self, folder: Path) -> list[str]:
        for number, picture in enumerate(self.pictures):
            picture.save(folder / f"{number}.png")
        return [f"{number}.png" for number in range(len(self.pictures))]


def pixels(box, size=SIDE):
    return [round(value * side) for value, side in zip(box, size * 2, strict=True)]


def encoded(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def call(zoom, **others):
    arguments = {"bbox_2d": pixels(zoom.box, zoom.size), "label": "sign", **others}
    return {"name": "image_zoom_in_tool", "arguments": arguments}


COF_PROMPT = (
    "\nThink in the mind first, and then decide whether to call tools one or more times OR provide final answer. "
    "Format strictly as: <think>...</think> <tool_call>...</tool_call> <tool_call>...</tool_call> "
    "(if any tools needed) OR <answer>...</answer> (if no tools needed)."
)


def chain_of_focus(story, folder):
    messages = [
        {"role": "system", "content": "You. <tools>…</tools>"},
        {"role": "user", "content": f"<image> Question: Which digit?{COF_PROMPT}"},
    ]
    for turn in story.turns:
        calls = "".join(f"\n<tool_call>\n{json.dumps(call(zoom))}\n</tool_call>" for zoom in turn)
        messages += [
            {"role": "assistant", "content": f"<think> Closer. </think>{calls}"},
            {"role": "user", "content": "<image>" * len(turn) + COF_PROMPT},
        ]
    return {
        "messages": [*messages, {"role": "assistant", "content": "<think> I read 7. </think>\n<answer> 7 </answer>"}],
        "images": story.paths(folder),
    }


def chain_of_focus_v0(story, folder):
    boxes = "".join(
        f"at <|box_start|>{pixels(zoom.box)}<|box_end|> I zoom <|image_zoomin|><image>, then " for zoom in story.zooms
    )
    text = f"<think> Look {boxes}I read 7. </think> <answer> 7 </answer>"
    return {
        "messages": [
            {"role": "user", "content": "<image>\nQuestion: Which digit?"},
            {"role": "assistant", "content": text},
        ],
        "images": story.paths(folder),
    }


def sharegpt(story, folder):
    rows = [{"from": "human", "value": "<image>Which digit?"}]
    for turn in story.turns:
        calls = [json.dumps(call(zoom, img_idx=zoom.image)) for zoom in turn]
        written = calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"
        rows += [
            {"from": "function_call", "value": f"<think>\nCloser.\n</think>\n\n{written}"},
            {"from": "observation", "value": "<image>" * len(turn)},
        ]
    return {
        "conversations": [*rows, {"from": "gpt", "value": "7"}],
        "images": story.paths(folder),
        "tools": "[]",
        "system": "You.",
    }


def llamafactory_openai(story, folder):
    """Role and content, calls beside the text, images as data URIs."""
    rows = [{"role": "user", "content": "<image>Which digit?"}]
    for turn in story.turns:
        calls = [{"type": "function", "function": call(zoom, img_idx=zoom.image)} for zoom in turn]
        rows += [
            {"role": "assistant", "content": "<think>Closer.</think>", "tool_calls": calls},
            {"role": "tool", "content": "<image>" * len(turn)},
        ]
    images = [f"data:image/png;base64,{encoded(picture)}" for picture in story.pictures]
    return {"messages": [*rows, {"role": "assistant", "content": "7"}], "images": images}


def swift(story, folder):
    rows = [{"role": "user", "content": "<image>Which digit?"}]
    for turn in story.turns:
        rows.append({"role": "assistant", "content": "<think>\nCloser.\n</think>\n"})
        rows += [{"role": "tool_call", "content": json.dumps(call(zoom, img_idx=zoom.image))} for zoom in turn]
        rows += [{"role": "tool_response", "content": '{"images": "<image>"}'} for _ in turn]
    images = [{"path": None, "bytes": encoded(picture)} for picture in story.pictures]
    return {"messages": [*rows, {"role": "assistant", "content": "7"}], "images": images}


def qwen_vl(story, folder):
    """Images by their paths inside the text, as in Qwen-VL's files and old ones of ms-swift."""
    names = iter(story.paths(folder))
    rows = [{"from": "user", "value": f"Picture 1: <img>{next(names)}</img>\nWhich digit?"}]
    for turn in story.turns:
        calls = "\n".join(f"<tool_call>\n{call(zoom, img_idx=zoom.image)}\n</tool_call>" for zoom in turn)
        rows.append({"from": "assistant", "value": f"<think>Closer.</think>\n{calls}"})
        rows += [{"from": "tool", "value": f"<img>{next(names)}</img>"} for _ in turn]
    return {"conversations": [*rows, {"from": "assistant", "value": "7"}]}


def trl(story, folder):
    rows = []
    for turn in story.turns:
        calls = [{"type": "function", "function": call(zoom, img_idx=zoom.image)} for zoom in turn]
        rows += [
            {"role": "assistant", "content": [{"type": "text", "text": "Closer."}], "tool_calls": calls},
            {"role": "user", "content": [{"type": "image"} for _ in turn]},
        ]
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit?"}]}]
    last = {"role": "assistant", "content": [{"type": "text", "text": "7"}]}
    return {"prompt": prompt, "completion": [*rows, last], "images": story.paths(folder)}


def hermes(story, folder):
    rows = [{"from": "system", "value": "You. <tools>[]</tools>"}, {"from": "human", "value": "<image>Which digit?"}]
    for turn in story.turns:
        calls = "\n".join(f"<tool_call>\n{call(zoom, img_idx=zoom.image)}\n</tool_call>" for zoom in turn)
        rows.append({"from": "gpt", "value": f"Closer.\n{calls}\n"})
        rows += [{"from": "tool", "value": "<tool_response>\n<image>\n</tool_response>\n"} for _ in turn]
    return {"conversations": [*rows, {"from": "gpt", "value": "7"}], "images": story.paths(folder)}


def mini_o3(story, folder):
    words = (
        "After the above Action {}, here is the the zoom-in image (Observation {}):\n<image>.\nContinue your reasoning."
    )
    rows, number = (
        [{"from": "system", "value": "You."}, {"from": "human", "value": "<image>\nQuestion: Which digit?"}],
        0,
    )
    for number, [zoom] in enumerate(story.turns):
        source = f"observation_{zoom.image}" if zoom.image else "original_image"
        grounding = f'<grounding>{{"bbox_2d": {json.dumps(list(zoom.box))}, "source": "{source}"}}</grounding>'
        rows += [
            {"from": "gpt", "value": f"<think>Closer.</think>{grounding}"},
            {"from": "human", "value": words.format(number, number + 1)},
        ]
    rows.append({"from": "gpt", "value": "<think>I read 7.</think><answer> 7 </answer>"})
    return {"conversations": json.dumps(rows), "images": story.paths(folder), "data_source": "x", "sample_index": 0}


def pixel_reasoner(story, folder):
    paths = story.paths(folder)
    rows = [
        {"role": "system", "content": [{"text": "You."}]},
        {
            "role": "user",
            "content": [
                {
                    "text": "Which digit?\n\nGuidelines: Understand the given visual information and "
                    "the user query. Put your final answer within \\boxed{}."
                },
                {"image": paths[0]},
            ],
        },
    ]
    for number, [zoom] in enumerate(story.turns, start=1):
        arguments = {"bbox_2d": list(zoom.box), "target_image": zoom.image + 1}
        written = json.dumps({"name": "crop_image_normalized", "arguments": arguments}, separators=(",", ":"))
        rows += [
            {
                "role": "assistant",
                "content": [{"text": f"I zoom in.\n<tool_call>{written}</tool_call>", "image": None}],
            },
            {
                "role": "user",
                "content": [{"text": "Here is the cropped image (Image Size: 64x64):"}, {"image": paths[number]}],
            },
        ]
    return {
        "qid": "q-1",
        "message_list": [*rows, {"role": "assistant", "content": [{"text": "It reads 7.\n\n\\boxed{7}"}]}],
    }


def vigorl(story, folder):
    messages = [
        {"role": "system", "content": "You are a helpful assistant tasked with answering a question."},
        {"role": "user", "content": "<image>\nWhich digit?"},
    ]
    for [zoom] in story.turns:
        x1, y1, x2, y2 = zoom.box
        point = [round((x1 + x2) / 2 * SIDE[0]), round((y1 + y2) / 2 * SIDE[1])]
        written = json.dumps({"name": "search_coordinate", "arguments": {"coordinate": point}})
        messages += [
            {
                "role": "assistant",
                "content": f"<think> There {tuple(point)}. </think>\n<tool_call>\n{written}\n</tool_call>",
            },
            {
                "role": "user",
                "content": "<observation>\nHere is the crop of the image centered on the "
                "coordinate:\n<image>\n</observation>",
            },
        ]
    messages.append({"role": "assistant", "content": "<think> I'll answer. </think>\n<answer> 7 </answer>"})
    return {"messages": messages, "images": story.paths(folder)}


ONE, TWO = [[(0, (0.1, 0.2, 0.4, 0.6))]], [[(0, (0.1, 0.2, 0.4, 0.6))], [(0, (0.5, 0.4, 0.9, 0.8))]]
NESTED = [[(0, (0.2, 0.2, 0.7, 0.8))], [(1, (0.25, 0.5, 0.75, 0.8))]]
BOTH = [[(0, (0.1, 0.2, 0.4, 0.6)), (0, (0.5, 0.4, 0.9, 0.8))], [(2, (0.25, 0.25, 0.75, 0.75))]]
"""Two calls in a turn, then one into the second crop."""


@dataclass(frozen=True)
class Published:
    """A published format: its row, the stories that it can tell, its tool, and the name that it is recognised by."""

    row: object
    turns: list
    tool: object = exact
    upscale: float = 1.0
    told: str = ""
    frame: str = "original"


PUBLISHED = {
    "chain_of_focus": Published(chain_of_focus, TWO, half_larger, 2.0, "fovea"),
    "chain_of_focus_v0": Published(chain_of_focus_v0, TWO, told="chain_of_focus_v0"),
    "sharegpt": Published(sharegpt, BOTH, told="sharegpt"),
    "llamafactory_openai": Published(llamafactory_openai, BOTH, told="trl"),
    "swift": Published(swift, BOTH, told="swift"),
    "qwen_vl": Published(qwen_vl, BOTH, told="hermes"),
    "trl": Published(trl, BOTH, told="trl"),
    "hermes": Published(hermes, BOTH, told="hermes"),
    "mini_o3": Published(mini_o3, NESTED, told="mini_o3", frame="unit"),
    "pixel_reasoner": Published(pixel_reasoner, NESTED, with_margin, told="pixel_reasoner", frame="unit"),
    "vigorl": Published(vigorl, TWO, square, told="vigorl"),
}


def write(folder: Path, picture: Image.Image, name: str) -> tuple[Path, Story]:
    """A file of one trace, with its images, and what it tells."""
    published = PUBLISHED[name]
    story = Story(picture, published.turns, published.tool, upscale=published.upscale)
    path = folder / "published.json"
    path.write_text(json.dumps([published.row(story, folder)]))
    return path, story
