"""What to try next: rules on the numbers of a run, each with its command."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from vitq.artifact.artifact import Artifact
from vitq.artifact.metrics import RunMetrics
from vitq.bench.saved import Bench
from vitq.bits import MIXED, Bits
from vitq.errors import VitqError
from vitq.evidence import Evidence
from vitq.reconstruct.optimize import EVERY
from vitq.report.training import Trained
from vitq.report.verdict import Kind, Verdict

FEW_BITS, ENOUGH_IMAGES = 6, 256
JUMP, SHARE = 3.0, 0.25
MOST = 7
"""Bits of weights beyond which more bring nothing: those of a W8A8 model for most targets (``export.targets``)."""
"""How many times a block's error is that of the block before, and the share of all errors, to be named."""

STILL_FALLING = 0.9
"""A loss that ends at less than this share of what it was at three quarters of its steps still falls."""


@dataclass(frozen=True)
class Advice:
    """One thing to try: why, and the command."""

    why: str
    command: str


@dataclass(frozen=True)
class Facts:
    """What the rules look at."""

    artifact: Artifact
    verdict: Verdict
    evidence: Evidence | None
    trained: tuple[Trained, ...]
    bench: Bench | None

    @property
    def model(self) -> str:
        """The model's name as a command has it."""
        return shlex.quote(str(self.artifact.config.source.get("name", "MODEL")))

    @property
    def metrics(self) -> RunMetrics:
        """What the run scored."""
        return self.artifact.metrics

    @property
    def bits(self) -> Bits | None:
        """The bits of the run, None where they are mixed."""
        text = self.artifact.config.bits
        try:
            return None if text.startswith(MIXED) else Bits.parse(text)
        except VitqError:
            return None

    def quantize(self, *options: str) -> str:
        """Return the command that quantizes the model again, with other options."""
        return f"vitq quantize {self.model} --images DIR --validation DIR {' '.join(options)}".rstrip()


Rule = Callable[[Facts], Iterator[Advice]]


def advice(facts: Facts, most: int = 5) -> tuple[Advice, ...]:
    """Return what to try next, the most telling first; each command is one that vitq has."""
    found = [one for rule in RULES for one in rule(facts)]
    first = {one.command: one for one in reversed(found)}
    return tuple(first[command] for command in dict.fromkeys(one.command for one in found))[:most]


def _train(facts: Facts) -> Iterator[Advice]:
    bits = facts.bits
    if facts.verdict.kind is Kind.ACCEPT or facts.trained or bits is None:
        return
    if min(bits.weights, bits.activations) < FEW_BITS:
        yield Advice(
            "Calibration alone is not enough below 6 bits: train it.", facts.quantize(f"--bits {bits}", "--recipe mgrq")
        )


def _more_bits(facts: Facts) -> Iterator[Advice]:
    bits, evidence = facts.bits, facts.evidence
    if facts.verdict.kind is Kind.ACCEPT or bits is None:
        return
    weights, activations = _shares(evidence)
    if bits.activations < 8 and activations >= weights:
        yield Advice(
            "Activations carry most of the error: give them 8 bits.", facts.quantize(f"--bits w{bits.weights}a8")
        )
    elif bits.weights < MOST:
        yield Advice(
            "Weights carry most of the error: give them 8 bits.", facts.quantize(f"--bits w8a{bits.activations}")
        )
    else:
        yield Advice(
            "Even 8 bits lose: leave the linears that cost most in floating point.",
            f"vitq allocate {facts.model} --images DIR --within 1",
        )


def _block(facts: Facts) -> Iterator[Advice]:
    """Name the block behind which the error jumps."""
    order = [span.name for span in facts.artifact.graph.spans("block")]
    errors = [(name, facts.metrics.segment_errors[name]) for name in order if name in facts.metrics.segment_errors]
    bits = facts.bits
    if facts.verdict.kind is Kind.ACCEPT or bits is None or len(errors) < 3:
        return
    if min(bits.weights, bits.activations) >= MOST:
        return
    added, jump, name = max(
        (after - before, after / before if before > 0 else 0.0, name) for (_, before), (name, after) in pairwise(errors)
    )
    if jump > JUMP and added > SHARE * max(error for _, error in errors):
        yield Advice(
            f"The error grows {jump:.1f} times in {name}: give its sites 8 bits and let the others share the rest.",
            allocate(facts.model, bits, f"{name}[./]*"),  # not those of blocks.10 for blocks.1
        )


