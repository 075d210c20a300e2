import hashlib
import subprocess
import sys
import threading
import time

import pytest

from nst_jax.errors import InputError
from nst_jax.weights.download import DownloadError, check_hash, download, hash_prefix
from server import serving

CONTENT = bytes(range(256)) * 20_000  # 5 MB
NAME = f"file-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


@pytest.fixture
def server():
    with serving(CONTENT) as server:
        yield server


def test_whole_file_with_progress(server, tmp_path):
    seen = []
    path = download(
        f"{server.url}/models/{NAME}?x=1", tmp_path / "new", progress=lambda *x: seen.append(x)
    )
    assert path == tmp_path / "new" / NAME
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [have for have, _ in seen] == sorted({have for have, _ in seen})
    download(f"{server.url}/{NAME}", tmp_path / "new")
    assert len(server.requests) == 1  # it was there


def test_after_a_break_it_is_continued(server, tmp_path):
    server.breaks_after = 3_000_000
    path = download(f"{server.url}/{NAME}", tmp_path)
    assert server.requests == [None, "bytes=3000000-"]
    assert path.read_bytes() == CONTENT


def test_a_server_that_goes_away_is_said_and_the_next_call_continues(server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:3_000_000])
    server.breaks_after = 0
    with pytest.raises(DownloadError, match="broke after 3000000 of 5120000 bytes; run again"):
        download(f"{server.url}/{NAME}", tmp_path)
    assert not (tmp_path / NAME).exists()
    path = download(f"{server.url}/{NAME}", tmp_path)
    assert server.requests == ["bytes=3000000-"] * 2
    assert path.read_bytes() == CONTENT


def test_a_killed_process_is_continued_by_the_next(server, tmp_path):
    server.breaks_after = 3_000_000
    server.before_break.clear()
    code = "import sys, pathlib; from nst_jax.weights.download import download\n"
    code += "download(sys.argv[1], pathlib.Path(sys.argv[2]))"
    part = tmp_path / f"{NAME}.part"
    process = subprocess.Popen([sys.executable, "-c", code, f"{server.url}/{NAME}", str(tmp_path)])
    patience = time.monotonic() + 60
    while not part.exists() or part.stat().st_size < 2_000_000:
        assert process.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.05)
    process.kill()
    process.wait()
    server.before_break.set()
    there = part.stat().st_size
    assert 0 < there < len(CONTENT)
    assert download(f"{server.url}/{NAME}", tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={there}-"]


def test_a_server_that_cannot_resume_sends_all_again(server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 100)
    server.ranges = False
    seen = []
    path = download(f"{server.url}/{NAME}", tmp_path, progress=lambda *x: seen.append(x))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_complete_part_is_not_sent_again(server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert download(f"{server.url}/{NAME}", tmp_path).read_bytes() == CONTENT


def test_a_server_that_says_no_length(server, tmp_path):
    server.length = False
    seen = []
    download(f"{server.url}/{NAME}", tmp_path, progress=lambda *x: seen.append(x))
    assert seen[-1] == (len(CONTENT), None)


def test_wrong_content_is_thrown_away(server, tmp_path):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DownloadError, match=r"SHA-256 starts with [0-9a-f]{8}, not with"):
        download(f"{server.url}/{NAME}", tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == []
    server.content = CONTENT
    assert download(f"{server.url}/{NAME}", tmp_path).exists()


@pytest.mark.parametrize(("status", "said"), [(404, "answered 404"), (503, "answered 503")])
def test_server_errors(server, tmp_path, status, said):
    server.status = status
    with pytest.raises(DownloadError, match=said):
        download(f"{server.url}/{NAME}", tmp_path)


def test_no_network_is_one_line(tmp_path):
    with pytest.raises(DownloadError, match=r"cannot download .*refused") as error:
        download(f"http://127.0.0.1:9/{NAME}", tmp_path)
    assert "\n" not in str(error.value)


def test_an_altered_file_is_named(server, tmp_path):
    path = download(f"{server.url}/{NAME}", tmp_path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match=f"{NAME} is altered or truncated"):
        download(f"{server.url}/{NAME}", tmp_path)
    with pytest.raises(DownloadError):
        check_hash(path)


def test_two_at_once_make_one_file(server, tmp_path):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(download(f"{server.url}/{NAME}", tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert results[0].read_bytes() == CONTENT
    assert server.requests == [None]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"cannot write to .*set NST_JAX_CACHE"):
        download(f"http://127.0.0.1:9/{NAME}", tmp_path / "file" / "cache")


def test_names_carry_hashes():
    assert hash_prefix("vgg19-dcbb9e9d.pth") == "dcbb9e9d"
    for name in ("vgg19.pth", "vgg-19.pth", "dcbb9e9d.pth"):
        with pytest.raises(InputError, match="SHA-256"):
            hash_prefix(name)
