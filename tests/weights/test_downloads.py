"""Downloads over a real connection: whole, checked, resumed."""

import hashlib
import random
import socket
import threading

import pytest
import torch

from cbam_lightning.weights import downloads
from cbam_lightning.weights.downloads import cache_folder, fetch, sha256_of
from tests.weights.serving import serve, without_proxies

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    without_proxies(monkeypatch)
    with serve() as server:
        server.files["net.bin"] = CONTENT
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "net.bin"


def part_of(target):
    return target.with_name(f"net.bin.{SHA256[:8]}.part")


def files(target):
    return {path.name for path in target.parent.iterdir()} - {"net.bin.lock"}


def test_the_file_arrives_whole_and_alone(server, target):
    assert fetch(server.url + "net.bin", SHA256, target) == target
    assert target.read_bytes() == CONTENT
    assert files(target) == {"net.bin"}
    assert sha256_of(target) == SHA256


def test_a_file_that_is_there_is_not_fetched_again(server, target):
    for _ in range(2):
        fetch(server.url + "net.bin", SHA256, target)
    assert server.asked == [None]


def test_a_file_that_rotted_is_fetched_again(server, target):
    fetch(server.url + "net.bin", SHA256, target)
    target.write_bytes(CONTENT[:-1])
    fetch(server.url + "net.bin", SHA256, target)
    assert target.read_bytes() == CONTENT


def test_a_cut_download_goes_on_where_it_stopped(server, target):
    server.cut = 100_000
    with pytest.raises(OSError, match=r"broke after 100000 of 300000 bytes; 100000 bytes are kept") as caught:
        fetch(server.url + "net.bin", SHA256, target)
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    with pytest.raises(OSError, match="200000 bytes are kept"):
        fetch(server.url + "net.bin", SHA256, target)
    server.cut = None
    fetch(server.url + "net.bin", SHA256, target)
    assert target.read_bytes() == CONTENT
    assert files(target) == {"net.bin"}
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_a_server_without_ranges_begins_again(server, target):
    server.ranges = False
    target.parent.mkdir()
    part_of(target).write_bytes(b"x" * 1000)
    fetch(server.url + "net.bin", SHA256, target)
    assert target.read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_a_part_that_is_complete_needs_no_more_bytes(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    fetch(server.url + "net.bin", SHA256, target)
    assert target.read_bytes() == CONTENT
    assert files(target) == {"net.bin"}


@pytest.mark.parametrize("beginning", [b"", b"another beginning", b"longer than the file" * 20_000])
def test_the_wrong_bytes_are_removed_and_the_next_time_is_right(server, target, beginning):
    target.parent.mkdir()
    part_of(target).write_bytes(beginning)
    server.files["net.bin"] = CONTENT if beginning else CONTENT[::-1]
    with pytest.raises(
        OSError, match=rf"is not the expected file: its SHA-256 is [0-9a-f]{{64}}, not {SHA256}"
    ):
        fetch(server.url + "net.bin", SHA256, target)
    assert files(target) == set()
    server.files["net.bin"] = CONTENT
    fetch(server.url + "net.bin", SHA256, target)
    assert target.read_bytes() == CONTENT


def test_the_wrong_file_does_not_replace_an_older_one(server, target):
    target.parent.mkdir()
    target.write_bytes(b"older")
    server.files["net.bin"] = b"wrong"
    with pytest.raises(OSError, match="not the expected file"):
        fetch(server.url + "net.bin", SHA256, target)
    assert target.read_bytes() == b"older"


def test_a_missing_file_is_named_with_its_status(server, target):
    with pytest.raises(OSError, match=rf"could not download {server.url}gone: HTTP Error 404"):
        fetch(server.url + "gone", SHA256, target)
    assert files(target) == set()


def test_no_server_is_one_line(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/net.bin"
    with pytest.raises(OSError, match=rf"could not download {url}: .*refused.*\.$"):
        fetch(url, SHA256, target)


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
            fetch(url, SHA256, target)
    assert "\n" not in str(caught.value)


def test_of_several_at_once_one_downloads(server, target):
    threads = [
        threading.Thread(target=fetch, args=(server.url + "net.bin", SHA256, target)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert server.asked == [None]


def test_bytes_are_written_in_chunks(server, target, monkeypatch):
    monkeypatch.setattr(downloads, "_CHUNK_BYTES", 1000)
    fetch(server.url + "net.bin", SHA256, target)
    assert target.read_bytes() == CONTENT


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
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/x", SHA256, target)
    assert str(caught.value).isprintable()