def _site(facts: Facts) -> Iterator[Advice]:
    bits = facts.bits
    if facts.verdict.kind is Kind.ACCEPT or facts.evidence is None or bits is None:
        return
    total = sum(site.error for site in facts.evidence.sites)
    worst = max(facts.evidence.sites, key=lambda site: site.error, default=None)
    if worst is not None and total > 0 and worst.error > SHARE * total and worst.bits < MOST:
        yield Advice(
            f"{worst.site} alone is {100 * worst.error / total:.0f} % of the errors of all sites: give it 8 bits.",
            allocate(facts.model, bits, worst.site),
        )


def _training(facts: Facts) -> Iterator[Advice]:
    back = sum(segment.rolled_back for segment in facts.trained)
    if facts.trained and back > len(facts.trained) / 5:
        yield Advice(
            f"{back} of {len(facts.trained)} segments were rolled back: lower the rate.",
            facts.quantize(
                f"--bits {_label(facts)}", f"--recipe {_recipe(facts)}", "--set reconstruct.learn.weights=0.005"
            ),
        )
    falling = [
        s for s in facts.trained if len(s.losses) >= 8 and s.losses[-1] < STILL_FALLING * s.losses[-len(s.losses) // 4]
    ]
    if facts.trained and len(falling) > len(facts.trained) / 2 and facts.verdict.kind is not Kind.ACCEPT:
        steps = 2 * EVERY * max(len(segment.losses) for segment in facts.trained)
        yield Advice(
            "Most losses still fall at the end: train longer.",
            facts.quantize(f"--bits {_label(facts)}", f"--recipe {_recipe(facts)}", f"--set reconstruct.steps={steps}"),
        )
    images = facts.artifact.config.calibration.get("images")
    if facts.trained and isinstance(images, int) and images < ENOUGH_IMAGES:
        yield Advice(
            f"It was trained on {images} images: give a thousand.",
            facts.quantize(f"--bits {_label(facts)}", f"--recipe {_recipe(facts)}", "--limit 1000"),
        )


def _measure(facts: Facts) -> Iterator[Advice]:
    loss = facts.verdict.loss
    if facts.metrics.top1 is None and loss is not None and loss.p is None:
        yield Advice("Accuracy was not measured: give labelled images.", "vitq evaluate RUN --images DIR")
    elif loss is not None and loss.p is not None and loss.high - loss.low > 2:
        yield Advice(
            f"{loss.images:,} images leave a doubt of {(loss.high - loss.low) / 2:.1f} points: measure on more.",
            "vitq evaluate RUN --images DIR",
        )


def _deploy(facts: Facts) -> Iterator[Advice]:
    bits = facts.bits
    if facts.verdict.kind is not Kind.ACCEPT:
        return
    if facts.bench is None:
        yield Advice("Speed was not measured: do it where it will run.", "vitq bench RUN --images DIR")
    elif all(ratio <= 1 for row in facts.bench.own() for ratio in row.ratios.values()):
        yield Advice(
            "It is no faster than float32 here: calibrate for the runtime that you use.",
            facts.quantize(f"--bits {_label(facts)}", "--target openvino"),
        )
    yield Advice("It is good enough: write the file that runs.", "vitq export RUN --images DIR --out model.onnx")
    if bits is not None and bits.weights >= MOST:
        yield Advice("There is room: try weights of 4 bits.", facts.quantize(f"--bits w4a{bits.activations}"))


RULES: tuple[Rule, ...] = (_train, _more_bits, _block, _site, _training, _deploy, _measure)


def _shares(evidence: Evidence | None) -> tuple[float, float]:
    sites = () if evidence is None else evidence.sites
    sums: Mapping[bool, float] = {
        own: sum(s.error for s in sites if (s.role == "weight") is own) for own in (True, False)
    }
    return sums[True], sums[False]


def allocate(model: str, bits: Bits, *kept: str) -> str:
    """Return the command that gives the ``kept`` sites 8 bits, with an average of half a bit more than ``bits``."""
    weights, activations = (min(width + 0.5, 8) for width in (bits.weights, bits.activations))
    keep = " ".join(f"--keep {shlex.quote(f'{pattern}=8')}" for pattern in kept)
    return f"vitq allocate {model} --images DIR --average-bits w{weights:g}a{activations:g} {keep}"


def _label(facts: Facts) -> str:
    return str(facts.bits) if facts.bits is not None else "FILE"


def _recipe(facts: Facts) -> str:
    return shlex.quote(str(facts.artifact.config.recipe.get("name", "mgrq")))
