"""`dn2 serve` as a process of its own, and requests to it, written by hand where they are bad."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HEAVY = "{'torch', 'torchvision', 'timm', 'mlflow', 'sklearn', 'scipy', 'pandas', 'faiss'}"
CODE = f"""
import sys
from dn2.commands import run_main
code = run_main()
print('heavy:', *sorted({HEAVY} & set(sys.modules)))
sys.exit(code)
"""
BOUNDARY = "a-line-of-our-own"


def encode_form(files, field="images"):
    """Write a form of (name, content) pairs."""
    lines = []
    for name, content in files:
        head = f'Content-Disposition: form-data; name="{field}"; filename="{name}"'
        lines.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
JSON = {"content-type": "application/json"}


class Dn2Server:
    """Start `dn2 serve` on a free port; `errors` is the file with its stderr."""

    def __init__(self, detector, folder, *options):
        self.errors, self.output = folder / "stderr.txt", folder / "stdout.txt"
        with self.errors.open("wb") as errors, self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CODE, "serve", str(detector), "--port", "0", *options],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=errors,
            )
        until = time.monotonic() + 60
        while not (ready := re.search(r"http://127.0.0.1:(\d+) ", self.errors.read_text())):
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < until, self.errors.read_text()
            time.sleep(0.02)
        self.port = int(ready[1])

    def ask(self, method, path, body=None, headers=None):
        """Send a request: the status, and the JSON (or text) of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            is_json = answer.headers["content-type"] == "application/json"
            return answer.status, json.loads(content) if is_json else content.decode()
        finally:
            connection.close()

    def score(self, files, query=""):
        return self.ask("POST", f"/score{query}", encode_form(files), FORM)

    def connect(self, *headers, length=None):
        """Begin a request to /score by hand: a socket, to which the body is still to be sent."""
        opened = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        lines = ["POST /score HTTP/1.1", "host: here", *headers]
        lines += [] if length is None else [f"content-length: {length}"]
        opened.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return opened

    def stop(self, number=signal.SIGTERM):
        """Send a signal, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def status_of(opened):
    """Read the status and the JSON of the answer to a request made by hand."""
    answer = http.client.HTTPResponse(opened)
    answer.begin()
    return answer.status, json.loads(answer.read())
