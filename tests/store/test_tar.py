"""Tar as others write and read it, and every way in which it can be wrong."""

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.errors import SourceError
from distgen.store.tar import END, npy_header, read_members, tar_header


def member(name, content, **changed):
    """A member as Python's tarfile writes it."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changed.items():
        setattr(info, key, value)
    content = content if info.isreg() else b""
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


@given(st.text("abcXYZ019._+-", min_size=1, max_size=100), st.integers(0, 8**11 - 1))
def test_a_header_is_the_one_that_tarfile_writes(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    assert tar_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)
    assert tarfile.TarInfo.frombuf(tar_header(name, size), "ascii", "strict").name == name


@given(st.lists(st.binary(max_size=1100), max_size=4))
def test_members_come_back_as_they_were_and_tarfile_reads_the_same(tmp_path, contents):
    path = tmp_path / "a.tar"
    wanted = [(f"k-{i}.bin", content) for i, content in enumerate(contents)]
    path.write_bytes(b"".join(tar_header(n, len(c)) + c + bytes(-len(c) % 512) for n, c in wanted) + END)
    assert list(read_members(path, 2000)) == wanted
    with tarfile.open(path) as tar:
        assert [(info.name, tar.extractfile(info).read()) for info in tar] == wanted


@pytest.mark.parametrize("dtype", ["uint8", "float16", "<f4"])
@pytest.mark.parametrize("shape", [(1, 1), (64, 2), (1000, 300)])
def test_an_npy_header_is_the_one_that_numpy_saves(dtype, shape):
    values, file = np.zeros(shape, dtype), io.BytesIO()
    np.save(file, values, allow_pickle=False)
    assert npy_header(values.dtype, shape) + values.tobytes() == file.getvalue()


GOOD = tar_header("a.seq", 3) + b"ACG" + bytes(509)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.tar is cut after its beginning: it has no end of archive"),
        (GOOD, 'bad.tar is cut after member "a.seq": it has no end of archive'),
        (GOOD[:600], 'bad.tar is cut in member "a.seq": 3 of 3 bytes are there'),
        (GOOD + GOOD[:100], 'bad.tar is cut after member "a.seq"'),
        (GOOD + bytes(512), 'after member "a.seq" there is no end of archive, or more than that'),
        (GOOD + END + b"more", 'after member "a.seq" there is no end of archive, or more than that'),
        (GOOD + END + GOOD, 'after member "a.seq" there is no end of archive, or more than that'),
        (GOOD + b"x" * 512, 'what follows member "a.seq" is no header of a member'),
        (b"\x1f\x8b" * 256, "what follows its beginning is no header of a member"),
        (member("l.seq", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), 'member "l.seq" is a symbolic link'),
        (member("l.seq", b"", type=tarfile.LNKTYPE, linkname="a.seq"), 'member "l.seq" is a hard link'),
        (member("d", b"", type=tarfile.DIRTYPE), 'member "d/" is a folder; only regular files'),
        (member("p", b"", type=tarfile.FIFOTYPE), 'member "p" is a pipe'),
        (member("s", b"x", type=tarfile.GNUTYPE_SPARSE), "is of type b'S'"),
        (member("/etc/a.seq", b"x"), 'member "/etc/a.seq" would leave the folder'),
        (member("../a.seq", b"x"), 'member "../a.seq" would leave the folder'),
        (member("a/../../b.seq", b"x"), "would leave the folder"),
        (tar_header("a.seq", 8**11 - 1), 'member "a.seq" has 8,589,934,591 bytes, more than any can have (1,000)'),
        (member("a.seq", b"x", mtime=7), 'the header of member "a.seq" is damaged'),
        (GOOD.replace(b"a.seq", b"b.seq"), 'the header of member "b.seq" is damaged'),
    ],
)
def test_a_bad_tar_is_refused_by_file_and_member(tmp_path, content, message):
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(SourceError) as caught:
        list(read_members(tmp_path / "bad.tar", 1000))
    assert message in str(caught.value)
    assert str(tmp_path / "bad.tar") in str(caught.value)
