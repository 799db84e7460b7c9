"""Checkpoints by name, from the package and over a real connection."""

import hashlib
import json
import random
import socket
import threading

import pytest
import torch

from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.weights import (
    Header,
    checkpoint_path,
    checkpoint_registry,
    list_weights,
    load_checkpoint,
    save_checkpoint,
)
from cbam_lightning.weights.checkpoint_registry import Entry, cache_folder, download, find, sha256_of, verify
from experiments.shipping.registering import make_entry
from tests.weights.serving import serve, without_proxies

OPTIONS = {"depths": [1, 1, 1], "widths": [4, 8, 16]}
HEADER = Header(
    "resnet20", "cbam", 3, 3, network_options=OPTIONS, dataset="cifar10", metrics={"test/top1": 0.9125}
)
HOSTILE_NAMES = (
    "",
    ".",
    "..",
    ".x",
    "x.",
    "a..b",
    "a.b.c",
    "../x",
    "a/.x",
    "..\\x",
    "a.b\n",
    "a.\x00",
    "a b.c",
    "ä.b",
)
MADE = {"licence": "MIT", "command": "cbam-lightning fit --config experiments/x.yaml"}
CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    network = create_model("resnet20", attention="cbam", num_classes=3, **OPTIONS)
    save_checkpoint(tmp_path / "table" / "files" / "small.safetensors", network.state_dict(), HEADER)
    return tmp_path / "table" / "files" / "small.safetensors"


@pytest.fixture
def table(checkpoint, monkeypatch, tmp_path):
    """Write a table of these entries, and use it."""
    path = checkpoint.parent.parent / "registry.json"
    monkeypatch.setattr(checkpoint_registry, "TABLE", path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def write(*entries):
        path.write_text(json.dumps([e.to_dict() if isinstance(e, Entry) else e for e in entries]))

    write()
    return write


@pytest.fixture
def server(monkeypatch, checkpoint):
    without_proxies(monkeypatch)
    with serve() as server:
        server.files |= {"small.safetensors": checkpoint.read_bytes(), "net.bin": CONTENT}
        yield server


def test_a_file_of_the_package_is_found_by_its_name(table, checkpoint):
    entry = make_entry(checkpoint, **MADE)
    table(entry)
    assert list_weights() == ["small"]
    assert find("small") == entry
    assert checkpoint_path("small") == checkpoint
    assert load_checkpoint(checkpoint_path("small")).header == HEADER


def test_a_file_at_a_url_is_downloaded_once(table, checkpoint, server):
    table(make_entry(checkpoint, **MADE, url=server.url + "small.safetensors"))
    for _ in range(2):
        path = checkpoint_path("small")
    assert path == cache_folder() / "small.safetensors"
    assert path.read_bytes() == checkpoint.read_bytes()
    assert server.asked == ["small.safetensors"]


def test_a_damaged_file_in_the_cache_is_downloaded_again(table, checkpoint, server):
    table(make_entry(checkpoint, **MADE, url=server.url + "small.safetensors"))
    checkpoint_path("small").write_bytes(b"rot")
    assert verify(find("small")).read_bytes() == checkpoint.read_bytes()


def test_a_file_that_was_exchanged_on_the_server_is_refused(table, checkpoint, server):
    table(make_entry(checkpoint, **MADE, url=server.url + "small.safetensors"))
    server.files["small.safetensors"] = b"exchanged"
    with pytest.raises(OSError, match="invalid hash value"):
        checkpoint_path("small")
    assert not (cache_folder() / "small.safetensors").exists()


def test_a_damaged_file_of_the_package_is_refused(table, checkpoint):
    entry = make_entry(checkpoint, **MADE)
    table(entry)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(OSError, match=rf"is damaged: its SHA-256 is [0-9a-f]{{64}}, not {entry.sha256}"):
        checkpoint_path("small")


def test_names_are_sorted_and_matched(table, checkpoint):
    table(*(make_entry(checkpoint, **MADE, name=name) for name in ("b2", "a", "b1")))
    assert list_weights() == ["a", "b1", "b2"]
    assert list_weights("b*") == ["b1", "b2"]
    assert list_weights("c*") == []


def test_an_unknown_name_shows_the_known_ones(table, checkpoint):
    with pytest.raises(UsageError, match="no checkpoint is registered"):
        find("smal")
    table(make_entry(checkpoint, **MADE))
    with pytest.raises(UsageError, match=r"unknown registered checkpoint 'smal'. Did you mean 'small'"):
        find("smal")


def test_a_name_may_hold_the_data_set_after_a_dot(table, checkpoint, server):
    name = "resnet20_cbam.cifar-10"
    table(make_entry(checkpoint, **MADE, name=name, url=server.url + "small.safetensors"))
    assert list_weights() == [name]
    assert checkpoint_path(name) == cache_folder() / f"{name}.safetensors"
    assert [path.name for path in cache_folder().iterdir() if path.suffix != ".lock"] == [
        f"{name}.safetensors"
    ]


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ({"0": 0.91, "1": 0.95, "2": 0.93}, "median of 3 seeds 0.9300, lowest 0.9100, highest 0.9500"),
        (
            {"4": 0.95, "0": 0.91, "1": 0.94, "2": 0.93},
            "median of 4 seeds 0.9300, lowest 0.9100, highest 0.9500",
        ),
    ],
)
def test_an_entry_states_what_all_seeds_came_to(checkpoint, seeds, expected):
    entry = make_entry(checkpoint, **MADE, seeds=seeds)
    assert entry.summary() == f"cifar10; test/top1=0.9125; {expected}; 0.0 MB; MIT"
    lines = dict(line.split(maxsplit=1) for line in entry.describe().splitlines())
    assert lines["seeds"] == expected
    assert Entry(**entry.to_dict()) == entry


