"""Attention of vision tokens: `fovea analyse attention CHECKPOINT --dataset_name … --output_dir DIR`.

For each layer of the language tower, how much of the attention of an image's tokens goes to tokens of the same image,
of other images, and of text, as a mean over heads, tokens and tasks (MIMIC, arXiv 2601.07812: 50 tasks of 4 images).
Tasks with one image are left out. No map is kept: shares come from the log-sum-exps of the attention kernels, so that
memory grows with the number of tokens alone. Writes attention.csv and attention.json, which `fovea report` draws.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev

import torch
from tqdm import tqdm

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.seats import begin
from environments.taught import checkpoint_defaults
from evaluation.arguments import OfEachFamily
from evaluation.discover import ATTENTION
from fovea.arguments import PlayerArguments
from fovea.config import ConfigError, parse
from fovea.kernels.image_blocks import ImageBlocks, image_blocks
from fovea.kernels.layouts import Call, Stock, calls, install, without_adapters
from fovea.kernels.masked_layouts import OUTSIDE, MaskedBatch, number_images
from fovea.kernels.varlen_attention import Lengths, attend
from fovea.models.loading import Model
from fovea.runs.directory import RunDirectory
from fovea.tasks import Task

TO = ("its image", "other images", "text")
Triple = tuple[float, float, float]


@dataclass(kw_only=True)
class AttentionArguments(OfEachFamily, PlayerArguments):
    """The checkpoint and the tasks of the analysis."""

    output_dir: str = field(metadata={"help": "Folder for attention.csv and attention.json."})
    dataset_name: str = field(
        default="synthesis.shapes.albums:test_albums",
        metadata={"help": "Tasks with several images: file, folder, hub id or module:function."},
    )
    max_tasks: int | None = field(default=50, metadata={"help": "Use only so many tasks, as many of each family."})


@dataclass(frozen=True)
class Shares:
    """Of one layer: the mean share of each of `TO`, and half the width of its 95% interval over tasks."""

    layer: int
    shares: Triple
    margins: Triple
    num_tasks: int


class Watching:
    """A layout that attends as the model would, one conversation at a time, and measures where image tokens look."""

    def __init__(self, images: Sequence[int], blocks: ImageBlocks | None, device: torch.device) -> None:
        """`images` numbers the tokens by their images; `blocks` says which layers are masked, if any are."""
        self.shares: dict[int, Triple] = {}
        self.masked = blocks.layers if blocks is not None else frozenset()
        shown = torch.ones(1, len(images), dtype=torch.bool, device=device)
        self.inside = MaskedBatch(self.masked, [images], shown, 0) if self.masked else None
        self.whole = Lengths([len(images)], device)
        places = {number: [at for at, one in enumerate(images) if one == number] for number in sorted(set(images))}
        texts = places.pop(OUTSIDE, [])
        runs = list(places.values())
        before = [[at for at in texts if at < run[0]] for run in runs]
        self.of_images = torch.tensor([at for run in runs for at in run], device=device)
        self.own, self.text = calls(runs, runs, device, causal=True), calls(runs, before, device, causal=False)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, stock: Stock
    ) -> torch.Tensor:
        if self.inside is not None and layer in self.masked:
            self.shares[layer] = (1.0, 0.0, 0.0)
            return self.inside.attend(layer, q, k, v, scaling, stock)
        queries, keys, values = (tensor[0].transpose(0, 1).to(v.dtype) for tensor in (q, k, v))
        _, whole = attend(queries, keys, values, self.whole, self.whole, causal=True, scaling=scaling)

        def share(parts: Sequence[Call]) -> float:
            """The share of the image tokens' attention that goes to the keys of these calls, each key counted once."""
            shares = torch.zeros_like(whole)  # [heads, N]
            for call in parts:
                rows = queries[call.at], keys[call.to], values[call.to], call.queries, call.keys
                _, part = attend(*rows, causal=call.causal, scaling=scaling)
                shares[:, call.at] = (part - whole[:, call.at]).exp()
            return float(shares[:, self.of_images].mean())

        own, text = share(self.own), share(self.text)
        self.shares[layer] = (own, max(0.0, 1 - own - text), text)
        return stock(slice(None))


