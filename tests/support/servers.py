"""Servers of static files and buckets, started on loopback; see test_storage."""

import functools
import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A static server with byte ranges, which Python's own has not; it counts the bytes that it sends."""

    protocol_version = "HTTP/1.1"
    sent = 0
    wrong = ""  # how it misbehaves
    meeting: threading.Barrier | None = None  # of requests that must all be there before one is answered

    def do_GET(self) -> None:
        if self.meeting:
            self.meeting.wait(60)
        path = Path(self.translate_path(self.path))
        if self.wrong == "redirects":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        first, last = 0, len(data) - 1
        if "Range" in self.headers:
            begin, end = self.headers["Range"].removeprefix("bytes=").split("-")
            first, last = int(begin), min(int(end or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            self.send_response(200)
        part = data[first : last + 1]
        type(self).sent += len(part)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.wrong == "stops":
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            return
        self.wfile.write(part[::-1] if self.wrong == "lies" else part)

    def do_HEAD(self) -> None:
        path = Path(self.translate_path(self.path))
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def ranges(folder: Path) -> Iterator[str]:
    """`Ranges`, in a thread."""
    handler = functools.partial(Ranges, directory=str(folder))
    Ranges.sent, Ranges.wrong, Ranges.meeting = 0, "", None
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{served.server_port}"
    finally:
        served.shutdown()
        served.server_close()


def installed(name: str) -> str | None:
    """Where a server's program is; Debian's are where an ordinary user's PATH may not lead."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


_NGINX = """\
daemon off; worker_processes 1; pid {work}/pid; error_log stderr;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
{user}
"""


@contextmanager
def nginx(folder: Path, work: Path) -> Iterator[str]:
    """nginx, with nothing but a root; what it writes goes to `work`."""
    port = _free_port()
    user = "user root;" if os.geteuid() == 0 else ""  # else it would not see what only root may read
    work.mkdir()
    text = _NGINX.format(work=work, port=port, folder=folder, user=user)
    (work / "nginx.conf").write_text(text, encoding="utf-8")
    with _running([installed("nginx") or "", "-e", "stderr", "-c", str(work / "nginx.conf")], port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def moto() -> Iterator[str]:
    """An empty S3, by moto."""
    port = _free_port()
    with _running([installed("moto_server") or "", "-H", "127.0.0.1", "-p", str(port)], port):
        yield f"http://127.0.0.1:{port}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _running(call: list[str], port: int) -> Iterator[None]:
    """A server's process, from its first answer on."""
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10).close()
            except urllib.error.HTTPError as answer:
                answer.close()
            except OSError:
                time.sleep(0.05)
                continue
            break
        else:
            assert process.stderr is not None
            raise AssertionError(process.stderr.read().decode())
        yield
    finally:
        process.terminate()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
