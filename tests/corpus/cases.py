"""Cases of every kind: a seed gives what is damaged, what is tried with it, and what has to be named in an error."""

import inspect
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
import yaml
from damage import damaged_bytes, damaged_json, odd_value
from safetensors.torch import load, save
from world import IMAGES_NCHW, Tiny, World, forged

import vitq
from vitq.api import quantize
from vitq.arguments import RULES, check
from vitq.artifact.artifact import read
from vitq.artifact.sealing import FILES
from vitq.cli.errors import UNEXPECTED, describe
from vitq.data import draw_calibration, load_batches, open_images
from vitq.data.decode import decode_picture, to_rgb
from vitq.data.maps import with_maps
from vitq.errors import VitqError
from vitq.models import Preprocessing, load_model
from vitq.models.weights import load_weights
from vitq.recipes import load_recipe
from vitq.run.checkpoints import Checkpoints

KEYS = (
    "reconstruct.steps", "reconstruct.batch", "reconstruct.schedule", "reconstruct.learn.weights", "insert.scope",
    "insert.weight.format", "calibrate.images", "calibrate.weights", "reconstruct.choose", "x", "", "a..b",
)  # fmt: skip
LONGEST = 3_000
"""Letters of a message; what is longer nobody reads."""


@dataclass(frozen=True)
class Case:
    """Something that is tried: it ends in a VitqError with one of ``names`` in it or, unless it ``must_fail``, well."""

    what: str
    names: tuple[str, ...]
    attempt: Callable[[], object]
    must_fail: bool = False


def broken(case: Case) -> str | None:
    """Try a case; return what is wrong with its end, None where it ends as promised."""
    try:
        case.attempt()
    except VitqError as error:
        message, failure = str(error), describe(error)
        if failure.exit_code == UNEXPECTED or len(message) > LONGEST or "Traceback" in message:
            return f"{type(error).__name__} is no message for people: {message[:500]}"
        if not any(name in message for name in case.names):
            return f"{type(error).__name__} names none of {case.names}: {message[:500]}"
        if not (failure.hint or set(message) & set(":;,")):
            return f"{type(error).__name__} has no remedy: {message}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:500]}"
    return "it was taken" if case.must_fail else None


def _artifact(rng: Random, world: World) -> Case:
    """A damaged file: always noticed."""
    name = rng.choice(FILES)
    what, content = damaged_bytes(rng, world.artifact[name])
    folder = world.write("artifact", {**world.artifact, name: content})
    return Case(f"{name}: {what}", (name,), partial(read, folder), must_fail=True)


def _forged_json(rng: Random, world: World) -> Case:
    """A file that says something else, with hashes that fit: refused, or a model that runs."""
    name = rng.choice(("config.json", "config.json", "graph.json", "graph.json", "metrics.json"))
    what, value = damaged_json(rng, json.loads(world.artifact[name]))
    content = json.dumps(value).encode()
    return _forged(world, f"{name}: {what}", {name: content}, FILES)


def _forged_tensors(rng: Random, world: World) -> Case:
    tensors = load(world.artifact["model.safetensors"])
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    odd: dict[str, Callable[[], torch.Tensor]] = {
        "nan": lambda: torch.full_like(tensor, math.nan) if tensor.is_floating_point() else tensor + 1,
        "huge": lambda: tensor.float() * 1e38,
        "negative": lambda: -tensor.float() - 1,
        "flat": lambda: tensor.reshape(-1)[:1].clone(),
        "longer": lambda: torch.cat([tensor.reshape(-1), tensor.reshape(-1)]),
        "empty": lambda: tensor.reshape(-1)[:0].clone(),
        "deep": lambda: tensor.reshape([1] * 9 + list(tensor.shape)),
        **{
            str(kind): partial(tensor.to, kind) for kind in (torch.complex64, torch.float16, torch.float64, torch.int64)
        },
    }
    what = rng.choice([*odd, "gone", "renamed"])
    value = tensors.pop(name)
    if what in odd:
        tensors[name] = odd[what]()
    elif what == "renamed":
        tensors[rng.choice(("x", "__class__", "forward", "a.b.c", f"{name}.codes"))] = value
    content = save(tensors, {"format": "vitq"})
    return _forged(world, f"{name}: {what}", {"model.safetensors": content}, FILES)


