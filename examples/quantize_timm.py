"""Quantize a timm model with a folder of images, save it, load it again.

    python examples/quantize_timm.py deit_tiny_patch16_224 photos/

Without arguments it runs offline: timm's smallest vision transformer with random weights, on random pictures.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import vitq


def random_pictures(folder: Path, count: int = 8) -> Path:
    generator = np.random.default_rng(0)
    for i in range(count):
        pixels_HWC = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels_HWC).resize((192, 192)).save(folder / f"{i:03d}.png")
    return folder


def main() -> None:
    out = Path(tempfile.mkdtemp())
    if len(sys.argv) == 3:
        name, images, weights = sys.argv[1], Path(sys.argv[2]), None
    else:
        name, images, weights = "test_vit", random_pictures(out), "random"

    model = vitq.quantize(name, images, weights=weights, recipe="repq", bits="w6a6", limit=100, out=out / "artifact")
    for row in model.scope_table():
        print(f"{row.role:16} {row.sites:4} sites  {row.format} {row.bits} bits per {row.granularity}")
    print(f"agreement with the original: {model.metrics.agreement:.1f} %")

    loaded = vitq.load(out / "artifact")
    print(f"{loaded.metrics.size_bytes:,} bytes, {loaded.metrics.fp_size_bytes:,} before")


if __name__ == "__main__":
    main()
