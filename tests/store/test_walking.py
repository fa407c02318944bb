"""Headers as compiled code walks them, against Python's tarfile."""

import tarfile

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen.store.exported import read_export
from distgen.store.walking import Members, places
from tests.store.test_exported import original, out  # noqa: F401 - fixtures


def test_headers_are_walked_as_tarfile_reads_them(out):  # noqa: F811
    found = read_export(out)
    for shard in found.shards:
        common = Members.of(found, shard.part)
        where = places(np.fromfile(out / shard.name, np.uint8), shard, common).astype(np.int64)
        offsets = common.offsets()[where & 3] + (where >> 2)[:, None] * 512
        with tarfile.open(out / shard.name) as tar:
            listed = {info.name: info.offset_data for info in tar}
        names = [*found.layout, "json"]
        walked = {
            f"{shard.part}-{shard.first + i:012d}.{name}": at
            for i, row in enumerate(offsets.tolist())
            for name, at in zip(names, row, strict=True)
            if at >= (where[i] >> 2) * 512
        }
        assert walked == listed


@settings(max_examples=200)
@given(data=st.data())
def test_no_changed_bit_of_a_header_is_passed_over(out, data):  # noqa: F811
    found = read_export(out)
    shard = data.draw(st.sampled_from(found.shards))
    content = np.fromfile(out / shard.name, np.uint8)
    with tarfile.open(out / shard.name) as tar:
        starts = [info.offset for info in tar]
    end = starts[-1] + 1024
    at = data.draw(st.sampled_from([*starts, end, end + 512])) + data.draw(st.integers(0, 511))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    assert places(content, shard, Members.of(found, shard.part)) is None
