"""Massive tokens: found in calibration, told, and given a range of their own, up to the file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import vitq
from vitq.artifact.tensors import unpacked
from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert
from vitq.calibrate.biases import CorrectBiases
from vitq.calibrate.outliers import outlying, still_true
from vitq.errors import CalibrationError
from vitq.evidence.sites import distribution, format_words, seen_site
from vitq.graph import Role, Site, capture
from vitq.quantizers import Format, Granularity, Quantizer, make_quantizer
from vitq.reconstruct.variables.learnable import learnable
from vitq.run.run import Run

X_NCHW = torch.randn(12, 3, 24, 24, generator=torch.Generator().manual_seed(0))
KEPT = {"calibrate.outlier_tokens": False}


class Massive(nn.Module):
    """36 tokens, of which the first and the last have a huge value in channel 3, read by a linear and by a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 5)
        place_TC = torch.zeros(36, 8)
        place_TC[0, 3], place_TC[35, 3] = 400.0, -380.0
        self.place_TC = nn.Parameter(place_TC)
        with torch.no_grad():
            self.fc.weight[:, 3] *= 0.01

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2) + self.place_TC
        x_BTC = x_BTC + self.fc(x_BTC)
        logits_BTK: torch.Tensor = self.head(self.norm(x_BTC))[:, 1:-1].mean(1)
        return logits_BTK


def error(model: Any) -> float:
    with torch.no_grad():
        expected = Massive().eval()(X_NCHW)
        return float((model(X_NCHW) - expected).norm() / expected.norm())


def made(**options: Any) -> Any:
    chosen = {"recipe": "rtn", "bits": "w8a6", "progress": False, **options}
    return vitq.quantize(Massive().eval(), X_NCHW, **chosen)


@pytest.mark.parametrize(
    ("recipe", "scope"),
    [("rtn", "paper"), ("rtn", "full"), ("fq-vit", "full"), ("repq", "paper"), ("mptq-vit", "full")],
)
def test_massive_tokens_are_told_and_do_no_harm_to_the_others(recipe: str, scope: str) -> None:
    apart, shared = (made(recipe=recipe, scope=scope, overrides=own) for own in ({}, KEPT))
    assert error(apart) < 0.35 * error(shared)
    found = {one["site"]: one for one in apart.metrics.outliers}
    one = found["fc/input"]
    assert one["tokens"] == [0, 35] and one["channels"] == [3] and one["ratio"] > 30 and one["largest"] > 390
    assert ("norm/input" in found) == (scope == "full")
    (told,) = [message for name, message in apart.metrics.warnings if name == "outlier-tokens"]
    assert "tokens 0, 35" in told and "channel 3" in told
    assert shared.metrics.outliers is None


def test_an_artifact_with_massive_tokens_is_read_bit_for_bit(tmp_path: Path) -> None:
    model = made()
    again = vitq.load(model.save(tmp_path / "a"))
    assert torch.equal(again(X_NCHW), model(X_NCHW))
    assert again.metrics.outliers[0]["tokens"] == [0, 35]
    reasons = [left.reason for left in model.integer().operations.floating]
    assert any("scale of their own" in reason for reason in reasons)