def _forged(world: World, what: str, changed: dict[str, bytes], names: tuple[str, ...]) -> Case:
    folder = world.write("forged", forged({**world.artifact, **changed}))

    def attempt() -> None:
        model = vitq.load(folder)
        assert isinstance(model(torch.zeros(2, *model_shape(model))), torch.Tensor)

    return Case(what, names, attempt)


def model_shape(model: vitq.QuantizedModel) -> tuple[int, ...]:
    from vitq.run.batch import image_shape

    return image_shape(model.graph)


def _checkpoint(rng: Random, world: World) -> Case:
    name = rng.choice(sorted(world.checkpoints))
    what, content = damaged_bytes(rng, world.checkpoints[name])
    folder = world.write("checkpoints", {**world.checkpoints, name: content})
    return Case(
        f"{name}: {what}", (name,), lambda: Checkpoints(folder, {"seed": 0}, resume=True).load("a"), must_fail=True
    )


def _picture(rng: Random, world: World) -> Case:
    kind = rng.choice(sorted(world.pictures))
    what, content = damaged_bytes(rng, world.pictures[kind])

    def attempt() -> None:
        assert to_rgb(decode_picture(content, "photo.png"), "photo.png").image.mode == "RGB"

    return Case(f"{kind}: {what}", ("photo.png",), attempt)


def _table(rng: Random, world: World) -> Case:
    """labels.csv beside pictures, read to the end."""
    if rng.random() < 0.5:
        what, content = damaged_bytes(rng, world.labels)
    else:
        cells = [str(odd_value(rng))[: rng.choice((3, 200_000))] for _ in range(2)]
        what, content = "odd row", world.labels + ",".join(cells).encode("utf-8", "replace") + b"\n"
    pictures = {f"{n}.png": world.pictures["PNG"] for n in range(4)}
    folder = world.write("photos", {"labels.csv": content, **pictures})
    return Case(what, ("labels.csv", ".png", str(folder)), partial(_read_images, folder))


def _npz(rng: Random, world: World) -> Case:
    what, content = damaged_bytes(rng, world.npz)
    folder = world.write("arrays", {"images.npz": content})
    return Case(what, ("images.npz", "image "), partial(_read_images, folder / "images.npz"))


COCO = {
    "images": [{"id": n, "file_name": f"{n}.png"} for n in range(3)],
    "categories": [{"id": 2}, {"id": 7}],
    "annotations": [{"image_id": n, "category_id": 7, "bbox": [0, 1, 4, 5], "iscrowd": 0} for n in range(3)],
}


def _coco(rng: Random, world: World) -> Case:
    """A COCO json beside its pictures, read to the end."""
    if rng.random() < 0.3:
        what, content = damaged_bytes(rng, json.dumps(COCO).encode())
    else:
        what, value = damaged_json(rng, COCO)
        content = json.dumps(value).encode()
    pictures = {f"{n}.png": world.pictures["PNG"] for n in range(3)}
    folder = world.write("coco", {"annotations.json": content, **pictures})
    return Case(what, ("annotations.json", ".png"), partial(_read_images, folder))


