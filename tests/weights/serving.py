"""A server of files on the loopback address, which can break off."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves ``files``, and records the names it was asked for.

    ``cut`` is the number of bytes after which it closes the connection.
    """

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/"
        self.files = {}
        self.cut = None
        self.asked = []


class Handler(BaseHTTPRequestHandler):
    owner: FileServer

    def do_GET(self):
        name = self.path.lstrip("/")
        self.owner.asked.append(name)
        content = self.owner.files.get(name)
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.owner.cut])
        return None

    def log_message(self, *args):
        pass


@contextmanager
def serve():
    handler = type("OwnedHandler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.owner = FileServer(server.server_port)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield handler.owner
    finally:
        server.shutdown()
        server.server_close()


def without_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
