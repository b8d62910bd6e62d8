"""A batch in one row: what stands where, which token predicts which, and how rows are grouped and cut."""

import pytest
import torch

from fovea.kernels.layouts import allow_layouts
from fovea.kernels.packing import Row, group_rows, num_common, pack, split_further, split_rows, unpad
from fovea.models.random_models import random_model


@pytest.fixture(scope="module")
def network():
    network = random_model("qwen3_vl-narrow").network
    allow_layouts(network)
    return network


IMAGE = 9
"""The id that stands for an image's placeholder here."""


def picture(value, patches=4):
    return torch.full((patches, 3), float(value)), torch.tensor([1, 2, patches // 2])


def unpadded(ids, mask, num_completion, *images):
    pixels = torch.cat([pixels for pixels, _ in images]) if images else None
    grids = torch.stack([grid for _, grid in images]) if images else None
    return unpad(
        torch.tensor(ids), torch.tensor(mask), num_completion, image_token_id=IMAGE, merge_size=2, pixel_values=pixels,
        image_grid_thw=grids,
    )  # fmt: skip


def test_rows_lose_their_padding_and_find_their_images():
    ids = [[0, 1, IMAGE, 2, 5, 6], [3, 4, IMAGE, 7, IMAGE, 0]]
    mask = [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]
    first, second = unpadded(ids, mask, 2, picture(1), picture(2), picture(3))
    assert (first.prompt_ids, first.completion_ids) == ([1, IMAGE, 2], [5, 6])
    assert (second.prompt_ids, second.completion_ids) == ([3, 4, IMAGE, 7], [IMAGE])
    assert [float(pixels[0, 0]) for pixels, _ in second.images] == [2, 3] and second.num_prompt_images == 1


def test_rows_are_grouped_by_prompt_and_pixels():
    rows = [Row([1, IMAGE], [5], [picture(value)], 1) for value in (1, 2, 1)]
    assert group_rows([*rows, Row([1, 2], [5], [], 0)]) == [[0, 2], [1], [3]]


def test_each_prompt_stands_once_and_each_token_is_predicted_where_it_belongs(network):
    rows = [
        Row([1, 2, 3, 4], [5, 6], [], 0),
        Row([1, 2, 3, 8], [7], [], 0),
        Row([1, 2, 3, 4], [6, 5, 6], [], 0),
    ]
    packed = pack(network, rows, image_token_id=IMAGE)
    ids = packed.inputs["input_ids"][0].tolist()
    # common text, the rest of both prompts without their last token, then a branch for each row that opens with it
    assert ids == [*[1, 2], 3, 3, *[4, 5, 6], *[4, 6, 5, 6], *[8, 7]]
    predicted = packed.inputs["shift_labels"][0, packed.predicting].tolist()
    places = zip(packed.rows.tolist(), packed.columns.tolist(), strict=True)
    assert predicted == [rows[row].completion_ids[column] for row, column in places]
    assert len(predicted) == 6 and int((packed.inputs["shift_labels"] >= 0).sum()) == 6
    assert packed.inputs["position_ids"][0, 0].tolist() == [0, 1, 2, 2, 3, 4, 5, 3, 4, 5, 6, 3, 4]


def test_log_probabilities_are_those_of_the_rows_alone(network):
    rows = [Row([1, 2, 3, 4], [5, 6], [], 0), Row([1, 2, 3, 8], [7], [], 0), Row([1, 2, 3, 4], [6, 5, 6], [], 0)]
    packed = pack(network, rows, image_token_id=IMAGE)
    layout = {name: value for name, value in packed.inputs.items() if name != "shift_labels"}
    with torch.no_grad():
        logits = network(**layout).logits[0, packed.predicting].log_softmax(-1)
        for number, row in enumerate(rows):
            alone = network(input_ids=torch.tensor([row.prompt_ids + row.completion_ids])).logits[0].log_softmax(-1)
            alone = alone[len(row.prompt_ids) - 1 : -1]
            assert torch.allclose(logits[packed.rows == number], alone, atol=1e-5)


def test_a_batch_without_images_is_joined_by_the_stand_in(network):
    image_token_id = network.config.image_token_id
    shown = torch.randn(16, 3 * 2 * 16 * 16), torch.tensor([1, 4, 4])
    stand_in = Row([1, *[image_token_id] * 4, 2], [3], [shown], 1)
    packed = pack(network, [Row([1, 2], [5], [], 0)], image_token_id=image_token_id, stand_in=stand_in)
    assert packed.inputs["image_grid_thw"].tolist() == [[1, 4, 4]] and set(packed.rows.tolist()) == {0, 1}


def test_groups_are_packed_up_to_a_budget_and_split_where_they_exceed_it():
    first, second = ([Row([question] * 11, [7] * 9, [], 0) for _ in range(3)] for question in (1, 2))
    rollouts = [*first, *second]  # a group packs into 10 + 3 * 10 tokens
    assert split_rows(rollouts, 80) == [[0, 1, 2, 3, 4, 5]]
    assert split_rows(rollouts, 79) == [[0, 1, 2], [3, 4, 5]]
    assert split_rows(rollouts, 39) == [[0, 1], [2], [3, 4], [5]]
    assert split_rows(rollouts, 5) == [[0], [1], [2], [3], [4], [5]]
    assert split_further([[0, 1, 2], [3]], 4) == [[0], [1], [2], [3]]


def test_what_prompts_have_in_common_is_text_and_not_all_of_them():
    assert num_common([[1, 2, 3, 4, 5], [1, 2, 3, 9, 9, 9]], image_token_id=0) == 3
    assert num_common([[1, 2, 0, 0, 5, 6], [1, 2, 0, 0, 5, 7]], image_token_id=0) == 2
    assert num_common([[1, 2, 3, 4], [1, 2, 3, 4, 5]], image_token_id=0) == 2
    assert num_common([[1], [1, 2, 3]], image_token_id=0) == 0


def test_prompts_whose_pictures_are_the_same_patches_in_another_shape_are_two():
    """Their positions differ: a grey view of 128x64 is none of 64x128."""
    patches = torch.zeros(32, 8)
    lying, upright = (Row([1, 2], [3], [(patches, torch.tensor([[1, *sides]]))], 1) for sides in ((4, 8), (8, 4)))
    assert lying.prompt_key != upright.prompt_key == Row([1, 2], [4], upright.images, 1).prompt_key
