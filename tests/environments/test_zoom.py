import numpy as np
import pytest
from PIL import Image
from transformers.utils import get_json_schema

from environments.check import EnvironmentCheckError, check_environment
from environments.probes.other_images import with_others
from environments.views import ViewSettings
from environments.zoom import Qwen3ZoomEnvironment, ZoomEnvironment
from fovea.boxes import Box, Frame
from fovea.episodes import FaultKind, ModelFault
from fovea.image_store import ImageStore
from fovea.images import PixelLimits
from fovea.tasks import Target, Task

LIMITS = PixelLimits(16 * 16, 160 * 160, 16)


def started(picture, frame=Frame.PER_MILLE, task=None, **settings):
    environment = ZoomEnvironment(ViewSettings(frame, LIMITS, LIMITS, **settings))
    environment.reset(images=[picture], question="q", task=task)
    return environment


def crop_of(blocks):
    return blocks[0]["crop"], blocks[0]["image"]


def test_the_first_message_shows_every_image_and_then_asks(picture):
    environment = ZoomEnvironment(ViewSettings(Frame.PER_MILLE, LIMITS, LIMITS))
    blocks = environment.reset(images=[picture, picture], question="Which?")
    assert [block["type"] for block in blocks] == ["image", "image", "text"]


def test_a_task_can_bound_its_first_view(picture):
    environment = ZoomEnvironment(ViewSettings(Frame.PER_MILLE, LIMITS, LIMITS))
    shown = environment.reset(images=[picture], question="q", first_view_max_pixels=64 * 64)[0]["image"]
    assert shown.width * shown.height <= 64 * 64


def tokens_of(view):
    return view.width * view.height // LIMITS.factor**2


@pytest.mark.parametrize(
    "budget, sizes", [(100, [(640, 480)] * 4), (60, [(640, 480), (64, 64), (900, 300)]), (24, [(99, 800)] * 24)]
)
def test_first_views_shrink_evenly_to_what_they_may_have_together(picture, budget, sizes):
    images = [picture.resize(size) for size in sizes]
    blocks = started(picture, max_image_tokens=budget).reset(images=images, question="q")
    tokens = [tokens_of(block["image"]) for block in blocks if block["type"] == "image"]
    free = [tokens_of(block["image"]) for block in started(picture).reset(images=images, question="q")[: len(images)]]
    assert budget - 3 * len(sizes) <= sum(tokens) <= budget
    assert all(now == before or now >= max(tokens) - 4 for now, before in zip(tokens, free, strict=True))


def test_boxes_stay_right_within_an_image_budget(picture):
    environment = started(picture, max_image_tokens=40)
    environment.reset(images=[picture, picture], question="q")
    crop, image = crop_of(environment.image_zoom_in_tool([250, 250, 500, 750], img_idx=1))
    assert crop.region.coordinates == pytest.approx((0.25, 0.25, 0.5, 0.75))
    assert np.asarray(image)[0, 0, 0] == pytest.approx(255 * 0.25, abs=8)


def test_more_images_than_the_budget_can_hold_are_refused(picture):
    with pytest.raises(ValueError, match="5 images have at least 5 visual tokens, more than --max_image_tokens 4"):
        started(picture, max_image_tokens=4).reset(images=[picture] * 5, question="q")


def test_a_crop_has_the_detail_of_the_original_not_of_the_first_view():
    pixels = np.zeros((1600, 1600, 3), dtype=np.uint8)
    pixels[:, ::2] = 255
    environment = started(Image.fromarray(pixels))
    _, crop = crop_of(environment.image_zoom_in_tool([0, 0, 100, 100]))
    assert np.asarray(crop).std() > 100


def test_originals_are_held_by_the_store_alone(picture):
    store = ImageStore(max_bytes=0)
    environment = ZoomEnvironment(ViewSettings(Frame.PER_MILLE, LIMITS, LIMITS), store)
    environment.reset(images=[picture], question="q")
    _, crop = crop_of(environment.image_zoom_in_tool([0, 0, 500, 500]))
    _, expected = crop_of(started(picture).image_zoom_in_tool([0, 0, 500, 500]))
    assert crop.tobytes() == expected.tobytes()
    assert store.num_opened == 3  # for its size, its first view and the zoom


@pytest.mark.parametrize("frame", [Frame.PER_MILLE, Frame.INPUT])
def test_the_same_place_in_either_frame_gives_the_same_region(picture, frame):
    environment = started(picture, frame)
    width, height = (1000, 1000) if frame is Frame.PER_MILLE else environment._seen[0].view.input
    box = [width * 0.25, height * 0.5, width * 0.5, height]
    crop, _ = crop_of(environment.image_zoom_in_tool(box))
    assert crop.region.coordinates == pytest.approx((0.25, 0.5, 0.5, 1.0))