def analyse(model: Model, tasks: Sequence[Task], episodes: EpisodeArguments) -> list[Shares]:
    """The shares of each layer, on the first message of each task with several images.

    Raises:
        ConfigError: if there is none, or the model's attention cannot be watched.
    """
    tasks = [task for task in tasks if len(task.images) > 1]
    if not tasks:
        raise ConfigError("none of the tasks has several images: give a --dataset_name whose tasks have")
    network, base = model.network, without_adapters(model.network)
    if not install(base):
        raise ConfigError("eager attention cannot be measured: leave --attn_implementation out")
    factory, renderer = environment_factory(episodes, model), make_renderer(episodes, model)
    by_task = []
    for task in tqdm(tasks, desc="tasks"):
        conversation = begin(factory(), task, renderer)
        ids, pictures = conversation.token_ids, conversation.images
        inputs = renderer.model_inputs([ids], [pictures])
        inputs = {name: value.to(base.device) for name, value in inputs.items()}
        lengths = (seen.num_tokens for seen in renderer.inputs_of(ids, pictures))
        images = number_images(ids, renderer.image_token_id, lengths)
        watching = Watching(images, image_blocks(base), base.device)
        with torch.no_grad():
            network(**inputs, layout=watching, use_cache=False)
        by_task.append(watching.shares)
    return [_over_tasks(layer, [shares[layer] for shares in by_task]) for layer in sorted(by_task[0])]


def _over_tasks(layer: int, shares: Sequence[Triple]) -> Shares:
    own, other, text = zip(*shares, strict=True)
    return Shares(
        layer, (fmean(own), fmean(other), fmean(text)), (_margin(own), _margin(other), _margin(text)), len(own)
    )


def _margin(values: Sequence[float]) -> float:
    """Half the width of the 95% interval of a mean, 0 where there is one value."""
    return 1.96 * stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def write(layers: Sequence[Shares], folder: Path) -> None:
    """Writes attention.csv and attention.json."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "attention.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["layer", *TO, *(f"{name}, margin" for name in TO), "tasks"])
        lines.writerows([one.layer, *one.shares, *one.margins, one.num_tasks] for one in layers)
    (folder / ATTENTION).write_text(json.dumps([asdict(one) for one in layers], indent=1) + "\n")


def read(path: Path) -> list[Shares]:
    """The shares in attention.json, as `write` wrote them."""
    return [Shares(**one) for one in json.loads(path.read_text())]


def table(layers: Sequence[Shares]) -> str:
    """The shares of each layer as text."""
    lines = [f"{'layer':>5} {'its image':>18} {'other images':>18} {'text':>18}"]
    for one in layers:
        cells = (f"{share:.3f} +- {margin:.3f}" for share, margin in zip(one.shares, one.margins, strict=True))
        lines.append(f"{one.layer:>5} " + " ".join(f"{cell:>18}" for cell in cells))
    return "\n".join([*lines, f"shares of attention, 95% intervals over {layers[0].num_tasks} tasks"])


def main() -> None:
    defaults = {"environment": "views", **checkpoint_defaults(sys.argv)}
    arguments, episodes = parse((AttentionArguments, EpisodeArguments), defaults=defaults, description=__doc__)
    model, tasks = arguments.load()
    if model.network is None or arguments.use_vllm or arguments.vllm_server_base_url:
        raise ConfigError(
            "attention can only be measured inside a model in Transformers: leave vLLM and the endpoint out"
        )
    layers = analyse(model, tasks, episodes)
    RunDirectory(arguments.output_dir).write_start(analysis=arguments, episodes=episodes)
    write(layers, Path(arguments.output_dir))
    print(f"{table(layers)}\n\nwritten to {Path(arguments.output_dir) / 'attention.csv'}")


if __name__ == "__main__":
    main()
