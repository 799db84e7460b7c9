"""What a network looks at: Grad-CAM, the gates of its attention, and how faithful the maps are."""

from cbam_lightning.explain.explanations import ExplainedImage, Explanation, InputImage, explain_images
from cbam_lightning.explain.gate_figure import draw_gates
from cbam_lightning.explain.gates import Gates, record_gates
from cbam_lightning.explain.gradcam import GradCAM, GradCAMOutput, enlarge
from cbam_lightning.explain.gradcam_figure import draw_figure
from cbam_lightning.explain.networks import ExplainedNetwork, open_networks
from cbam_lightning.explain.summary import Summary

__all__ = [
    "ExplainedImage",
    "ExplainedNetwork",
    "Explanation",
    "Gates",
    "GradCAM",
    "GradCAMOutput",
    "InputImage",
    "Summary",
    "draw_figure",
    "draw_gates",
    "enlarge",
    "explain_images",
    "open_networks",
    "record_gates",
]
