"""Models whose output is no single tensor of classes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitq
from vitq.errors import DataError, ModelError
from vitq.graph import Graph
from vitq.models import LoadedModel, settle
from vitq.models.torchvision_shim import ensure_torchvision
from vitq.run.events import Events
from vitq.run.inputs import capture_checked, draw_images, load_source

X_NCHW = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    """A linear model whose output is given a form by ``form``."""

    def __init__(self, form: Callable[[torch.Tensor], Any] = lambda y: y, classes: int = 4) -> None:
        super().__init__()
        self.fc = nn.Linear(192, classes)
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        return self.form(self.fc(x.flatten(1)))


@dataclass
class Out:
    logits: torch.Tensor
    loss: None = None


def settled(model: Any, num_classes: int | None = None) -> tuple[LoadedModel, list[tuple[str, str]]]:
    events = Events()
    loaded, _ = draw_images(load_source(model, None, num_classes, None), X_NCHW, True, 4, 1, 0, events)
    return loaded, list(events.warnings)


def captured(model: Any) -> tuple[LoadedModel, Graph]:
    loaded, _ = settled(model)
    return loaded, capture_checked(loaded, X_NCHW, torch.device("cpu"))


@pytest.mark.parametrize(
    "form",
    [lambda y: {"logits": y}, lambda y: (y,), lambda y: [y], Out, lambda y: ({"a": [y]}, None)],
)  # fmt: skip
def test_a_container_of_one_tensor_is_opened(form: Callable[[torch.Tensor], Any]) -> None:
    model = Base(form)
    loaded, graph = captured(model)
    assert torch.equal(graph(X_NCHW), model.fc(X_NCHW.flatten(1)))
    assert loaded.num_classes == loaded.source["num_classes"] == 4


@pytest.mark.parametrize(
    ("form", "names", "classes"),
    [
        (lambda y: (y, y.exp()), ["output_0", "output_1"], None),
        (lambda y: {"logits": y, "features": y[:, None] * 2}, ["logits", "features"], 4),
        (lambda y: Out(y, [None, y * 2]), ["logits", "loss.1"], 4),
        (lambda y: {"a": y, "b": y}, ["a", "b"], None),
    ],
)
def test_several_tensors_are_kept_by_name(form: Callable[..., Any], names: list[str], classes: int | None) -> None:
    loaded, graph = captured(Base(form))
    assert list(graph(X_NCHW)) == list(graph.outputs) == names
    assert loaded.num_classes == classes
    again = settle(loaded, X_NCHW, Events().warn)
    assert again.module is loaded.module


def test_a_column_among_several_outputs_is_one() -> None:
    loaded, warned = settled(Base(lambda y: {"logits": y, "score": y.sum(1)}))
    assert {name: y.shape for name, y in loaded.module(X_NCHW).items()} == {"logits": (4, 4), "score": (4, 1)}
    assert "output 'score' is one number an image" in dict(warned)["output-column"]


def test_one_number_an_image_is_one_column() -> None:
    loaded, warned = settled(Base(lambda y: y.squeeze(-1), classes=1))
    assert capture_checked(loaded, X_NCHW, torch.device("cpu"))(X_NCHW).shape == (4, 1)
    assert loaded.num_classes == 1
    assert [name for name, _ in warned] == ["output-column"]


def test_a_plain_model_keeps_its_names() -> None:
    loaded, graph = captured(Base())
    assert type(loaded.module) is Base
    assert list(graph.sites) == ["fc/input", "fc/weight"]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda y: (y, y.argmax(1)), r"Base's output 'output_1' returns torch.int64; .*before argmax"),
        (lambda y: {"a": y, "loss": y.mean()}, "Base's output 'loss' returns one number for 2 images"),
        (lambda y: {"a": y, "b": y / 0 * 0}, "Base's output 'b' returns NaN or infinity"),
        (lambda y: None, "no tensor but None"),
        (lambda y: "logits", "no tensor but a str"),
        (lambda y: y.mean(), "one number for 2 images"),
        (lambda y: y.t(), r"returns \(4, 2\) for 2 images"),
        (lambda y: y.argmax(1), "before argmax"),
        (lambda y: y[:, :0], r"returns \(2, 0\), no value at all"),
        (lambda y: y / 0 * 0, "returns NaN or infinity"),
        (lambda y: F.dropout(y, 0.5), "random in eval mode.*F.dropout"),
        (lambda y: y + torch.rand_like(y), "random in eval mode"),
        (lambda y: y + torch.rand(1), "random in eval mode"),
        (lambda y: y + 1e-9 * torch.randn_like(y), "randn_like.* draws numbers"),
        (lambda y: F.alpha_dropout(y, 1e-6, training=True), "random in eval mode"),
        (lambda y: F.scaled_dot_product_attention(*[y[:, None]] * 3, dropout_p=0.5)[:, 0], "random in eval mode"),
        (lambda y: y.reshape(7, 7), "cannot be run on images of shape"),
    ],
)
def test_outputs_that_cannot_be_used_are_named(form: Callable[[torch.Tensor], Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        captured(Base(form))


def test_weights_that_overflow_are_named() -> None:
    model = Base(lambda y: y * 1e30)
    model.fc.weight.data.fill_(1e30)
    with pytest.raises(ModelError, match=r"largest weight is 1e\+30 in 'fc.weight'"):
        settled(model)


def test_images_that_are_not_finite_are_not_blamed_on_the_model() -> None:
    x_NCHW = X_NCHW.clone()
    x_NCHW[:, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="the images hold NaN"):
        settle(load_source(Base(), None, None, None), x_NCHW, Events().warn)


def test_models_that_take_no_image_are_named() -> None:
    class Two(Base):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> Any:
            return self.fc(a.flatten(1)) + b

    with pytest.raises(ModelError, match=r"Two cannot be run.*argument: 'b'"):
        settled(Two())


def test_another_number_of_classes_than_the_model_has_is_refused() -> None:
    with pytest.raises(ModelError, match="num_classes=3, but Base returns 4"):
        settled(Base(), num_classes=3)


def test_a_new_head_says_how_many_classes_there_are() -> None:
    ensure_torchvision()
    import timm

    model = timm.create_model("test_vit", num_classes=0, img_size=8, patch_size=4)
    model.head = nn.Linear(64, 7)
    assert model.num_classes == 0

    loaded, _ = settled(model)
    assert loaded.num_classes == loaded.source["num_classes"] == 7
    images = [(x, label) for x, label in zip(X_NCHW, [0, 5, 6, 1], strict=True)]
    top1 = vitq.evaluate(model, images, preprocessing={"input_size": [3, 8, 8]}, progress=False, device="cpu").top1
    assert top1 is not None


def test_a_model_whose_head_was_taken_away_gives_features() -> None:
    ensure_torchvision()
    import timm

    model = timm.create_model("test_vit", num_classes=7, img_size=8, patch_size=4)
    model.head = nn.Identity()
    loaded, _ = settled(model)
    assert model.num_classes == 7 and loaded.task == "features" and loaded.num_classes is None


def test_a_model_of_a_dict_is_evaluated() -> None:
    images = [(x, label) for x, label in zip(X_NCHW, [0, 1, 2, 3], strict=True)]
    options: dict[str, Any] = {"preprocessing": {"input_size": [3, 8, 8]}, "progress": False, "device": "cpu"}
    torch.manual_seed(0)
    model = Base(lambda y: {"logits": y})
    plain = Base()
    plain.load_state_dict(model.state_dict())
    assert vitq.evaluate(model, images, **options) == vitq.evaluate(plain, images, **options)


@pytest.fixture(scope="module")
def transformers() -> Any:
    ensure_torchvision()
    return pytest.importorskip("transformers")


TINY = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "names"),
    [
        ("Dinov2Model", "Dinov2Config", ["last_hidden_state", "pooler_output"]),
        ("CLIPVisionModel", "CLIPVisionConfig", ["last_hidden_state", "pooler_output"]),
        ("CLIPVisionModelWithProjection", "CLIPVisionConfig", ["image_embeds", "last_hidden_state"]),
        ("SiglipVisionModel", "SiglipVisionConfig", ["last_hidden_state", "pooler_output"]),
    ],
)
def test_all_outputs_of_a_hugging_face_model_are_kept(
    transformers: Any, kind: str, config: str, names: list[str]
) -> None:
    model = getattr(transformers, kind)(getattr(transformers, config)(**TINY)).eval()
    loaded, warned = settled(model)
    with torch.no_grad():
        got, expected = loaded.module(X_NCHW), model(pixel_values=X_NCHW)
    assert list(got) == names and all(torch.equal(y, expected[name]) for name, y in got.items())
    assert not warned and loaded.num_classes is None and "left out" not in loaded.meaning


def test_of_a_detector_classes_and_boxes_are_kept_and_the_rest_is_named(transformers: Any) -> None:
    config = transformers.YolosConfig(**{**TINY, "image_size": [8, 8]}, num_detection_tokens=5)
    model = transformers.YolosForObjectDetection(config).eval()
    loaded, warned = settled(model)
    with torch.no_grad():
        got, expected = loaded.module(X_NCHW), model(pixel_values=X_NCHW)
    assert list(got) == ["logits", "pred_boxes"] and all(torch.equal(y, expected[name]) for name, y in got.items())
    assert not warned and loaded.meaning.endswith("; left out: last_hidden_state")
    assert settle(loaded, X_NCHW, Events().warn).meaning == loaded.meaning


def test_the_only_feature_map_of_a_backbone_is_the_output(transformers: Any) -> None:
    backbone = transformers.Dinov2Backbone(transformers.Dinov2Config(**TINY)).eval()
    loaded, warned = settled(backbone)
    with torch.no_grad():
        assert torch.equal(loaded.module(X_NCHW), backbone(X_NCHW).feature_maps[0])
    assert not warned and loaded.num_classes is None


def test_a_classifier_drops_nothing(transformers: Any) -> None:
    loaded, warned = settled(transformers.ViTForImageClassification(transformers.ViTConfig(**TINY, num_labels=5)))
    assert loaded.num_classes == 5
    assert not warned


def test_a_model_of_texts_is_refused(transformers: Any) -> None:
    text = {key: TINY[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
    model = transformers.BertModel(transformers.BertConfig(**text, vocab_size=30))
    with pytest.raises(ModelError, match="BertModel cannot be run on images"):
        settled(model)