def test_two_entries_of_one_name_are_refused(table, checkpoint):
    table(*[make_entry(checkpoint, **MADE)] * 2)
    with pytest.raises(UsageError, match="two checkpoints of the same name"):
        list_weights()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sha256": "A" * 64}, "sha256"),
        ({"sha256": "ab"}, "sha256"),
        ({"num_bytes": 0}, "num_bytes"),
        ({"num_bytes": "9"}, "num_bytes"),
        ({"licence": None}, "licence"),
        ({"metrics": {"test/top1": "91%"}}, "metrics"),
        ({"metrics": []}, "metrics"),
        ({"name": "a/b"}, "name"),
        ({"name": "a.pt"}, "name"),
        ({"name": "a.Safetensors"}, "name"),
        *(({"name": name}, "name") for name in HOSTILE_NAMES),
        ({"seeds": {"0": 1.01}}, "seeds"),
        ({"seeds": {"zero": 0.9}}, "seeds"),
        ({"seeds": [0.9]}, "seeds"),
        ({"file": "../small.safetensors"}, "file"),
        ({"file": "small.pt"}, "file"),
        ({"file": None}, "file or url"),
        ({"url": "http://x/y.safetensors"}, "file or url"),
        ({"name": 5}, "name"),
        ({"sha256": int("1" * 64)}, "sha256"),
        ({"num_bytes": 10**400}, "num_bytes"),
        ({"metrics": {"loss": 10**400}}, "metrics"),
        ({"metrics": {"loss": float("inf")}}, "metrics"),
        ({"metrics": {"\x1b[31m": 1}}, "metrics"),
        ({"licence": "MIT\x1b[31m"}, "licence"),
        ({"command": "a\nb"}, "command"),
        ({"file": "\x00.safetensors"}, "file"),
        ({"file": None, "url": "http://x/ y"}, "url"),
        ({"file": None, "url": "http://x/\r\nHost: y"}, "url"),
        ({"file": None, "url": "http://☃/y"}, "url"),
        ({"file": None, "url": "ftp://x/y"}, "url"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_field(table, checkpoint, change, named):
    table(make_entry(checkpoint, **MADE).to_dict() | change)
    with pytest.raises(UsageError, match=rf"has invalid fields: {named} is "):
        list_weights()


def test_an_unknown_field_is_refused(table, checkpoint):
    table(make_entry(checkpoint, **MADE).to_dict() | {"license": "MIT"})
    with pytest.raises(UsageError, match="unexpected keyword argument 'license'"):
        list_weights()


def test_an_entry_is_described_by_all_it_holds(checkpoint):
    entry = make_entry(checkpoint, **MADE)
    lines = dict(line.split(maxsplit=1) for line in entry.describe().splitlines())
    assert lines["sha256"] == entry.sha256
    assert lines["metrics"] == "test/top1=0.9125"
    assert not {"url", "seeds"} & lines.keys()
    assert entry.summary().startswith("cifar10; test/top1=0.9125; 0.0 MB; MIT")


def test_the_table_of_the_package_is_right():
    names = list_weights()
    assert names == sorted(set(names))
    for name in names:
        if find(name).file:
            assert load_checkpoint(checkpoint_path(name)).header.dataset == find(name).dataset
            assert checkpoint_path(name).stat().st_size == find(name).num_bytes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a table of checkpoints"),
        (b"\xff", "is not a table of checkpoints"),
        (b"[" * 100_000, "is not a table of checkpoints"),
        (b'{"a": 1}', "is not a table of checkpoints"),
        (b"[5]", "is not a table of checkpoints"),
        (
            b'[{"name": "a"}]',
            "missing 5 required .*'sha256', 'num_bytes', 'licence', 'dataset', and 'command'",
        ),
    ],
    ids=["empty", "bytes", "deep", "object", "number", "incomplete"],
)
def test_what_is_no_table_is_refused(table, content, reason):
    checkpoint_registry.TABLE.write_bytes(content)
    with pytest.raises(UsageError, match=rf"registry\.json .*{reason}"):
        list_weights()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "net.bin"


