"""Where pictures come from: paths, folders, globs, addresses, arrays, tensors, videos, the webcam.

`expand` turns a source into a list of `Item`s without reading any of them, so that one bad file stops nobody.
"""

from __future__ import annotations

import glob
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from segmentarium.data.bands import bands_of, picture_array
from segmentarium.data.finding import OTHER_SUFFIXES, files_below, head_of, is_clip, is_picture, name_below
from segmentarium.data.image_io import IMAGE_SUFFIXES, ImageReadError, load_with_alpha, to_8_bit, with_alpha
from segmentarium.files import free_name, shown

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts"})
LARGEST_DOWNLOAD = 200 * 2**20  # bytes
TIMEOUT = 30.0  # seconds without an answer
WHOLE_TIMEOUT = 300.0  # seconds from the first question to the last byte

Source = Any  # what `expand` takes; a tensor among it, whose type cannot be named without importing PyTorch


class VideoError(ValueError):
    """A video or camera that cannot be read; the message names it."""


class DamagedError(VideoError):
    """A video that was done up to where it is damaged or cut off."""

    def __init__(self, damage: str) -> None:
        super().__init__(f"{damage}; what came before it is done")


@dataclass(frozen=True)
class Item:
    """One picture, video or camera to come.

    kind   "picture", "video" or "webcam"
    name   of the output files
    load   a picture's pixels: (H, W, C) uint8, of one that is partly transparent (H, W, 4); it may be given the bits of deep
           values, as `to_8_bit` takes them
    path   of the file, if it is one; origin: how messages call it
    open   the bytes of a picture that is no file here, if it came as bytes
    """

    kind: str
    name: str
    origin: str
    load: Callable[..., np.ndarray] | None = None
    path: Path | None = None
    camera: int = 0
    open: Callable[[], BinaryIO] | None = None

    def load_with_alpha(self) -> np.ndarray:
        """A picture that is bytes or a file: (H, W, 3) uint8, or (H, W, 4) where a part of it is transparent.  ImageReadError."""
        source = self.path if self.open is None else self.open()
        assert source is not None
        return load_with_alpha(source)


def expand(source: Source) -> list[Item]:
    """All items of a source: a path, folder, glob, http(s) address, webcam number, picture, its bytes or an open file of them,
    array, tensor, "-" (the picture on standard input), or a list of them.

    A folder gives its pictures and videos, subfolders too, in alphabetical order; an item's name then has its subfolders, so
    that results lie as their pictures do.  Names are made unique.
    Raises FileNotFoundError for what is not there and ValueError for a folder or pattern without pictures.
    """
    return _unique(_expand(source))


def read_one(source: str | os.PathLike[str], bits: int | None = None) -> tuple[np.ndarray, str, Path | None]:
    """(pixels (H, W, C) uint8, name, file) of the one picture at a path or address; ValueError where it is not one.

    bits   of deep values, as `to_8_bit` takes them
    """
    items = expand(source)
    if len(items) != 1 or items[0].load is None:
        raise ValueError(f"{source} is not one picture; iterate over segmentarium.predict(source, model)")
    return items[0].load(bits), items[0].name, items[0].path


def _expand(source: Any) -> list[Item]:
    if isinstance(source, Item):
        return [source]
    if isinstance(source, bool):
        raise TypeError(f"source is {source}; give a path, a picture, or the number of a webcam")
    if isinstance(source, int):
        return [Item("webcam", f"webcam{source}", f"webcam {source}", camera=source)]
    if isinstance(source, Image.Image):
        picture = source
        return [Item("picture", "image", "<image>", lambda bits=None: _from_pillow(picture, bits))]
    if isinstance(source, np.ndarray) or _is_tensor(source):
        array = source
        return [Item("picture", "image", "<array>", lambda bits=None: to_array(array, bits))]
    if isinstance(source, str | os.PathLike):
        return _expand_path(os.fspath(source))
    if _is_file(source):  # read now, as who opened it may close it
        if not hasattr(source, "read"):
            return [_bytes(bytes(source), "image", "<bytes>")]
        name = getattr(source, "name", None)
        if not isinstance(name, str):
            return [_bytes(source.read(), "image", "<file>")]
        return [_bytes(source.read(), Path(name).stem.strip("<>") or "image", name)]
    if isinstance(source, Iterable):
        items = [item for one in source for item in _expand(one)]
        if not items:
            raise ValueError("the list of sources is empty; give at least one picture, folder or video")
        return items
    raise TypeError(
        f"source is a {type(source).__name__}; give a path, folder, glob, http(s) address, PIL image, "
        "(H, W), (H, W, 3) or (H, W, 4) uint8 array, (C, H, W) tensor, a picture's bytes or an open file of them, video, "
        "webcam number, or a list of them"
    )


