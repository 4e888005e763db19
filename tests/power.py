"""A disk that loses power: what a run wrote, and every state that may be left of it.

A write lasts once its file is synced; a name made, moved or removed lasts once its folder is
synced. Before that each is kept or dropped on its own, and what a file holds is all of it, nothing,
half, or zeros. Moves and exchanges happen or do not: no journaling file system tears one.
"""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

from caffe_l1.common import folder

TORN = ("all", "nothing", "half", "zeros")


@dataclass
class Name:
    """One operation on names: what each is from then on, an inode's number, or None."""

    folder: int
    names: dict[str, int | None]
    synced: bool = False


@dataclass
class Disk:
    """The tree as it was, and what has been done to it since."""

    root: Path
    names: dict[int, dict[str, int]] = field(default_factory=dict)  # of every folder, at first
    data: dict[int, bytes] = field(default_factory=dict)  # of every file, as written
    synced: set[int] = field(default_factory=set)  # files whose bytes last
    log: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self.top = inode(str(self.root))
        for path, folders, files in os.walk(str(self.root)):
            inner = self.names.setdefault(inode(path), {})
            for name in folders + files:
                inner[name] = inode(os.path.join(path, name))
            for name in files:
                number = inode(os.path.join(path, name))
                self.data[number] = Path(path, name).read_bytes()
                self.synced.add(number)


def inode(path: str) -> int:
    return os.lstat(path).st_ino


