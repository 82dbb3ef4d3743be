"""Senders of live video on the loopback address, which send just what a test tells them."""

import socket
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Self

from vpp_deploy.video.closing import Closing

Step = bytes | float | Callable[[], object]
"""Bytes to send, seconds to be silent, or something to do."""

PATIENCE_S = 30.0
"""Longer than anything takes; only a test that fails waits for so long."""


class Sender(Closing):
    """Serves one TCP connection after the other, each by its script; closes the door after them.

    Silence ends when the sender is left, at the latest.
    """

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self._leaving = Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(PATIENCE_S)
        self._port: int = self._server.getsockname()[1]
        self._scripts = scripts
        self._thread = Thread(target=self._serve)

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        self._leaving.set()
        # What it may still be waiting for: a connection that nobody made.
        with socket.socket() as last:
            last.settimeout(1)
            last.connect_ex(("127.0.0.1", self._port))
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        with self._server as server:
            for i, script in enumerate(self._scripts):
                connection, _ = server.accept()
                if i == len(self._scripts) - 1:
                    server.close()
                if self._leaving.is_set():
                    connection.close()
                    return
                with connection:
                    self._play(connection, script)

    def _play(self, connection: socket.socket, script: Sequence[Step]) -> None:
        connection.settimeout(PATIENCE_S)
        for step in script:
            if isinstance(step, float):
                self._leaving.wait(step)
            elif isinstance(step, bytes):
                try:
                    connection.sendall(step)
                except OSError:  # the receiver has gone
                    return
            else:
                step()


class Repeating(Closing):
    """Sends a stream again and again, by UDP or to whoever connects by TCP, at its own pace."""

    def __init__(self, stream: bytes, num_frames: int, fps: float) -> None:
        self._chunks = [stream[i : i + 1316] for i in range(0, len(stream), 1316)]
        self._pause_s = num_frames / fps / len(self._chunks)
        self._stop = Event()
        self._thread = Thread(target=lambda: None)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def to_udp(self, port: int) -> Self:
        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                self._send(lambda chunk: out.sendto(chunk, ("127.0.0.1", port)))

        self._thread = Thread(target=send)
        return self

    def to_tcp(self, server: socket.socket) -> Self:
        def send() -> None:
            server.settimeout(PATIENCE_S)
            with server.accept()[0] as connection:
                connection.settimeout(PATIENCE_S)
                self._send(connection.sendall)

        self._thread = Thread(target=send)
        return self

    def _send(self, out: Callable[[bytes], object]) -> None:
        due_s = time.monotonic()
        while True:
            for chunk in self._chunks:
                try:
                    out(chunk)
                except OSError:  # nobody is there, or no longer
                    if self._stop.wait(0.1):
                        return
                due_s += self._pause_s
                if self._stop.wait(max(0.0, due_s - time.monotonic())):
                    return


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class WebServer(Closing):
    """Serves one body at every path, with or without saying how long it is."""

    def __init__(self, body: bytes, tells_length: bool) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                if tells_length:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the receiver has gone

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)
