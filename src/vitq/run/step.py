"""A recipe is a list of steps: the base of every step and the registry that knows them by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from types import UnionType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from vitq.registry import Registry
from vitq.run.limits import check_plain

if TYPE_CHECKING:
    import torch

    from vitq.bits import Bits
    from vitq.graph import Graph, Site
    from vitq.run.placed import Placed
    from vitq.run.run import Run


class OptionGroup(BaseModel):
    """Frozen options with defaults; one that the group does not have is an error.

    Keys given for an option that is itself a group change those of its default, no others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    unwritten: ClassVar[Collection[str]] = ()
    """Options that are written out only where they differ from their defaults, so that older recipes stay the same."""

    @model_serializer(mode="wrap")
    def _without_unused(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        own, fields = written(self), type(self).model_fields
        usual = {name: fields[name].get_default(call_default_factory=True) for name in self.unwritten}
        return {key: item for key, item in own.items() if key not in usual or getattr(self, key) != usual[key]}

    @model_validator(mode="before")
    @classmethod
    def _complete_groups(cls, options: Any) -> Any:
        if not isinstance(options, Mapping):
            return options
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        return {key: _completed(fields[key], item) if key in fields else item for key, item in options.items()}

    @field_validator("*", mode="before")
    @classmethod
    def _usable(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what no option takes: NaN, infinity, and true or false for a number."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, Mapping | OptionGroup) and _takes_group(annotation):
            return value  # which refuses for itself, and says which of its options
        check_plain(value)
        if any(isinstance(part, bool) for part in _scalars(value)) and not _mentions_bool(annotation):
            raise ValueError("input should not be true or false")
        return value


class Step(OptionGroup, ABC):
    """One step of a recipe: its options, and ``apply``, which changes a run's student graph.

    What a step does, others find in ``run.student`` alone; what it has to know of them, ``run`` says (``placed_ahead``,
    ``apart_ahead``, ``rehearse``, ``before``). ``renamed`` maps names that options had before to their
    dotted names of today, for the error that an unknown key gives.
    """

    step_name: ClassVar[str] = ""
    trains: ClassVar[bool] = False
    """Whether the step takes so long that no other one tries it out."""
    mixes: ClassVar[bool] = False
    """Whether it gives sites bits of their own, which average those of the run."""
    renamed: ClassVar[Mapping[str, str]] = {}

    def preview(self, graph: "Graph", bits: "Bits") -> "Mapping[str, Placed]":
        """Return what the step will quantize of ``graph``, which it does not change, by site: by default nothing.

        RecipeError where an option names what is not there.
        """
        return {}

    def apart(self, site: "Site", x: "torch.Tensor", axis: int | None) -> tuple[int, ...]:
        """Return the places of the tokens of a site's values x that the step gives parameters of their own.

        ``axis``: that of the site's quantizer. By default there are none.
        """
        return ()

    @abstractmethod
    def apply(self, run: "Run") -> None:
        """Do the step's work on ``run``; raise a VitqError where it cannot be done.

        Work that takes long is kept with ``run.save`` and read back with ``run.restore``, under keys that begin with
        ``run.stage``; a step that keeps nothing is applied again when a run is resumed, so it has to be exact.
        """


STEPS: Registry[type[Step]] = Registry("step", Step)

S = TypeVar("S", bound=Step)


def register_step(name: str) -> Callable[[type[S]], type[S]]:
    """Register a step under the name that recipes use; raise RecipeError where another class has that name."""
    keep = STEPS.register(name)

    def register(step: type[S]) -> type[S]:
        keep(step).step_name = name
        return step

    return register


def _completed(field: FieldInfo, given: Any) -> Any:
    """Lay a mapping over the field's default if that is one class of options; a union is replaced whole."""
    classes = [
        part
        for part in (field.annotation, *get_args(field.annotation))
        if isinstance(part, type) and issubclass(part, BaseModel)
    ]
    if isinstance(given, Mapping) and isinstance(field.default, BaseModel) and classes == [type(field.default)]:
        return {**field.default.model_dump(by_alias=True), **given}
    return given


def _takes_group(annotation: Any) -> bool:
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return any(isinstance(part, type) and issubclass(part, OptionGroup) for part in parts)


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _scalars(item)
    else:
        yield value


def _mentions_bool(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(_mentions_bool(field.annotation) for field in annotation.model_fields.values())
    return annotation in (bool, Any) or any(_mentions_bool(part) for part in get_args(annotation))
