"""One whole file of every kind that vitq reads, made once; the cases damage copies of their content."""

import io
import json
import warnings
from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

import vitq
from vitq.artifact.files import digest, to_json_bytes
from vitq.artifact.sealing import FILES, HASHED, SEALED, make_seal
from vitq.run.checkpoints import Checkpoints

IMAGES_NCHW = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
FORMATS = {
    "JPEG": "RGB",
    "PNG": "RGBA",
    "WEBP": "RGB",
    "GIF": "P",
    "BMP": "RGB",
    "TIFF": "I;16",
    "PPM": "RGB",
    "TGA": "L",
}


class Tiny(nn.Module):
    """Patches, one residual linear behind a norm, a head of five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        x_BTC = x_BTC + self.fc(self.norm(x_BTC))
        logits_BK: torch.Tensor = self.head(x_BTC.mean(1))
        return logits_BK


class World:
    """Whole files, by kind; ``folder`` is where the cases put theirs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def model(self) -> vitq.QuantizedModel:
        torch.manual_seed(0)
        return vitq.quantize(Tiny(), IMAGES_NCHW, recipe="rtn", bits="w4a4", progress=False)

    @cached_property
    def artifact(self) -> Mapping[str, bytes]:
        """Content of the files of an artifact."""
        folder = self.model.save(self.folder / "whole")
        return {name: (folder / name).read_bytes() for name in FILES}

    @cached_property
    def checkpoints(self) -> Mapping[str, bytes]:
        """Content of the files of an unfinished run, whose fingerprint is {"seed": 0} and whose only piece is "a"."""
        folder = self.folder / "unfinished"
        Checkpoints(folder, {"seed": 0}).save("a", {"w": torch.arange(3.0)}, {"loss": 0.5})
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}

    @cached_property
    def pictures(self) -> Mapping[str, bytes]:
        """Image files, by Pillow's name of the format."""
        pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        contents = {}
        for kind, mode in FORMATS.items():
            picture = Image.fromarray(pixels)
            picture = picture.convert("L").convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)
            buffer = io.BytesIO()
            picture.save(buffer, kind)
            contents[kind] = buffer.getvalue()
        return contents

    @cached_property
    def npz(self) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, images=np.zeros((4, 16, 16, 3), np.uint8), labels=np.arange(4))
        return buffer.getvalue()

    @cached_property
    def labels(self) -> bytes:
        return b"filename,label\n" + b"".join(f"{n}.png,{n}\n".encode() for n in range(4))

    @cached_property
    def recipes(self) -> Mapping[str, bytes]:
        folder = files("vitq.recipes") / "yaml"
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith(".yaml")}

    @cached_property
    def weights(self) -> Mapping[str, bytes]:
        """Weights of ``Tiny``, by the name of a file."""
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(Tiny().state_dict(), buffer)
        return {"w.safetensors": save(Tiny().state_dict()), "w.pth": buffer.getvalue()}

    @cached_property
    def hub_config(self) -> dict[str, object]:
        """The configuration of a model as timm saves it."""
        own = {"img_size": 32, "patch_size": 16, "embed_dim": 12, "depth": 1, "num_heads": 1}
        pretrained = {"input_size": [3, 32, 32], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}
        return {
            "architecture": "vit_tiny_patch16_224", "num_classes": 4, "model_args": own, "pretrained_cfg": pretrained,
        }  # fmt: skip

    def write(self, name: str, contents: Mapping[str, bytes]) -> Path:
        """Write files into the folder ``name``, which held nothing else, and return it."""
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        for old in place.iterdir():
            old.unlink()
        for file, content in contents.items():
            (place / file).write_bytes(content)
        return place


def forged(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of an artifact with hashes that fit, as whoever makes a hostile one gives it."""
    whole = dict(contents)
    try:
        config = json.loads(whole["config.json"])
        config["hashes"] = {name: digest(whole[name]) for name in HASHED}
        whole["config.json"] = to_json_bytes(config)
    except (ValueError, TypeError, RecursionError):
        pass
    whole["seal.json"] = make_seal({name: whole[name] for name in SEALED})
    return whole
