"""What the results of key points have in common: a picture of them, what they are in plain data, and the files of both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from segmentarium.files import atomic_write, check_targets, png_bytes
from segmentarium.inference.result import check_kinds
from segmentarium.media.showing import Shown

if TYPE_CHECKING:
    from PIL import Image


class PointResult(Shown):
    """A subclass gives `name`, `overlay` and `as_dict`, and says which files it was made of.

    endings   kind of output -> how its file ends
    """

    endings: ClassVar[dict[str, str]]
    name: str

    @property
    def overlay(self) -> Image.Image:
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def made_of(self) -> tuple[Path | None, ...]:
        """The pictures' files, which `save` does not write over."""
        raise NotImplementedError

    @classmethod
    def files(
        cls,
        folder: str | Path,
        name: str,
        kinds: Sequence[str] | None = None,
        inputs: Iterable[Path | None] = (),
        *,
        overwrite: bool = False,
    ) -> dict[str, Path]:
        """Kind -> file of a result that is called `name`.  Raises ValueError for kinds that are not known, and what
        `check_targets` raises, so that it can be asked before any work is done."""
        kinds = tuple(cls.endings) if kinds is None else kinds
        check_kinds(kinds, tuple(cls.endings))
        paths = {kind: Path(folder) / f"{name}{cls.endings[kind]}" for kind in kinds}
        check_targets(paths.values(), inputs, overwrite=overwrite)
        return paths

    def encoded(self, kind: str) -> bytes:
        """The bytes of the file of one kind."""
        if kind == "json":
            return json.dumps(self.as_dict(), indent=1).encode()
        return png_bytes(self.overlay)

    def save(
        self,
        folder: str | Path,
        kinds: Sequence[str] | None = None,
        *,
        name: str | None = None,
        overwrite: bool = False,
    ) -> list[Path]:
        """Writes NAME and each kind's ending (`endings`) into `folder`, each whole or not at all; the files are returned.

        kinds      None: all
        name       instead of the result's own
        overwrite  files that are there are replaced; else FileExistsError is raised and nothing written
        """
        paths = self.files(folder, name or self.name, kinds, self.made_of(), overwrite=overwrite)
        for kind, path in paths.items():
            with atomic_write(path) as temporary:
                temporary.write_bytes(self.encoded(kind))
        return list(paths.values())
