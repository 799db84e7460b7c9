"""What a network looks at: Grad-CAM, the gates of its attention, and how good the maps are."""

from cbam_lightning.explain.figure import draw_figure
from cbam_lightning.explain.gate_figure import draw_gates
from cbam_lightning.explain.gates import Gates, record_gates
from cbam_lightning.explain.gradcam import Explanation, GradCAM, enlarge
from cbam_lightning.explain.looking import Look, Looked, Picture, look
from cbam_lightning.explain.subjects import Subject, open_subjects
from cbam_lightning.explain.summary import Summary

__all__ = [
    "Explanation",
    "Gates",
    "GradCAM",
    "Look",
    "Looked",
    "Picture",
    "Subject",
    "Summary",
    "draw_figure",
    "draw_gates",
    "enlarge",
    "look",
    "open_subjects",
    "record_gates",
]
