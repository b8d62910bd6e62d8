"""From chat messages to the exact token ids that a policy continues, observations included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from transformers.utils import get_json_schema

from environments.protocol import escape_control_tokens
from fovea.bounded_cache import BoundedCache
from fovea.images import coarser, image_hash
from fovea.kernels.packing import Row
from fovea.kernels.token_pooling import coarser_tiles, num_pooled
from fovea.ledger import count, phase
from fovea.replacing import replaced

_PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_CALL = {"type": "function", "function": {"name": "t", "arguments": "{}"}}


@dataclass(frozen=True)
class ImageInputs:
    """The model's inputs for one image, and the number of placeholders in the text.

    Qwen-VL: `pixel_values` [patches, patch width], `extent` its grid_thw [3]. LLaVA-OneVision: `pixel_values` [tiles,
    3, height, width], `extent` the image's (height, width) [2].
    """

    pixel_values: torch.Tensor
    extent: torch.Tensor
    num_tokens: int
    is_whole: bool = False
    """True if a model that cuts images into tiles takes this image as a single tile."""


@dataclass
class _Remembering:
    """Stands in for an image processor: inputs of lists of images, in lists of lists too, from a renderer's memory."""

    renderer: Renderer
    stock: Any

    def __call__(self, images: Any, **_: Any) -> dict[str, torch.Tensor]:
        return batched([self.renderer.image_inputs(image) for image in flattened(images)])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stock, name)


