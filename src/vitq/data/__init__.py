"""Images in: folders, arrays and tensors, decoded, preprocessed and drawn with a seed."""

from vitq.data.batches import load_batches, load_labelled, require_labels
from vitq.data.calibration import check_images, draw_calibration
from vitq.data.sources import ImageItem, ImagesLike, ImageSource, open_images

__all__ = [
    "ImageItem",
    "ImageSource",
    "ImagesLike",
    "check_images",
    "draw_calibration",
    "load_batches",
    "load_labelled",
    "open_images",
    "require_labels",
]
