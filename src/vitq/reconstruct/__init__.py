"""Reconstruction: train segments of the student to give back what the teacher computed."""

from vitq.reconstruct.choose import Choice, Choose
from vitq.reconstruct.curvature import register_curvature
from vitq.reconstruct.objectives import register_term
from vitq.reconstruct.schedule import SCHEDULES, register_schedule
from vitq.reconstruct.step import Reconstruct

__all__ = ["SCHEDULES", "Choice", "Choose", "Reconstruct", "register_curvature", "register_schedule", "register_term"]
