"""How the benchmarks measure: time in turns, memory kept for the backward pass, and the report of both."""

from cbam_lightning.benchmarks.machine import choose_device, set_threads, this_machine
from cbam_lightning.benchmarks.memory import saved_bytes
from cbam_lightning.benchmarks.report import Report, Row
from cbam_lightning.benchmarks.timing import alternate, first_call_seconds, in_turns

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
