"""The cache and the download, through Census-Income: kills, damage, broken transfers, no network."""

import os
import signal
import subprocess
import sys

import pytest
from census_fixture import TRAIN, archive, entries, same, serve, texts, write

from mtlkit.data import census, census_income, fetch
from mtlkit.data.fetch import DataError

SAMPLE = "ignore:census_income.*differ from the official files"
pytestmark = pytest.mark.filterwarnings(SAMPLE)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Each test has an empty cache of its own and no data folder."""
    monkeypatch.setenv("MTLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MTLKIT_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "census-income", texts())


@pytest.fixture
def official(monkeypatch):
    """A server with an archive whose files are the official ones for this test."""
    files = texts()
    monkeypatch.setattr(census, "_SHA256", {name: fetch.sha256(d) for name, d in files.items()})
    with serve(archive(files)) as server:
        monkeypatch.setattr(census, "_URL", server.url)
        yield server


# --- the cache ---------------------------------------------------------------------------------


def test_second_load_does_not_parse(folder, cache, monkeypatch):
    first = census_income(path=folder)
    assert len(entries(cache)) == 1
    monkeypatch.setattr(census, "parse", lambda _: pytest.fail("parsed again"))
    assert same(first, census_income(path=folder))
    assert census_income(2, path=folder).tasks == ("education", "never_married")


def test_changed_source_is_noticed_even_with_the_same_size_and_time(folder):
    census_income(path=folder)
    file = folder / TRAIN
    stat, old = file.stat(), file.read_bytes()
    file.write_bytes(old.replace(b"50000+.", b"- 50000.").ljust(len(old))[: len(old)])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError):  # the new bytes end in a broken line: they were read
        census_income(path=folder)


def test_damaged_entry_is_built_again(folder, cache):
    first = census_income(path=folder)
    (entry,) = cache.glob("*.npz")
    whole = entry.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for damaged in (whole[:middle], b"", b"nonsense", flipped):
        entry.write_bytes(damaged)
        assert same(first, census_income(path=folder))
        assert len(entry.read_bytes()) == len(whole)


def test_interrupt_while_writing_leaves_no_entry(folder, cache, monkeypatch):
    def broken(file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch.np, "savez", broken)
        with pytest.raises(KeyboardInterrupt):
            census_income(path=folder)
    assert entries(cache) == []
    census_income(path=folder)


def test_kill_while_writing_leaves_no_entry(folder, cache):
    script = (
        "import os, signal, sys, numpy, mtlkit.data\n"
        "def savez(file, **_):\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "numpy.savez = savez\n"
        "mtlkit.data.census_income(path=sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert not list(cache.glob("*.npz"))
    assert len(census_income(path=folder)) == 420 and list(cache.glob("*.npz"))


@pytest.mark.filterwarnings("default")
def test_cache_that_cannot_be_written_costs_a_warning_only(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be kept .* set MTLKIT_CACHE"):
        assert len(census_income(path=folder, cache=tmp_path / "file" / "below")) == 420


# --- the download ------------------------------------------------------------------------------


def test_download_then_no_network_needed(official, folder, cache, capfd):
    table = census_income()
    assert same(table, census_income(path=folder))
    assert table.notes["official"] is True and table.notes["source"] == official.url
    assert "census-income-kdd.zip" in (progress := capfd.readouterr().err) and "100%" in progress
    official.status = 500
    assert same(table, census_income()) and len(official.requests) == 1
    for entry in cache.glob("*.npz"):  # the archive is kept: a lost entry needs no network either
        entry.unlink()
    assert same(table, census_income()) and len(official.requests) == 1


def test_a_data_folder_without_census_means_download(official, tmp_path, monkeypatch):
    monkeypatch.setenv("MTLKIT_DATA", str(tmp_path))
    assert census_income().notes["source"] == official.url


def test_no_network_and_nothing_cached(cache, monkeypatch):
    with serve(b"") as server:
        pass  # closed again: nobody listens there
    monkeypatch.setattr(census, "_URL", server.url)
    with pytest.raises(DataError, match="could not be downloaded .*path=.*MTLKIT_DATA") as caught:
        census_income()
    assert "\n" not in str(caught.value) and not list(cache.glob("*.npz"))


def test_server_errors_name_the_status(official):
    official.status = 404
    with pytest.raises(DataError, match="the server answered 404"):
        census_income()


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_download_goes_on(official, cache, ranges):
    official.stop_after, official.ranges = 10_000, ranges
    with pytest.raises(DataError, match="could not be downloaded .* run it again"):
        census_income()
    assert not list(cache.rglob("*.npz")) and not list(cache.rglob("*.zip"))
    official.stop_after = None
    assert len(census_income()) == 420
    assert official.requests == [None, "bytes=8192-"]  # whole blocks of 8 KiB are kept
    assert entries(cache / "downloads") == ["census-income-kdd.zip"]


def test_a_whole_part_file_that_was_never_renamed(official, cache):
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads/census-income-kdd.zip.part").write_bytes(official.body)
    assert len(census_income()) == 420
    assert official.requests == [f"bytes={len(official.body)}-", None]


def test_archive_cut_without_a_sign_is_removed(official, cache):
    whole = official.body
    official.tells_length, official.body = False, whole[: len(whole) // 2]
    with pytest.raises(DataError, match="truncated or damaged .* removed: run it again"):
        census_income()
    assert entries(cache) == ["downloads"] and entries(cache / "downloads") == []
    official.body = whole
    assert len(census_income()) == 420


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (archive(texts(train=299)), "holds another census-income.data than the official"),
        (archive({TRAIN: texts()[TRAIN]}), "holds no census-income.test"),
        (b"<html>moved</html>", "is truncated or damaged"),
    ],
)
def test_wrong_archive_is_removed(official, cache, body, sentence):
    official.body = body
    with pytest.raises(DataError, match=f"{sentence}.*removed: run it again, or put") as caught:
        census_income()
    assert "\n" not in str(caught.value)
    assert entries(cache) == ["downloads"] and entries(cache / "downloads") == []


def test_pinned_archive_checksum(official, tmp_path):
    with pytest.raises(DataError, match="another checksum than md5:0000.* removed"):
        fetch.download(official.url, tmp_path / "d", known_hash="md5:" + "0" * 32)
    assert entries(tmp_path / "d") == []
    digest = "sha256:" + fetch.sha256(official.body)
    path = fetch.download(official.url, tmp_path / "d", known_hash=digest)
    assert path.read_bytes() == official.body