@pytest.mark.parametrize("frame", [Frame.PER_MILLE, Frame.INPUT])
def test_a_zoom_into_a_crop_is_a_region_of_the_original(picture, frame):
    environment = started(picture, frame)
    width, height = (1000, 1000) if frame is Frame.PER_MILLE else environment._seen[0].view.input
    environment.image_zoom_in_tool([width / 2, height / 2, width, height])
    width, height = (1000, 1000) if frame is Frame.PER_MILLE else environment._seen[1].view.input
    crop, _ = crop_of(environment.image_zoom_in_tool([0, 0, width / 2, height / 2], img_idx=1))
    assert crop.region.coordinates == pytest.approx((0.5, 0.5, 0.75, 0.75))
    assert (crop.img_idx, crop.root) == (2, 0)


def test_padding_enlarges_the_box_and_clips_it(picture):
    crop, _ = crop_of(started(picture, padding=1.5).image_zoom_in_tool([0, 0, 400, 400]))
    assert crop.region.coordinates == pytest.approx((0, 0, 0.5, 0.5))


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"bbox_2d": "all"}, FaultKind.BAD_BOX),
        ({"bbox_2d": [1, 2, 3]}, FaultKind.BAD_BOX),
        ({"bbox_2d": [1, 2, 3, "4"]}, FaultKind.BAD_BOX),
        ({"bbox_2d": [0, 0, float("nan"), 9]}, FaultKind.BAD_BOX),
        ({"bbox_2d": [0, 0, float("inf"), 9]}, FaultKind.BAD_BOX),
        ({"bbox_2d": [0, 0, True, 9]}, FaultKind.BAD_BOX),
        ({"bbox_2d": [0, 0, 10**400, 9]}, FaultKind.BAD_BOX),
        ({"bbox_2d": [500, 0, 100, 100]}, FaultKind.EMPTY_BOX),
        ({"bbox_2d": [5, 5, 5, 5]}, FaultKind.EMPTY_BOX),
        ({"bbox_2d": [2000, 2000, 3000, 3000]}, FaultKind.OUTSIDE_BOX),
        ({"bbox_2d": [5, 5, 6, 6]}, FaultKind.TINY_BOX),
        ({"bbox_2d": [0, 0, 500, 500], "img_idx": 1}, FaultKind.BAD_IMAGE_INDEX),
        ({"bbox_2d": [0, 0, 500, 500], "img_idx": "0"}, FaultKind.BAD_IMAGE_INDEX),
        ({"bbox_2d": [0, 0, 500, 500], "img_idx": -1}, FaultKind.BAD_IMAGE_INDEX),
    ],
)
def test_what_a_model_can_do_wrong_is_told_back_to_it(picture, arguments, kind):
    with pytest.raises(ModelFault) as raised:
        started(picture).image_zoom_in_tool(**arguments)
    assert raised.value.kind is kind
    assert 10 < len(str(raised.value)) < 160


def test_a_zoom_without_any_image_is_told_so():
    environment = ZoomEnvironment(ViewSettings(Frame.PER_MILLE, LIMITS, LIMITS))
    environment.reset(images=[], question="How much is 2 + 2?", task=Task("t", (), "How much is 2 + 2?", "4"))
    with pytest.raises(ModelFault, match="no image to zoom into"):
        environment.image_zoom_in_tool([0, 0, 500, 500], "", 0)


@pytest.mark.parametrize("crops", ["noise", "blank", "random"])
def test_probes_replace_the_pixels_and_keep_the_size(picture, crops):
    true, image = crop_of(started(picture).image_zoom_in_tool([100, 100, 400, 400]))
    probed, other = crop_of(started(picture, crops=crops).image_zoom_in_tool([100, 100, 400, 400]))
    again = crop_of(started(picture, crops=crops).image_zoom_in_tool([100, 100, 400, 400]))[1]
    assert probed == true and other.size == image.size
    assert other.tobytes() == again.tobytes() != image.tobytes()


def test_a_crop_of_another_image_shows_the_next_task_that_has_another(picture, make_task):
    blue, green = (Image.new("RGB", (64, 64), colour) for colour in ("blue", "green"))
    tasks = [make_task(id="a"), make_task(id="b"), Task("words", (), "?", "7"), Task("c", (blue,), "?", "7"),
             Task("d", (green,), "?", "7")]  # fmt: skip
    found = with_others(tasks)
    assert [task.metadata.get("other_image") for task in found] == [blue, blue, None, green, picture]
    shown = crop_of(started(picture, crops="other", task=found[0]).image_zoom_in_tool([0, 0, 500, 500]))[1]
    assert shown.getpixel((3, 3)) == (0, 0, 255)
    with pytest.raises(ValueError, match="with_others"):
        started(picture, crops="other").image_zoom_in_tool([0, 0, 500, 500])
    with pytest.raises(ValueError, match="at least two"):
        with_others(tasks[:2])


