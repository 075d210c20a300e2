"""A loopback HTTP server that can break off, resume or refuse: for tests of the download."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content, start, status = self.server.content, 0, 200
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        if asked and self.server.ranges:
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(status)
        if self.server.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.breaks_after is not None:
            body = body[: self.server.breaks_after]
            self.server.breaks_after = None
        self.wfile.write(body)
        if len(body) < len(content) - start:
            self.wfile.flush()
            self.server.before_break.wait(30)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[ThreadingHTTPServer]:
    """Serve `content` under every path of `server.url`; its attributes say how it misbehaves."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.status, server.ranges = content, 200, True
    server.length, server.breaks_after, server.requests = True, None, []
    server.before_break = threading.Event()  # cleared, it keeps a broken answer waiting
    server.before_break.set()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
