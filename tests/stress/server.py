"""The server under attack: good pictures beside bombs, silence, foreign pages and readers that do not read.

python -m tests.stress.server --clients 50 --seconds 60
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
from PIL import Image

from tests.stress.hostile import bomb_files, encoded

ROOT = Path(__file__).resolve().parents[2]


def memory_of(pid: int) -> float:
    """Megabytes of a process; what it shares with others is divided among them.  0 for one that is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0.0


def children_of(pid: int) -> list[int]:
    """The decoders: threads start them, so each thread has its own."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (thread / "children").read_text().split())
    return found


def slope_of(seconds: list[float], sizes: list[float]) -> float:
    """Megabytes a minute, by least squares."""
    return 60 * float(np.polyfit(seconds, sizes, 1)[0])


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
    good, wrong, ending = Counter[int](), Counter[int](), threading.Event()
    waits: list[float] = []
    rows: list[tuple[float, float, float]] = []  # seconds, megabytes of the server, of its decoders

    def post(data: bytes, counts: Counter[int], **headers: str) -> None:
        body, kind = form(data, background="green", views="false")
        started = time.monotonic()
        try:
            client = HTTPConnection(*place, timeout=90)
            client.request("POST", "/v1/portrait", body, kind | headers)
            status = client.getresponse().status
        except (OSError, HTTPException):
            status = 0
        if ending.is_set():  # what is in flight when the server is told to end
            return
        counts[status] += 1
        if counts is good:
            waits.append(time.monotonic() - started)

    def work(data: bytes, counts: Counter[int], pause: float, **headers: str) -> None:
        while not ending.is_set():
            post(data, counts, **headers)
            ending.wait(pause)

    first = [threading.Thread(target=post, args=(photo, Counter())) for _ in range(8)]  # they start the decoders
    for thread in first:
        thread.start()
    for thread in first:
        thread.join()
    started = time.monotonic()
    ends = started + seconds
    threads = [threading.Thread(target=work, args=(photo, good, 0.0)) for _ in range(clients)]
    harmful = [*bomb_files().values()]
    threads += [threading.Thread(target=work, args=(data, wrong, 0.5)) for data in harmful[:4]]
    threads += [threading.Thread(target=work, args=(photo, wrong, 1.0), kwargs={"origin": "https://evil.example"})]
    silent = [socket.create_connection(place) for _ in range(150)]
    for one in silent[::2]:
        one.sendall(b"POST /v1/portrait HTTP/1.1\r\nHost: ")
    for thread in threads:
        thread.start()
    print(f"{'s':>4} {'server MB':>10} {'decoders MB':>12}")
    while (now := time.monotonic()) < ends:
        rows.append((now - started, memory_of(process.pid), sum(map(memory_of, children_of(process.pid)))))
        if len(rows) % 5 == 1:
            print("{:4.0f} {:10.0f} {:12.0f}".format(*rows[-1]), flush=True)
        time.sleep(max(0.0, now + 1 - time.monotonic()))
    tiny = form(bytes(10))[0]
    asked = socket.create_connection(place)
    asked.sendall(b"POST /v1/portrait HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n")
    asked.sendall(b"Content-Length: 1000000\r\n\r\n" + tiny[:20])  # an upload in flight
    ending.set()
    started = time.monotonic()
    process.terminate()
    process.wait(60)
    ended = time.monotonic() - started
    for thread in threads:
        thread.join()
    share = 100 * good[200] / max(1, sum(good.values()))
    late = sorted(waits)[int(0.99 * (len(waits) - 1))] if waits else 0.0
    answered = f"{sum(good.values())} good requests, {share:.2f} % answered {dict(good)}, 99 % within {late:.1f} s"
    print(f"server, {clients} clients for {seconds:g} s: {answered}; harmful ones {dict(wrong)}")
    later = [row for row in rows if row[0] > seconds / 3]  # the first third is for every thread to have had its turn
    if len(later) > 2:
        times, own, theirs = map(list, zip(*later, strict=True))
        grown = f"{slope_of(times, own):+.1f} MB a minute, its decoders {slope_of(times, theirs):+.1f}"
        print(f"    memory after the first third: the server {own[0]:.0f} to {own[-1]:.0f} MB, {grown}")
    else:
        print(f"    memory was looked at {len(rows)} times: this machine had no time for more")
    print(f"    SIGTERM with {clients} requests and an upload in flight: ended after {ended:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    server(given.clients, given.seconds)


if __name__ == "__main__":
    main()