def test_a_crop_of_the_target_is_the_tasks_nearest_box(picture, make_task):
    boxes = (Target(Box(0.0, 0.0, 0.2, 0.2, Frame.UNIT)), Target(Box(0.5, 0.5, 0.9, 0.9, Frame.UNIT)))
    shown = crop_of(
        started(picture, crops="target", task=make_task(boxes=boxes)).image_zoom_in_tool([400, 450, 600, 700])
    )[1]
    expected = crop_of(started(picture).image_zoom_in_tool([500, 500, 900, 900]))[1]
    assert shown.tobytes() == expected.tobytes()


@pytest.mark.parametrize("views", ["blurred", "blank"])
def test_a_probed_first_view_shows_less_and_zooms_show_as_before(picture, views):
    environment = ZoomEnvironment(ViewSettings(Frame.PER_MILLE, LIMITS, LIMITS, views=views))
    view = environment.reset(images=[picture], question="q")[0]["image"]
    true = ZoomEnvironment(ViewSettings(Frame.PER_MILLE, LIMITS, LIMITS)).reset(images=[picture], question="q")
    assert view.size == true[0]["image"].size
    assert np.asarray(view).astype(float).std() < np.asarray(true[0]["image"]).astype(float).std()
    zoomed = crop_of(environment.image_zoom_in_tool([0, 0, 500, 500]))[1]
    assert zoomed.tobytes() == crop_of(started(picture).image_zoom_in_tool([0, 0, 500, 500]))[1].tobytes()


def test_the_zoom_environment_passes_its_own_check():
    factory = lambda: ZoomEnvironment(ViewSettings(Frame.PER_MILLE, LIMITS, LIMITS))  # noqa: E731
    calls = [("image_zoom_in_tool", {"bbox_2d": [0, 0, 500, 500]})]
    passed = check_environment(factory, calls=calls)
    assert "answers image_zoom_in_tool the same after a reset, and beside another episode" in passed


class Forgetful:
    """An environment that keeps state across resets."""

    def __init__(self):
        self.calls = 0

    def reset(self, **row):
        return "look"

    def count(self, step: int) -> str:
        """Counts.

        Args:
            step: By how much.
        """
        self.calls += step
        return str(self.calls)


class Undocumented:
    def reset(self, **row):
        return "look"

    def tool(self, x):
        return "y"


class Buggy(Forgetful):
    def count(self, step: int) -> str:
        """Counts.

        Args:
            step: By how much.
        """
        return 1 / 0


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Forgetful, "reset must clear"),
        (Undocumented, "schema"),
        (Buggy, "ModelFault"),
        (ZoomEnvironment, "cannot be made without arguments"),
    ],
)
def test_the_check_finds_what_is_wrong_with_an_environment(kind, problem):
    calls = [("count", {"step": 1}), ("count", {"step": 1})]
    with pytest.raises(EnvironmentCheckError, match=problem):
        check_environment(kind, calls=calls)


def test_the_tool_that_qwen3_vl_was_taught_requires_all_arguments_and_answers_with_the_image_alone(make_task):
    settings = ViewSettings(Frame.PER_MILLE, PixelLimits(1024, 65536, 16), PixelLimits(4096, 65536, 16))
    ours, theirs = ZoomEnvironment(settings), Qwen3ZoomEnvironment(settings)
    for environment in (ours, theirs):
        environment.reset(**make_task().row())
    schema = get_json_schema(theirs.image_zoom_in_tool)["function"]
    assert schema["name"] == "image_zoom_in_tool" and schema["parameters"]["required"] == [
        "bbox_2d",
        "label",
        "img_idx",
    ]
    crop, said = ours.image_zoom_in_tool([0, 0, 500, 500])
    [alone] = theirs.image_zoom_in_tool([0, 0, 500, 500], "it", 0)
    assert said["type"] == "text" and alone["crop"] == crop["crop"]
    assert alone["image"].tobytes() == crop["image"].tobytes()


def test_no_view_is_smaller_than_the_processor_leaves_it(make_task):
    """Below its least the processor would enlarge the view again, and boxes in input pixels would be off."""
    settings = ViewSettings(Frame.INPUT, PixelLimits(65536, 4194304, 32), PixelLimits(65536, 4194304, 32))
    environment = ZoomEnvironment(settings)
    content = environment.reset(**make_task(first_view_max_pixels=640 * 480 // 16).row())
    shown = content[0]["image"]
    assert 65536 <= shown.width * shown.height < 1.2 * 65536
    assert settings.first_view.fit_size(shown.size) == shown.size == environment.framing.views[0].input
