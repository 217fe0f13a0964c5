"""Safe file names, atomic writes, and reads of regular files only."""

from __future__ import annotations

import errno
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_COPY_CHUNK = 1 << 20  # bytes; a larger buffer hashes and copies no faster
MAX_TEXT = 64 << 20  # bytes of a file that is read whole, such as a dumped event
_NAME_MAX = 255  # bytes, of one path component on every common file system
STEM_MAX = _NAME_MAX - len("-.json") - 36  # bytes before the unique id of a file {stem}-{unique id}.json
_WINDOWS = os.name == "nt"
_FORBIDDEN = frozenset('/\\:*?"<>|' if _WINDOWS else "/\\")
_DEVICES = frozenset(
    {"CON", "CONIN$", "CONOUT$", "PRN", "AUX", "NUL", *(f"{d}{n}" for d in ("COM", "LPT") for n in "123456789¹²³")}
)
_HEX_DIGITS = frozenset("0123456789abcdef")

# O_NONBLOCK: if a FIFO replaces the file between the check and the opening, the opening does not block.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class NotRegularError(OSError):
    """The path is not a regular file but a directory, a FIFO or a device. Name another file."""


def safe_name(name: str, limit: int = _NAME_MAX) -> str:
    """Return name as one path component that is safe on this system.

    A safe name is returned unchanged. In any other name, bad characters are replaced, and a hash of the original is
    added, so that two different names never become the same.

    :param name: any string
    :param limit: the longest result, in bytes
    """
    return name if _is_safe(name, limit) else hashed_name(name, limit)


def hashed_name(name: str, limit: int = _NAME_MAX) -> str:
    """Return ``STEM~HASH.EXT``: name made safe, with 16 hex digits that tell it from every other name."""
    import hashlib

    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    clean = "".join(c if c.isprintable() and c not in _FORBIDDEN else "_" for c in name)
    stem, extension = os.path.splitext(clean)
    if len(extension.encode()) > 16:
        stem, extension = clean, ""
    if _WINDOWS and _is_device(stem):
        stem = f"_{stem}"
    room = limit - len(f"~{digest}{extension}".encode())
    return f"{stem.encode()[:room].decode(errors='ignore')}~{digest}{extension.rstrip(' .')}"


def _is_safe(name: str, limit: int) -> bool:
    if not name or name in {".", ".."} or not name.isprintable() or not _FORBIDDEN.isdisjoint(name):
        return False
    if len(name.encode()) > limit or _is_hashed(name):
        return False
    return not _WINDOWS or not (name[-1] in " ." or _is_device(name))


def _is_device(name: str) -> bool:
    return name.partition(".")[0].rstrip(" ").upper() in _DEVICES


def _is_hashed(name: str) -> bool:
    """Return whether a name looks like one of `hashed_name`, with which it could collide."""
    if "~" not in name:
        return False
    name = name.lower()  # where case does not count, capitals would meet it too
    return any(n[-17:-16] == "~" and _HEX_DIGITS.issuperset(n[-16:]) for n in (name, os.path.splitext(name)[0]))


def absolute(path: str) -> str:
    """Return an absolute path, or the path unchanged if the working directory no longer exists."""
    try:
        return os.path.abspath(path)
    except OSError:
        return path


def open_regular(path: str, *, follow: bool = True) -> int:
    """Open a regular file for reading; return its descriptor.

    :param follow: whether a symbolic link may lead to it

    :raises NotRegularError: path leads to a directory, a FIFO, a device or a socket, none of which is opened
    :raises OSError: it is missing or may not be read
    """
    _require_regular(os.stat(path, follow_symlinks=follow).st_mode, path)
    fd = os.open(path, _READ if follow else _READ | getattr(os, "O_NOFOLLOW", 0))
    try:
        _require_regular(os.fstat(fd).st_mode, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_regular(path: str, *, follow: bool = True, limit: int = MAX_TEXT) -> bytes:
    """Return a regular file's content.

    :param limit: in bytes; a file that somebody else has made may be larger than the memory
    :raises OSError: as `open_regular`; or the file is larger
    """
    with open(open_regular(path, follow=follow), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"the file has {size} bytes; expected {limit} at most", path)
        return file.read()


def _require_regular(mode: int, path: str) -> None:
    if not stat.S_ISREG(mode):
        raise NotRegularError(f"{path!r} is not a regular file")


def new_sha1() -> Any:
    """Return a SHA-1 object of hashlib, which is imported here, since it loads OpenSSL."""
    import hashlib

    return hashlib.sha1(usedforsecurity=False)


def sha1(path: str) -> str:
    """Return the SHA-1 (FIPS 180-4) of a regular file's content, in hex; memory stays at 1 MiB whatever its size.

    :raises OSError: as `open_regular`
    """
    digest = new_sha1()
    fd = open_regular(path)
    try:
        view = memoryview(bytearray(min(max(os.fstat(fd).st_size, 1 << 12), _COPY_CHUNK)))
        with open(fd, "rb", buffering=0, closefd=False) as file:
            while size := file.readinto(view):
                digest.update(view[:size])
    finally:
        os.close(fd)
    return str(digest.hexdigest())


def write_whole(path: str, data: bytes, *, sync: bool = False, mode: int = 0o666) -> None:
    """Write a file atomically: it appears with all of data or not at all.

    A missing directory is created. An existing file at path is replaced, and so is a symbolic link.

    :param sync: whether to sync the content to disk before returning, in case the power fails
    :param mode: the permissions of the file, less the umask
    :raises OSError: it could not be written; path is unchanged, and no temporary file remains
    """

    def fill(fd: int) -> None:
        write_all(fd, data)

    try:
        _replace(path, fill, mode, sync=sync)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _replace(path, fill, mode, sync=sync)


def write_new(path: str, data: bytes) -> None:
    """Write and sync a new file, in a directory that no other process reads yet.

    :raises OSError: it could not be written; a part of it may be there
    """
    fd = os.open(path, CREATE_FLAGS, 0o600)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)  # on NFS a full disk may show only here


