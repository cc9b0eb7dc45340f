"""The server under attack: good pictures beside bombs, silence, foreign pages and readers that do not read.

python -m tests.stress.server --clients 50 --seconds 60
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
from PIL import Image

from tests.stress.hostile import bomb_files, encoded

ROOT = Path(__file__).resolve().parents[2]


def memory_of(pid: int) -> int:
    """Resident bytes of a process and its children."""
    total = 0
    for one in [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        with open(f"/proc/{one}/status") as file:
            total += next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))
    return total


def form(data: bytes, **fields: str) -> tuple[bytes, dict[str, str]]:
    parts = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    )
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + data + b"\r\n--x--\r\n"
    return parts + file, {"content-type": "multipart/form-data; boundary=x"}


def server(clients: int, seconds: float) -> None:
    """Good pictures of `clients` at a time, beside bombs, silent connections, readers that do not read, and foreign pages."""
    command = [
        sys.executable,
        "-m",
        "segmentarium",
        "serve",
        "--port",
        "0",
        "--models",
        "person",
        "--timeout",
        "60",
        "--queue",
        str(clients + 14),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    found = re.match(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
    assert found is not None
    place = ("127.0.0.1", int(found[1]))
    photo = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)), "JPEG")
    good, wrong, ends = Counter[int](), Counter[int](), float("inf")
    waits: list[float] = []
    memory: list[int] = []

    def post(data: bytes, counts: Counter[int], **headers: str) -> None:
        body, kind = form(data, background="green", views="false")
        started = time.monotonic()
        try:
            client = HTTPConnection(*place, timeout=90)
            client.request("POST", "/v1/portrait", body, kind | headers)
            counts[client.getresponse().status] += 1
            if counts is good:
                waits.append(time.monotonic() - started)
        except OSError:
            counts[0] += 1

    def work(data: bytes, counts: Counter[int], pause: float, **headers: str) -> None:
        while time.monotonic() < ends:
            post(data, counts, **headers)
            time.sleep(pause)

    post(photo, Counter())  # the first one starts a decoder
    ends = time.monotonic() + seconds
    threads = [threading.Thread(target=work, args=(photo, good, 0.0)) for _ in range(clients)]
    harmful = [*bomb_files().values()]
    threads += [threading.Thread(target=work, args=(data, wrong, 0.5)) for data in harmful[:4]]
    threads += [threading.Thread(target=work, args=(photo, wrong, 1.0), kwargs={"origin": "https://evil.example"})]
    silent = [socket.create_connection(place) for _ in range(150)]
    for one in silent[::2]:
        one.sendall(b"POST /v1/portrait HTTP/1.1\r\nHost: ")
    for thread in threads:
        thread.start()
    while time.monotonic() < ends:
        memory.append(memory_of(process.pid))
        time.sleep(1)
    for thread in threads:
        thread.join()
    tiny = form(bytes(10))[0]
    asked = socket.create_connection(place)
    asked.sendall(b"POST /v1/portrait HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n")
    asked.sendall(b"Content-Length: 1000000\r\n\r\n" + tiny[:20])  # an upload in flight
    started = time.monotonic()
    process.terminate()
    process.wait(60)
    share = 100 * good[200] / max(1, sum(good.values()))
    late = sorted(waits)[int(0.99 * (len(waits) - 1))] if waits else 0.0
    half = len(memory) // 2
    answered = f"{sum(good.values())} good requests, {share:.2f} % answered {dict(good)}, 99 % within {late:.1f} s"
    print(f"server, {clients} clients for {seconds:g} s: {answered}; harmful ones {dict(wrong)}")
    sizes = [round(memory[i] / 2**20) for i in (min(2, len(memory) - 1), half, -1)]
    ended = time.monotonic() - started
    print(f"    memory {sizes} MB; SIGTERM with an upload in flight: ended after {ended:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    server(given.clients, given.seconds)


if __name__ == "__main__":
    main()