@pytest.mark.parametrize(("target", "name"), [("onnxruntime", "a.onnx"), ("openvino", "a.xml")])
def test_a_file_multiplies_both_kinds_of_tokens_in_integers(target: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip(target)
    model = made(target=target)
    assert model.metrics.outliers is not None
    exported = model.export(tmp_path / name, X_NCHW, target=target)
    assert exported.integer_products == exported.promised == 3  # fc twice, head


def site(role: Role = Role.OTHER) -> Site:
    return Site("a", "a", role, ("b",))


def tokens(**huge: float) -> torch.Tensor:
    x_BTC = torch.randn(8, 40, 6, generator=torch.Generator().manual_seed(0))
    for place, value in huge.items():
        x_BTC[:, int(place[1:]), 2] += value
    return x_BTC


def test_what_is_as_massive_is_taken_together_and_what_is_usual_is_left() -> None:
    assert outlying(site(), tokens(), None) is None and outlying(site(), tokens(), -1) is None
    found = outlying(site(), tokens(t0=90, t7=60, t8=-50), None)
    assert found is not None and (found.tokens, found.channels, found.fixed) == ((0, 7, 8), (2,), True)
    x_BTC = tokens(t0=90)
    x_BTC[:, 0, 4], x_BTC[:, 0, 5] = -200.0, 40.0
    found = outlying(site(), x_BTC, None)
    assert found is not None and found.channels == (4,)
    x_BTC[:, 0, 4] = -120.0
    found = outlying(site(), x_BTC, None)
    assert found is not None and found.channels == (4, 2) and found.largest == 120.0
    assert outlying(site(Role.PROBABILITIES), tokens(t0=90), None) is None
    assert outlying(site(), tokens(t0=90)[:4], None) is None  # too few images
    few = tokens(t0=12)
    assert outlying(site(), few, None) is not None or float(few.abs().max()) < 16
    assert outlying(site(), few, -1) is None  # a channel of its own has a range of its own


@pytest.mark.parametrize(("images", "told"), [(8, 8), (16, 16), (64, 16)])
def test_places_that_new_images_do_not_share_are_not_fixed(images: int, told: int) -> None:
    x_BTC = torch.randn(images, 197, 6, generator=torch.Generator().manual_seed(0))
    for number in range(told):  # in so many images one massive token, at a place of its own
        x_BTC[number, 7 * number, 2] += 90
    found = outlying(site(), x_BTC, None)
    assert (found is None) == (told < images / 2)
    assert found is None or not found.fixed


def test_a_fixed_place_may_be_usual_in_some_image() -> None:
    x_BTC = tokens(t0=90, t7=60)
    x_BTC[3, 7, 2] -= 60
    found = outlying(site(), x_BTC, None)
    assert found is not None and found.fixed and found.tokens == (0, 7)


def test_rows_of_a_convolution_and_channels_of_keys_are_no_tokens() -> None:
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.row_HW = nn.Parameter(torch.zeros(36, 36))
            with torch.no_grad():
                self.row_HW[0] = 300.0

        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            features_BC: torch.Tensor = self.second(nn.functional.gelu(self.first(x_BCHW) + self.row_HW)).mean((2, 3))
            return features_BC

    x_BCHW = torch.randn(8, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    for scope in ("paper", "full"):  # a map that an activation function or a sum reads has no tokens either
        model = vitq.quantize(Stem().eval(), x_BCHW, recipe="rtn", bits="w8a8", scope=scope, progress=False)
        assert model.metrics.outliers is None and any(name == "second/input" for name in model.graph.quantizers)
    found = outlying(site(Role.VALUE), tokens(t0=90)[:, None], None)
    assert found is not None and found.tokens == (0,) and outlying(site(), tokens(t0=90)[:, None], None) is None
    assert outlying(site(Role.KEY), tokens(t0=90)[:, None], None) is None


def test_massive_tokens_that_change_their_place_are_told_only() -> None:
    x_BTC = tokens()
    x_BTC[torch.arange(8), torch.arange(8) * 5, 2] += 90
    x_BTC = torch.cat([x_BTC] * 4)
    for number in range(32):
        x_BTC[number] = x_BTC[number].roll(number, 0)
    found = outlying(site(), x_BTC, None)
    assert found is not None and not found.fixed and found.tokens == ()


@pytest.mark.parametrize("axis", [None, -1])
def test_codes_of_both_kinds_of_tokens_are_the_values(axis: int | None) -> None:
    quantizer = make_quantizer(Format("affine", 4, Granularity.TENSOR if axis is None else Granularity.CHANNEL), axis)
    shape = () if axis is None else (6,)
    scales = {"scale": torch.full(shape, 0.3), "zero_point": torch.full(shape, 8.0)}
    quantizer.set_parameters(**scales)
    quantizer.keep_apart(torch.tensor([7, 0])).set_parameters(**{**scales, "scale": torch.full(shape, 12.0)})
    x_BTC = tokens(t0=80, t7=-70)
    y_BTC = quantizer(x_BTC)
    assert torch.equal(quantizer.decode(quantizer.encode(x_BTC)), y_BTC)
    assert float((y_BTC - x_BTC)[:, [0, 7]].abs().max()) <= 7 and float(y_BTC[:, 1:7].abs().max()) < 2.5
    assert float(quantizer.resolution(x_BTC).expand_as(x_BTC)[0, 0, 0]) == 12.0
    again = make_quantizer(quantizer.format, axis)
    again.set_parameters(**quantizer.parameters_dict())
    assert torch.equal(again(x_BTC), y_BTC) and not again.has_integer_values
    with pytest.raises(CalibrationError, match="has not so many"):
        quantizer(x_BTC[:, :5])
    with pytest.raises(CalibrationError, match="give each once"):
        quantizer.keep_apart(torch.tensor([1, 1]))


def test_both_kinds_of_scales_are_learnt_kept_and_put_back() -> None:
    teacher = capture(Massive().eval(), X_NCHW)
    run = Run(teacher, teacher.clone(), X_NCHW, Bits(8, 4))
    Insert().apply(run)
    Calibrate(weights="mse", activations="mse").apply(run)
    segment = run.student.segment(run.student.cuts[0], run.student.sites["fc/input"].consumers[0])
    variables = learnable(run.student, segment, {"activation_scales": 1e-2, "zero_points": 1e-2})
    paths = {f"quantizers.fc__input.{kind}{name}" for kind in ("", "outliers.") for name in ("scale", "zero_point")}
    assert paths <= set(variables.tensors)
    before = variables.snapshot()
    optimizer = torch.optim.Adam(variables.optimized(), lr=1e-2)
    segment(X_NCHW).square().mean().backward()
    variables.step(optimizer)
    after = variables.snapshot()
    moved = {path for path in paths if not torch.equal(before[path], after[path])}
    assert {path for path in paths if path.endswith("scale")} <= moved
    variables.restore(before)
    variables.commit(segment)
    assert all(torch.equal(run.student.module.get_parameter(path), before[path]) for path in paths)


def test_a_run_that_is_resumed_reads_what_both_kinds_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = {"reconstruct.steps": 8, "reconstruct.evaluation.held_out": 0, "reconstruct.batch": 4}
    options = {"recipe": "mgrq", "bits": "w4a4", "overrides": learn}
    monkeypatch.setattr("vitq.reconstruct.train._own_and_end", lambda *_: 0.0)  # keep whatever is learnt
    whole = made(**options)
    with monkeypatch.context() as patch:
        patch.setattr("vitq.verbs.quantize.segment_errors", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made(**options, out=tmp_path / "a")
    monkeypatch.setattr("vitq.reconstruct.sweep.train", lambda *_: pytest.fail("trained again"))
    resumed = made(**options, out=tmp_path / "a", resume=True)
    scales = [model.graph.quantizers["fc/input"].outliers.scale for model in (whole, resumed)]
    calibrated = made(recipe="repq", bits="w4a4").graph.quantizers["fc/input"].outliers.scale
    assert torch.equal(*scales) and not torch.equal(scales[0], calibrated)
    again = vitq.load(tmp_path / "a")
    assert torch.equal(again(X_NCHW), whole(X_NCHW)) and again.metrics.outliers == whole.metrics.outliers


def test_an_allocation_counts_what_both_kinds_store(tmp_path: Path) -> None:
    chosen = vitq.allocate(Massive().eval(), X_NCHW, average_bits=6, recipe="rtn", candidates=(4, 8), progress=False)
    model = made(bits=chosen.table, out=tmp_path / "a")
    stored = load_file(tmp_path / "a" / "model.safetensors")
    assert model.metrics.outliers and sum(tensor.nbytes for tensor in stored.values()) == chosen.costs["size_bytes"]


ALLOCATED = """name: own
summary: first without outliers, then with bits of their own
source: a test
steps:
  - insert
  - calibrate: {weights: mse, activations: mse, outlier_tokens: true}
  - allocate: {solver: greedy, candidates: [4, 6]}
"""


@pytest.mark.parametrize("known", [True, False])
def test_what_is_told_is_what_the_last_calibration_found(
    tmp_path: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text(ALLOCATED)
    if not known:  # formats of other bits are fitted anew, and find none
        monkeypatch.setattr("vitq.allocation.step.calibration_of", lambda _: Calibrate(outlier_tokens=False))
    model = made(recipe=tmp_path / "own.yaml", bits="w5a5")
    apart = {name: q.places_P.tolist() for name, q in model.graph.quantizers.items() if q.places_P is not None}
    assert {one["site"]: one["tokens"] for one in model.metrics.outliers or ()} == apart
    assert (apart == {"fc/input": [0, 35]}) == known


def test_what_no_longer_holds_is_not_told() -> None:
    graph = made().graph
    found = {"site": "fc/input", "tokens": [0, 35], "fixed": True}
    assert still_true(graph, [found, {**found, "site": "gone"}]) == (found,)
    assert not still_true(graph, [{**found, "tokens": [0]}, {**found, "tokens": [], "fixed": False}])
    told = {"site": "head/input", "tokens": [], "fixed": False}
    assert still_true(graph, [told]) == (told,)


def apart(form: Format) -> Quantizer:
    """Return a quantizer of 40 tokens, two of which are kept apart."""
    quantizer = make_quantizer(form)
    quantizer.keep_apart(torch.tensor([0, 7]))
    x_BTC = tokens(t0=80, t7=70).abs()
    for own, x in ((quantizer, x_BTC[:, 8:]), (quantizer.outliers, x_BTC[:, [0, 7]])):
        assert own is not None
        own.set_parameters(**own.codec.choose_qparams(form, x.amin(), x.amax()))
    return quantizer


@pytest.mark.parametrize(("name", "bits"), [("piecewise", 6), ("twin", 4), ("adalog", 4), ("log2", 4), ("affine", 8)])
def test_a_file_takes_two_kinds_of_tokens_of_every_format_that_it_takes(name: str, bits: int) -> None:
    pytest.importorskip("onnxscript")
    from vitq.export.lowerings import refusal

    quantizer = apart(Format(name, bits))
    assert refusal(quantizer, is_weight=False) == ""
    x_BTC = tokens(t0=80, t7=70).abs()
    assert torch.equal(quantizer.decode(quantizer.encode(x_BTC)), quantizer(x_BTC))
    assert "do not fit" in refusal(apart(Format("piecewise", 8)), is_weight=False)


def test_a_simulation_waits_for_no_number_of_the_device() -> None:
    x_BTC = tokens(t0=80, t7=70).to("meta")  # of which nothing can be read, as of a GPU's while a step is recorded
    assert apart(Format("affine", 4)).to("meta")(x_BTC).shape == x_BTC.shape


def test_a_quantizer_is_calibrated_once_both_kinds_are() -> None:
    quantizer = make_quantizer(Format("affine", 4))
    quantizer.set_parameters(scale=torch.ones(()), zero_point=torch.zeros(()))
    outliers = quantizer.keep_apart(torch.tensor([0, 7]))
    assert not quantizer.calibrated
    outliers.set_parameters(scale=torch.ones(()), zero_point=torch.zeros(()))
    assert quantizer.calibrated
    quantizer.set_parameters(**quantizer.parameters_dict())
    assert quantizer.outliers is outliers  # set in place, so that what is learnt stays the same tensor


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ({"outlier_tokens": torch.tensor([0.5, 7])}, "give each once"),
        ({"outlier_tokens": torch.tensor([[0, 7]])}, "give each once"),
        ({"outlier_outlier_scale": torch.ones(()), "outlier_outlier_tokens": torch.tensor([0])}, "none kept apart"),
    ],
)
def test_forged_places_of_tokens_are_refused(damage: dict[str, torch.Tensor], why: str) -> None:
    with pytest.raises(CalibrationError, match=why):
        make_quantizer(Format("affine", 4)).set_parameters(**{**apart(Format("affine", 4)).parameters_dict(), **damage})


def test_a_weight_has_no_tokens(tmp_path: Path) -> None:
    model = made(bits="w4a4", overrides={"insert.weight.granularity": "tensor"})
    stored, sites = load_file(model.save(tmp_path / "a") / "model.safetensors"), model.config.sites
    quantizers = {name: make_quantizer(Format.from_dict(site.format), site.axis) for name, site in sites.items()}
    prefix = sites["fc/weight"].module
    own = {f"{prefix}.outlier_{name}": stored[f"{prefix}.{name}"] for name in ("scale", "zero_point")}
    with pytest.raises(ValueError, match="is a weight, which has no tokens"):
        unpacked({**stored, **own, f"{prefix}.outlier_tokens": torch.tensor([0])}, sites, quantizers)


def test_a_report_tells_of_massive_tokens_beside_the_worst_channel() -> None:
    x_BTC, form = tokens(t0=80, t7=70), Format("affine", 4, Granularity.CHANNEL)
    quantizer = make_quantizer(form, -1)
    shaped = {"scale": torch.full((6,), 0.5), "zero_point": torch.full((6,), 8.0)}
    quantizer.keep_apart(torch.tensor([0, 7])).set_parameters(**{**shaped, "scale": torch.full((6,), 12.0)})
    quantizer.set_parameters(**shaped)
    seen = seen_site("a", quantizer, x_BTC)
    assert seen.slice.endswith("the worst; all tokens but 2 kept apart") and max(distribution(seen).grid) < 4
    assert format_words(seen.quantizer) == "affine, per channel, 2 tokens apart"


def test_a_bias_is_corrected_by_what_ordinary_tokens_lose() -> None:
    teacher = capture(Massive().eval(), X_NCHW)
    run = Run(teacher, teacher.clone(), X_NCHW, Bits(8, 6))
    Insert().apply(run)
    Calibrate(weights="mse", activations="mse").apply(run)
    quantizer = run.student.quantizers["fc/input"]
    assert isinstance(quantizer, Quantizer)
    with torch.no_grad():
        quantizer.zero_point.fill_(63)  # nothing above 0, an error that all ordinary tokens have
        model = Massive().eval()
        x_BTC = model.patch(X_NCHW).flatten(2).transpose(1, 2) + model.place_TC
        rounded_OC = run.student.quantizers["fc/weight"](model.fc.weight)
        lost_BTO = quantizer(x_BTC) @ rounded_OC.T - x_BTC @ model.fc.weight.T
    CorrectBiases(held_out=0.25).apply(run)
    change_O = run.student.module.get_parameter("fc.bias") - model.fc.bias
    torch.testing.assert_close(change_O.detach(), -lost_BTO[:9, 1:35].mean((0, 1)), rtol=1e-4, atol=1e-5)


def test_a_noise_is_as_wide_as_the_steps_of_ordinary_tokens() -> None:
    assert error(made(recipe="noisyquant")) < 1.5 * error(made())
    shared, alone = (made(recipe="noisyquant", overrides=own) for own in (KEPT, {}))
    assert error(alone) < 0.1 * error(shared)  # which calibrates one range, and so has a noise of its width


class Attends(nn.Module):
    """Attention of two heads over 36 tokens, of which the first has a huge value in one of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.qkv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 5)
        sink_THD = torch.zeros(36, 2, 4)
        sink_THD[0, 1, 2] = 150.0
        self.sink_HTD = nn.Parameter(sink_THD.transpose(0, 1).contiguous())

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x_BTC).reshape(-1, 36, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x_BTC = ((q @ k.mT).softmax(-1) @ (v + self.sink_HTD)).transpose(1, 2).flatten(2)
        logits_BK: torch.Tensor = self.head(x_BTC).mean(1)
        return logits_BK


@pytest.mark.parametrize("granularity", ["head", "tensor"])
def test_massive_values_of_attention_are_kept_apart_with_scales_per_head_too(granularity: str, tmp_path: Path) -> None:
    model = Attends().eval()
    options: Any = {"recipe": "rtn", "bits": "w8a6", "progress": False}
    own = {"insert.value.granularity": granularity}
    alone = vitq.quantize(model, X_NCHW, **options, overrides=own)
    shared = vitq.quantize(model, X_NCHW, **options, overrides={**own, **KEPT})
    quantizer = alone.graph.quantizers["matmul_1/value"]
    assert quantizer.places_P.tolist() == [0] and quantizer.axis == (-3 if granularity == "head" else None)
    with torch.no_grad():
        errors = [float((made(X_NCHW) - model(X_NCHW)).norm()) for made in (alone, shared)]
    assert errors[0] < 0.4 * errors[1]
    if granularity == "head":
        pytest.importorskip("onnxruntime")
        alone.export(tmp_path / "a.onnx", X_NCHW)  # which ends in an error unless its proof holds
