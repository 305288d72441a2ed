import io
import stat
import tarfile
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmt5.annotation import archives
from medmt5.annotation.archives import read_members
from medmt5.errors import InputError

FILES = {"b/two.txt": b"2", "b/one.txt": b"1", "b/one.ann": b"", "c.txt": "ñ".encode(), "b/x/deep.txt": b"3"}
SUFFIXES = [".tar", ".tar.gz", ".tgz", ".zip"]


def pack(path, files, change=lambda member: None):
    """Writes an archive of {name: content}; `change` may edit a member's header before it is written."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                member = zipfile.ZipInfo(name)
                member.compress_type = zipfile.ZIP_DEFLATED
                change(member)
                archive.writestr(member, content)
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                change(member)
                archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return path


@pytest.fixture(params=["folder", *SUFFIXES])
def data(request, tmp_path):
    """The same files in a folder and in each kind of archive."""
    if request.param != "folder":
        return pack(tmp_path / f"data{request.param}", FILES)
    for name, content in FILES.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    return tmp_path / "data"


def test_a_folder_and_every_archive_give_the_same_members_by_name(data):
    assert list(read_members(data, ".txt")) == [
        ("b/one.txt", b"1"),
        ("b/two.txt", b"2"),
        ("b/x/deep.txt", b"3"),
        ("c.txt", "ñ".encode()),
    ]


def test_a_path_goes_on_inside(data):
    assert [name for name, _ in read_members(data / "b", (".txt", ".ann"))] == [
        "one.ann",
        "one.txt",
        "two.txt",
        "x/deep.txt",
    ]
    assert list(read_members(data / "b" / "two.txt", ".txt")) == [("two.txt", b"2")]


def test_what_is_not_there_is_refused(data):
    with pytest.raises(InputError, match=r"no file or folder|holds no no/such"):
        list(read_members(data / "no/such", ".txt"))


def test_a_file_that_is_no_archive_is_its_own_member(tmp_path):
    (tmp_path / "corpus.bioc").write_bytes(b"x")
    assert list(read_members(tmp_path / "corpus.bioc", ".xml")) == [("corpus.bioc", b"x")]
    with pytest.raises(InputError, match="neither a folder nor an archive"):
        list(read_members(tmp_path / "corpus.bioc" / "inside", ".xml"))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["/etc/x.txt", "//x.txt", "..", "../x.txt", "a/../../x.txt", "..\\x.txt", "C:\\x.txt"])
def test_names_that_lead_outside_are_refused(tmp_path, suffix, name):
    with pytest.raises(InputError, match="members must lie inside"):
        list(read_members(pack(tmp_path / f"a{suffix}", {name: b"x"}), ".txt"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_tar_files_are_refused(tmp_path, kind):
    def change(member):
        member.type, member.size, member.linkname = kind, 0, "/etc/hosts"

    with pytest.raises(InputError, match=r"files and folders, but 'x.txt' is a (link|device)"):
        list(read_members(pack(tmp_path / "a.tar", {"x.txt": b""}, change), ".txt"))


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_of_zip_files_are_refused(tmp_path, mode):
    def change(member):
        member.create_system, member.external_attr = 3, (mode | 0o777) << 16

    with pytest.raises(InputError, match=r"files and folders, but 'x.txt' is a (link|device)"):
        list(read_members(pack(tmp_path / "a.zip", {"x.txt": b"/etc/hosts"}, change), ".txt"))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("limit", "message"),
    [("MAX_MEMBER_BYTES", "a file may hold 50,000"), ("MAX_TOTAL_BYTES", "may grow to 50,000 bytes")],
)
def test_bombs_are_refused_even_where_nobody_asks_for_their_members(tmp_path, monkeypatch, suffix, limit, message):
    monkeypatch.setattr(archives, limit, 50_000)
    path = pack(tmp_path / f"a{suffix}", {"x.bin": b"\0" * 49_000, "y.bin": b"\0" * 51_000})
    with pytest.raises(InputError, match=message):
        list(read_members(path, ".txt"))


def test_a_bomb_in_a_header_is_refused(tmp_path, monkeypatch):
    def change(member):
        member.pax_headers = {"comment": "0" * 200_000}

    path = pack(tmp_path / "a.tar.gz", {"x.txt": b"x"}, change)
    assert path.stat().st_size < 50_000
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 50_000)
    with pytest.raises(InputError, match="may grow to 50,000 bytes"):
        list(read_members(path, ".txt"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_too_many_members_are_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 4)
    with pytest.raises(InputError, match="may hold 4 members"):
        list(read_members(pack(tmp_path / f"a{suffix}", FILES), ".txt"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_both_members_of_one_name_are_given(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.txt", "1")
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("x.txt", "2")
    else:
        with tarfile.open(path, "w" if suffix == ".tar" else "w:gz") as archive:
            for content in (b"1", b"2"):
                member = tarfile.TarInfo("x.txt")
                member.size = 1
                archive.addfile(member, io.BytesIO(content))
    assert list(read_members(path, ".txt")) == [("x.txt", b"1"), ("x.txt", b"2")]


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_archive_gives_members_or_an_input_error(tmp_path, suffix, data):
    content = bytearray(pack(tmp_path / f"whole{suffix}", FILES).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            del content[place : place + data.draw(st.integers(1, 600))]
            content += b"\0" * (not content)
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    try:
        members = list(read_members(path, ".txt"))
    except InputError:
        return
    assert all(name.endswith(".txt") and ".." not in name for name, _ in members)


def test_what_macos_adds_is_no_member(tmp_path):
    path = pack(tmp_path / "a.zip", {"x.txt": b"1", "__MACOSX/._x.txt": b"\0", "b/._x.txt": b"\0"})
    assert [name for name, _ in read_members(path, ".txt")] == ["x.txt"]
