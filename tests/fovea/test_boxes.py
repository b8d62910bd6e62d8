import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.boxes import Box, Frame, View, coverage, iou

sizes = st.tuples(st.integers(1, 40_000), st.integers(1, 40_000))
units = st.floats(-3, 4, allow_nan=False)


@settings(deadline=None)
@given(st.tuples(units, units, units, units), sizes, sizes, st.sampled_from(Frame), st.sampled_from(Frame))
def test_conversion_there_and_back_is_the_same_box(numbers, original, shown, first, second):
    view = View(original, shown)
    box = Box(*numbers, Frame.UNIT).to(first, view)
    back = box.to(second, view).to(first, view)
    assert back.coordinates == pytest.approx(box.coordinates, rel=1e-9, abs=1e-6)


def test_a_box_of_the_resized_input_lands_on_the_same_place_of_the_original():
    view = View(original=(4000, 3000), input=(400, 150))
    assert Box(40, 15, 80, 30, Frame.INPUT).to(Frame.ORIGINAL, view).coordinates == (400, 300, 800, 600)


def test_a_box_in_a_crop_is_found_in_the_image_that_was_cropped():
    crop = Box(0.5, 0.5, 0.75, 1.0, Frame.UNIT)
    view = View((100, 100), (50, 50))
    inner = Box(0, 500, 1000, 1000, Frame.PER_MILLE).within(crop, view=view)
    assert inner.coordinates == pytest.approx((0.5, 0.75, 0.75, 1.0))


def test_boxes_of_different_frames_are_never_compared():
    with pytest.raises(ValueError, match="convert one"):
        iou(Box(0, 0, 1, 1, Frame.UNIT), Box(0, 0, 1, 1, Frame.PER_MILLE))


def test_a_box_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        Box(0, 0, float("nan"), 1, Frame.UNIT)


def test_iou_and_coverage():
    a, b = Box(0, 0, 2, 2, Frame.INPUT), Box(1, 0, 3, 2, Frame.INPUT)
    assert iou(a, b) == pytest.approx(1 / 3)
    assert coverage(a, b) == 0.5
    assert coverage(a, Box(5, 5, 6, 6, Frame.INPUT)) == 0.0


def test_clipping_a_box_outside_leaves_it_empty():
    assert Box(2000, 0, 3000, 10, Frame.PER_MILLE).clipped(View((9, 9), (9, 9))).is_empty
