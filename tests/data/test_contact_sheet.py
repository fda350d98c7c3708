from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genconvit.data.contact_sheet import GAP, contact_sheet, encode_png

RED, BLUE = (np.full((20, 20, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))


def test_pictures_lie_row_by_row() -> None:
    sheet = contact_sheet([RED, BLUE, BLUE, RED], columns=2, cell=20)
    assert sheet.shape == (2 * 24 + GAP, 2 * 24 + GAP, 3)
    first, second, third, fourth = (sheet[y, x].tolist() for y in (14, 38) for x in (14, 38))
    assert first == fourth == [255, 0, 0]
    assert second == third == [0, 0, 255]


def test_a_caption_is_written_below_its_picture_and_stays_there() -> None:
    captions = ["a very long name that does not fit", ""]
    sheet = contact_sheet([RED, BLUE], captions, columns=2, cell=60)
    below = sheet[GAP + 60 :] < 128
    assert below[:, GAP : GAP + 60].any()
    assert not below[:, GAP + 62 :].any()


def test_two_lines_take_more_room_than_one() -> None:
    one, two = (contact_sheet([RED], [caption]).shape[0] for caption in ("é", "é\n漢"))
    assert two > one > contact_sheet([RED]).shape[0]


def test_a_picture_keeps_its_shape_and_a_grey_one_is_drawn() -> None:
    sheet = contact_sheet([np.zeros((10, 40), np.uint8)], cell=40)
    black = (sheet == 0).all(axis=2)
    assert (black.any(1).sum(), black.any(0).sum()) == (10, 40)


def test_captions_must_be_as_many_as_pictures() -> None:
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        contact_sheet([RED, BLUE], ["a"])


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=9), st.integers(1, 12))
def test_any_pictures_make_a_sheet(sides: list[tuple[int, int]], columns: int) -> None:
    images = [np.zeros((high, wide, 3), np.uint8) for high, wide in sides]
    sheet = contact_sheet(images, ["x"] * len(images), columns=columns, cell=30)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    assert sheet.shape[1] == GAP + 34 * max(1, min(columns, len(images)))


def test_png_keeps_every_pixel_and_the_order_of_colours() -> None:
    image = np.random.default_rng(0).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    png = np.frombuffer(encode_png(image), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1], image)
