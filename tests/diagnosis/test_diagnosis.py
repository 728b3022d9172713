"""A diagnosis finds what is wrong: another normalisation, a site that costs, a channel and a token that stand out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import vitq
from vitq.diagnosis import Diagnosis
from vitq.diagnosis.diagnose import QUICK
from vitq.diagnosis.extremes import extreme
from vitq.diagnosis.hard import reasons
from vitq.diagnosis.sanity import sanity_of
from vitq.errors import ArgumentError
from vitq.graph import Role
from vitq.models import Preprocessing
from vitq.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from vitq.report.diagnosis import (
    diagnosis_advice,
    hardness_words,
    render_diagnosis,
    sanity_words,
    write_diagnosis,
)

HALF = (0.5, 0.5, 0.5)


def sure_of(mean: tuple[float, ...], std: tuple[float, ...]) -> "torch.nn.Module":
    """A model that is surer the nearer its images are to gray, normalised by ``mean`` and ``std``."""

    class Sure(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            gray_311 = (0.5 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
            off_B = (x_BCHW - gray_311).abs().mean((1, 2, 3))
            return torch.stack((6 - 20 * off_B, torch.zeros_like(off_B), torch.zeros_like(off_B)), -1)

    return Sure()


@pytest.mark.parametrize(("mean", "std", "fits"), [(HALF, HALF, True), (IMAGENET_MEAN, IMAGENET_STD, False)])
def test_a_wrong_normalisation_is_named(mean: tuple[float, ...], std: tuple[float, ...], fits: bool) -> None:
    own = Preprocessing(input_size=(3, 8, 8), mean=HALF, std=HALF)
    pixels = 0.5 + 0.05 * torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = sanity_of(sure_of(mean, std), (pixels - 0.5) / 0.5, own, torch.zeros(6, dtype=torch.long))
    assert found.fits is fits and found.classes == 3 and 0 < found.entropy < 1
    if fits:
        assert found.top1 == 1.0 and "fits" in sanity_words(found)
    else:
        assert found.better is not None and found.better.name == "ImageNet's mean and std"
        assert "ImageNet's mean and std" in sanity_words(found)
    assert sanity_of(sure_of(mean, std), (pixels - 0.5) / 0.5, None, None).others == ()


def test_a_model_that_forgets_its_class_in_another_crop_is_told() -> None:
    torch.manual_seed(0)
    w_FK = torch.randn(192, 9) * 3
    found = sanity_of(lambda x: x.flatten(1) @ w_FK, torch.randn(16, 3, 8, 8), None, None)
    assert not found.fits and "its class should stay" in sanity_words(found)


def test_the_extreme_channel_and_token_are_named() -> None:
    torch.manual_seed(0)
    x_NTC = torch.randn(5, 7, 12)
    x_NTC[:, 2] *= 20
    x_NTC[..., 9] *= 50
    found = extreme("here", x_NTC)
    assert (found.channel, found.token) == (9, 2) and found.token_ratio > 10 and found.channel_ratio > 10
    assert found.tokens == pytest.approx(1 / 7, abs=0.1) and 0 < found.share <= 1
    plain = extreme("there", torch.randn(5, 7, 12))
    assert plain.share == 0 and plain.token_ratio < 4 and plain.channel_ratio < 4


def test_reasons_say_what_the_values_look_like() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 32)
    assert reasons(x, Role.POST_NORM, -1) == ()
    x[:, 5] *= 40
    assert any("channel 5 is" in reason for reason in reasons(x, Role.POST_NORM, -1))
    tail = torch.randn(64, 32)
    tail[3, 3] = 900.0
    assert any("standard deviations out" in reason for reason in reasons(tail, Role.WEIGHT, 0))
    gelu = nn.functional.gelu(3 * torch.randn(64, 32))
    assert any("above 0" in reason for reason in reasons(gelu, Role.POST_ACTIVATION, -1))
    p = torch.randn(2, 3, 9, 9).mul(4).softmax(-1)
    assert "probabilities are below" in reasons(p, Role.PROBABILITIES, -1)[0]


@pytest.fixture(scope="module")
def found(one_block: nn.Module) -> Diagnosis:
    torch.manual_seed(0)
    return vitq.diagnose(one_block, torch.randn(10, 3, 8, 8), bits="w3a3", progress=False)


def test_leaving_a_site_out_gives_what_the_whole_model_gives_without_it(one_block: nn.Module, found: Diagnosis) -> None:
    from vitq.allocate.trials import Whole
    from vitq.allocation.prepare import prepare
    from vitq.bits import Bits
    from vitq.models import load_model
    from vitq.recipes.for_target import recipe_for
    from vitq.run.events import Events
    from vitq.run.inputs import start_run

    torch.manual_seed(0)
    images = torch.randn(10, 3, 8, 8)
    plan, loaded = recipe_for("repq", "quick", "paper", None, QUICK), load_model(one_block)
    run = start_run(loaded, images, Bits(3, 3), "repq", seed=0, device=torch.device("cpu"), events=Events())
    simulation = prepare(run, plan, (3,)).simulation
    whole = Whole.on(simulation, images[: found.site_images], run.task)
    everything = dict.fromkeys(found.left_out.sites, 3)
    assert found.left_out.all == pytest.approx(whole(everything), rel=1e-4)
    for site in found.left_out.sites:
        without = whole({name: 3 for name in everything if name != site})
        assert found.left_out.sites[site] == pytest.approx(without, rel=1e-3, abs=1e-6), site
    assert found.left_out.gain("weight") == pytest.approx(
        1 - whole({n: 3 for n in everything if not n.endswith("/weight")}) / whole(everything), abs=1e-3
    )


def test_the_hardest_come_first_and_have_a_command(found: Diagnosis) -> None:
    gains = [gain for _, gain in found.ranked()]
    assert gains == sorted(gains, reverse=True)
    assert [hard.site for hard in found.hard] == [site for site, gain in found.ranked()[: len(found.hard)] if gain > 0]
    assert all(hard.distribution is not None and len(hard.distribution.grid) <= 8 for hard in found.hard)
    assert found.to_dict()["distance"] == found.left_out.all and "w3a3" in hardness_words(found)
    assert any("vitq quantize" in advice.command for advice in diagnosis_advice(found))


def test_the_page_is_the_same_again_and_names_are_escaped(found: Diagnosis, tmp_path: Path) -> None:
    from dataclasses import replace

    odd = replace(found, model="<script>alert(1)</script>")
    page = write_diagnosis(tmp_path / "new" / "page.html", odd).read_text()
    assert "<script" not in page and page == render_diagnosis(odd)


def test_a_model_that_is_no_classifier_is_looked_at_too() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.end = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.end(self.conv(x).relu())

    found = vitq.diagnose(Dense(), torch.randn(4, 3, 8, 8), bits="w4a4", progress=False)
    assert found.sanity is None and found.left_out.all > 0 and "no classes" in sanity_words(found.sanity)


def test_bits_that_quantize_nothing_are_refused(one_block: nn.Module) -> None:
    with pytest.raises(ArgumentError, match="quantize nothing"):
        vitq.diagnose(one_block, np.zeros((4, 3, 8, 8), np.float32), bits="w32a32", progress=False)


@pytest.mark.parametrize(("bits", "average"), [("w3a3", "w3.5a3.5"), ("w6a6", "w6.5a6.5"), ("w8a4", "w8a4.5")])
def test_the_average_that_is_advised_is_above_the_bits_that_were_looked_at(
    found: Diagnosis, bits: str, average: str
) -> None:
    from dataclasses import replace

    assert found.hard[0].gain > 0.05
    commands = [advice.command for advice in diagnosis_advice(replace(found, bits=bits))]
    assert any(f"--average-bits {average} --keep" in command for command in commands)
