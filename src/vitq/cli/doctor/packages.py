"""The packages that vitq needs: which are here, in which version, and how to get the others."""

import re
from importlib import import_module, metadata

from vitq.cli.doctor.check import Check, Status

REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "pydantic": "pydantic",
    "PyYAML": "yaml",
    "numpy": "numpy",
    "pillow": "PIL",
    "jinja2": "jinja2",
    "scikit-learn": "sklearn",
    "typer": "typer",
    "rich": "rich",
}
EXPORT = "pip install 'vitq[export]'"
OPTIONAL = {
    "transformers": ("Hugging Face image classifiers", "pip install 'vitq[hf]'"),
    "onnxscript": ("vitq export", EXPORT),
    "onnxruntime": ("export and benchmark in ONNX Runtime", EXPORT),
    "openvino": ("export and benchmark in OpenVINO", EXPORT),
    "pyarrow": ("parquet files of images", "pip install 'vitq[parquet]'"),
    "ray": ("vitq compare on a cluster", "pip install 'vitq[ray]'"),
}


def vitq() -> Check:
    """Name the version of vitq itself."""
    try:
        return Check("vitq", Status.OK, metadata.version("vitq"))
    except metadata.PackageNotFoundError:
        return Check("vitq", Status.MISSING, "runs from a checkout, not installed", "pip install -e .")


def required(distribution: str) -> Check:
    """Check a package without which vitq does not work, by importing it."""
    name = requirement_of(distribution)
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return Check(distribution, Status.BROKEN, "not installed", f"pip install '{name}'")
    try:
        if distribution in ("torchvision", "timm"):
            from vitq.models.torchvision_shim import ensure_torchvision

            ensure_torchvision()
        import_module(REQUIRED[distribution])
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return Check(
            distribution,
            Status.BROKEN,
            f"{version} fails to import: {said}",
            f"pip install --force-reinstall '{name}'",
        )
    if not allows(name, version):
        return Check(distribution, Status.BROKEN, f"{version}, but vitq needs {name}", f"pip install '{name}'")
    return Check(distribution, Status.OK, version)


def optional(distribution: str) -> Check:
    """Check a package that some uses need."""
    purpose, remedy = OPTIONAL[distribution]
    try:
        return Check(distribution, Status.OK, metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return Check(distribution, Status.MISSING, f"needed for {purpose}", remedy)


def requirement_of(distribution: str) -> str:
    """Return the requirement as vitq's own metadata states it, such as ``torch<2.14,>=2.6``."""
    try:
        lines = metadata.requires("vitq") or []
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return distribution
    wanted = _normal(distribution)
    return next((line for line in lines if ";" not in line and _normal(line) == wanted), distribution)


def _normal(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name[0] if name else requirement).lower()


def allows(requirement: str, version: str) -> bool:
    """Tell whether ``requirement`` allows ``version``; without ``packaging`` it does."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(requirement).specifier.contains(version, prereleases=True)