@contextlib.contextmanager
def recorded(root: Path) -> Iterator[Disk]:
    """Note every operation in this tree, with the inodes it was done to.

    An inode keeps its number to the end: every file is held open, so that none is given anew.
    """
    disk = Disk(root)
    real = {name: getattr(os, name) for name in
            ("open", "write", "fsync", "mkdir", "rmdir", "rename", "link", "unlink", "close")}
    real_renameat2 = folder.renameat2
    held: list[int] = []

    def where(dir_fd: int | None) -> int | None:
        if dir_fd is None:
            return None
        number = os.fstat(dir_fd).st_ino
        return number if number in disk.names else None

    def number_of(name: str, dir_fd: int) -> int:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_ino

    def note(dir_fd: int, names: dict[str, int | None]) -> None:
        disk.log.append(Name(os.fstat(dir_fd).st_ino, names))

    def open_(path, flags, mode=0o777, *, dir_fd=None):
        handle = real["open"](path, flags, mode, dir_fd=dir_fd)
        if where(dir_fd) is not None and flags & os.O_EXCL:
            number = os.fstat(handle).st_ino
            held.append(os.dup(handle))
            disk.data[number] = b""
            note(dir_fd, {path: number})
        return handle

    def write(handle, data):
        count = real["write"](handle, data)
        number = os.fstat(handle).st_ino
        if number in disk.data:
            disk.data[number] += bytes(data[:count])
            disk.log.append(("write", number, disk.data[number]))
        return count

    def fsync(handle):
        real["fsync"](handle)
        disk.log.append(("sync", os.fstat(handle).st_ino))

    def mkdir(path, mode=0o777, *, dir_fd=None):
        real["mkdir"](path, mode, dir_fd=dir_fd)
        if where(dir_fd) is not None:
            number = number_of(path, dir_fd)
            held.append(real["open"](path, os.O_RDONLY, dir_fd=dir_fd))
            disk.names[number] = {}
            note(dir_fd, {path: number})

    def remove(call, path, dir_fd):
        real[call](path, dir_fd=dir_fd)
        if where(dir_fd) is not None:
            note(dir_fd, {path: None})

    def rename(old, new, *, src_dir_fd=None, dst_dir_fd=None):
        number = number_of(old, src_dir_fd) if where(src_dir_fd) is not None else None
        real["rename"](old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if number is not None:
            note(src_dir_fd, {old: None, new: number})

    def link(old, new, *, src_dir_fd=None, dst_dir_fd=None, follow_symlinks=True):
        real["link"](old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd,
                     follow_symlinks=follow_symlinks)
        if where(src_dir_fd) is not None:
            note(src_dir_fd, {new: number_of(new, src_dir_fd)})

    def renameat2(dir_fd, old, new, flags):
        one = number_of(old, dir_fd)
        real_renameat2(dir_fd, old, new, flags)
        other = number_of(old, dir_fd) if flags == folder.EXCHANGE else None
        note(dir_fd, {old: other, new: one})

    fakes = {"open": open_, "write": write, "fsync": fsync, "mkdir": mkdir, "rename": rename,
             "link": link,
             "rmdir": lambda path, *, dir_fd=None: remove("rmdir", path, dir_fd),
             "unlink": lambda path, *, dir_fd=None: remove("unlink", path, dir_fd)}
    try:
        for name, fake in fakes.items():
            setattr(os, name, fake)
        folder.renameat2 = renameat2
        yield disk
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        folder.renameat2 = real_renameat2
        for handle in held:
            os.close(handle)


# What may be left


@dataclass
class Moment:
    """The disk when the power goes: what lasts, and what is kept or dropped."""

    names: list[Name]
    data: dict[int, bytes]
    unsynced: list[int]

    @property
    def pending(self) -> list[int]:
        return [index for index, name in enumerate(self.names) if not name.synced]


def moments(disk: Disk) -> Iterator[Moment]:
    """After each operation."""
    names: list[Name] = []
    data = {number: disk.data[number] for number in disk.synced}
    synced = set(disk.synced)
    yield Moment([], dict(data), [])
    for operation in disk.log:
        if isinstance(operation, Name):
            names.append(Name(operation.folder, operation.names))
            for number in operation.names.values():
                if number is not None and number not in disk.names:
                    data.setdefault(number, b"")
        elif operation[0] == "write":
            data[operation[1]] = operation[2]
            synced.discard(operation[1])
        else:
            synced.add(operation[1])
            for name in names:
                name.synced = name.synced or name.folder == operation[1]
        copies = [Name(name.folder, name.names, name.synced) for name in names]
        yield Moment(copies, dict(data), [number for number in data if number not in synced])


def choices(moment: Moment, random_ones: int, chance: random.Random) -> Iterator[tuple]:
    """Sets of what is kept, and how torn the files are: all sets if few, else a choice of them."""
    pending = moment.pending
    if len(pending) <= 4:
        sets = [{p for bit, p in enumerate(pending) if number >> bit & 1}
                for number in range(1 << len(pending))]
    else:
        sets = [set(), set(pending)]
        sets += [set(pending) - {p} for p in pending] + [{p} for p in pending]
        sets += [{p for p in pending if chance.random() < 0.5} for _ in range(random_ones)]
    for kept in sets:
        for torn in TORN if moment.unsynced else TORN[:1]:
            yield kept, torn


def materialise(disk: Disk, moment: Moment, kept: set, torn: str, root: Path) -> None:
    """Write this state of the disk as a tree."""
    names = {number: dict(inner) for number, inner in disk.names.items()}
    for index, operation in enumerate(moment.names):
        if operation.synced or index in kept:
            for name, number in operation.names.items():
                names[operation.folder].pop(name, None)
                if number is not None:
                    names[operation.folder][name] = number
    build(disk.top, names, moment, torn, root)


def build(number: int, names: dict, moment: Moment, torn: str, path: Path) -> None:
    path.mkdir()
    for name, inner in names[number].items():
        if inner in names:
            build(inner, names, moment, torn, path / name)
        else:
            data = moment.data.get(inner, b"")
            (path / name).write_bytes(left_of(data, torn) if inner in moment.unsynced else data)


def left_of(data: bytes, torn: str) -> bytes:
    return {"all": data, "nothing": b"", "half": data[: len(data) // 2],
            "zeros": bytes(len(data))}[torn]


def key_of(root: Path) -> tuple:
    """What makes two states one."""
    return tuple(sorted((str(p.relative_to(root)), p.read_bytes() if p.is_file() else None)
                        for p in root.rglob("*")))
