"""Folders of object stores, on moto's S3 and on fake-gcs-server."""

import contextlib
import hashlib

import pytest

from medmt5 import storage
from medmt5.errors import InputError


def put_text(url: str, **contents: str) -> None:
    with storage.opened(url) as store:
        for name, text in contents.items():
            store.pipe_file(f"{url}/{name.replace('__', '/')}", text.encode())


def texts(url: str) -> dict[str, str]:
    with storage.opened(url) as store:
        return {name: store.cat_file(f"{url}/{name}").decode() for name in storage.list_objects(url)}


@pytest.fixture
def writes(monkeypatch):
    """Names of the objects that are put and removed, in order; (`fail`, name) makes that one fail."""
    log = []
    monkeypatch.setattr(storage, "AT_ONCE", 1)

    def watch(scheme: str, fail: str = ""):
        store = storage.file_system(scheme)
        put, remove = store.put_file, store.rm_file

        def put_file(source, url, **options):
            if fail and url.endswith(fail):
                raise ConnectionError("cut off")
            log.append("put " + url.split("/place/")[1])
            put(source, url, **options)

        def rm_file(url):
            log.append("remove " + url.split("/place/")[1])
            remove(url)

        monkeypatch.setattr(store, "put_file", put_file)
        monkeypatch.setattr(store, "rm_file", rm_file)
        return log

    return watch


def write(folder, **contents):
    for name, text in contents.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_a_copy_follows_the_store_and_copies_only_what_changed(store_url, monkeypatch):
    put_text(store_url, a="1", b__c="2")
    folder = storage.fetch(store_url)
    assert {name: (folder / name).read_text() for name in ("a", "b/c")} == {"a": "1", "b/c": "2"}
    assert storage.origin(folder / "b") == f"{store_url}/b"

    copied = []
    store = storage.file_system(store_url.partition(":")[0])
    get = store.get_file
    monkeypatch.setattr(store, "get_file", lambda url, path: (copied.append(url.rpartition("/")[2]), get(url, path)))
    storage.fetch(store_url)
    assert copied == []
    put_text(store_url, a="3")
    store.rm_file(f"{store_url}/b/c")
    storage.fetch(store_url)
    assert copied == ["a"]
    assert (folder / "a").read_text() == "3"
    assert not (folder / "b" / "c").exists()


def test_a_copy_of_one_file_needs_no_list_of_its_neighbours(store_url, monkeypatch):
    put_text(store_url, a="1")
    monkeypatch.setattr(storage, "list_objects", None)
    assert storage.fetch_file(f"{store_url}/a").read_text() == "1"
    with pytest.raises(InputError, match="place/b is not there"):
        storage.fetch_file(f"{store_url}/b")


def test_what_is_not_as_its_manifest_says_is_refused_and_not_kept(s3_url):
    put_text(s3_url, a="whole", b="cut")
    right = {name: hashlib.sha256(b"whole").hexdigest() for name in ("a", "b")}
    with pytest.raises(InputError, match="place/b is not what its manifest says"):
        storage.fetch(s3_url, ["a", "b"], right)
    assert (storage.copy_of(s3_url) / "a").is_file()
    assert not (storage.copy_of(s3_url) / "b").exists()
    with pytest.raises(InputError, match="place/c is not there"):
        storage.fetch(s3_url, ["c"])


def test_a_marker_goes_first_and_comes_last(store_url, writes):
    log = writes(store_url.partition(":")[0])
    with storage.updated(store_url) as folder:
        write(folder, a__manifest_json="", a__x="1", b__x="1", manifest_json="")
        (folder / "a" / "manifest_json").rename(folder / "a" / "manifest.json")
        (folder / "manifest_json").rename(folder / "manifest.json")
    assert log == ["put a/x", "put b/x", "put a/manifest.json", "put manifest.json"]

    log.clear()
    with storage.updated(store_url) as folder:
        write(folder, b__x="22")
    assert log == ["remove manifest.json", "put b/x", "put manifest.json"]

    log.clear()
    with storage.updated(store_url) as folder:
        (folder / "a" / "x").unlink()
        (folder / "a" / "manifest.json").unlink()
    assert log == ["remove manifest.json", "remove a/manifest.json", "remove a/x", "put manifest.json"]
    assert texts(store_url) == {"b/x": "22", "manifest.json": ""}

    log.clear()
    with storage.updated(store_url):
        pass
    assert log == []


def test_a_folder_whose_writing_broke_off_has_no_marker(s3_url, writes):
    with storage.updated(s3_url) as folder:
        write(folder, x="1", y="1")
        (folder / "manifest.json").write_text("old")
    writes("s3", fail="/y")
    with pytest.raises(InputError, match="cut off"), storage.updated(s3_url) as folder:
        write(folder, x="22", y="22")
    assert texts(s3_url) == {"x": "22", "y": "1"}


def test_an_error_in_the_block_leaves_the_store_as_it_was(s3_url):
    with contextlib.suppress(KeyError), storage.updated(s3_url) as folder:
        write(folder, x="1")
        raise KeyError
    assert texts(s3_url) == {}


def test_names_that_lead_out_of_the_copy_are_refused(s3_url):
    put_text(s3_url, **{"..__..__x": "1"})
    with pytest.raises(InputError, match="no name of a file"):
        storage.fetch(s3_url)


def test_a_copy_that_does_not_fit_is_refused_before_it_is_begun(s3_url, monkeypatch):
    put_text(s3_url, a="1")
    full = type("Usage", (), {"free": 0})
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: full)
    with pytest.raises(InputError, match="MEDMT5_CACHE"):
        storage.fetch(s3_url)


def test_a_bucket_that_is_not_there_is_told_with_a_remedy(s3_url):
    with (
        pytest.raises(InputError, match="AWS_ENDPOINT_URL"),
        storage.updated(s3_url.replace("bucket", "no-such-bucket")) as folder,
    ):
        write(folder, a="1")


@pytest.mark.parametrize("place", ["az://bucket/x", "s3:/bucket/x", "s3://bucket", "gs:///x", "http://host/x"])
def test_other_schemes_and_halves_of_urls_are_refused(place):
    with pytest.raises(InputError, match="neither a path nor"):
        storage.check(place)


@pytest.mark.parametrize("place", ["runs/a", "/runs/a", "", "a:b", "~/x"])
def test_paths_of_a_disk_are_not_looked_at(place):
    storage.check(place)
    assert not storage.is_url(place)


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(storage, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"s3fs, which is not installed: pip install 'medmt5\[s3\]'"):
        storage.check("s3://bucket/x")
    with pytest.raises(InputError, match=r"medmt5\[gcs\]"):
        storage.check("gs://bucket/x")
