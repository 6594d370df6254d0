"""Files that are never half-written, folders that one process at a time writes into, and SHA256SUMS."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

SUMS = "SHA256SUMS"  # in the format of the program sha256sum
LOCK = ".lock"
PARTIAL = ".partial"  # what is being written


class FileError(ValueError):
    """A file or folder that cannot be used; the message says which, and what to do."""


def write(files: dict[Path, bytes]) -> None:
    """Write files so that no reader and no crash meets half a file.

    None of them takes its place before all are written, so that a full disk leaves the old ones. OSError if it fails.
    """
    partials = {path: path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}") for path in files}
    try:
        for path, content in files.items():
            with open(partials[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, partial in partials.items():
            os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def sums(files: dict[str, bytes]) -> bytes:
    """The content of SHA256SUMS for files by name."""
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()).encode()


def read_sums(folder: Path) -> dict[str, str]:
    """The checksum of each file that SHA256SUMS names. FileError if it is missing or damaged."""
    path = folder / SUMS
    try:
        *lines, end = path.read_text(encoding="utf-8").split("\n")
        if end:
            raise ValueError("its last line is cut")
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is missing or damaged: {error!r:.120}") from None


def weights_checksum(folder: Path) -> str:
    """What answers are bound to: the checksum of a run's weights, of all of them if they are in several files."""
    digests = [digest for name, digest in sorted(read_sums(folder).items()) if name.endswith(".safetensors")]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read_checked(folder: Path, name: str) -> bytes:
    """The content of a file, which must have the checksum that SHA256SUMS gives. FileError names what does not fit."""
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != read_sums(folder).get(name):
        raise FileError(
            f"{path} does not have the checksum that {SUMS} gives: it is damaged, edited, or being written; "
            f"see what `git status {folder}` says, or train again with --force"
        )
    return content


@contextmanager
def lock(folder: Path, wait: bool = False):
    """Make a folder, and keep other processes from writing into it. FileError if one does already, unless `wait`, or if
    nothing can be written there.

    The system releases the lock when the process ends, however it ends.
    """
    held = FileLock(folder / LOCK, timeout=-1 if wait else 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        raise FileError(f"another process is writing into {folder}: wait for it, or choose another --out") from None
    except OSError as error:
        advice = "" if wait else "; choose another folder with --out"
        raise FileError(f"cannot write into {folder}: {error.strerror}{advice}") from None
    try:
        for partial in folder.glob(f".*{PARTIAL}"):  # of a process that was killed
            partial.unlink(missing_ok=True)
        yield
    finally:
        held.release()


def is_locked(folder: Path) -> bool:
    """Whether another process is writing into a folder now."""
    try:
        with FileLock(folder / LOCK, timeout=0) if (folder / LOCK).exists() else nullcontext():
            return False
    except OSError as error:  # if nothing can be written there, who tries will say so
        return isinstance(error, Timeout)
