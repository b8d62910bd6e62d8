"""Draws docs/episode.png, an episode that the oracle plays: `python docs/draw_concepts.py`."""

from __future__ import annotations

from pathlib import Path

from environments.arguments import EpisodeArguments
from environments.drawing import draw
from environments.factories import environment_factory, make_renderer
from environments.play import play
from environments.policies.oracle import OraclePolicy
from fovea.models.loading import load_model
from synthesis.shapes import make_tasks


def main() -> None:
    model = load_model("tiny")
    episodes = EpisodeArguments(crop_min_pixels=4096, crop_max_pixels=5120)
    [task] = make_tasks(num_tasks=1, seed=8, families={"compare": 1.0})
    [episode] = play(
        OraclePolicy(model.frame, looseness=(1.0, 1.3), box_step=10),
        [task],
        environment_factory=environment_factory(episodes, model),
        limits=episodes.limits(),
        renderer=make_renderer(episodes, model),
    )
    draw(episode).save(Path(__file__).with_name("episode.png"), optimize=True)


if __name__ == "__main__":
    main()
