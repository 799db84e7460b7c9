"""What a network looks at: Grad-CAM, the gates of its attention, and how good the maps are."""

from cbam_lightning.explain.gates import Gates, record_gates
from cbam_lightning.explain.gradcam import Explanation, GradCAM, enlarge

__all__ = ["Explanation", "Gates", "GradCAM", "enlarge", "record_gates"]
