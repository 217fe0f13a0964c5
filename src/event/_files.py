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
MAX_TEXT = 64 << 20  # bytes of a file that is read into memory, such as a dumped event
_NAME_MAX = 255  # bytes of one path component on every common file system
STEM_MAX = _NAME_MAX - len("-.json") - 36  # bytes of STEM in the file name STEM-UNIQUE_ID.json
_WINDOWS = os.name == "nt"
_FORBIDDEN = frozenset('/\\:*?"<>|' if _WINDOWS else "/\\")
_DEVICES = frozenset(
    {"CON", "CONIN$", "CONOUT$", "PRN", "AUX", "NUL", *(f"{d}{n}" for d in ("COM", "LPT") for n in "123456789¹²³")}
)
_HEX_DIGITS = frozenset("0123456789abcdef")

# O_NONBLOCK: opening does not block if a FIFO has replaced the file after the check.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class NotRegularError(OSError):
    """The path is a directory, a FIFO or a device. Use a regular file instead."""


class UnreadableError(OSError):
    """The file to copy can't be opened or read. The target of the copy is not the cause."""


def safe_name(name: str, limit: int = _NAME_MAX) -> str:
    """Return a name as one path component that is safe on this system.

    A safe name is returned unchanged. In an unsafe name, invalid characters are replaced, and a hash of the name is
    added. So different names never have the same result.

    :param name: any string
    :param limit: maximum length of the result, in bytes
    """
    return name if _is_safe(name, limit) else hashed_name(name, limit)


def hashed_name(name: str, limit: int = _NAME_MAX) -> str:
    """Return ``STEM~HASH.EXT``: a safe form of the name, with 16 hex digits that distinguish it from other names."""
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
    """Return whether a name looks like a result of `hashed_name`, and so might be equal to one."""
    if "~" not in name:
        return False
    name = name.lower()  # on a file system that ignores case, capitals could be equal, too
    return any(n[-17:-16] == "~" and _HEX_DIGITS.issuperset(n[-16:]) for n in (name, os.path.splitext(name)[0]))


def absolute(path: str) -> str:
    """Return an absolute path, or the path unchanged if the working directory no longer exists."""
    try:
        return os.path.abspath(path)
    except OSError:
        return path


def open_regular(path: str, *, follow: bool = True) -> int:
    """Open a regular file for reading; return its file descriptor.

    :param follow: whether to follow a symbolic link
    :raises NotRegularError: the path is a directory, a FIFO, a device or a socket, which is not opened
    :raises OSError: the file is missing or can't be read
    """
    return _open_regular(path, follow=follow)[0]


