"""Images as people see them: thumbnails, and where a model looks."""

from base64 import b64encode
from io import BytesIO
from math import isqrt

import torch
from PIL import Image

from vitq.graph import Graph, Role
from vitq.models import Preprocessing

SIDE = 112
"""Pixels of a thumbnail's longer side."""


def thumbnail(x_CHW: torch.Tensor, preprocessing: Preprocessing) -> str:
    """Return a preprocessed image as a small JPEG; one of unknown normalisation is stretched to the whole range."""
    x_CHW = x_CHW.detach().float().cpu()
    if len(preprocessing.mean) == len(x_CHW):
        mean_C11, std_C11 = (torch.tensor(part)[:, None, None] for part in (preprocessing.mean, preprocessing.std))
        pixels = x_CHW * std_C11 + mean_C11
    else:
        low, high = x_CHW.min(), x_CHW.max()
        pixels = (x_CHW - low) / (high - low).clamp(min=1e-12)
    pixels = pixels if len(pixels) == 3 else pixels[:1].expand(3, -1, -1)
    data = pixels.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(data)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    return _encoded(picture, "jpeg", quality=80)


def attention_site(graph: Graph) -> str:
    """Return the name of the last attention's probabilities; empty where there is none."""
    return next((name for name, s in reversed(graph.sites.items()) if s.role is Role.PROBABILITIES), "")


@torch.no_grad()
def attention_maps(graph: Graph, site: str, x_BCHW: torch.Tensor, device: torch.device) -> torch.Tensor | None:
    """Return where each image is looked at (B, S, S), the mean over heads; None where tokens are no places of it.

    That is the row of the first token where there are more tokens than places, else the mean over all tokens. In
    windows and grids that are no square tokens are no places of the whole image.
    """
    units = graph.spans("unit")
    module = graph.segment(units[0].start, units[-1].end, (graph.sites[site].node,))
    p_BHTT = module(x_BCHW.to(device))[1].float().cpu()
    if p_BHTT.ndim != 4 or len(p_BHTT) != len(x_BCHW):
        return None
    p_BTT = p_BHTT.mean(1)
    side = isqrt(p_BTT.shape[-1])
    extra = p_BTT.shape[-1] - side * side
    if side < 2 or extra > 8:
        return None
    looked_BT = p_BTT[:, 0] if extra else p_BTT.mean(1)
    maps_BSS: torch.Tensor = looked_BT[:, extra:].reshape(-1, side, side)
    return maps_BSS


def map_picture(map_SS: torch.Tensor, brightest: float) -> str:
    """Return a map as a tiny gray PNG, white where it is ``brightest``."""
    data = (map_SS / max(brightest, 1e-12)).clamp(0, 1).mul(255).round().to(torch.uint8).contiguous().numpy()
    return _encoded(Image.fromarray(data), "png")


def _encoded(picture: Image.Image, kind: str, **options: int) -> str:
    content = BytesIO()
    picture.save(content, kind, **options)
    return f"data:image/{kind};base64,{b64encode(content.getvalue()).decode()}"
