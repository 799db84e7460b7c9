"""Attention for any network: find the insertion points and insert modules, without renaming weights."""

from cbam_lightning.models.insertion.insert import describe_insertion_points, insert_attention
from cbam_lightning.models.insertion.points import InsertionPoint, plan_insertion

__all__ = ["InsertionPoint", "describe_insertion_points", "insert_attention", "plan_insertion"]
