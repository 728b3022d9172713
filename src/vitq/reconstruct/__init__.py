"""Reconstruction: train segments of the student to give back what the teacher computed."""

from vitq.reconstruct.schedule import SCHEDULES, register_schedule
from vitq.reconstruct.step import Reconstruct

__all__ = ["SCHEDULES", "Reconstruct", "register_schedule"]
