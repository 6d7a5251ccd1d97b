# SPDX-License-Identifier: MIT
"""What the os module does to files by name: on the ring where there is an operation for it, else in a thread."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat as modes
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, AnyStr

from aioring._file_operations import Name, encode
from aioring._ring import Ring
from aioring.fs._running import in_thread, running_loop


async def _either(
    operation: str, on_ring: Callable[[Ring], Awaitable[None]], function: Callable[..., Any], *args: Any, **kwargs: Any
) -> None:
    """Do it on the ring, or where the kernel lacks the operation with `function` in a thread."""
    ring = running_loop().ring
    if ring.supports(operation):
        await on_ring(ring)
    else:
        await in_thread(function, *args, **kwargs)


async def stat(path: Name | int, *, follow_symlinks: bool = True) -> os.stat_result:
    """As os.stat()."""
    return await running_loop().ring.stat(path, follow_symlinks=follow_symlinks)


async def lstat(path: Name) -> os.stat_result:
    """As os.lstat()."""
    return await running_loop().ring.stat(path, follow_symlinks=False)


async def exists(path: Name | int) -> bool:
    """As os.path.exists()."""
    try:
        await stat(path)
    except (OSError, ValueError):
        return False
    return True


async def rename(src: Name, dst: Name) -> None:
    """As os.rename()."""
    await running_loop().ring.renameat(src, dst)


async def replace(src: Name, dst: Name) -> None:
    """As os.replace(), which on Linux is rename()."""
    await rename(src, dst)


async def unlink(path: Name) -> None:
    """As os.unlink()."""
    await running_loop().ring.unlinkat(path)


async def remove(path: Name) -> None:
    """As os.remove(), which is unlink()."""
    await unlink(path)


async def rmdir(path: Name) -> None:
    """As os.rmdir()."""
    await running_loop().ring.unlinkat(path, directory=True)


async def mkdir(path: Name, mode: int = 0o777) -> None:
    """As os.mkdir()."""
    await _either("mkdirat", lambda ring: ring.mkdirat(path, mode), os.mkdir, path, mode)


async def makedirs(path: Name, mode: int = 0o777, exist_ok: bool = False) -> None:
    """As os.makedirs()."""
    name = os.fspath(path)
    head, tail = os.path.split(name)
    if not tail:
        head, tail = os.path.split(head)
    if head and tail and not await exists(head):
        with contextlib.suppress(FileExistsError):  # another has made it meanwhile
            await makedirs(head, exist_ok=exist_ok)
        if tail in (os.curdir, os.curdir.encode()):
            return
    try:
        await mkdir(path, mode)
    except OSError:
        if not exist_ok or not await _is_directory(path):
            raise


async def _is_directory(path: Name) -> bool:
    try:
        return modes.S_ISDIR((await stat(path)).st_mode)
    except (OSError, ValueError):
        return False


async def symlink(src: Name, dst: Name) -> None:
    """As os.symlink()."""
    await _either("symlinkat", lambda ring: ring.symlinkat(src, dst), os.symlink, src, dst)


async def link(src: Name, dst: Name) -> None:
    """As os.link()."""
    await _either("linkat", lambda ring: ring.linkat(src, dst), os.link, src, dst)


async def readlink(path: Name) -> Any:
    """As os.readlink(), in a thread."""
    return await in_thread(os.readlink, path)


async def truncate(path: Name, length: int) -> None:
    """As os.truncate(), in a thread."""
    await in_thread(os.truncate, path, length)


async def listdir(path: Name = ".") -> list[Any]:
    """As os.listdir(), in a thread."""
    return await in_thread(os.listdir, path)


async def copy(src: Name, dst: Name, *, follow_symlinks: bool = True) -> Any:
    """As shutil.copy(), in a thread: file systems can copy without moving the data, and that is not for the ring."""
    encode(src)
    encode(dst)
    return await in_thread(shutil.copy, src, dst, follow_symlinks=follow_symlinks)


async def walk(
    top: AnyStr | os.PathLike[AnyStr],
    topdown: bool = True,
    onerror: Callable[[OSError], object] | None = None,
    followlinks: bool = False,
) -> AsyncIterator[tuple[AnyStr, list[AnyStr], list[AnyStr]]]:
    """As os.walk(): (directory, names of directories, names of files). A thread lists one directory at a time."""

    def list_one(path: AnyStr) -> tuple[list[AnyStr], list[AnyStr], set[AnyStr]]:
        directories: list[AnyStr] = []
        files: list[AnyStr] = []
        links: set[AnyStr] = set()
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    is_directory = entry.is_dir()
                except OSError:
                    is_directory = False
                (directories if is_directory else files).append(entry.name)
                if is_directory and entry.is_symlink():
                    links.add(entry.name)
        return directories, files, links

    path = os.fspath(top)
    try:
        directories, files, links = await in_thread(list_one, path)
    except OSError as error:
        if onerror is not None:
            onerror(error)
        return
    if topdown:
        yield path, directories, files
    # Top down: what the caller left in the list, where a link may have taken a directory's place meanwhile.
    for name in directories:
        below = os.path.join(path, name)  # noqa: PTH118  # bytes, too
        if followlinks or not (await in_thread(os.path.islink, below) if topdown else name in links):
            async for item in walk(below, topdown, onerror, followlinks):
                yield item
    if not topdown:
        yield path, directories, files
