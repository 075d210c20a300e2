"""Files are complete or absent, and what cannot be written is known beforehand."""

import os
import stat
from pathlib import Path

import pytest

from nst_jax.errors import InputError
from nst_jax.io.files import atomic_write, check_writable

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


@pytest.fixture
def umask():
    """Set an unusual umask, so that the test does not pass by coincidence."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def refusal(path, what="the result"):
    """Return the message with which `path` is refused, which must be one line that names it."""
    with pytest.raises(InputError) as caught:
        check_writable(path, what=what)
    message = str(caught.value)
    assert "\n" not in message
    assert what in message
    assert repr(os.fspath(path)) in message
    return message


def test_new_file_appears_complete_and_alone(tmp_path):
    target = tmp_path / "out.bin"
    with atomic_write(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_old_file_stays_until_the_new_one_is_complete(tmp_path):
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with atomic_write(str(target)) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_data_is_synced_before_the_old_file_is_replaced(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    with atomic_write(tmp_path / "out.bin") as temporary:
        temporary.write_bytes(b"new")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [True, False])
def test_any_exception_leaves_the_old_file_and_nothing_else(tmp_path, error, written):
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")

    def fail():
        with atomic_write(target) as temporary:
            if written:
                temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_failed_replacement_leaves_nothing(tmp_path):
    target = tmp_path / "out.bin"
    target.mkdir()
    with pytest.raises(OSError, match="out"), atomic_write(target) as temporary:
        temporary.write_bytes(b"new")
    assert os.listdir(tmp_path) == ["out.bin"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    target = tmp_path / "out.bin"
    with atomic_write(target) as first, atomic_write(target) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert target.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    target = tmp_path / "out.bin"
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


def test_link_is_followed(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "real.bin").write_bytes(b"old")
    link = tmp_path / "link.bin"
    link.symlink_to(folder / "real.bin")
    check_writable(link, what="the result")
    with atomic_write(link) as temporary:
        temporary.write_bytes(b"new")
    assert link.is_symlink()
    assert (folder / "real.bin").read_bytes() == b"new"


def test_name_in_the_current_folder_and_long_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("out.bin", "x" * 251 + ".bin"):
        check_writable(name, what="the result")
        with atomic_write(name) as temporary:
            temporary.write_bytes(b"new")
        assert Path(name).read_bytes() == b"new"


def test_check_accepts_new_and_existing_files_and_leaves_nothing(tmp_path):
    old = tmp_path / "old.bin"
    old.write_bytes(b"old")
    check_writable(old, what="the result")
    check_writable(str(tmp_path / "new.bin"), what="the result")
    assert os.listdir(tmp_path) == ["old.bin"]
    assert old.read_bytes() == b"old"


def test_check_tries_to_create_a_file(tmp_path, monkeypatch):
    def touch(self, *args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", touch)
    assert "Read-only file system" in refusal(tmp_path / "out.bin")


def test_check_refuses_what_cannot_be_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(os.listdir(tmp_path))
    assert "empty" in refusal("")
    assert "is a folder" in refusal(tmp_path)
    assert "is a folder" in refusal(".")
    assert "create the folder" in refusal(tmp_path / "missing" / "out.bin")
    assert "not a folder" in refusal(tmp_path / "file" / "out.bin")
    assert "folder" in refusal(tmp_path / "file" / "deeper" / "out.bin")
    assert "device" in refusal("/dev/null")
    assert "device" in refusal(tmp_path / "pipe")
    assert "too long" in refusal(tmp_path / ("x" * 256))
    assert "symbolic links" in refusal(tmp_path / "loop")
    assert "null" in refusal(str(tmp_path / "a\0b"))
    assert "\\n" in refusal(str(tmp_path / "missing" / "two\nlines"))
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_check_refuses_a_folder_where_not_even_root_can_create_files():
    assert "cannot write" in refusal("/proc/out.bin")


@needs_permissions
def test_check_refuses_read_only_folders_and_files(tmp_path):
    file = tmp_path / "out.bin"
    file.write_bytes(b"old")
    file.chmod(0o444)
    assert "read-only" in refusal(file)
    file.unlink()
    tmp_path.chmod(0o555)
    assert "Permission denied" in refusal(file)
    tmp_path.chmod(0o000)
    assert "Permission denied" in refusal(file)
    tmp_path.chmod(0o755)


def test_check_refuses_a_read_only_file_even_as_root(tmp_path, monkeypatch):
    file = tmp_path / "out.bin"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert "read-only" in refusal(file)
