"""Hostile input by the thousand, for an hour when somebody has one: prints what docs/security.md promises, as it was measured.

    python -m tests.stress.hostile                                  # everything, shortened: some minutes
    python -m tests.stress.hostile fuzz --count 10000               # or bombs, weights, onnx, kills
    python -m tests.stress.hostile fuzz --start 4000 --count 10000  # goes on where a run was cut off: the files are the same
    python -m tests.stress.hostile fuzz bombs --by-the-clock        # on a machine that does nothing else

Nothing is asked of any other machine: who looks up a name or connects anywhere but to the loopback is told of as a fault.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SLOWEST = 5.0  # seconds for one file
ROOT = Path(__file__).resolve().parents[2]
looked_up: list[Any] = []


def watch_the_network() -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.getaddrinfo", "socket.connect") and "127.0.0.1" not in str(arguments):
            looked_up.append((event, str(arguments)[:80]))

    sys.addaudithook(hook)


def attempt(
    work: Callable[[], Any], stated: tuple[type[BaseException], ...], clock: Callable[[], float] = time.process_time
) -> str:
    """ "done", "refused", or what was wrong: another exception, slowness, a message of several lines.

    clock  in seconds of a processor: the machine may have other work
    """
    started = clock()
    try:
        work()
        found = "done"
    except stated as error:
        found = "refused" if "\n" not in str(error) else f"FAULT: a message of several lines: {str(error)[:80]!r}"
    except Exception as error:
        found = f"FAULT: {type(error).__name__}: {str(error)[:120]}"
    seconds = clock() - started
    return f"FAULT: {seconds:.1f} seconds" if seconds > SLOWEST else found


def told(name: str, found: Counter[str], started: float) -> None:
    faults = {text: count for text, count in found.items() if text.startswith("FAULT")}
    total, wrong = sum(found.values()), sum(faults.values())
    kinds = ", ".join(f"{count} {text}" for text, count in found.items() if text not in faults)
    print(f"{name}: {total - wrong} of {total} held ({kinds}) in {time.perf_counter() - started:.0f} s", flush=True)
    for text, count in faults.items():
        print(f"    {count} x {text}")


# pictures ---------------------------------------------------------------------------------------------------------------


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def honest() -> list[bytes]:
    """A picture in many of the ways that pictures are written."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    colour = Image.fromarray(pixels)
    grey, exif = colour.convert("L"), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return [
        *(encoded(colour, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI")),
        *(encoded(grey, kind) for kind in ("JPEG", "PNG", "TIFF", "JPEG2000")),
        encoded(colour, "JPEG", progressive=True, exif=exif),
        encoded(colour.convert("CMYK"), "JPEG"),
        encoded(colour, "PNG", exif=exif, icc_profile=bytes(200)),
        encoded(colour.convert("RGBA"), "PNG"),
        encoded(colour.quantize(16), "PNG"),
        encoded(deep, "PNG"),
        encoded(colour, "TIFF", compression="tiff_lzw", tile=(16, 16)),
        encoded(grey.convert("F"), "TIFF"),
        encoded(colour, "WEBP", lossless=True, exif=exif),
        encoded(colour, "GIF", save_all=True, append_images=[grey.convert("RGB")], comment=b"x"),
    ]


def fuzzed(count: int, seed: int = 0) -> Iterator[bytes]:
    """Honest files with bytes changed, cut out, doubled, joined, or cut off."""
    chance, start = random.Random(seed), honest()
    for _ in range(count):
        data = bytearray(chance.choice(start))
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            # mostly at the head, where the structure is
            place = chance.randrange(min(len(data), chance.choice((64, 400, len(data)))) or 1)
            kind = chance.randrange(6)
            if kind == 0:
                data[place] = chance.randrange(256)
            elif kind == 1:
                data[place : place + 4] = struct.pack(
                    chance.choice("<>") + "I", chance.choice((0, 1, 2**16, 2**31, 2**32 - 1))
                )
            elif kind == 2:
                del data[place : place + chance.randrange(1, 40)]
            elif kind == 3:
                data[place:place] = data[place : place + chance.randrange(1, 200)]
            elif kind == 4:
                data[place:place] = chance.randbytes(chance.randrange(1, 40))
            elif len(data) > 100 and chance.random() < 0.3:
                del data[place + 20 :]
            data = data or bytearray(b"\0")
        yield bytes(data)


def fuzz(count: int, start: int, clock: Callable[[], float]) -> None:
    """The files from number `start` to number `count`."""
    from segmentarium.data.image_io import ImageReadError, load_with_alpha, picture_shape, read_image
    from segmentarium.data.mask_io import LabelError, MaskEncoding, read_mask

    encodings = (MaskEncoding(256 - 1), MaskEncoding(2, colours={(0, 0, 0): 0, (255, 0, 0): 1}))
    found: Counter[str] = Counter()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.png"
        for number, data in enumerate(fuzzed(count)):
            if number < start:
                continue
            if number % 1000 == 0 and number > start:
                told(f"    files {start} to {number}", found, started)
            path.write_bytes(data)
            for read in (
                lambda: read_image(path, 50_000_000),
                lambda: picture_shape(path),
                lambda: load_with_alpha(path),
                partial(read_mask, path, encodings[len(data) % 2]),
            ):
                found[attempt(read, (ImageReadError, LabelError), clock)] += 1
    told(f"{count - start} fuzzed files through 4 readers", found, started)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def png(*chunks: bytes, width: int = 8, height: int = 8, depth: int = 8, kind: int = 2) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(chunks)
        + chunk(b"IDAT", zlib.compress(bytes(100_000)))
        + chunk(b"IEND", b"")
    )


def tiff(tags: dict[int, int], more: bytes = b"", kind: int = 4) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, value in sorted(tags.items()))
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(300, b"\0") + more


