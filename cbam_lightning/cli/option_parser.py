"""The parser of the options: it reads whole numbers as such, and prints only what it can read again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from cbam_lightning.cli.config_classes import leave_out_defaults
from cbam_lightning.cli.whole_numbers import read_whole_numbers_first
from cbam_lightning.errors import UsageError
from cbam_lightning.runs.settings import flatten

_NULL_AS_TEXT = re.compile(r"^(--\w+(?:\.\w+)+=)None$")
# What jsonargparse writes in place of an object that YAML cannot express.
_UNWRITTEN = "Unable to serialize instance "


class OptionParser(LightningArgumentParser):
    """Lightning's parser; jsonargparse also makes one for the options of every class that they name."""

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add the options of a class, whose whole numbers stay whole."""
        added: list[str] = super().add_class_arguments(*args, **kwargs)
        read_whole_numbers_first(self)
        return added

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *others: Any, **options: Any
    ) -> Namespace:
        """Parse arguments; ``null`` in a dictionary, as in ``--model.attention_options.size null``, is null.

        jsonargparse hands such a value to the parser of the class as text, in which null has become None.
        """
        if args is not None:
            args = [_NULL_AS_TEXT.sub(r"\1null", argument) for argument in args]
        return super().parse_args(args, *others, **options)

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Return a configuration as text, without the defaults that only Python can express."""
        config = namespace.clone()
        leave_out_defaults(config)
        text: str = super().dump(config, *args, **kwargs)
        return text


def refuse_unwritten(config: Any, source: str) -> None:
    """Refuse a configuration in which an object could not be written.

    Args:
        config: The content of the file.
        source: The file, for the message.

    Raises:
        UsageError: Names the option.
    """
    for name, value in flatten(config if isinstance(config, dict) else {}).items():
        if str(value).startswith(_UNWRITTEN):
            raise UsageError(f"--{name} in {source} is {value!r}; leave the option out, or give its value.")