def files(target):
    return {path.name for path in target.parent.iterdir()} - {"net.bin.lock"}


def test_the_file_arrives_whole_and_alone(server, target):
    assert download(server.url + "net.bin", SHA256, target) == target
    assert target.read_bytes() == CONTENT
    assert files(target) == {"net.bin"}
    assert sha256_of(target) == SHA256


def test_a_file_that_is_there_is_not_downloaded_again(server, target):
    for _ in range(2):
        download(server.url + "net.bin", SHA256, target)
    assert server.asked == ["net.bin"]


def test_a_file_that_rotted_is_downloaded_again(server, target):
    download(server.url + "net.bin", SHA256, target)
    target.write_bytes(CONTENT[:-1])
    download(server.url + "net.bin", SHA256, target)
    assert target.read_bytes() == CONTENT


def test_a_broken_download_leaves_nothing(server, target):
    server.cut = 100_000
    with pytest.raises(
        OSError, match=rf"could not download {server.url}net.bin: invalid hash value"
    ) as caught:
        download(server.url + "net.bin", SHA256, target)
    assert "\n" not in str(caught.value)
    assert files(target) == set()
    server.cut = None
    assert download(server.url + "net.bin", SHA256, target).read_bytes() == CONTENT
    assert files(target) == {"net.bin"}


def test_the_wrong_file_does_not_replace_an_older_one(server, target):
    target.parent.mkdir()
    target.write_bytes(b"older")
    server.files["net.bin"] = b"wrong"
    with pytest.raises(OSError, match="invalid hash value"):
        download(server.url + "net.bin", SHA256, target)
    assert target.read_bytes() == b"older"


def test_a_missing_file_is_named_with_its_status(server, target):
    with pytest.raises(OSError, match=rf"could not download {server.url}gone: HTTP Error 404"):
        download(server.url + "gone", SHA256, target)
    assert files(target) == set()


def test_no_server_is_one_line(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/net.bin"
    with pytest.raises(OSError, match=rf"could not download {url}: .*refused.*\.$"):
        download(url, SHA256, target)


def test_what_is_no_http_is_one_line(target):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/net.bin"

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"hello\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(OSError, match=rf"could not download {url}: ") as caught:
            download(url, SHA256, target)
    assert "\n" not in str(caught.value)


def test_of_several_at_once_one_downloads(server, target):
    threads = [
        threading.Thread(target=download, args=(server.url + "net.bin", SHA256, target)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert server.asked == ["net.bin"]


def test_the_cache_moves_with_torch_home(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hub" / "cbam_lightning"
    assert str(cache_folder()).startswith(torch.hub.get_dir())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://a..b/\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 404 \x1b[31m\r\n\r\n",
    ],
    ids=["address", "host", "length", "reason"],
)
def test_a_hostile_answer_is_one_printable_line(target, answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def respond():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        threading.Thread(target=respond, daemon=True).start()
        with pytest.raises(OSError, match="could not download http://127") as caught:
            download(f"http://127.0.0.1:{listener.getsockname()[1]}/x", SHA256, target)
    assert str(caught.value).isprintable()