def _bytes(data: Any, name: str, origin: str) -> Item:
    """The picture of a file's bytes."""
    if not isinstance(data, bytes):
        raise TypeError(f'{origin} gives {type(data).__name__}; open it for bytes, with open(path, "rb")')

    def opened() -> BinaryIO:
        if not data:
            raise ImageReadError(f"{origin} is empty; expected the bytes of a picture")
        stream = io.BytesIO(data)
        stream.name = origin
        return stream

    return _streamed(name, origin, opened)


def _streamed(name: str, origin: str, opened: Callable[[], BinaryIO]) -> Item:
    """A picture whose bytes `opened` gives."""
    return Item("picture", name, origin, lambda bits=None: load_with_alpha(opened(), bits), open=opened)


def _expand_path(text: str) -> list[Item]:
    if text == "-":
        return [_bytes(sys.stdin.buffer.read(), "stdin", "<standard input>")]
    if text.startswith(("http://", "https://")):
        name = Path(text.partition("?")[0]).stem or "image"
        return [_streamed(name, text, lambda: download(text))]
    path = Path(text)
    if path.is_dir():
        found = files_below(path, (), is_media)
        if not found:
            raise ValueError(
                f"{path} holds no pictures or videos; expected files like photo.jpg, photo.png, clip.mp4, …"
            )
        return [_file(p, path) for p in found]
    if path.is_file():
        return [_file(path)]
    if glob.has_magic(text):
        found = sorted(Path(p) for p in glob.glob(text, recursive=True) if Path(p).is_file())
        if not found:
            raise ValueError(f"no file fits {text!r}")
        return [_file(p) for p in found]
    if text.isdigit():
        return _expand(int(text))
    raise FileNotFoundError(f"{text} does not exist: it is neither a file, nor a folder, nor a pattern that fits files")


def watch(
    folder: Path, leave_out: Path | None = None, every: float = 1.0, stop: Callable[[], bool] = lambda: False
) -> Iterator[Item]:
    """The pictures and videos of a folder, and then those that come, until it is asked to stop; each when two looks found it of
    the same size, so that none is half written.  Their names differ; hidden files and folders are passed over, as in `expand`.

    leave_out  a folder in it that is not looked into, such as that of the results
    every      seconds between two looks
    stop       asked before each look
    """
    sizes: dict[Path, int] = {}
    given, taken = set[Path](), set[str]()
    while not stop():
        now = {}
        for path in files_below(folder, (), lambda path: path not in given and path.is_file() and is_media(path)):
            if leave_out is None or leave_out.resolve() not in path.resolve().parents:
                now[path] = path.stat().st_size
        for path in [path for path, size in now.items() if size and sizes.get(path) == size]:
            given.add(path)
            item = _file(path, folder)
            yield replace(item, name=free_name(item.name, taken))
        sizes = now
        time.sleep(every)


def is_media(path: Path) -> bool:
    """Whether a file is a picture or a clip: by its ending, else by how it begins."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES | OTHER_SUFFIXES:
        return suffix not in OTHER_SUFFIXES
    head = head_of(path)
    return is_picture(head) or is_clip(head)


def holds_clip(path: Path) -> bool:
    """Whether a file is a clip: by its ending, else by how it begins."""
    suffix = path.suffix.lower()
    return suffix in VIDEO_SUFFIXES or (suffix not in IMAGE_SUFFIXES and is_clip(head_of(path)))


def _file(path: Path, folder: Path | None = None) -> Item:
    """`folder`: the one that was asked for, whose subfolders stand in the item's name."""
    name = path.stem if folder is None else name_below(path, folder)
    if holds_clip(path):
        return Item("video", name, str(path), path=path)
    return Item("picture", name, str(path), lambda bits=None: picture_array(path, alpha=True, bits=bits), path)


def _unique(items: list[Item]) -> list[Item]:
    """The same with names that differ, also where the file system does not tell upper from lower case."""
    taken: set[str] = set()
    return [replace(item, name=free_name(item.name, taken)) for item in items]


