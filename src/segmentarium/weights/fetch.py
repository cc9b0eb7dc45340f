"""Fetching published checkpoints: from listed hosts, resumed, compared with what is known of their hash, kept once.

A file lies in the cache folder under "weights/NAME/", beside it `origin.json`: address, size, full SHA-256, licence, whether it
was accepted.  The hash of the first download is enforced from then on.  Nothing else is sent than the request itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any

from segmentarium.files import atomic_write, cache_folder, write_json
from segmentarium.weights.published import Published

HOSTS = frozenset(
    {
        "cdn.openai.com",
        "cloud.tsinghua.edu.cn",
        "dl.fbaipublicfiles.com",
        "download.openmmlab.com",
        "download.pytorch.org",
        "github.com",
        "huggingface.co",
        "paddleseg.bj.bcebos.com",
        "s3.us-west-1.wasabisys.com",
        "www.dropbox.com",
        "www.rocq.inria.fr",
    }
)
# where those send one on to
REDIRECTS = re.compile(
    r"(?:.*\.)?(?:githubusercontent\.com|dropboxusercontent\.com|hf\.co|huggingface\.co|tsinghua\.edu\.cn)"
)
CHUNK = 2**20
TIMEOUT = 30.0  # seconds without a byte
LARGEST = 8 * 2**30  # bytes of a checkpoint
HARD = (
    "torchvision",
    "official:zhanghang1989/ResNeSt",
)  # whose digits are those of the file, as their own loader checks
ORIGIN = "origin.json"


class FetchError(OSError):
    """A checkpoint that cannot be fetched, or is not what was published."""


class LicenceError(PermissionError):
    """A checkpoint whose licence is not free, or not stated, and that nobody accepted."""


def on_list(address: str, *, redirected: bool = False) -> bool:
    """Whether an address may be asked: HTTPS, of a listed host, or where such a host may redirect to."""
    parts = urllib.parse.urlsplit(address)
    host = parts.hostname or ""
    if parts.scheme != "https" or parts.username is not None or parts.port not in (None, 443):
        return False
    return host in HOSTS or (redirected and REDIRECTS.fullmatch(host) is not None)


class _ListedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows to listed hosts alone."""

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self.allowed = allowed

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not self.allowed(newurl):
            raise FetchError(
                f"{req.full_url} redirects to {urllib.parse.urlsplit(newurl).netloc}, which is no listed host"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def direct(address: str) -> str:
    """The address of the file itself, where the published one is of a page about it."""
    if address.startswith("https://huggingface.co/"):
        return address.replace("/blob/", "/resolve/", 1)
    if address.startswith("https://www.dropbox.com/"):
        return re.sub(r"\bdl=0\b", "dl=1", address)
    return address


def mirrored(address: str) -> str:
    """The same file on $SEGMENTARIUM_MIRROR, which holds it under HOST/PATH, if one is set."""
    mirror = os.environ.get("SEGMENTARIUM_MIRROR", "").rstrip("/")
    return f"{mirror}/{address.removeprefix('https://')}" if mirror else address


def is_offline() -> bool:
    return any(
        os.environ.get(name, "0").lower() in ("1", "true", "yes") for name in ("SEGMENTARIUM_OFFLINE", "HF_HUB_OFFLINE")
    )


def folder_of(name: str) -> Path:
    """Where the file of this name lies, or will."""
    return cache_folder() / "weights" / name


def _lock_of(name: str) -> Path:
    """Beside the folder of this name, and of this name alone: before its point stands the model, whose files are many."""
    return folder_of(name).with_name(f"{name}.lock")


def _noted(name: str) -> dict[str, Any] | None:
    """What was written down of the file of this name when it was kept, whether or not it still is."""
    with suppress(OSError, ValueError):
        return json.loads((folder_of(name) / ORIGIN).read_text("utf-8"))
    return None


def origin_of(name: str) -> dict[str, Any] | None:
    """What is known of the kept file of this name; None: it is not here."""
    said = _noted(name)
    return said if said and (folder_of(name) / said["file"]).is_file() else None


def remove(name: str) -> int:
    """Deletes the kept file of this name -> bytes freed; 0: there was none."""
    folder = folder_of(name)
    freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    if folder.is_dir():
        shutil.rmtree(folder)
    return freed


def consented(row: Published, accept_licence: bool) -> None:
    """Raises LicenceError where the licence asks for consent and there is none."""
    accepted = accept_licence or os.environ.get("SEGMENTARIUM_ACCEPT_LICENCE", "0") == "1"
    if not row.commercial and not accepted:
        raise LicenceError(
            f"{row.name}: licence of the weights: {row.licence or 'none is stated'}. Fetch it once with `segmentarium weights "
            f"--get {row.name} --accept-licence` (in Python accept_licence=True) if you may use it"
        )


def fetch(row: Published, *, accept_licence: bool = False, progress: bool = True) -> Path:
    """The file of a published checkpoint, from the cache or fetched -> its path.

    accept_licence   consent to a licence that is not free or not stated; a kept file is asked for no more
    progress         a bar on stderr, and size and licence before it

    Raises LicenceError, FetchError: offline, a page that a person must open, a host that is not listed, another hash.
    """
    from filelock import FileLock

    if kept := _kept(row):
        return kept
    consented(row, accept_licence)
    if row.page:
        raise FetchError(
            f"{row.name} lies behind a page that a person must open: {row.page}. Download the file ({row.note}) there, then "
            f"`segmentarium weights --get {row.name} --file PATH`"
        )
    if is_offline():
        raise FetchError(
            f"{row.name} is not in {cache_folder()}, and this machine is told to be offline: fetch it elsewhere"
        )
    folder = folder_of(row.name)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(_lock_of(row.name)):  # another process may be fetching the same
        if kept := _kept(row):
            return kept
        if row.address.startswith("hf:"):
            return _from_hub(row)
        address = direct(row.address)
        if not on_list(address):
            raise FetchError(f"{row.name}: {urllib.parse.urlsplit(address).netloc or address!r} is no listed host")
        target = folder / _file_name(address)
        _download(mirrored(address), target, row, progress)
        return _keep(row, target, address)


def take(row: Published, path: Path, *, accept_licence: bool = False) -> Path:
    """Keeps a file that a person downloaded as that of this name -> its path in the cache.

    Raises LicenceError, FileNotFoundError, and FetchError for another file than was published or kept, which changes nothing.
    """
    consented(row, accept_licence)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    target = folder_of(row.name) / path.name
    with atomic_write(target) as temporary:
        shutil.copyfile(path, temporary)
        digest = _checked(row, temporary)  # before it takes the place of what is kept
    return _keep(row, target, row.page or row.address, digest)


def _kept(row: Published) -> Path | None:
    said = origin_of(row.name)
    if said is None:
        return None
    path = folder_of(row.name) / said["file"]
    if path.stat().st_size != said["size"]:
        raise FetchError(
            f"{path} has {path.stat().st_size} bytes, and had {said['size']} when it was fetched; "
            f"`segmentarium weights --remove {row.name}`, then fetch it again"
        )
    # a file that nobody touched since is not read once more
    if path.stat().st_mtime_ns != said.get("touched") and _sha256(path) != said["kept_sha256"]:
        raise FetchError(
            f"{path} is another file than was fetched: its SHA-256 changed; `segmentarium weights --remove {row.name}`, then "
            "fetch it again"
        )
    return path


def _file_name(address: str) -> str:
    name = urllib.parse.unquote(urllib.parse.urlsplit(address).path).rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name) or "weights"


