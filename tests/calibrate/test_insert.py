"""Which quantizers ``insert`` puts where, and the scope table."""

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from vitq.calibrate import Insert, SiteFormat, scope_rows
from vitq.errors import CalibrationError, RecipeError
from vitq.graph import Graph, Role
from vitq.quantizers import Granularity, Quantizer
from vitq.run.run import Run

MakeRun = Callable[..., Run]


def quantizers(graph: Graph) -> dict[str, Quantizer]:
    return {name: q for name, q in graph.quantizers.items() if isinstance(q, Quantizer)}


def test_paper_scope_is_every_operand_but_the_image(vit: Graph, make_run: MakeRun) -> None:
    run = make_run(vit, "w3a4")
    Insert().apply(run)
    found = quantizers(run.student)
    assert set(found) == {s.name for s in vit.sites.values() if s.of_product and s.role is not Role.IMAGE}
    for name, quantizer in found.items():
        assert quantizer.format.bits == (3 if name.endswith("/weight") else 4)
        assert quantizer.site == name
        assert quantizer.axis == (0 if name.endswith("/weight") else -3 if "attn/" in name else None)
    with pytest.raises(CalibrationError, match=r"patch_embed\.proj/weight"):
        run.student(run.images_NCHW)


@pytest.mark.parametrize(("bits", "kind"), [("w4a32", "weight"), ("w32a4", "activation")])
def test_32_bits_leave_a_kind_in_floating_point(vit: Graph, make_run: MakeRun, bits: str, kind: str) -> None:
    run = make_run(vit, bits)
    Insert().apply(run)
    assert {vit.sites[name].is_weight for name in run.student.quantizers} == {kind == "weight"}


def test_formats_by_role_and_overrides_by_glob(vit: Graph, make_run: MakeRun) -> None:
    run = make_run(vit)
    channel = SiteFormat(granularity=Granularity.CHANNEL)
    step = Insert(
        post_norm=channel,
        probabilities=SiteFormat(format="log2"),
        overrides={"head/*": {"bits": 8}, "blocks.0.*": {"bits": 32}, "blocks.0.mlp.fc1/input": {"bits": 6}},
    )
    step.apply(run)
    found = quantizers(run.student)
    assert found["head/weight"].format.bits == found["head/input"].format.bits == 8
    assert [name for name in found if name.startswith("blocks.0.")] == ["blocks.0.mlp.fc1/input"]
    assert found["blocks.0.mlp.fc1/input"].axis == -1
    assert found["blocks.1.attn/probabilities"].format.name == "log2"


def test_mistakes_are_named(vit: Graph, make_run: MakeRun) -> None:
    run = make_run(vit)
    with pytest.raises(RecipeError, match=r"no site matches 'blocks\.7\.\*'"):
        Insert(overrides={"blocks.7.*": {"bits": 8}}).apply(run)
    with pytest.raises(ValidationError, match="log_sqrt2"):
        SiteFormat(format="log_sqrt")
    with pytest.raises(ValidationError, match="2 to 8 bits"):
        Insert(overrides={"*": {"bits": 16}})


def test_the_scope_table_counts_every_site(vit: Graph, make_run: MakeRun) -> None:
    run = make_run(vit)
    Insert(probabilities=SiteFormat(format="log2")).apply(run)
    rows = scope_rows(run.student)
    assert sum(row.sites for row in rows) == sum(site.of_product for site in vit.sites.values())
    image = next(row for row in rows if row.role == "image")
    assert (image.bits, image.format, image.sites) == (32, "floating point", 1)
    probabilities = next(row for row in rows if row.role == "probabilities")
    assert (probabilities.format, probabilities.sites, probabilities.bits) == ("log2", 2, 4)


def test_a_role_may_take_another_format_from_some_bits_on() -> None:
    form = SiteFormat(format="log2_flush", from_bits={7: "affine", 6: "piecewise"})
    names = [form.at(bits, Granularity.TENSOR).name for bits in range(2, 9)]
    assert names == ["log2_flush"] * 4 + ["piecewise"] + ["affine"] * 2


def test_an_unknown_format_from_some_bits_on_is_named() -> None:
    with pytest.raises(ValidationError, match="piecewise"):
        SiteFormat(from_bits={6: "piecewis"})
