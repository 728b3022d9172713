"""Show that a change of the code changes no byte of what vitq writes.

    PYTHONPATH=old/src python scripts/sameness.py make old.jsonl
    PYTHONPATH=new/src python scripts/sameness.py make new.jsonl
    python scripts/sameness.py compare old.jsonl new.jsonl

``make`` quantizes a few models with the vitq that Python finds, exports them, and writes one line of JSON for each: the
sha256 of ``config.json``, ``graph.json``, ``model.safetensors`` and the ONNX file. Learnt recipes take few steps. The
rows of DeiT-Tiny need its weights and images (``--data``, the folder that lies beside some checkouts) and are skipped,
with the reason, without them. ``compare`` prints the table and ends with 1 where two files differ. Tables of two
machines, or of two versions of a library, cannot be compared: ``compare`` says so first.

The configuration is compared apart from versions, from hashes of the other files, and from the keys of RENAMED.
"""

import argparse
import hashlib
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import vitq
from vitq.errors import RecipeError, VitqError

RENAMED: dict[str, str | None] = {
    "reconstruct.equal_total_steps": "reconstruct.even",
    "reconstruct.objective.curvature": "reconstruct.weigh",
    "reconstruct.objective.curvature_images": "reconstruct.weigh_images",
    "reconstruct.objective.curvature_refreshes": "reconstruct.refreshes",
    "reconstruct.objective": "reconstruct",
    "reconstruct.noise": "reconstruct",
    "reconstruct.rounding.weight": "reconstruct.rounding_weight",
    "reconstruct.rounding.warmup": "reconstruct.rounding_warmup",
    "reconstruct.evaluation.held_out": "reconstruct.held_out",
    "reconstruct.evaluation.average": "reconstruct.average",
    "reconstruct.compute": "reconstruct",
}
"""Keys of the configuration as they are written now, and what older trees call them; None where they have none.

A part of the dotted path without positions, ``"reconstruct.objective": "reconstruct"`` for a whole group.
"""

FILES = ("config.json", "graph.json", "model.safetensors", "model.onnx")
PACKAGES = ("torch", "timm", "onnx", "onnxscript")

CALIBRATE = {"calibrate.images": 8}
LEARN = {**CALIBRATE, "reconstruct.steps": 5, "reconstruct.batch": 8, "reconstruct.held_out": 16}
RECIPES: dict[str, dict[str, Any]] = {
    "rtn": {},
    "repq": CALIBRATE,
    "brecq": LEARN,
    "qdrop": LEARN,
    "mgrq": {**LEARN, "reconstruct.steps": 20},
    "pfcr": LEARN,
    "oas": {**LEARN, "reconstruct.choose.steps": 2, "reconstruct.choose.held_out": 16},
}
"""What is run on the digits, and the options that make it quick, under their oldest names."""

Start = Callable[[Path], tuple[Any, Any, dict[str, Any]]]


@dataclass(frozen=True)
class Case:
    """One row: ``start`` gives model, images and options of ``vitq.quantize`` from the folder of real data."""

    model: str
    recipe: str
    bits: str
    start: Start
    target: str = "onnxruntime"
    scope: str | None = "paper"
    overrides: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{self.model} {self.recipe} {self.bits} {self.target}"


class Skip(Exception):
    """A row that cannot be made here, and why."""


def digits(_: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The demo's model and 48 of its images."""
    from vitq.demo import digits

    model, images_NCHW, _labelled = digits()
    return model, images_NCHW[:48], {}


def swin(_: Path) -> tuple[Any, Any, dict[str, Any]]:
    """A small Swin with random weights, and random images."""
    from vitq.models.torchvision_shim import ensure_torchvision

    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    small = {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
    module = timm.create_model("swin_tiny_patch4_window7_224", num_classes=10, **small)
    return module, torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)), {}


def deit(data: Path) -> tuple[Any, Any, dict[str, Any]]:
    """DeiT-Tiny with its real weights, and 32 real images."""
    weights, images = data / "weights" / "deit_tiny_patch16_224.safetensors", data / "imagenet-calibration"
    for path in (weights, images):
        if not path.exists():
            raise Skip(f"no {path.name} in the folder of --data")
    return "deit_tiny_patch16_224", images, {"weights": weights, "limit": 32}


CASES = (
    *(Case("digits", recipe, "w4a4", digits, overrides=options) for recipe, options in RECIPES.items()),
    Case("digits", "repq", "w3a3", digits, target="openvino", scope=None, overrides=CALIBRATE),
    *(Case("deit_tiny", "repq", bits, deit, scope=None, overrides=CALIBRATE) for bits in ("w4a4", "w8a8")),
    *(Case("swin", "rtn", bits, swin) for bits in ("w4a4", "w8a8")),
)


