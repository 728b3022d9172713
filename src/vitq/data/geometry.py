"""Where the pixels of a picture go when it is prepared for a model: what masks and boxes need."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image

from vitq.models.preprocessing import Preprocessing

_INSIDE = 255


@dataclass(frozen=True, eq=False)
class Grid:
    """The picture's pixel under each pixel of the model's input: its row and column (H, W), -1 outside the picture."""

    rows_HW: np.ndarray
    columns_HW: np.ndarray
    picture: tuple[int, int]
    """Height and width of the picture."""

    def taken(self, values_HW: np.ndarray, outside: float) -> np.ndarray:
        """Return the values of a map of the picture at the model's pixels, nearest ones."""
        found: np.ndarray = values_HW[self.rows_HW.clip(min=0), self.columns_HW.clip(min=0)]
        taken_HW: np.ndarray = np.where(self.rows_HW >= 0, found, np.asarray(outside, found.dtype))
        return taken_HW

    def placed(self, boxes_M4: np.ndarray) -> np.ndarray:
        """Return boxes (left, top, right, bottom) in pixels of the picture as shares of the model's input, 0 to 1."""
        height, width = self.rows_HW.shape
        x, y = _line(self.columns_HW.max(0)), _line(self.rows_HW.max(1))
        placed = np.stack([(boxes_M4[:, i] - line[1]) / line[0] for i, line in enumerate((x, y, x, y))], 1)
        shares_M4: np.ndarray = (placed / np.array([width, height, width, height])).clip(0, 1)
        return shares_M4


@lru_cache(maxsize=8)
def pixel_grid(preprocessing: Preprocessing, width: int, height: int) -> Grid:
    """Return where the model's pixels lie in a picture, by preparing two pictures of its row and column numbers.

    So every way to resize and crop is followed, at its nearest pixels. Source: vitq.
    """
    exact = replace(preprocessing, interpolation="nearest", mean=(0.0,) * 3, std=(1.0,) * 3)
    exact = replace(exact, input_size=(3, *preprocessing.input_size[1:])) if preprocessing.input_size[0] != 3 else exact
    prepare = exact.transform()

    def followed(numbers_HW: np.ndarray) -> np.ndarray:
        high, low = np.divmod(numbers_HW, 256)
        codes_HWC = np.stack([high, low, np.full_like(low, _INSIDE)], 2).astype(np.uint8)
        high, low, inside = np.rint(255 * prepare(Image.fromarray(codes_HWC)).numpy()).astype(np.int64)
        return np.where(inside == _INSIDE, 256 * high + low, -1)

    rows_HW, columns_HW = np.mgrid[:height, :width]
    return Grid(followed(rows_HW), followed(columns_HW), (height, width))


def _line(places_N: np.ndarray) -> tuple[float, float]:
    """Return slope and offset of the line through the centres of pixels: picture = slope · input + offset."""
    inside = np.flatnonzero(places_N >= 0)
    if len(inside) < 2:
        return 1.0, 0.0
    slope, offset = np.polyfit(inside + 0.5, places_N[inside] + 0.5, 1)
    return float(slope), float(offset)
