"""What a run shows: predictions image by image, errors of sites, grids, pictures; a damaged file is noticed."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import vitq
from vitq.errors import ArtifactError
from vitq.evidence import EVIDENCE, Evidence
from vitq.evidence.pictures import attention_maps, attention_site, thumbnail
from vitq.evidence.sites import distribution, grid, seen_site
from vitq.evidence.watch import Watched, pairs_of
from vitq.graph import Graph, capture
from vitq.models import Preprocessing
from vitq.quantizers import Format, Granularity, make_quantizer
from vitq.report.extras import read_evidence


def watched(logits_NK: torch.Tensor, reference: Watched | None = None, pictures: int = 8) -> Watched:
    """A model whose image N is N everywhere, so that it knows which row to give."""
    found = Watched(lambda x: logits_NK[x[:, 0, 0, 0].long()], "logits", reference, pictures)
    images = torch.arange(len(logits_NK)).float()[:, None, None, None].expand(-1, 3, 4, 4)
    for x_BCHW in images.split(4):
        found(x_BCHW)
    return found


def test_pairs_say_who_is_right_and_what_is_expected_without_labels() -> None:
    torch.manual_seed(0)
    floating, labels = 3 * torch.randn(10, 7), torch.arange(10) % 7
    quantized = floating.clone()
    quantized[3] = quantized[3].roll(1)
    one = watched(floating)
    two = watched(quantized, one)
    found = pairs_of(one, two, range(10), labels)
    assert found is not None and found.images == 10 and found.agree == "1110111111"
    assert found.floating == "".join(str(int(c == y)) for c, y in zip(floating.argmax(1), labels, strict=True))
    p_K = floating[3].softmax(0)
    lost = float(p_K.max() - p_K[quantized[3].argmax()]) * 100 / 10
    assert found.expected_loss == pytest.approx(lost, abs=1e-4) or quantized[3].argmax() not in p_K.topk(5).indices
    without = pairs_of(one, two, range(10), None)
    assert without is not None and without.floating == "" and without.agree == found.agree
    assert pairs_of(one, two, range(9), labels) is None


def test_the_images_that_differ_most_are_kept_the_greatest_first() -> None:
    floating = torch.zeros(12, 3)
    floating[:, 0] = 4.0
    quantized = floating.clone()
    quantized[5] = torch.tensor([0.0, 6.0, 0.0])
    quantized[9, 0] = 1.0
    found = watched(quantized, watched(floating), pictures=2)
    assert [number for number, _ in found.images()] == [5, 9]
    assert float(found.images()[0][1].mean()) == 5.0


def test_one_column_is_a_choice_of_two() -> None:
    found = watched(torch.tensor([[2.0], [-3.0]]))
    classes, shares = found.rows()
    assert classes[:, 0].tolist() == [1, 0] and shares[0, 0] == pytest.approx(float(torch.tensor(2.0).sigmoid()))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_grid_holds_every_value_that_a_quantizer_gives(granularity: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5, 4)
    quantizer = make_quantizer(Format(bits=3, granularity=granularity), None if granularity == "tensor" else -1)  # type: ignore[arg-type]
    scale = torch.tensor(0.3) if granularity == "tensor" else torch.tensor([0.3, 0.2, 0.9, 0.1])
    quantizer.set_parameters(scale=scale, zero_point=torch.full_like(scale, 3.0))
    seen = seen_site("fc/input", quantizer, x)
    y = quantizer(x)
    assert seen.error == pytest.approx(float((y - x).square().sum() / x.square().sum()), rel=1e-5)
    own = y if granularity == "tensor" else y[..., seen.place[-1]]
    values = grid(quantizer, seen.shape, seen.place)
    assert len(values) == 8 and {float(f"{v:.5g}") for v in own.flatten().tolist()} <= set(values)
    if granularity == "channel":
        assert seen.place[-1] == int((y - x).square().sum((0, 1)).argmax())
    shown = distribution(seen)
    assert sum(shown.counts) == own.numel() and shown.low <= float(seen.values.min()) + 1e-4


def test_the_grid_beside_massive_tokens_is_that_of_the_others() -> None:
    x_BTC = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))
    x_BTC[:, 0] += 90
    quantizer = make_quantizer(Format(bits=3, granularity="tensor"), None)  # type: ignore[arg-type]
    quantizer.set_parameters(scale=torch.tensor(0.3), zero_point=torch.tensor(3.0))
    quantizer.keep_apart(torch.tensor([0])).set_parameters(scale=torch.tensor(20.0), zero_point=torch.tensor(0.0))
    shown = distribution(seen_site("fc/input", quantizer, x_BTC))
    assert shown.high < 10 and max(abs(value) for value in shown.grid) < 2
    assert shown.slice == "all tokens but 1 kept apart" and sum(shown.counts) == x_BTC[:, 1:].numel()


@pytest.mark.parametrize("axis", [-2, -1])
def test_a_weight_that_a_matmul_reads_has_its_outputs_on_any_axis(axis: int) -> None:
    w, quantizer = torch.randn(6, 8), make_quantizer(Format("affine", 4, Granularity.CHANNEL), axis)
    shape = (6, 1) if axis == -2 else (8,)
    quantizer.set_parameters(scale=torch.full(shape, 0.3), zero_point=torch.full(shape, 8.0))
    shown = distribution(seen_site("fc/weight", quantizer, w))
    assert len(shown.grid) == 16 and sum(shown.counts) == w.numel() // w.shape[axis]


def test_a_thumbnail_has_the_colours_that_the_picture_had() -> None:
    preprocessing = Preprocessing(input_size=(3, 8, 8))
    pixels = torch.tensor([0.8, 0.4, 0.2])[:, None, None].expand(3, 8, 8)
    x_CHW = (pixels - torch.tensor(preprocessing.mean)[:, None, None]) / torch.tensor(preprocessing.std)[:, None, None]
    kind, _, content = thumbnail(x_CHW, preprocessing).partition(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/jpeg" and picture.size == (8, 8)
    assert all(abs(a - b) < 8 for a, b in zip(picture.getpixel((4, 4)), (204, 102, 51), strict=True))  # type: ignore[arg-type]


def test_attention_is_that_of_the_probabilities_over_the_places_of_the_image(one_block: nn.Module) -> None:
    x = torch.randn(3, 3, 8, 8)
    graph: Graph = capture(one_block, x[:2])
    maps = attention_maps(graph, attention_site(graph), x, torch.device("cpu"))
    assert maps is not None and maps.shape == (3, 2, 2)
    assert torch.allclose(maps.sum((1, 2)), torch.ones(3), atol=1e-5)


@pytest.fixture(scope="module")
def folder(one_block: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    images = torch.randn(12, 3, 8, 8)
    labels = one_block(images).argmax(-1)
    out = tmp_path_factory.mktemp("runs") / "run"
    vitq.quantize(one_block, images, validation=(images, labels), recipe="rtn", bits="w3a3", out=out, progress=False)
    return out


def test_a_run_keeps_what_its_report_shows(folder: Path) -> None:
    found = read_evidence(folder)
    assert found is not None and found.pairs is not None
    assert found.pairs.floating == "1" * 12 and found.pairs.quantized == found.pairs.agree
    config = json.loads((folder / "config.json").read_text())
    assert found.model == config["hashes"]["model.safetensors"]
    assert {site.site for site in found.sites} == set(config["sites"])
    assert all(0 <= site.error < 2 for site in found.sites) and any(site.role == "weight" for site in found.sites)
    errors = {site.site: site.error for site in found.sites}
    shown = [errors[own.site] for own in found.distributions]
    assert shown == sorted(shown, reverse=True) and shown[0] == max(errors.values())
    assert len(found.pictures) == 8 and found.attention and found.pictures[0].floating_attention
    assert all(picture.truth == picture.floating.label for picture in found.pictures)


def test_evidence_of_another_model_is_not_shown(folder: Path, tmp_path: Path) -> None:
    from vitq.report.extras import extras_of

    artifact = vitq.load(folder).artifact
    assert extras_of(folder, artifact).evidence is not None
    data = json.loads((folder / EVIDENCE).read_text())
    (tmp_path / EVIDENCE).write_text(json.dumps({**data, "model": "another"}))
    assert extras_of(tmp_path, artifact).evidence is None


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": 3},
        {"pictures": [{"image": "javascript:alert(1)"}]},
        {"unknown": 1},
        {"vitq": "else"},
        {"sites": [{"site": "a", "role": "r", "block": "", "bits": 4, "format": "f", "error": "much"}]},
    ],
)
def test_a_damaged_file_is_an_artifact_error(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / EVIDENCE).write_text(json.dumps({**Evidence().model_dump(mode="json"), **change}))
    with pytest.raises(ArtifactError, match=r"report\.json is damaged"):
        read_evidence(tmp_path)


def test_what_goes_wrong_beside_the_model_is_a_warning(
    one_block: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("vitq.evidence.collect.seen_activations", fail)
    vitq.quantize(one_block, torch.randn(6, 3, 8, 8), recipe="rtn", bits="w4a4", out=tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "report.html").exists() and not (tmp_path / "run" / EVIDENCE).exists()
    assert '"name": "report", "message": "RuntimeError: no luck' in (tmp_path / "run" / "events.jsonl").read_text()