def tag_bomb(count: int, size: int) -> bytes:
    entries = b"".join(struct.pack("<HHII", (1000 + i) % 65_536, 1, size, 8) for i in range(count))
    return b"II*\0" + struct.pack("<I", size + 8) + bytes(size) + struct.pack("<H", count) + entries + bytes(4)


def bomb_files() -> dict[str, bytes]:
    """65 pictures, small as files, that ask for much."""
    red = Image.new("RGB", (8, 8), "red")
    found: dict[str, bytes] = {}
    for side in (512, 2000, 6000):
        data = encoded(Image.new("RGB", (side, side), "red"), "JPEG", progressive=True)
        start = data.rindex(b"\xff\xda")
        for count in (90, 300, 3000):
            found[f"{count} scans of {side} pixels"] = data[:start] + data[start:-2] * count + data[-2:]
    base = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 277: 1, 324: 300, 325: 4096}
    for tile in (4096, 20_000, 30_000, 60_000):
        for compression in (1, 5, 8):
            found[f"tile {tile} of compression {compression}"] = tiff(
                base | {322: tile, 323: tile, 259: compression}, bytes(4096)
            )
    for width, height in ((60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (7000, 7000), (6300, 6300)):
        found[f"PNG of {width} x {height}"] = png(width=width, height=height)
        found[f"TIFF of {width} x {height}"] = tiff(
            base | {256: width, 257: height, 278: height, 273: 300, 279: 4096}, bytes(4096)
        )
    gif = bytearray(encoded(Image.new("P", (4, 4)), "GIF"))
    for side in (20_000, 65_535):
        found[f"GIF screen of {side}"] = bytes(gif[:6] + struct.pack("<HH", side, side) + gif[10:])
        place = gif.index(b",", 13)
        found[f"GIF frame of {side}"] = bytes(gif[: place + 5] + struct.pack("<HH", side, side) + gif[place + 9 :])
    place = gif.index(b",", 13)
    for size in (2, 255):
        found[f"GIF comment in blocks of {size}"] = bytes(
            gif[:place] + b"!\xfe" + (bytes([size]) + b"x" * size) * (3_000_000 // (size + 1)) + b"\0" + gif[place:]
        )
    bmp = bytearray(encoded(red, "BMP"))
    for width, height in ((40_000, 40_000), (2**31 - 1, 2)):
        found[f"BMP of {width} x {height}"] = bytes(bmp[:18] + struct.pack("<ii", width, height) + bmp[26:])
    for count, size in ((3000, 60_000), (60_000, 60_000), (800, 10_000)):
        found[f"{count} tags of {size} bytes"] = tag_bomb(count, size)
    for count, size in ((800, 50_000), (2000, 30_000)):
        block = b"Exif\0\0" + tag_bomb(count, size)
        found[f"{count} tags in the EXIF of a PNG"] = png(chunk(b"eXIf", block[6:]))
        found[f"{count} tags in the EXIF of a WebP"] = encoded(red, "WEBP", exif=block)
        found[f"{count} tags in the EXIF of a JPEG"] = encoded(red, "JPEG", exif=block[:65_000])
    photo = bytearray(encoded(red, "JPEG"))
    place = photo.index(b"\xff\xc0") + 5
    for side in (7000, 30_000, 65_500):
        found[f"JPEG of {side}"] = bytes(photo[:place] + struct.pack(">HH", side, side) + photo[place + 4 :])
    zeros = zlib.compress(bytes(200_000_000))
    for name, kind, head in (
        ("zTXt", b"zTXt", b"k\0\0"),
        ("iTXt", b"iTXt", b"k\0\1\0\0\0"),
        ("iCCP", b"iCCP", b"k\0\0"),
        ("pixels", b"IDAT", b""),
    ):
        found[f"200 MB in {name}"] = png(chunk(kind, head + zeros))
    found["400 texts"] = png(*[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000)))] * 400)
    found["chunks"] = png(*[chunk(b"tEXt", b"k\0")] * 200_000)
    found["empty pixels"] = png(*[chunk(b"IDAT", b"")] * 200_000)
    found["segments"] = b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000 + encoded(red, "JPEG")[2:]
    found["markers"] = encoded(red, "JPEG")[:-2] + b"\xff\xfe\0\2" * 1_000_000 + b"\xff\xd9"
    found["fill"] = b"\xff\xd8" + b"\xff" * 3_000_000 + encoded(red, "JPEG")[2:]
    found["frames"] = encoded(
        red, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), (i % 256, i // 256, 0)) for i in range(2000)]
    )
    found["directories in a ring"] = tiff(base | {273: 300, 278: 64, 279: 4096, 34665: 8}, bytes(4096))
    found["samples"] = tiff(base | {277: 60_000, 273: 300, 279: 4096}, bytes(4096))
    found["strips"] = tiff(base | {278: 2**32 - 1, 273: 300, 279: 2**32 - 1}, bytes(4096))
    return found


