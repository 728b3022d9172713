import pytest

from vitq.reconstruct.data import count_held_out


@pytest.mark.parametrize(
    ("images", "most", "held_out"), [(1000, 64, 64), (128, 64, 25), (5, 64, 1), (4, 64, 0), (9, 0, 0)]
)
def test_no_more_than_a_fifth_is_held_out(images: int, most: int, held_out: int) -> None:
    assert count_held_out(images, most) == held_out
