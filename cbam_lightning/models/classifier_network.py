"""Base class of the classification networks: stages, head, initial values, placement of attention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from torch import Tensor, nn

from cbam_lightning.attention.registry import Placement, build_attention, default_placement
from cbam_lightning.attention.scripting import refuse_scripting
from cbam_lightning.checks import check_choice, is_whole
from cbam_lightning.errors import UsageError


class AttendedModule(nn.Module):
    """A module with attention on ``out_channels`` maps; it is the identity until the network replaces it."""

    out_channels: int
    attention: nn.Module
    __prepare_scriptable__ = refuse_scripting


class ClassifierNetwork(nn.Module, ABC):
    """Stem, stages, mean over the positions, linear layer.

    A subclass builds its stem, then calls ``_add_stages`` and ``_complete``. The backbone is initialised
    before the attention is built, so after the same ``torch.manual_seed`` it starts from the same weights
    with any attention.
    """

    in_channels: int
    num_features: int
    num_classes: int
    stage_channels: dict[str, int]  # the stages in order, with their output channels
    fc: nn.Module
    attention: nn.ModuleDict  # by the name of the stage before it; empty when attention is in the blocks
    __prepare_scriptable__ = refuse_scripting

    @abstractmethod
    def forward_stem(self, x: Tensor) -> Tensor:
        """Return the input of the first stage: (N, in_channels, H, W) to (N, C, h, w)."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature maps: (N, in_channels, H, W) to (N, num_features, h, w)."""
        x = self.forward_stem(x)
        for stage in self.stage_channels:
            x = self._forward_stage(stage, x)
        return x

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Return the output of every stage, (N, stage_channels[stage], h, w), by name and in order."""
        x = self.forward_stem(x)
        maps = {}
        for stage in self.stage_channels:
            x = maps[stage] = self._forward_stage(stage, x)
        return maps

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of feature maps: (N, num_features, h, w) to (N, num_classes).

        Args:
            features: Output of ``forward_features``.
            pre_logits: Whether to return the mean over h and w, (N, num_features), instead.
        """
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (N, in_channels, H, W) to (N, num_classes), or features without classes."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the last layer, from features to logits."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer with a newly initialised one.

        Args:
            num_classes: Number of logits. 0: the network returns its pooled features, (N, num_features).

        Raises:
            UsageError: ``num_classes`` is not a whole number of at least 0.
        """
        check_num_classes(num_classes)
        self.num_classes = num_classes
        self.fc = nn.Identity()
        if num_classes:
            self.fc = nn.Linear(self.num_features, num_classes).to(next(self.parameters()))
            nn.init.kaiming_normal_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def _forward_stage(self, stage: str, x: Tensor) -> Tensor:
        x = getattr(self, stage)(x)
        return self.attention[stage](x) if stage in self.attention else x

    def _add_stages(
        self,
        make: Callable[[int, int, int], nn.Module],
        in_channels: int,
        widths: Sequence[Sequence[int]],
        expansion: int = 1,
    ) -> None:
        """Add the stages; every one but the first halves H and W in its first block.

        Args:
            make: Builds a block from its input channels, its width and its stride.
            in_channels: Number of channels of the first block's input.
            widths: Width of every block of every stage.
            expansion: Output channels of a block divided by its width.
        """
        self.stage_channels = {}
        for number, stage_widths in enumerate(widths, start=1):
            stage = nn.Sequential()
            for index, width in enumerate(stage_widths):
                stage.append(make(in_channels, width, 2 if index == 0 and number > 1 else 1))
                in_channels = width * expansion
            self.add_module(f"layer{number}", stage)
            self.stage_channels[f"layer{number}"] = in_channels
        self.num_features = in_channels

    def _complete(
        self,
        num_classes: int,
        attention: str,
        attention_options: Mapping[str, Any] | None,
        placement: Placement | None,
    ) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.reset_classifier(num_classes)
        self.attention = nn.ModuleDict()
        options = attention_options or {}
        if placement is None:
            placement = default_placement(attention)
        check_choice("placement", placement, get_args(Placement))
        if placement == "stage":
            stages = list(self.stage_channels)[:-1]
            if not stages and attention != "none":
                raise UsageError(
                    f"{attention} goes after every stage but the last, and this network has one stage. "
                    "Give it more stages, or placement 'block'."
                )
            for stage in stages:
                self.attention[stage] = build_attention(attention, self.stage_channels[stage], **options)
        else:
            for module in [found for found in self.modules() if isinstance(found, AttendedModule)]:
                module.attention = build_attention(attention, module.out_channels, **options)


def check_num_classes(num_classes: int) -> None:
    """Raise a ``UsageError`` unless ``num_classes`` is a whole number of at least 0."""
    if not is_whole(num_classes) or num_classes < 0:
        raise UsageError(f"num_classes is {num_classes!r}; give the number of classes, or 0 for features.")