def bombs(by_the_clock: bool) -> None:
    from segmentarium.web.decoding import Decoders
    from segmentarium.web.limits import DECODER, DECODING, Limits, Refused

    limits = Limits(workers=1)
    pool, found, started = Decoders(limits), Counter[str](), time.perf_counter()
    peak = 0
    pool.decode(honest()[0])
    for name, data in bomb_files().items():
        if not pool._idle:  # it was ended in time
            pool.decode(honest()[0])
        fields = Path(f"/proc/{pool._idle[0].pid}/stat")

        def clock(fields: Path = fields) -> float:
            try:
                return sum(map(int, fields.read_text().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
            except FileNotFoundError:
                return limits.decode_seconds if limits.decode_seconds > SLOWEST + 5 else 0.0

        used = time.perf_counter if by_the_clock else clock
        result = attempt(lambda data=data: pool.decode(data), (Refused,), used)
        if pool._idle:
            status = Path(f"/proc/{pool._idle[0].pid}/status").read_text()
            peak = max(peak, int(status.split("VmHWM:")[1].split()[0]) * 1024)
        found[result if not result.startswith("FAULT") else f"{result} ({name})"] += 1
    pool.close()
    told("bombs, by the clock" if by_the_clock else "bombs", found, started)
    print(
        f"    largest memory of a decoder {peak / 2**20:.0f} MB, of {(DECODER + DECODING * limits.pixels) / 2**20:.0f} allowed"
    )


# weights ----------------------------------------------------------------------------------------------------------------

WRONG: tuple[Any, ...] = (10**9, -1, 0, 1e400, float("nan"), "x", [], {}, [[[[0]]]], 2**70, "hf-hub:a/b", [3] * 3000)


def weights() -> None:
    import torch
    from safetensors.torch import load_file, save_file

    import segmentarium
    from segmentarium.weights import load, save

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        torch.manual_seed(0)
        model = segmentarium.create_model("fast_scnn", num_classes=2)
        save(model, path)
        whole, state = path.read_bytes(), load_file(path)
        length = int.from_bytes(whole[:8], "little")
        header = json.loads(json.loads(whole[8 : 8 + length])["__metadata__"]["segmentarium"])
        headers: list[Any] = []
        for key in ("num_classes", "in_channels", "backbone", "pretrained", "nonsense"):
            headers += [{**header, "arguments": {**header["arguments"], key: value}} for value in WRONG]
        for key, values in {
            "classes": (5, [1, 2], ["a"] * 3, None),
            "palette": ([[0, 0, -1], [0, 0, 0]], [[0, 0]], "red", [[1e400, 0, 0]] * 2),
            "preprocessing": (
                {},
                {"mean": [], "std": []},
                {"mean": [0] * 3, "std": [0] * 3},
                {"mean": [1e400] * 3, "std": [1] * 3},
            ),
            "model": (None, "no_such", 5, "../x"),
            "arguments": (None, [], "x", {"backbone_arguments": {"pretrained": True}}),
        }.items():
            headers += [{**header, key: value} for value in values]
        headers += [
            {**header, "preprocessing": {**header["preprocessing"], "long_side": side}} for side in (20_000, 10**9)
        ]
        texts = [json.dumps(one) for one in headers] + ["", "[" * 100_000, "null", "5"]
        found, started = Counter[str](), time.perf_counter()

        def tried() -> None:
            found[attempt(lambda: load(path), (ValueError, KeyError))] += 1

        for text in texts[:84]:
            save_file(state, path, metadata={"segmentarium": text})
            tried()
        broken = {
            key: torch.full_like(value, float("nan")) if value.is_floating_point() else value
            for key, value in state.items()
        }
        save_file(broken, path, metadata={"segmentarium": json.dumps(header)})
        tried()
        for data in (whole[:1000], struct.pack("<Q", 2**60) + whole[8:], os.urandom(5000)):
            path.write_bytes(data)
            tried()
        told("hostile safetensors", found, started)


# ONNX -------------------------------------------------------------------------------------------------------------------


def onnx() -> None:
    import onnx as package

    from segmentarium.matting.exported import ExportedPredictor

    helper, proto = package.helper, package.TensorProto
    numbers = lambda name, *values: helper.make_tensor(name, proto.INT64, [len(values)], values)  # noqa: E731

    def network(
        path: Path, nodes: Any = None, shape: Any = (1, 3, "h", "w"), more: Any = (), kind: int = 1, **facts: Any
    ) -> None:
        ends = [numbers("s", 0), numbers("e", 2), numbers("x", 1)]
        nodes = nodes or [helper.make_node("Slice", ["image", "s", "e", "x"], ["logits"])]
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("image", kind, shape)],
            [helper.make_tensor_value_info("logits", proto.FLOAT, None)], initializer=[*ends, *more],
        )  # fmt: skip
        model = helper.make_model(graph, producer_name="segmentarium", opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        said = {"classes": '["a", "b"]', "num_classes": "2", "in_channels": "3", "preprocessing": "null"}
        helper.set_model_props(
            model, said | {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
        )
        path.write_bytes(model.SerializeToString())

    found, started = Counter[str](), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "n.onnx"

        def tried() -> None:
            found[attempt(lambda: ExportedPredictor(path, foreground=1), (ValueError,))] += 1

        for key in ("classes", "num_classes", "in_channels", "preprocessing"):
            for value in (*WRONG, "[" * 100_000, "no JSON", [1, 2], {"mean": [0], "std": [0]}):
                network(path, **{key: value})
                tried()
        shapes = [(1, 3, 32, 32), (1, 3), (3, "h", "w"), (1, 4, "h", "w"), (2, 3, "h", "w"), ()]
        for shape in shapes:
            network(path, shape=shape)
            tried()
        for kind in (proto.UINT8, proto.INT64, proto.DOUBLE):
            network(path, kind=kind)
            tried()
        node = helper.make_node
        fill = [
            node("ConstantOfShape", ["n"], ["c"]),
            node("ReduceSum", ["c"], ["d"], keepdims=0),
            node("Add", ["image", "d"], ["logits"]),
        ]
        for side in (2**20, 2**31, 2**62):
            network(path, fill, more=[numbers("n", side, side)])
            tried()
            network(path, [node("Expand", ["image", "n"], ["logits"])], more=[numbers("n", side, 3, 1, 1)])
            tried()
            network(path, [node("Tile", ["image", "n"], ["logits"])], more=[numbers("n", side, 1, 1, 1)])
            tried()
        for nodes in (
            [node("ReduceSum", ["image"], ["logits"], keepdims=0)],
            [node("Shape", ["image"], ["logits"])],
            [node("NoSuch", ["image"], ["logits"])],
        ):
            network(path, nodes)
            tried()
        network(path)
        whole = path.read_bytes()
        for data in (b"", whole[:20], whole[:-30], os.urandom(1000), b"\x3a" + b"\xff" * 20):
            path.write_bytes(data)
            tried()
    told("hostile ONNX files", found, started)


# kills ------------------------------------------------------------------------------------------------------------------


def kills(count: int) -> None:
    import torch

    import segmentarium
    from segmentarium import files
    from segmentarium.files import write_json
    from segmentarium.weights import load, save

    torch.set_num_threads(1)
    model = segmentarium.create_model("fast_scnn", num_classes=2)
    chance, lost, started = random.Random(0), 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(model, folder / "last.safetensors")
        write_json(folder / "report.json", {"step": 0})
        for _ in range(count):
            if not (child := os.fork()):
                step = 0
                while True:
                    step += 1
                    save(model, folder / "last.safetensors")
                    write_json(folder / "report.json", {"step": step, "values": list(range(20_000))})
            time.sleep(chance.uniform(0.02, 0.3))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            try:
                load(folder / "last.safetensors")
                json.loads((folder / "report.json").read_text())
            except (OSError, ValueError):
                lost += 1
        left = len(list(folder.iterdir())) - 2
        time.sleep(files._YOUNG + 0.1)
        files._swept.clear()
        write_json(folder / "report.json", {"step": 0})
        after = len(list(folder.iterdir())) - 2
    print(
        f"{count} kills in writes: {lost} files lost, {left} files left behind, {after} after the next write", end=" "
    )
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=[], help="fuzz, bombs, weights, onnx, kills")
    parser.add_argument("--count", type=int, default=1000, help="fuzzed files (default: 1000)")
    parser.add_argument("--start", type=int, default=0, help="number of the first of them (default: 0)")
    parser.add_argument("--kills", type=int, default=40)
    text = "seconds are those of the clock; without it those that a processor computed, as machines have other work"
    parser.add_argument("--by-the-clock", action="store_true", help=text)
    given = parser.parse_args()
    watch_the_network()
    warnings.simplefilter("ignore")  # Pillow tells of damage as it goes
    clock = time.perf_counter if given.by_the_clock else time.process_time
    parts: dict[str, Callable[[], None]] = {
        "fuzz": lambda: fuzz(given.count, given.start, clock),
        "bombs": lambda: bombs(given.by_the_clock),
        "onnx": onnx,
        "weights": weights,
        "kills": lambda: kills(given.kills),
    }
    for name in given.what or parts:
        parts[name]()
    print(f"looked up or connected to elsewhere: {looked_up or 'nothing'}")


if __name__ == "__main__":
    main()