def download(address: str) -> io.BytesIO:
    """The bytes at an http(s) address, 200 MB at the most, within five minutes.

    Raises ImageReadError where it does not answer, answers nonsense, or is too large or too slow.
    """
    data, problem = bytearray(), list[Exception]()
    ends = time.monotonic() + WHOLE_TIMEOUT

    def fetch() -> None:
        import urllib.request

        class WebAlone(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
                if not newurl.startswith(("http://", "https://")):
                    raise ValueError(f"it sends one on to {newurl[:80]!r}")
                return super().redirect_request(req, fp, code, msg, headers, newurl)

        try:
            request = urllib.request.Request(address, headers={"User-Agent": "segmentarium"})
            with urllib.request.build_opener(WebAlone).open(request, timeout=TIMEOUT) as answer:
                while (part := answer.read1(2**16)) and len(data) <= LARGEST_DOWNLOAD and time.monotonic() < ends:
                    data.extend(part)
                if not part and answer.length:
                    raise ValueError(f"it ends {answer.length:,} bytes early")
        except Exception as error:  # the protocol's own are of many kinds
            problem.append(error)

    # in a thread: a limit for each read does not end what drips, nor names that are looked up for ever
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(WHOLE_TIMEOUT)
    if thread.is_alive() or time.monotonic() >= ends:
        raise ImageReadError(f"{shown(address)} is not fetched within {WHOLE_TIMEOUT:g} seconds")
    if problem:
        reason = " ".join(str(problem[0]).split()) or type(problem[0]).__name__
        raise ImageReadError(f"{shown(address)} cannot be fetched: {shown(reason)}") from problem[0]
    if len(data) > LARGEST_DOWNLOAD:
        raise ImageReadError(
            f"{address} is larger than {LARGEST_DOWNLOAD // 2**20} MB; fetch it yourself and give the file"
        )
    stream = io.BytesIO(bytes(data))
    stream.name = address
    return stream


def _from_pillow(picture: Image.Image, bits: int | None = None) -> np.ndarray:
    picture.load()  # what stands behind the pixels, too: how they are turned
    return with_alpha(picture, bits=bits)


def _is_file(value: Any) -> bool:
    """Whether it is the bytes of a file, or one that is open."""
    return isinstance(value, bytes | bytearray | memoryview) or hasattr(value, "read")


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def to_array(image: Any, bits: int | None = None) -> np.ndarray:
    """A picture (H, W, C) uint8 of an array (H, W[, C]), a tensor (C, H, W) or (1, C, H, W), a file's bytes, or an open file.

    Floating-point values are taken as 0..1, whole numbers as those of files: by the bits that they need, or that are given.  Else
    TypeError or ValueError.
    """
    if isinstance(image, Image.Image):
        return _from_pillow(image, bits)
    if _is_file(image):
        (item,) = _expand(image)
        assert item.load is not None
        return item.load(bits)
    if _is_tensor(image):
        tensor = image.detach().cpu()
        if tensor.ndim == 4 and tensor.shape[0] == 1:
            tensor = tensor[0]
        if tensor.ndim != 3:
            raise ValueError(f"the tensor has the shape {tuple(image.shape)}; give (C, H, W), or (1, C, H, W)")
        image = tensor.permute(1, 2, 0).numpy()
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(
            f"the array has the shape {np.shape(image)}; give (H, W), (H, W, 3) or (H, W, 4), none of them 0"
        )
    if array.dtype.kind in "uib":
        return to_8_bit(array, bits)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN, too
            raise ValueError(f"the picture has values from {low:g} to {high:g}; floating-point pictures go from 0 to 1")
        return np.round(array.clip(0, 1) * 255).astype(np.uint8)
    raise TypeError(f"the picture has the type {array.dtype}; give whole numbers, or floating point (0..1)")


def own_alpha(array: np.ndarray, path: Path | None = None) -> np.ndarray | None:
    """(H, W) uint8 of a picture (H, W, C) that is partly transparent; None: it is not, or its fourth band is no alpha.

    path   of the file that it was read from, if it was: bands of a TIFF may be anything
    """
    if array.shape[2] != 4 or (path is not None and bands_of(path, pages=False) > 3):
        return None
    alpha = array[..., 3]
    return None if alpha.min() == 255 else alpha


def displayed(array: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H, W, 3) for drawing: grey repeated, further channels left out."""
    return array[..., :3] if array.shape[2] >= 3 else np.repeat(array[..., :1], 3, axis=2)
