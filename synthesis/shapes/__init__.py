"""Procedural scenes: tasks whose details cannot be read in the first view."""

from synthesis.shapes.tasks import ZOOM_FAMILIES, make_tasks, test_tasks, training_tasks, validation_tasks

__all__ = ["ZOOM_FAMILIES", "make_tasks", "test_tasks", "training_tasks", "validation_tasks"]
