"""A model card names the base, and how the model is asked."""

import json

from trl.trainer.utils import generate_model_card

from fovea.runs.model_card import with_base


def test_the_card_of_trl_is_mended(tmp_path):
    card = generate_model_card(
        base_model=None, model_name="mine", hub_model_id=None, dataset_name=None, tags=["trl"], wandb_url=None,
        trackio_url=None, trainer_name="GRPO",
    )  # fmt: skip
    text = str(card)
    assert "[None](https://huggingface.co/None)" in text and 'model="None"' in text
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"model": {"model_name_or_path": "runs/sft"}}}))
    mended = with_base(text, tmp_path, "me/mine")
    assert "a fine-tuned version of `runs/sft`" in mended and "None" not in mended.split("## Training")[0]
    assert "fovea eval me/mine --dataset_name" in mended and "text-generation" not in mended
    assert mended.split("## Training procedure")[1] == text.split("## Training procedure")[1]
