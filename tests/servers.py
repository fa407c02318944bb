"""A web server on loopback, whose every request a test answers."""

import http.server
import threading

# How `Files` can spoil whatever it is asked, and what is said of a server that goes on like that.
FAILING = [
    (503, r"the server is failing \(HTTP 503\); try again"),
    ("cut", "what the server sends is cut short or not what was asked for; try again"),
    ("reset", "what the server sends is cut short or not what was asked for; try again"),
]


class Answering:
    """Runs while it is entered; `answer` is given each request's handler, in a thread of its own."""

    def __enter__(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement of its headers

            def log_message(self, *_):
                pass

            def answer(self):
                outer.answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.port = self._server.server_port
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler):
        raise NotImplementedError


class Files(Answering):
    """Sends the files of a folder, or ranges of them, and spoils the next of some requests.

    Args:
        folder: what is sent.
    """

    def __init__(self, folder):
        self.folder, self.faults, self.asked, self._lock = folder, [], [], threading.Lock()
        self.stalled, self.go_on = threading.Event(), threading.Event()  # of an answer that is half sent

    def __enter__(self):
        super().__enter__()
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def spoil(self, path, fault, times=1):
        """Answer the next GET requests for a path that ends so with 503, "reset", "cut", "stall" or "whole"; None is as
        it should be."""
        self.faults += [(path, fault)] * times

    def gets(self, path):
        """How often files whose path ends so were asked for their content."""
        return sum(found.endswith(path) for found in self.asked)

    def answer(self, handler):
        path = self.folder / handler.path.lstrip("/")
        fault = None
        if handler.command == "GET":
            with self._lock:
                self.asked.append(f"{handler.headers.get('Range')} {handler.path}")
                hit = next((number for number, (end, _) in enumerate(self.faults) if handler.path.endswith(end)), None)
                fault = None if hit is None else self.faults.pop(hit)[1]
        if fault == "reset":
            handler.close_connection = True
            return
        if fault == 503 or not path.is_file():
            handler.send_response(fault or 404)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        content = path.read_bytes()
        size, asked = len(content), handler.headers.get("Range")
        handler.send_response(206 if asked and fault != "whole" else 200)
        if asked and fault != "whole":
            begin, end = map(int, asked.removeprefix("bytes=").split("-"))
            content = content[begin : end + 1]
            handler.send_header("Content-Range", f"bytes {begin}-{begin + len(content) - 1}/{size}")
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if fault in ("cut", "stall"):
            handler.wfile.write(content[: len(content) // 2])
            handler.wfile.flush()
            if fault == "stall":
                self.stalled.set()
                self.go_on.wait(60)
            handler.close_connection = True
            return
        handler.wfile.write(content)
