"""Damaged copies of real files. Every reader must return a result or raise an error of one line."""

import contextlib
import copy
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Far more than any reader needs for these small files, even on a busy machine.
MAX_SECONDS = 30
DELETED = object()

# Bytes with a meaning in many binary formats: largest and smallest numbers in both byte orders.
_NUMBERS = [b"\x00", b"\xff", b"\x7f", b"\x80", b"\x01\x00", b"\x10\x27", b"\xff\xff", b"\x00\x00\x00\x00"]
_NUMBERS += [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x40", b"\xff" * 8]
_TEXTS = [
    "",
    "a",
    "../../outside",
    "/tmp/outside",
    "a/b",
    "\x00",
    "a\nb",
    "\x1b[31mred",
    "é狐",
    "\ud800",
    "9" * 50,
]
_INTEGERS = [-1, 0, 1, 2, 3, 2**31, 2**63 - 1, 2**63, 2**64, -(2**70), 10**400]
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(_INTEGERS),
    st.integers(-5, 300),
    st.sampled_from([0.0, 0.5, -1.0, 1e300, float("inf"), float("nan")]),
    st.sampled_from(_TEXTS),
    st.text(max_size=8),
)
_POSITIONS = st.one_of(st.integers(0, 250), st.integers(0, 1 << 20))
_EDITS = st.one_of(
    st.tuples(
        st.just("put"), _POSITIONS, st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from(_NUMBERS))
    ),
    st.tuples(st.just("flip"), _POSITIONS, st.integers(0, 7)),
    st.tuples(st.sampled_from(["cut", "repeat"]), _POSITIONS, st.integers(1, 40)),
    st.tuples(st.just("end"), _POSITIONS, st.none()),
)


def lengths(short, long):
    """Run a test with few examples by default, and with many as a slow test."""
    slow = pytest.param(long, marks=[pytest.mark.slow, pytest.mark.timeout(900)])
    return pytest.mark.parametrize("examples", [short, slow], ids=["short", "long"])


def json_values():
    """Draw anything that JSON and YAML can hold, with a preference for troublesome values."""
    keys = st.one_of(st.sampled_from([t for t in _TEXTS if t]), st.text(max_size=5))
    return st.recursive(
        _SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
        max_leaves=5,
    )


def damaged(*contents):
    """Draw one of the files, intact or with a few bytes changed, removed, repeated or truncated."""
    return st.builds(_edit, st.sampled_from(contents), st.lists(_EDITS, max_size=6))


def altered(document, values=None):
    """Draw a nested document with some values replaced or removed."""
    values = json_values() if values is None else values
    places = st.sampled_from(list(_places(document)))
    edits = st.tuples(places, st.one_of(values, values, st.just(DELETED)))
    return st.builds(_alter, st.just(document), st.lists(edits, max_size=3))


def _edit(content, edits):
    data = bytearray(content)
    for kind, position, value in edits:
        at = position % max(1, len(data))
        if kind == "put":
            data[at : at + len(value)] = value
        elif kind == "flip" and data:
            data[at] ^= 1 << value
        elif kind == "cut":
            del data[at : at + value]
        elif kind == "repeat":
            data[at:at] = data[at : at + value]
        elif kind == "end":
            del data[at:]
    return bytes(data)


def _places(document, path=()):
    if path:
        yield path
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield from _places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]


def _alter(document, edits):
    document = copy.deepcopy(document)
    for (*outer, last), value in edits:
        inside = document
        try:
            for key in outer:
                inside = inside[key]
            if value is DELETED:
                del inside[last]
            else:
                inside[last] = copy.deepcopy(value)
        except (LookupError, TypeError):
            continue  # an earlier edit has removed this position
    return document


@contextlib.contextmanager
def at_most(megabytes):
    """Fail if peak memory grows by more than this; does nothing outside Linux."""
    reset = Path("/proc/self/clear_refs")  # writing 5 resets the peak to the current use, see proc(5)
    if not reset.exists():
        yield
        return
    reset.write_text("5")
    before = _peak_kilobytes()
    yield
    assert _peak_kilobytes() - before < 1000 * megabytes


def _peak_kilobytes():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def fuzz(examples, values, read, errors, megabytes=300):
    """Call ``read`` with many values; it must accept each, or refuse it in one printable line."""
    outcomes = Counter()

    @settings(
        derandomize=True,
        deadline=None,
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
    )
    @given(values)
    def every(value):
        start = time.perf_counter()
        message = ""
        try:
            read(value)
            outcomes["read"] += 1
        except errors as error:
            message = str(error)
            outcomes["refused"] += 1
        assert message.isprintable()
        assert time.perf_counter() - start < MAX_SECONDS

    with at_most(megabytes):
        every()
    assert outcomes["read"], outcomes
    assert outcomes["refused"], outcomes
