"""Attention of a layer that masks images from each other, and of one that does not.

`python -m benchmarks.image_blocks`

Forward and backward of one conversation, N_t tokens of text and 729 of each image, side by side in one run: the median
of the ratios of paired timings. Beside it the paper's count of products, N_t^2 + N_t N_v + N_v^2 / M for M images
against (N_t + N_v)^2; what is computed here is half of both squares, because attention is causal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from fovea.commands import plain_parser
from fovea.kernels.layouts import PackedGroups
from fovea.kernels.masked_layouts import OUTSIDE, BlockedGroups

IMAGE_TOKENS = 729
"""Of LLaVA-OneVision's images."""


def conversation(num_images: int, text_tokens: int) -> list[int]:
    """The image of each token: a few words before each image, the rest of the text at the end."""
    numbers: list[int] = []
    for image in range(num_images):
        numbers += [OUTSIDE] * 5 + [image] * IMAGE_TOKENS
    return numbers + [OUTSIDE] * max(1, text_tokens - 5 * num_images)


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measured(num_images: int, text_tokens: int, heads: list[int], width: int, device: str, repeats: int) -> float:
    """Ratio of the plain layer's time to the masked layer's time."""
    numbers = conversation(num_images, text_tokens)
    plain = PackedGroups(0, [len(numbers) - 1], [[1]], torch.device(device))
    masked = BlockedGroups(plain, numbers, [0])
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q, k, v = (
        torch.randn(1, number, len(numbers), width, device=device, dtype=dtype, requires_grad=True)
        for number in (heads[0], heads[1], heads[1])
    )

    def step(layout: PackedGroups) -> Callable[[], None]:
        def run() -> None:
            layout.attend(0, q, k, v, width**-0.5).sum().backward()
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    steps = step(plain), step(masked)
    for one in steps:
        one()
    return median(seconds(steps[0]) / seconds(steps[1]) for _ in range(repeats))


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--num_images", nargs="+", type=int, default=[2, 5, 10])
    parser.add_argument("--text_tokens", type=int, default=200)
    parser.add_argument("--heads", nargs=2, type=int, default=[14, 2], help="of queries and of keys (0.5B: 14 2)")
    parser.add_argument("--head_width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(
        f"| images of {IMAGE_TOKENS} tokens | plain layer against masked, times | by the paper's count |\n|---|---|---|"
    )
    for number in args.num_images:
        ratio = measured(number, args.text_tokens, args.heads, args.head_width, device, args.repeats)
        text, vision = args.text_tokens, number * IMAGE_TOKENS
        count = (text + vision) ** 2 / (text**2 + text * vision + vision**2 / number)
        print(f"| {number} | {ratio:.2f} | {count:.2f} |", flush=True)
    print(f"{device}, {args.text_tokens} tokens of text, {args.heads[0]} heads of {args.head_width}")


if __name__ == "__main__":
    main()
