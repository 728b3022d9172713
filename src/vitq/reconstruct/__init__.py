"""Reconstruction: train segments of the student to give back what the teacher computed."""

from vitq.reconstruct.objective.curvature import register_curvature
from vitq.reconstruct.objective.terms import register_distance, register_term
from vitq.reconstruct.relu_mlp import ReluMlp
from vitq.reconstruct.slicing.choose import Choice, Choose
from vitq.reconstruct.slicing.schedule import SCHEDULES, register_schedule
from vitq.reconstruct.step import Reconstruct

__all__ = [
    "SCHEDULES",
    "Choice",
    "Choose",
    "Reconstruct",
    "ReluMlp",
    "register_curvature",
    "register_distance",
    "register_schedule",
    "register_term",
]