class Renderer:
    """Renders with a processor's chat template; holds the inputs of recent images, up to `max_bytes`."""

    def __init__(
        self,
        processor: Any,
        *,
        max_bytes: int = 2**30,
        end_ids: Sequence[int] = (),
        token_pooling: int = 1,
        pixel_pooling: int = 1,
    ) -> None:
        """`end_ids` end a turn beside the tokenizer's own end token: those of the model's generation_config.

        With `token_pooling` an image has that many times fewer placeholders (`fovea.kernels.token_pooling`); with
        `pixel_pooling` it has as many, and that many times fewer pixels are left of it.
        """
        self.processor = processor
        self.token_pooling, self.pixel_pooling = token_pooling, pixel_pooling
        self.tokenizer = processor.tokenizer
        self.end_ids = tuple(dict.fromkeys((self.tokenizer.eos_token_id, *end_ids)))
        self._image_processor = processor.image_processor
        self.image_token = processor.image_token
        self.image_token_id = self.tokenizer.convert_tokens_to_ids(self.image_token)
        self.merge_size = getattr(processor.image_processor, "merge_size", 1)
        self.cuts_tiles = hasattr(processor.image_processor, "image_grid_pinpoints")
        self._inputs: BoundedCache[ImageInputs] = BoundedCache(
            max_bytes, size=lambda inputs: inputs.pixel_values.nbytes
        )
        self._suffix_prefix: str | None = None
        self.num_preprocessed = 0

    def image_inputs(self, image: Image.Image, *, among_several: bool = False) -> ImageInputs:
        """The inputs of an image, processed once as long as it is remembered.

        LLaVA-OneVision cuts a single image into tiles, and sees each of several as one tile. A conversation counts as
        one of several images if it opens with several: crops that it comes to later change nothing in what is written.
        """
        is_whole = among_several and self.cuts_tiles
        return self._inputs.get((image_hash(image), is_whole), lambda: self._process(image, is_whole))

    def inputs_of(self, ids: Sequence[int], images: Sequence[Image.Image]) -> list[ImageInputs]:
        """The inputs of a conversation's images. Its placeholders say how they are seen: one tile has always fewer.

        Raises:
            ValueError: if `ids` does not hold exactly the placeholders of these images.
        """
        several = False
        if self.cuts_tiles and len(images) > 1:  # a tile has as many tokens in every image
            one_tile = self.image_inputs(images[0], among_several=True).num_tokens
            several = ids.count(self.image_token_id) == one_tile * len(images)
        inputs = [self.image_inputs(image, among_several=several) for image in images]
        self.check(ids, inputs)
        return inputs

    @phase("preprocess")
    def _process(self, image: Image.Image, is_whole: bool) -> ImageInputs:
        if not self.cuts_tiles:
            image = coarser(image, self.pixel_pooling)
        processed = self._image_processor(images=[[image, image]] if is_whole else [image], return_tensors="pt")
        self.num_preprocessed += 1
        count("images preprocessed", 1)
        if "image_grid_thw" in processed:
            grid = processed["image_grid_thw"][0]
            num_tokens = int(grid.prod()) // self.merge_size**2
            return ImageInputs(processed["pixel_values"], grid, num_pooled(num_tokens, self.token_pooling))
        size = processed["image_sizes"][0]
        num_tokens = len(self.processor.replace_image_token(processed, 0)) // len(self.image_token)
        tiles = coarser_tiles(processed["pixel_values"][0], self.pixel_pooling)
        return ImageInputs(tiles, size, num_pooled(num_tokens, self.token_pooling), is_whole)

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """In here the processor, too, takes images from memory: whoever calls it processes none a second time."""
        with replaced(self.processor, "image_processor", _Remembering(self, self._image_processor)):
            yield

    def prompt_ids(self, messages: Sequence[dict], tools: Sequence[Callable]) -> list[int]:
        """Token ids of the opening messages, up to where the assistant begins to write."""
        text, images = self._template(messages, tools, add_generation_prompt=True), images_of(messages)
        return self._ids(text, images, len(images) > 1)

    def observation_ids(self, *answers: Sequence[dict], among_several: bool = False) -> list[int]:
        """Token ids between the end of an assistant's turn (its end token excluded) and the start of its next one.

        `answers` are the blocks with which tools answered its calls, one after the other. `among_several`: whether the
        conversation opens with several images (`image_inputs`).
        """
        messages = [{"role": "tool", "name": "t", "content": list(blocks)} for blocks in answers]
        return self.following_ids(messages, among_several=among_several)

    def following_ids(self, messages: Sequence[dict], *, among_several: bool = False) -> list[int]:
        """The same for all messages, of tools or of the user, between two turns of the assistant."""
        head = [{"role": "user", "content": [{"type": "text", "text": "q"}]}]
        head.append({"role": "assistant", "content": "", "tool_calls": [_CALL]})
        if self._suffix_prefix is None:
            text = self._template(head, ())
            self._suffix_prefix = text[: text.rindex(self.tokenizer.eos_token) + len(self.tokenizer.eos_token)]
        text = self._template([*head, *messages], (), add_generation_prompt=True)
        if not text.startswith(self._suffix_prefix):
            raise ValueError("the chat template rewrites earlier turns when a tool answers: use one that keeps them")
        return self._ids(text[len(self._suffix_prefix) :], images_of(messages), among_several)

    def smallest_picture(self) -> Row:
        """One tiny image and nothing to learn, to stand in where a batch has no image."""
        inputs = self.image_inputs(Image.new("RGB", (8, 8)))
        start, end = self.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
        ids = [start, *[self.image_token_id] * inputs.num_tokens, end]
        return Row(ids, [], [(inputs.pixel_values, inputs.extent)], 1)

    @property
    def placeholder_ids(self) -> list[int]:
        """Tokens that a model must never write: they would ask for images that do not exist."""
        ids = [self.image_token_id, *self.tokenizer.convert_tokens_to_ids(list(_PLACEHOLDERS))]
        return [token for token in ids if token is not None and token != self.tokenizer.unk_token_id]

    def written_text(self, token_ids: Sequence[int]) -> str:
        """The text of one assistant turn, without its end token."""
        kept = token_ids[:-1] if token_ids and token_ids[-1] in self.end_ids else token_ids
        return self.tokenizer.decode(kept, skip_special_tokens=False)

    def model_inputs(self, sequences: Sequence[Sequence[int]], images: Sequence[Sequence[Image.Image]]) -> dict:
        """Left-padded model inputs of token sequences and their images, in order.

        Raises:
            ValueError: if a sequence does not hold exactly the placeholders of its images.
        """
        length = max(len(ids) for ids in sequences)
        input_ids = torch.full((len(sequences), length), self.tokenizer.pad_token_id)
        attention_mask = torch.zeros((len(sequences), length), dtype=torch.long)
        for row, ids in enumerate(sequences):
            input_ids[row, length - len(ids) :] = torch.tensor(ids)
            attention_mask[row, length - len(ids) :] = 1
        inputs = [self.inputs_of(ids, row) for ids, row in zip(sequences, images, strict=True)]
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        if "mm_token_type_ids" in self.processor.model_input_names:
            batch["mm_token_type_ids"] = (input_ids == self.image_token_id).long()
        return batch | batched([image for row in inputs for image in row])

    def check(self, ids: Sequence[int], images: Sequence[ImageInputs], *, name: str = "a conversation") -> None:
        """Raises ValueError unless `ids` holds exactly as many placeholders as `images` have features."""
        placeholders = sum(token == self.image_token_id for token in ids)
        features = sum(image.num_tokens for image in images)
        if placeholders != features:
            raise ValueError(
                f"{name} has {placeholders} image placeholders but its {len(images)} images give {features} "
                "features: use the model's own processor and template"
            )

    def _template(self, messages: Sequence[dict], tools: Sequence[Callable], **options: Any) -> str:
        schemas = [get_json_schema(tool) for tool in tools]
        clean = [{**message, "content": self._escaped(message["content"])} for message in messages]
        return self.processor.apply_chat_template(clean, tools=schemas or None, tokenize=False, **options)

    def _escaped(self, content: Any) -> Any:
        """The content without images' pixels, and without control tokens in its text, also over several blocks."""
        if isinstance(content, str):
            return escape_control_tokens(content, self.image_token)
        joined: list[dict] = []
        for is_text, blocks in groupby(content, key=lambda block: block["type"] == "text"):
            if is_text:
                text = "".join(block["text"] for block in blocks)
                joined.append({"type": "text", "text": escape_control_tokens(text, self.image_token)})
            else:
                joined += [{"type": "image"} for _ in blocks]
        return joined

    def _ids(self, text: str, images: Sequence[Image.Image], among_several: bool) -> list[int]:
        parts = text.split(self.image_token)
        if len(parts) != len(images) + 1:
            raise ValueError(
                f"the rendered text has {len(parts) - 1} image placeholders for {len(images)} images: use a chat "
                "template that shows each once"
            )
        filled = [parts[0]]
        for image, part in zip(images, parts[1:], strict=True):
            inputs = self.image_inputs(image, among_several=among_several)
            filled += [self.image_token * inputs.num_tokens, part]
        return self.tokenizer("".join(filled), add_special_tokens=False).input_ids