def _map(rng: Random, world: World) -> Case:
    """A map beside its picture."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((8, 8), rng.choice((np.uint8, np.float32, np.int64))))
    kind = rng.choice(("npy", "png"))
    what, content = damaged_bytes(rng, buffer.getvalue() if kind == "npy" else world.pictures["PNG"])
    folder = world.write("images", {"a.png": world.pictures["PNG"]})
    world.write("masks", {f"a.{kind}": content})
    return Case(f"{kind}: {what}", (f"a.{kind}", "a.png"), partial(_read_maps, folder, folder.parent / "masks"))


def _read_maps(images: Path, maps: Path) -> None:
    source = with_maps(open_images(images, labels=False), images, maps)
    for _, labels in load_batches(source, Preprocessing(input_size=(3, 8, 8)), batch_size=4, warn=lambda *_: None):
        assert labels is not None and labels.shape == (1, 1, 8, 8)


def _read_images(path: Path) -> None:
    preprocessing = Preprocessing(input_size=(3, 8, 8))
    for x_BCHW, _ in load_batches(open_images(path), preprocessing, batch_size=4, warn=lambda *_: None):
        assert bool(torch.isfinite(x_BCHW).all())


def _in_memory(rng: Random, world: World) -> Case:
    """What Python code may hand over as images."""
    entry = rng.choice((
        odd_value(rng), [odd_value(rng)], {"image": odd_value(rng)}, (torch.zeros(2, 3, 8, 8), odd_value(rng)),
        torch.full((2, 3, 8, 8), rng.choice((math.nan, math.inf, 1e20))), torch.zeros(rng.sample((0, 1, 3, 8), 3)),
        [torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)], torch.zeros(2, 3, 8, 8).to_sparse(),
        torch.zeros(2, 3, 8, 8, device="meta"), [world.pictures["PNG"][:60]], iter(()), [None], {},
    ))  # fmt: skip
    take = partial(check, "images", entry, RULES["images"])

    def attempt() -> None:
        x_NCHW = draw_calibration(
            open_images(take(), labels=False, limit=4),
            Preprocessing(input_size=(3, 8, 8)),
            limit=4,
            warn=lambda *_: None,
        )
        assert bool(torch.isfinite(x_NCHW).all())

    return Case(f"{type(entry).__name__} {str(entry)[:60]}", ("image", "such"), attempt)


def _recipe(rng: Random, world: World) -> Case:
    name = rng.choice(sorted(world.recipes))
    if rng.random() < 0.4:
        what, content = damaged_bytes(rng, world.recipes[name])
    else:
        what, value = damaged_json(rng, yaml.safe_load(world.recipes[name]))
        content = json.dumps(value).encode()
    path = world.write("recipes", {"mine.yaml": content}) / "mine.yaml"
    budget = rng.choice(("quick", "full"))
    return Case(f"{name}: {what}", ("mine", "recipe"), lambda: load_recipe(path, budget=budget).to_yaml())


def _override(rng: Random, world: World) -> Case:
    overrides = {rng.choice(KEYS): odd_value(rng) for _ in range(rng.randint(1, 2))}
    take = partial(check, "overrides", overrides, RULES["overrides"])
    names = (*(key for key in overrides if key), "override", "key", "recipe")
    return Case(str(overrides)[:120], names, lambda: load_recipe("oas", overrides=take()).to_yaml())


def _argument(rng: Random, world: World) -> Case:
    """A value for any argument of ``vitq.quantize``: refused at the door, before the model is looked at."""
    names = [name for name in inspect.signature(quantize).parameters if name in RULES]
    name, value = rng.choice(names), odd_value(rng)
    return Case(f"{name}={str(value)[:60]!r}", (name, *_spoken(name)), partial(check, name, value, RULES[name]))


def _spoken(name: str) -> tuple[str, ...]:
    """What an error may call an argument: a path that does not exist is called by itself."""
    return {"images": ("no such",), "validation": ("no such",), "num_classes": (), "bits": ("bit",)}.get(name, ())


def _weights(rng: Random, world: World) -> Case:
    name = rng.choice(sorted(world.weights))
    what, content = damaged_bytes(rng, world.weights[name])
    path = world.write("weights", {name: content}) / name
    return Case(f"{name}: {what}", (name,), lambda: load_weights(Tiny(), path))


def _model_folder(rng: Random, world: World) -> Case:
    what, value = damaged_json(rng, world.hub_config)
    folder = world.write("model", {"config.json": json.dumps(value).encode()})
    return Case(
        what, (str(folder), "preprocessing", "timm", "num_classes"), lambda: load_model(folder, weights="random")
    )


KINDS: dict[str, Callable[[Random, World], Case]] = {
    "artifact": _artifact,
    "forged json": _forged_json,
    "forged tensors": _forged_tensors,
    "checkpoint": _checkpoint,
    "picture": _picture,
    "table": _table,
    "npz": _npz,
    "coco": _coco,
    "map": _map,
    "images in memory": _in_memory,
    "recipe": _recipe,
    "override": _override,
    "argument": _argument,
    "weights": _weights,
    "model folder": _model_folder,
}
"""By name: what makes a case of it. The same seed gives the same case."""


def case_of(kind: str, seed: int, world: World) -> Case:
    """Return the case of a kind and a seed; its files are in the folders of ``world`` until the next one of it."""
    return KINDS[kind](Random(f"{kind} {seed}"), world)


__all__ = ["IMAGES_NCHW", "KINDS", "Case", "broken", "case_of"]
