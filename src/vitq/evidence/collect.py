"""From a run that is done to what its report shows of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from vitq.evidence.pictures import attention_maps, attention_site, map_picture, thumbnail
from vitq.evidence.schema import Evidence, Pairs, Picture, Prediction
from vitq.evidence.sites import Seen, seen_activations, seen_weights, site_errors, worst
from vitq.evidence.watch import Watched, pairs_of
from vitq.graph import Graph
from vitq.models import Preprocessing
from vitq.run.run import Run
from vitq.tasks import Classes

IMAGES = 16
"""Calibration images on which the errors of sites are measured."""

WORST = 6
"""Sites whose distributions are shown."""

Classifier = Watched | Graph


@dataclass
class Witness:
    """Watches a run: both models while they are measured, and the weights before they are frozen."""

    run: Run
    floating: Watched | None = None
    quantized: Watched | None = None
    weights: dict[str, Seen] = field(default_factory=dict)

    def teacher(self) -> Classifier:
        """Return what is measured in floating point."""
        task = self.run.task
        if not isinstance(task, Classes):
            return self.run.teacher
        self.floating = Watched(self.run.teacher, task.primary)
        return self.floating

    def student(self) -> Classifier:
        """Return what is measured of the quantized model."""
        if self.floating is None:
            return self.run.student
        self.quantized = Watched(self.run.student, self.floating.primary, self.floating)
        return self.quantized

    def before_freezing(self, graph: Graph) -> None:
        """Look at the weights while their quantizers are on them."""
        self.weights = seen_weights(graph)

    def evidence(
        self,
        preprocessing: Preprocessing,
        checksums: Sequence[int],
        labels_N: torch.Tensor | None,
        class_names: Sequence[str] | None,
        same_images: bool,
    ) -> Evidence:
        """Return what was seen; ``checksums`` are those of the measured images, which both models saw in one order."""
        run, student = self.run, self.run.student
        images_NCHW = run.images_NCHW[-IMAGES:]
        seen = {**self.weights, **seen_activations(student, images_NCHW, run.device)}
        pairs, pictures, site = None, tuple[Picture, ...](), ""
        if same_images and self.floating is not None and self.quantized is not None:
            pairs = pairs_of(self.floating, self.quantized, checksums, labels_N)
        if pairs is not None:
            site = attention_site(run.teacher)
            pictures = self._pictures(preprocessing, labels_N, class_names, pairs, site)
        return Evidence(
            pairs=pairs,
            sites=site_errors(student, seen),
            distributions=worst(seen.values(), WORST),
            pictures=pictures,
            attention=site if any(picture.floating_attention for picture in pictures) else "",
            images=len(images_NCHW),
        )

    def _pictures(
        self,
        preprocessing: Preprocessing,
        labels_N: torch.Tensor | None,
        class_names: Sequence[str] | None,
        pairs: Pairs,
        site: str,
    ) -> tuple[Picture, ...]:
        assert self.floating is not None and self.quantized is not None
        images = self.quantized.images()
        if not images:
            return ()
        sides = ((self.floating.rows(), self.run.teacher), (self.quantized.rows(), self.run.student))
        x_BCHW = torch.stack([x_CHW for _, x_CHW in images])
        maps = [attention_maps(graph, site, x_BCHW, self.run.device) if site else None for _, graph in sides]
        found = []
        for row, (number, x_CHW) in enumerate(images):
            said = [
                Prediction(label=_name(int(c_N5[number, 0]), class_names), confidence=round(float(p_N5[number, 0]), 4))
                for (c_N5, p_N5), _ in sides
            ]
            attention: list[str | None] = [None, None]
            if maps[0] is not None and maps[1] is not None:
                brightest = float(torch.stack([m[row] for m in maps if m is not None]).max())
                attention = [map_picture(m[row], brightest) for m in maps if m is not None]
            found.append(
                Picture(
                    image=thumbnail(x_CHW, preprocessing),
                    truth=_name(int(labels_N[number]), class_names)
                    if labels_N is not None and pairs.floating
                    else None,
                    floating=said[0],
                    quantized=said[1],
                    floating_attention=attention[0],
                    quantized_attention=attention[1],
                )
            )
        return tuple(found)


def _name(number: int, names: Sequence[str] | None) -> str:
    return names[number] if names is not None and 0 <= number < len(names) else f"class {number}"