def batched(inputs: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
    """Several images in the names and shapes that their model takes; {} of none.

    Qwen-VL: `pixel_values` [patches, patch width] and `image_grid_thw` [images, 3]. LLaVA-OneVision: `pixel_values`
    [images, most tiles, 3, height, width], zero where an image has fewer, `image_sizes` [images, 2] and
    `batch_num_images`: runs of images that are one tile each, and 1 for each that is cut.
    """
    if not inputs:
        return {}
    extents = torch.stack([image.extent for image in inputs])
    pixels = [image.pixel_values for image in inputs]
    if pixels[0].dim() == 2:
        return {"pixel_values": torch.cat(pixels), "image_grid_thw": extents}
    numbers = list[int]()
    for is_whole, run in groupby(image.is_whole for image in inputs):
        length = len(list(run))
        numbers += [length] if is_whole else [1] * length
        if is_whole and length == 1:
            raise ValueError("one image of a conversation with several stands alone: Transformers would cut it")
    return {
        "pixel_values": torch.nn.utils.rnn.pad_sequence(pixels, batch_first=True),
        "image_sizes": extents,
        "batch_num_images": torch.tensor(numbers),
    }


def flattened(images: Any) -> list[Image.Image]:
    """The images in lists of lists of them, in order."""
    return [image for entry in images for image in flattened(entry)] if isinstance(images, (list, tuple)) else [images]


def images_of(messages: Sequence[dict]) -> list[Image.Image]:
    """The images of chat messages, in order."""
    blocks = [block for message in messages if isinstance(message["content"], list) for block in message["content"]]
    return [block["image"] for block in blocks if block["type"] == "image"]
