# SPDX-License-Identifier: MIT
"""Files that nobody but their user, and root, can have made or exchanged.

A path is as trustworthy as the weakest place on its way: whoever may write to a directory can put another file of the
same user where this one was. So every directory and symbolic link that a path leads through is looked at, each opened
relative to the one before (openat(2)), so that what was checked is what is used.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from vm._errors import ModuleLoadError

#: As many as the kernel follows (path_resolution(7)).
_MAX_LINKS: Final = 40

_DIRECTORY: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# without O_NONBLOCK to open a FIFO would wait for its writer
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_owned(path: str) -> int:
    """Opens a file for reading; the caller closes the descriptor.

    Raises OSError if it cannot be opened, and `ModuleLoadError` unless

    * it is a regular file, not a symbolic link, with one name (link count 1);
    * it belongs to the effective user of this process, and neither group nor others may write it: root trusts files
      of root only, and nobody else trusts those;
    * every directory and every symbolic link that `path` leads through belongs to that user or to root;
    * neither group nor others may write any of those directories, unless it is sticky as /tmp is: entries of such a
      directory are their owners' alone.
    """
    components = _components(path)
    name = components.pop() if components else "."
    directory = _walk(path, components)
    try:
        try:
            file = os.open(name, _FILE, dir_fd=directory)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ModuleLoadError(path, "it is a symbolic link") from error
            raise _named(error, path) from error
    finally:
        os.close(directory)
    try:
        _check_file(path, os.fstat(file))
    except BaseException:
        os.close(file)
        raise
    return file


def check_directory(path: str) -> None:
    """Raises OSError if `path` is no directory, and `ModuleLoadError` if it, or one above it, is somebody else's."""
    os.close(_walk(path, _components(path)))


def _components(path: str) -> list[str]:
    if not path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    found = [name for name in path.split("/") if name not in ("", ".")]
    # a name with a slash behind it can only be a directory
    return [*found, "."] if path.endswith(("/", "/.")) else found


def _walk(path: str, components: list[str]) -> int:
    """A descriptor (O_PATH) of the directory that `components` lead to from where `path` starts."""
    start = "/" if path.startswith("/") else str(Path.cwd())
    # the way to the working directory counts, too
    pending = [*reversed(components), *reversed([name for name in start.split("/") if name])]
    links = 0
    current, shown = os.open("/", _DIRECTORY), "/"
    try:
        _check_directory(path, shown, os.fstat(current))
        while pending:
            name = pending.pop()
            try:
                following = os.open(name, _DIRECTORY, dir_fd=current)
            except OSError as error:
                raise _named(error, path) from error
            here = os.path.normpath(os.path.join(shown, name))  # noqa: PTH118 - a name for people
            try:
                status = os.fstat(following)
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    target = _follow(path, here, following, status, links)
                    pending += [step for step in reversed(target.split("/")) if step not in ("", ".")]
                    if target.startswith("/"):
                        os.close(current)
                        current, shown = os.open("/", _DIRECTORY), "/"
                    continue
                _check_directory(path, here, status)
                current, following = following, current
                shown = here
            finally:
                os.close(following)
    except BaseException:
        os.close(current)
        raise
    return current


def _follow(path: str, here: str, link: int, status: os.stat_result, count: int) -> str:
    """Where the symbolic link leads."""
    if count > _MAX_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    _check_owner(path, f"the symbolic link {here}", status)
    return os.readlink("", dir_fd=link)


def _check_directory(path: str, here: str, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), here)
    _check_owner(path, f"the directory {here}", status)
    writers = _writers(status)
    if writers and not status.st_mode & stat.S_ISVTX:
        raise ModuleLoadError(path, f"{writers} may write to the directory {here} (chmod go-w takes that away)")


def _check_owner(path: str, what: str, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise ModuleLoadError(path, f"{what} belongs to user {status.st_uid}, who can exchange what is behind it")


def _check_file(path: str, status: os.stat_result) -> None:
    user = os.geteuid()
    writers = _writers(status)
    if not stat.S_ISREG(status.st_mode):
        raise ModuleLoadError(path, "it is not a regular file")
    if status.st_uid != user:
        raise ModuleLoadError(path, f"it belongs to user {status.st_uid}, and this process is user {user}")
    if writers:
        raise ModuleLoadError(path, f"{writers} may write it (chmod go-w takes that away)")
    if status.st_nlink != 1:
        raise ModuleLoadError(path, f"it has {status.st_nlink} names, of which one may be in somebody else's directory")


def _writers(status: os.stat_result) -> str:
    """Who may write beside the owner, for people; an access control list counts as the group (acl(5))."""
    classes = {stat.S_IWGRP: "its group", stat.S_IWOTH: "others"}
    return " and ".join(name for bit, name in classes.items() if status.st_mode & bit)


def _named(error: OSError, path: str) -> OSError:
    """The same error, about the whole path."""
    return OSError(error.errno, error.strerror, path)
