"""How the benchmarks measure: time in turns, memory kept for the backward pass, and the report of both."""

from cbam_lightning.measuring.machine import choose_device, set_threads, this_machine
from cbam_lightning.measuring.memory import saved_bytes
from cbam_lightning.measuring.report import Report, Row
from cbam_lightning.measuring.timing import alternate, first_call_seconds, in_turns

__all__ = [
    "Report",
    "Row",
    "alternate",
    "choose_device",
    "first_call_seconds",
    "in_turns",
    "saved_bytes",
    "set_threads",
    "this_machine",
]
