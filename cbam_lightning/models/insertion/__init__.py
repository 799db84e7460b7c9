"""Attention in networks that others wrote: find the insertion points, keep the names of weights."""

from cbam_lightning.models.insertion.insert import describe_places, insert_attention
from cbam_lightning.models.insertion.points import Place, plan_insertion

__all__ = ["Place", "describe_places", "insert_attention", "plan_insertion"]