def _download(address: str, target: Path, row: Published, progress: bool) -> None:
    """Into `target`, whole or not at all; goes on where an earlier attempt was cut off."""
    mirror = urllib.parse.urlsplit(os.environ.get("SEGMENTARIUM_MIRROR", "")).netloc  # whoever names one trusts it

    def allowed(address: str) -> bool:
        return urllib.parse.urlsplit(address).netloc == mirror != "" or on_list(address, redirected=True)

    opener = urllib.request.build_opener(_ListedRedirects(allowed))
    part = target.with_name(f"{target.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"User-Agent": "segmentarium"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            resumed = have and answer.status == 206
            total = int(answer.headers.get("Content-Length") or 0) + (have if resumed else 0)
            if total > LARGEST:
                raise FetchError(
                    f"{row.name} has {total / 2**30:.1f} GB; more than {LARGEST / 2**30:.0f} GB is not fetched"
                )
            with part.open("ab" if resumed else "wb") as file:
                _copy(answer, file, have if resumed else 0, total, row, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to fetch
            part.replace(target)
            return
        raise FetchError(f"{row.name}: {address} answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        if isinstance(reason := getattr(error, "reason", error), FetchError):
            raise reason from None
        raise FetchError(
            f"{row.name}: {address} cannot be reached ({reason}); what came is kept, and the next attempt goes on from there"
        ) from None
    if total and part.stat().st_size != total:
        raise FetchError(
            f"{row.name}: {part.stat().st_size} of {total} bytes came; they are kept, and the next attempt goes on from there"
        )
    part.replace(target)


def _copy(answer: Any, file: IO[bytes], done: int, total: int, row: Published, progress: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True, quiet=not progress)
    size = f"{total / 2**20:.1f} MB" if total else "of unknown size"
    console.print(f"{row.name}: {size}; licence of the weights: {row.licence or 'none is stated'}", highlight=False)
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not progress, transient=True) as bar:
        task = bar.add_task("", total=total or None, completed=done)
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            if done > LARGEST:
                raise FetchError(f"{row.name} is longer than {LARGEST / 2**30:.0f} GB; the rest is not fetched")
            bar.update(task, completed=done)


def _from_hub(row: Published) -> Path:
    """Safetensors where the repository has them, else the pickle; at the revision that was kept first."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = row.address.removeprefix("hf:").partition("@")
    folder = folder_of(row.name)
    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            found = hf_hub_download(repository, name, revision=revision or None, cache_dir=folder / "hub")
        except EntryNotFoundError:
            continue
        snapshot = Path(found).parent
        with suppress(EntryNotFoundError):  # says the classes
            hf_hub_download(repository, "config.json", revision=snapshot.name, cache_dir=folder / "hub")
        return _keep(row, Path(found), row.address, revision=snapshot.name)
    raise FetchError(f"{row.name}: {repository} has neither model.safetensors nor pytorch_model.bin")


def _checked(row: Published, path: Path) -> str:
    """The SHA-256 of a file.  FetchError where it is known to be another's."""
    digest = _sha256(path)
    digits = row.digits.rstrip("?")
    earlier = (_noted(row.name) or {}).get("sha256")
    if earlier not in (None, digest):
        raise FetchError(f"{row.name}: the file has SHA-256 {digest}, and had {earlier} when it was first fetched")
    if digits and not digest.startswith(digits) and not row.digits.endswith("?"):
        said = f"{row.name}: the file has SHA-256 {digest}, and {digits}… is published"
        if len(digits) == 64 or row.layout in HARD:
            raise FetchError(f"{said}; it was not kept")
        import warnings

        warnings.warn(f"{said}; their tools do not always write the file's own", stacklevel=5)
    return digest


def _keep(row: Published, path: Path, address: str, digest: str | None = None, **more: Any) -> Path:
    """Compares the hash with what is known of it, unpacks an archive, and notes where the file came from.

    digest  of the file, where it was compared already

    Raises FetchError for another file than is known, and for an archive that cannot be read: neither is kept.
    """
    try:
        digest = digest or _checked(row, path)
    except FetchError:
        path.unlink()
        raise
    kept = digest
    try:
        if path.suffix == ".zip" and not _is_torch(path):
            path = _unpacked(path)
            kept = _sha256(path)
    except zipfile.BadZipFile as error:
        path.unlink()
        raise FetchError(f"{row.name}: {path.name} is no archive that can be read ({error}); it was not kept") from None
    folder = folder_of(row.name)
    said = {
        "file": str(path.relative_to(folder)),
        "size": path.stat().st_size,
        "touched": path.stat().st_mtime_ns,
        "sha256": digest,  # of what was fetched, an archive perhaps
        "kept_sha256": kept,
        "address": address,
        "licence": row.licence,
        **more,
    }
    write_json(folder / ORIGIN, said)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_torch(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _unpacked(path: Path) -> Path:
    """The one checkpoint in an archive, written beside it."""
    with zipfile.ZipFile(path) as archive:
        inside = [
            info for info in archive.infolist() if Path(info.filename).suffix in (".pth", ".pt", ".pdparams", ".tar")
        ]
        if len(inside) != 1 or inside[0].file_size > LARGEST:
            raise FetchError(f"{path} holds {len(inside)} checkpoints of known endings; one was expected")
        target = path.with_name(Path(inside[0].filename).name)
        with archive.open(inside[0]) as packed, atomic_write(target) as temporary, temporary.open("wb") as file:
            shutil.copyfileobj(packed, file, CHUNK)
    path.unlink()
    return target


def rows_kept(rows: Mapping[str, Published]) -> dict[str, int]:
    """Names whose file is in the cache -> its size in bytes."""
    return {name: said["size"] for name in rows if (said := origin_of(name)) is not None}