def _open_regular(path: str, *, follow: bool) -> tuple[int, int]:
    """Return the file descriptor and the size in bytes of a regular file."""
    _require_regular(os.stat(path, follow_symlinks=follow).st_mode, path)
    try:
        fd = os.open(path, _READ if follow else _READ | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:  # a symbolic link has replaced the file after the check
            raise NotRegularError(f"{path!r} is a symbolic link") from error
        raise
    try:
        status = os.fstat(fd)
        _require_regular(status.st_mode, path)
    except BaseException:
        os.close(fd)
        raise
    return fd, status.st_size


def read_regular(path: str, *, follow: bool = True, limit: int = MAX_TEXT) -> bytes:
    """Return the content of a regular file.

    :param limit: maximum size in bytes, since a file may be larger than the memory
    :raises OSError: as for `open_regular`, or the file is larger than the limit
    """
    fd, size = _open_regular(path, follow=follow)
    try:
        if size > limit:
            raise OSError(errno.EFBIG, f"the file has {size} bytes; expected {limit} at most", path)
        parts = [os.read(fd, size + 4096)]
        while len(parts[-1]) not in {0, size}:  # a file of /proc has the size 0
            parts.append(os.read(fd, size + 4096))
        return b"".join(parts)
    finally:
        os.close(fd)


def _require_regular(mode: int, path: str) -> None:
    if not stat.S_ISREG(mode):
        raise NotRegularError(f"{path!r} is not a regular file")


def new_sha1() -> Any:
    """Return a new SHA-1 object. Import hashlib only now, because it loads OpenSSL."""
    import hashlib

    return hashlib.sha1(usedforsecurity=False)


def sha1(path: str, *, follow: bool = True) -> str:
    """Return the SHA-1 (FIPS 180-4) of a regular file's content, in hex. Use at most 1 MiB of memory.

    :param follow: whether to follow a symbolic link
    :raises OSError: as for `open_regular`
    """
    digest = new_sha1()
    fd = open_regular(path, follow=follow)
    try:
        view = memoryview(bytearray(min(max(os.fstat(fd).st_size, 1 << 12), _COPY_CHUNK)))
        with open(fd, "rb", buffering=0, closefd=False) as file:
            while size := file.readinto(view):
                digest.update(view[:size])
            if size is None:  # some files of /proc do not have data at every time
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
    finally:
        os.close(fd)
    return str(digest.hexdigest())


def write_atomically(path: str, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file atomically: readers see all of `data` or no file.

    Create a missing directory. Replace an existing file or symbolic link. The file is not synced.

    :param mode: the permissions of the file, restricted by the umask
    :raises OSError: the file can't be written; an existing file is unchanged, and no temporary file remains
    """

    def fill(fd: int) -> None:
        write_all(fd, data)

    try:
        _replace(path, fill, mode)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _replace(path, fill, mode)


def write_new(path: str, data: bytes) -> None:
    """Write and sync a new file. This is not atomic, so no other process must read the file meanwhile.

    :raises OSError: the file can't be written; part of it may remain
    """
    fd = os.open(path, CREATE_FLAGS, 0o600)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)  # NFS may report a full disk only here


def copy_atomically(source: str, target: str) -> None:
    """Copy a regular file atomically, with its permission bits and modification time; see `write_atomically`.

    The target's directory must exist.

    :raises OSError: as for `open_regular` (source) and `write_atomically` (target)
    """
    fd = open_regular(source)
    try:
        status = os.fstat(fd)
        _replace(target, lambda out: _copy_content(fd, out), 0o600, like=status)
    finally:
        os.close(fd)


def copy_and_hash(source: str, target: str, *, mode: int = 0, sync: bool = False) -> str:
    """Copy a regular file to a new one, with its permission bits and modification time; return the SHA-1 of the copy.

    :param mode: permission bits to set in addition to those of the source
    :param sync: whether to sync the copy to disk before returning
    :raises UnreadableError: the source can't be opened or read; part of the target may remain
    :raises OSError: the target can't be written or already exists
    """
    reading: int = _read_source(source, open_regular, source)
    try:
        status: os.stat_result = _read_source(source, os.fstat, reading)
        writing = os.open(target, CREATE_FLAGS, 0o600)
        try:
            digest = new_sha1()
            while chunk := _read_source(source, os.read, reading, _COPY_CHUNK):
                digest.update(chunk)
                write_all(writing, chunk)
            set_attributes(writing, target, status, mode)
            if sync:
                os.fsync(writing)
        finally:
            os.close(writing)  # NFS may report a full disk only here
    finally:
        os.close(reading)
    return str(digest.hexdigest())


def _read_source(source: str, call: Callable[..., Any], *args: object) -> Any:
    """Call a function that opens or reads the source of a copy; raise UnreadableError if it raises OSError."""
    try:
        return call(*args)
    except OSError as error:
        reason = (error.errno, error.strerror, source) if error.strerror else (str(error),)
        raise UnreadableError(*reason) from error


def write_all(fd: int, data: bytes) -> None:
    """Write all data to a file descriptor. A single os.write may write less, for example if the disk is nearly full."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _replace(path: str, fill: Callable[[int], None], mode: int, *, like: os.stat_result | None = None) -> None:
    """Create a temporary file next to path, let `fill` write to its descriptor, and rename it to path."""
    temporary = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}.tmp")
    fd = os.open(temporary, CREATE_FLAGS, mode)
    try:
        try:
            fill(fd)
            if like is not None:
                set_attributes(fd, temporary, like)
        finally:
            os.close(fd)  # before the move, since NFS may report a full disk only here
        _move(temporary, path)
    except BaseException:
        unlink_quietly(temporary)
        raise


def set_attributes(fd: int, path: str, like: os.stat_result, mode: int = 0) -> None:
    """Set the modification time and the permission bits of an open file, with `mode` in addition, to those of `like`.

    Use the file descriptor if the system supports this: another user may have replaced the path by a link.
    """
    os.utime(fd if os.utime in os.supports_fd else path, ns=(like.st_atime_ns, like.st_mtime_ns))
    os.chmod(fd if os.chmod in os.supports_fd else path, stat.S_IMODE(like.st_mode) & 0o777 | mode)


def _move(temporary: str, path: str) -> None:
    try:
        os.replace(temporary, path)
    except PermissionError:
        if not _WINDOWS:
            raise
        os.chmod(path, stat.S_IWRITE)  # Windows does not replace a read-only file
        os.replace(temporary, path)


def unlink_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # the caller already reports an error


def _copy_content(source: int, target: int) -> None:
    if sys.platform == "linux":  # on other platforms, os.sendfile only writes to sockets
        try:
            while os.sendfile(target, source, None, 1 << 30):
                pass
            return
        except OSError:
            pass  # not supported by these file systems; the loop copies the rest
    while chunk := os.read(source, _COPY_CHUNK):
        write_all(target, chunk)


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Return a safe name for each name. The results differ even if case and Unicode normal form are ignored."""
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
    """Sync the names in a directory to disk. This does nothing on Windows, which can't open directories."""
    if not _WINDOWS:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems only sync files
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
        os.mkdir(path, mode)
    return True


def is_directory(path: str) -> bool:
    """Return whether the path is a directory, but not a symbolic link to one."""
    return stat.S_ISDIR(os.lstat(path).st_mode)


def is_own_directory(path: str) -> bool:
    """Return whether the path is a directory that belongs to this user, but not a symbolic link to one.

    In another user's directory, that user could replace files while they are being written.
    """
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and (_WINDOWS or status.st_uid == os.geteuid())