def row(case: Case, data: Path) -> dict[str, Any]:
    """Quantize and export one case; return the hashes of what was written, or why there is nothing."""
    head = {"case": case.name}
    try:
        model, images, options = case.start(data)
    except Skip as reason:
        return {**head, "skipped": str(reason)}
    overrides = as_known(case.recipe, case.overrides or {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        quantized = vitq.quantize(
            model,
            images,
            recipe=case.recipe,
            bits=case.bits,
            target=case.target,
            scope=case.scope,
            overrides=overrides,
            out=folder / "run",
            device="cpu",
            progress=False,
            **options,
        )
        written = {name: (folder / "run" / name).read_bytes() for name in FILES[:3]}
        settings = flat(json.loads(written["config.json"]))
        hashes = {name: sha256(content) for name, content in written.items()}
        hashes["config.json"] = sha256(json.dumps(settings, sort_keys=True).encode())
        try:  # some files fail their proof on some CPUs: they are compared all the same
            quantized.export(folder / "model.onnx", images, target=case.target, limit=2, force=True)
            hashes["model.onnx"] = sha256((folder / "model.onnx").read_bytes())
        except VitqError as error:
            hashes["model.onnx"] = f"refused: {error}"
    return {**head, "files": hashes, "config": settings}


def sha256(content: bytes) -> str:
    """Return the hexadecimal hash of ``content``."""
    return hashlib.sha256(content).hexdigest()


def as_known(recipe: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``overrides`` with the keys that this vitq knows."""
    from vitq.recipes import load_recipe

    newer = {old: new for new, old in RENAMED.items() if old is not None}

    def known(key: str, value: Any) -> str:
        try:
            load_recipe(recipe, overrides={key: value})
        except RecipeError:
            return newer.get(key, key)
        return key

    return {known(key, value): value for key, value in overrides.items()}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration as dotted keys under their oldest names, without versions and hashes."""
    pairs = ((renamed(path), value) for path, value in leaves(config))
    return {".".join(path): value for path, value in pairs if path and path[0] not in ("versions", "hashes")}


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give the path of every plain value inside mappings and lists; a site's name is one key, whatever its dots."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from leaves(inner, (*path, str(place)))
    else:
        yield path, value


def renamed(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the oldest name of a key; nothing where RENAMED says that it is new."""
    text = ".".join(path)
    for new, old in RENAMED.items():
        if new == text or text.endswith(f".{new}") or f".{new}." in text or text.startswith(f"{new}."):
            if old is None:
                return ()
            text = text.replace(new, old, 1)
    return tuple(text.split("."))


def make(out: Path, data: Path, only: str) -> None:
    """Write the header and a row for every case whose name holds ``only``."""
    torch.set_num_threads(1)
    machine = {"processor": processor(), "versions": {name: version(name) for name in PACKAGES}}
    with out.open("w") as file:
        print(json.dumps({"made": {**machine, "python": platform.python_version()}}), file=file, flush=True)
        for case in CASES:
            if only in case.name:
                began = time.process_time()
                result = row(case, data)
                print(json.dumps(result, sort_keys=True), file=file, flush=True)
                outcome = result.get("skipped", "done")
                print(f"{case.name}: {outcome}, {time.process_time() - began:.0f} s", file=sys.stderr)


def processor() -> str:
    """Return the processor's name, where Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def compare(first: Path, second: Path) -> int:
    """Print which files are the same, and the keys of the configuration that are not; return how many differ."""
    a, b = read(first), read(second)
    if a[""] != b[""]:
        print(f"These were not made alike, so differences may mean nothing:\n  {a['']}\n  {b['']}\n")
    print(f"| case | {' | '.join(FILES)} |\n|---|{'---|' * len(FILES)}")
    details, different = list[str](), 0
    for case in [name for name in dict.fromkeys([*a, *b]) if name]:
        left, right = a.get(case), b.get(case)
        if left is None or right is None:
            different += 1
            print(f"| {case} | only in {(second if left is None else first).name} |" + " |" * (len(FILES) - 1))
            continue
        skipped = left.get("skipped") or right.get("skipped")
        if skipped:
            print(f"| {case} | skipped: {skipped} |" + " |" * (len(FILES) - 1))
            continue
        cells = ["same" if left["files"][name] == right["files"][name] else "DIFFERENT" for name in FILES]
        different += cells.count("DIFFERENT")
        print(f"| {case} | {' | '.join(cells)} |")
        details += [f"{case}, {name}: {cell}" for name, cell in refusals(left, right)]
        details += [f"{case}, config.json: {line}" for line in changes(left["config"], right["config"])]
    print("\n".join(["", *details, f"{different} different" if different else "all the same"]))
    return different


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of ``make`` by case; the empty name is the machine."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line.get("case", ""): line.get("made", line) for line in lines}


def refusals(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was refused on one side or both instead of written."""
    sides = [(name, side["files"][name]) for name in FILES for side in (left, right)]
    return list(dict.fromkeys((name, text) for name, text in sides if text.startswith("refused")))


def changes(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Return the keys that differ, with both values."""
    keys = [key for key in dict.fromkeys([*left, *right]) if left.get(key, "absent") != right.get(key, "absent")]
    return [f"{key}: {left.get(key, 'absent')} and {right.get(key, 'absent')}" for key in keys]


def main() -> int:
    """Make a table, or compare two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make", help="quantize, export, and write the hashes")
    making.add_argument("out", type=Path)
    making.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    making.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds this text")
    comparing = verbs.add_parser("compare", help="print what differs; end with 1 where something does")
    comparing.add_argument("first", type=Path)
    comparing.add_argument("second", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "make":
        make(arguments.out, arguments.data, arguments.only)
        return 0
    return int(compare(arguments.first, arguments.second) > 0)


if __name__ == "__main__":
    sys.exit(main())