def copy_whole(source: str, target: str, *, sync: bool = False) -> None:
    """Copy a regular file, with its permission bits and modification time, as `write_whole` writes.

    :param sync: as for `write_whole`
    :raises OSError: as `open_regular` for source and `write_whole` for target; the directory is not made
    """
    fd = open_regular(source)
    try:
        status = os.fstat(fd)
        _replace(target, lambda out: _copy_content(fd, out), 0o600, like=status, sync=sync)
    finally:
        os.close(fd)


def copy_and_hash(reading: int, target: str, *, mode: int = 0, sync: bool = False) -> str:
    """Copy an open file to a new one, with its permission bits and modification time; return the SHA-1 of the copy.

    The file is read once.

    :param mode: permission bits that the copy gets in any case
    :param sync: whether to sync the copy to disk before returning
    :raises OSError: the file cannot be read; target cannot be written, or exists
    """
    writing = os.open(target, CREATE_FLAGS, 0o600)
    try:
        digest = hash_open(reading, writing)
        set_attributes(writing, target, os.fstat(reading), mode)
        if sync:
            os.fsync(writing)
    finally:
        os.close(writing)  # on NFS a full disk may show only here
    return digest


def hash_open(reading: int, writing: int | None = None) -> str:
    """Read an open file to its end; return its SHA-1 (FIPS 180-4), in hex.

    :param writing: a descriptor that gets the content meanwhile
    """
    digest = new_sha1()
    while chunk := os.read(reading, _COPY_CHUNK):
        digest.update(chunk)
        if writing is not None:
            write_all(writing, chunk)
    return str(digest.hexdigest())


def write_all(fd: int, data: bytes) -> None:
    """Write all of data to a descriptor; one os.write may take less, as on a disk that is nearly full."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _replace(
    path: str, fill: Callable[[int], None], mode: int, *, like: os.stat_result | None = None, sync: bool
) -> None:
    """Create a temporary file next to path, let `fill` write to its descriptor, and rename it to path."""
    temporary = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}.tmp")
    fd = os.open(temporary, CREATE_FLAGS, mode)
    try:
        try:
            fill(fd)
            if like is not None:
                set_attributes(fd, temporary, like)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)  # before the move: on NFS a full disk may show only here
        _move(temporary, path)
    except BaseException:
        unlink_quietly(temporary)
        raise


def set_attributes(fd: int, path: str, like: os.stat_result, mode: int = 0) -> None:
    """Give an open file the modification time and the permission bits of another.

    By its descriptor where the system can: another user may have put a link to a foreign file at the path.

    :param path: the path of the open file
    :param mode: permission bits that the file gets in any case
    """
    os.utime(fd if os.utime in os.supports_fd else path, ns=(like.st_atime_ns, like.st_mtime_ns))
    os.chmod(fd if os.chmod in os.supports_fd else path, stat.S_IMODE(like.st_mode) & 0o777 | mode)


def _move(temporary: str, path: str) -> None:
    try:
        os.replace(temporary, path)
    except PermissionError:
        if not _WINDOWS:
            raise
        os.chmod(path, stat.S_IWRITE)  # Windows replaces no read-only file
        os.replace(temporary, path)


def unlink_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # the caller already reports an error


def _copy_content(source: int, target: int) -> None:
    if sys.platform == "linux":  # elsewhere os.sendfile writes to sockets alone
        try:
            while os.sendfile(target, source, None, 1 << 30):
                pass
            return
        except OSError:
            pass  # not between these two file systems; the loop goes on behind what was sent
    while chunk := os.read(source, _COPY_CHUNK):
        write_all(target, chunk)


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Return a safe name for each name, all different also if case and Unicode normal form are ignored."""
    safe: dict[str, str] = {}
    taken = set()
    for name in names:
        folded = _folded(candidate := safe_name(name))
        safe[name] = hashed_name(name) if folded in taken else candidate
        taken.add(folded)
    return safe


def _folded(name: str) -> str:
    if name.isascii():
        return name.lower()
    from unicodedata import normalize

    return normalize("NFC", normalize("NFC", name).casefold())


def sync_directory(path: str) -> None:
    """Sync the names in a directory to disk. Windows cannot open directories, so this does nothing there."""
    if not _WINDOWS:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems sync files alone
                raise
        finally:
            os.close(fd)


def make_directory(path: str, mode: int = 0o777) -> bool:
    """Create a directory and its parents; return False if path already exists."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return False
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return make_directory(path, mode)
    return True


def is_directory(path: str) -> bool:
    """Return whether path is a directory, and not a symbolic link to one."""
    return stat.S_ISDIR(os.lstat(path).st_mode)


def is_own_directory(path: str) -> bool:
    """Return whether path is a directory of this user, not a symbolic link to one.

    Another user could replace what is in a directory of theirs while it is written.
    """
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and (_WINDOWS or status.st_uid == os.geteuid())
