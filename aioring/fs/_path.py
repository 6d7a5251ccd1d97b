# SPDX-License-Identifier: MIT
"""`Path`: a path whose methods that go to the file system are awaited, with the names and results of anyio.Path."""

from __future__ import annotations

import errno
import os
import pathlib
import stat as modes
import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Self

from aioring._file_operations import Name
from aioring.fs import _names
from aioring.fs._open import Opening, open
from aioring.fs._running import in_thread

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# What is no file rather than an error, to pathlib.
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)


class Path(pathlib.PurePosixPath):
    """A `pathlib.PurePosixPath` with the methods of `pathlib.Path`, as coroutines and asynchronous iterators.

    Results and errors are those of `pathlib.Path`, with paths of this class. stat() and what is made of it, mkdir(),
    rename(), symlink_to(), unlink() and reading and writing are on the ring, the rest in a thread.
    """

    __slots__ = ()

    def _std(self) -> pathlib.Path:
        return pathlib.Path(self)

    def with_segments(self, *pathsegments: str | os.PathLike[str]) -> Self:
        """A path of this class from others (pathlib's from Python 3.12 on)."""
        return type(self)(*pathsegments)

    if sys.version_info >= (3, 13):

        @classmethod
        def from_uri(cls, uri: str) -> Self:
            """The path of a file: URI."""
            return cls(pathlib.Path.from_uri(uri))

    # ---- what is there -----------------------------------------------------------------------------------------

    async def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return await _names.stat(self, follow_symlinks=follow_symlinks)

    async def lstat(self) -> os.stat_result:
        return await _names.lstat(self)

    async def _has(self, test: Callable[[int], bool], *, follow_symlinks: bool = True) -> bool:
        try:
            return test((await self.stat(follow_symlinks=follow_symlinks)).st_mode)
        except OSError as error:
            if error.errno not in _NOTHING:
                raise
            return False
        except ValueError:  # no file has a NUL in its name
            return False

    async def exists(self) -> bool:
        return await self._has(lambda mode: True)

    async def is_dir(self) -> bool:
        return await self._has(modes.S_ISDIR)

    async def is_file(self) -> bool:
        return await self._has(modes.S_ISREG)

    async def is_symlink(self) -> bool:
        return await self._has(modes.S_ISLNK, follow_symlinks=False)

    async def is_block_device(self) -> bool:
        return await self._has(modes.S_ISBLK)

    async def is_char_device(self) -> bool:
        return await self._has(modes.S_ISCHR)

    async def is_fifo(self) -> bool:
        return await self._has(modes.S_ISFIFO)

    async def is_socket(self) -> bool:
        return await self._has(modes.S_ISSOCK)

    async def is_junction(self) -> bool:
        """False: those are of another system (pathlib's from Python 3.12 on)."""
        return False

    async def is_mount(self) -> bool:
        return await in_thread(self._std().is_mount)

    async def samefile(self, other_path: str | os.PathLike[str]) -> bool:
        return os.path.samestat(await self.stat(), await _names.stat(other_path))

    async def owner(self) -> str:
        return await in_thread(self._std().owner)

    async def group(self) -> str:
        return await in_thread(self._std().group)

    async def readlink(self) -> Self:
        return type(self)(await in_thread(os.readlink, self))

    # ---- where it is -------------------------------------------------------------------------------------------

    @classmethod
    async def cwd(cls) -> Self:
        return cls(await in_thread(os.getcwd))

    @classmethod
    async def home(cls) -> Self:
        return cls(await in_thread(pathlib.Path.home))

    async def absolute(self) -> Self:
        return type(self)(await in_thread(self._std().absolute))

    async def resolve(self, strict: bool = False) -> Self:
        return type(self)(await in_thread(self._std().resolve, strict))

    async def expanduser(self) -> Self:
        return type(self)(await in_thread(self._std().expanduser))

    # ---- directories -------------------------------------------------------------------------------------------

    async def iterdir(self) -> AsyncIterator[Self]:
        for name in await _names.listdir(self):
            yield self / name

    async def glob(self, pattern: str) -> AsyncIterator[Self]:
        for found in await in_thread(lambda: list(self._std().glob(pattern))):
            yield type(self)(found)

    async def rglob(self, pattern: str) -> AsyncIterator[Self]:
        for found in await in_thread(lambda: list(self._std().rglob(pattern))):
            yield type(self)(found)

    async def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> AsyncIterator[tuple[Self, list[str], list[str]]]:
        """As `aioring.fs.walk`, with the directory as a path."""
        async for top, directories, files in _names.walk(str(self), top_down, on_error, follow_symlinks):
            yield type(self)(top), directories, files

    async def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        try:
            await _names.mkdir(self, mode)
        except FileNotFoundError:
            if not parents or self.parent == self:
                raise
            await self.parent.mkdir(parents=True, exist_ok=True)
            await self.mkdir(mode, exist_ok=exist_ok)
        except OSError:
            if not exist_ok or not await self.is_dir():
                raise

    async def rmdir(self) -> None:
        await _names.rmdir(self)

    # ---- changing ----------------------------------------------------------------------------------------------

    async def rename(self, target: str | pathlib.PurePath) -> Self:
        await _names.rename(self, target)
        return type(self)(target)

    async def replace(self, target: str | pathlib.PurePath) -> Self:
        await _names.replace(self, target)
        return type(self)(target)

    async def unlink(self, missing_ok: bool = False) -> None:
        try:
            await _names.unlink(self)
        except FileNotFoundError:
            if not missing_ok:
                raise

    async def symlink_to(self, target: Name, target_is_directory: bool = False) -> None:
        """`target_is_directory` means nothing on Linux."""
        await _names.symlink(target, self)

    async def hardlink_to(self, target: Name) -> None:
        await _names.link(target, self)

    async def copy(self, target: str | os.PathLike[str], *, follow_symlinks: bool = True) -> Self:
        """Copy the file and its permissions, to a file or into a directory; the copy."""
        return type(self)(await _names.copy(self, target, follow_symlinks=follow_symlinks))

    async def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        await in_thread(self._std().touch, mode, exist_ok)

    async def chmod(self, mode: int, *, follow_symlinks: bool = True) -> None:
        await in_thread(os.chmod, self, mode, follow_symlinks=follow_symlinks)

    async def lchmod(self, mode: int) -> None:
        await self.chmod(mode, follow_symlinks=False)

    # ---- what is in it -----------------------------------------------------------------------------------------

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Opening[Any]:
        """As `aioring.fs.open`; to be awaited or entered."""
        return open(self, mode, buffering, encoding, errors, newline)

    async def read_bytes(self) -> bytes:
        async with open(self, "rb", 0) as file:
            return await file.readall()

    async def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        async with open(self, "r", -1, encoding, errors) as file:
            return await file.read()

    async def write_bytes(self, data: ReadableBuffer) -> int:
        view = memoryview(data)  # before the file is emptied
        async with open(self, "wb", 0) as file:
            return await file.write(view)

    async def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> int:
        if not isinstance(data, str):
            raise TypeError(f"data must be str, not {type(data).__name__}")
        async with open(self, "w", -1, encoding, errors, newline) as file:
            return await file.write(data)
