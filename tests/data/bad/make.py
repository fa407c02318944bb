"""Writes the binary files of this folder; the text files are as they stand. Run it after changing it: python make.py"""

import bz2
import gzip
import lzma
import struct
import zipfile
from pathlib import Path

import pyBigWig
import pysam

HERE = Path(__file__).parent
GENOME = (HERE / "good.fa").read_bytes()
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def put(name: str, content: bytes) -> None:
    (HERE / name).write_bytes(content)


def changed(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


# ---- compressed sequence ----------------------------------------------------------------------

zipped = gzip.compress(GENOME, mtime=0)
put("fasta/cut.fa.gz", zipped[:-12])
put("fasta/checksum.fa.gz", changed(zipped, len(zipped) - 8, b"\0\0\0\0"))
put("fasta/damaged.fa.gz", changed(zipped, 24, b"\xff" * 8))
put("fasta/junk.fa.gz", zipped + b"and more of something else\n")
put("fasta/twice.fa.gz", gzip.compress(zipped, mtime=0))
put("fasta/bzip2.fa.bz2", bz2.compress(GENOME))
put("fasta/xz.fa.xz", lzma.compress(GENOME))
put("fasta/zstd.fa.zst", bytes.fromhex("28b52ffd") + bytes(20))
with zipfile.ZipFile(HERE / "fasta/zip.fa.zip", "w") as archive:
    archive.writestr(zipfile.ZipInfo("good.fa"), GENOME)
with pysam.BGZFile(str(HERE / "fasta/cut.fa.bgz"), "wb") as file:
    file.write(GENOME)
whole = (HERE / "fasta/cut.fa.bgz").read_bytes()
put("fasta/cut.fa.bgz", whole.removesuffix(BGZF_END))
put("fasta/damaged.fa.bgz", changed(whole, 30, b"\xff" * 8))

# ---- .2bit ------------------------------------------------------------------------------------


def twobit(version=0, count=1, name=b"chr1", offset=None, bases=12, blocks=((), ()), packed=b"\x1b" * 3) -> bytes:
    """One contig of 12 bases; `blocks` are starts and sizes of what is ambiguous, and of what is lower case."""
    at = 16 + 1 + len(name) + 4 if offset is None else offset
    index = bytes([len(name)]) + name + struct.pack("<I", at)
    parts = b""
    for stretches in blocks:
        starts, sizes = [s for s, _ in stretches], [n for _, n in stretches]
        parts += struct.pack(f"<{1 + 2 * len(starts)}I", len(starts), *starts, *sizes)
    body = struct.pack("<I", bases) + parts + struct.pack("<I", 0) + packed
    return struct.pack("<4I", 0x1A412743, version, count, 0) + index + body


put("twobit/empty.2bit", b"")
put("twobit/fasta.2bit", GENOME)
put("twobit/compressed.2bit", gzip.compress(twobit(), mtime=0))
put("twobit/version.2bit", twobit(version=2))
put("twobit/no_contig.2bit", twobit(count=0))
put("twobit/index.2bit", twobit(count=7)[:30])
put("twobit/no_name.2bit", twobit(name=b""))
put("twobit/blank_name.2bit", twobit(name=b"chr 1"))
put("twobit/inside_index.2bit", twobit(offset=3))
put("twobit/beyond.2bit", twobit(offset=9999))
put("twobit/cut.2bit", twobit()[:-2])
put("twobit/no_sequence.2bit", twobit(bases=0))
put("twobit/leaves.2bit", twobit(blocks=([(10, 3)], [])))
put("twobit/overlap.2bit", twobit(blocks=([(0, 3), (2, 2)], [])))
put("twobit/lower.2bit", twobit(blocks=([], [(5, 100)])))
put("twobit/count.2bit", changed(twobit(), 29, b"\xff\xff\xff\x7f"))
one, other = (b"\4chr1" + struct.pack("<I", at) for at in (34, 57))
put("twobit/twice.2bit", struct.pack("<4I", 0x1A412743, 0, 2, 0) + one + other + twobit()[25:] * 2)

# ---- bigWig -----------------------------------------------------------------------------------


def bigwig(name: str, lengths=(("chr1", 100), ("chr2", 50))) -> bytes:
    with pyBigWig.open(str(HERE / name), "w") as file:
        file.addHeader(list(lengths), maxZooms=0)
        file.addEntries([lengths[0][0]], [10], ends=[20], values=[2.5])
    return (HERE / name).read_bytes()


good = bigwig("signal/length.bw", (("chr1", 99), ("chr2", 50)))
bigwig("signal/other_assembly.bw", (("ctg1", 100),))
good = bigwig("signal/damaged.bw")
_, _, _, names, data, index = struct.unpack("<IHHQQQ", good[:32])
put("signal/damaged.bw", changed(good, data + 12, b"\xff" * 8))
put("signal/cut.bw", good[: data + 20])
put("signal/names.bw", changed(good, names, b"xxxx"))
put("signal/index.bw", changed(good, index, b"xxxx"))
put("signal/circle.bw", changed(good, index + 48, struct.pack("<BBHIIIIQ", 0, 0, 1, 0, 0, 2, 100, index + 48)))
put("signal/big_endian.bw", changed(good, 0, good[3::-1]))
put("signal/genes.bb", (0x8789F2EB).to_bytes(4, "little") + bytes(60))


def plain_bigwig(*records: tuple[int, int, float], id: int = 0, kind: int = 1) -> bytes:
    """The smallest bigWig: chr1, one data block that is not compressed."""
    tree = struct.pack("<IIIIQQ", 0x78CA8C91, 1, 4, 8, 1, 0) + struct.pack("<BBH4sII", 1, 0, 1, b"chr1", 0, 100)
    body = struct.pack("<IIIIIBBH", id, 0, 100, 0, 0, kind, 0, len(records))
    body += b"".join(struct.pack("<IIf", *record) for record in records)
    at = 64 + len(tree) + 8
    leaf = struct.pack("<IIIIQQ", 0, 0, 0, 100, at, len(body))
    head = struct.pack("<IHHQQQHHQQIQ", 0x888FFC26, 4, 0, 64, at - 8, at + len(body), 0, 0, 0, 0, 0, 0)
    index = struct.pack("<IIQIIIIQII", 0x2468ACE0, 256, 1, 0, 0, 0, 100, 0, 1, 0) + struct.pack("<BBH", 1, 0, 1)
    return head + tree + struct.pack("<Q", 1) + body + index + leaf


put("signal/overlap.bw", plain_bigwig((10, 20, 1.0), (15, 30, 1.0)))
put("signal/beyond.bw", plain_bigwig((90, 101, 1.0)))
put("signal/no_base.bw", plain_bigwig((10, 10, 1.0)))
put("signal/infinite.bw", plain_bigwig((10, 20, float("inf"))))
put("signal/contig.bw", plain_bigwig((10, 20, 1.0), id=7))
put("signal/kind.bw", plain_bigwig((10, 20, 1.0), kind=9))

# ---- BAM and CRAM -----------------------------------------------------------------------------


def alignments(name: str, lengths=(("chr1", 100), ("chr2", 50)), start=10, cigar="5M", flag=0, n=1, mode="wb") -> bytes:
    header = {"HD": {"VN": "1.6"}, "SQ": [{"SN": contig, "LN": length} for contig, length in lengths]}
    options = {"reference_filename": str(HERE / "good.fa")} if mode == "wc" else {}
    with pysam.AlignmentFile(str(HERE / name), mode, header=header, **options) as file:
        for i in range(n):
            read = pysam.AlignedSegment(file.header)
            read.query_name, read.flag, read.mapping_quality = f"read{i}", flag, 60
            if lengths:
                read.reference_id, read.reference_start, read.cigarstring = 0, start, cigar
            read.query_sequence = "GATTA"
            file.write(read)
    return (HERE / name).read_bytes()


alignments("alignments/beyond.bam", start=97)
alignments("alignments/no_base.bam", cigar="5S")
alignments("alignments/duplicates.bam", flag=0x400)
alignments("alignments/length.bam", (("chr1", 99), ("chr2", 50)))
alignments("alignments/other_assembly.bam", (("ctg1", 100),))
alignments("alignments/two_names.bam", (("chr1", 100), ("1", 100)))
alignments("alignments/no_contigs.bam", (), flag=4)
good = alignments("alignments/cut.bam", n=50)
put("alignments/cut.bam", good[:-28])
put("alignments/damaged.bam", changed(good, len(good) // 2, bytes(20)))
good = alignments("alignments/cut.cram", mode="wc", n=3)
put("alignments/cut.cram", good[:-40])
(HERE / "good.fa.fai").unlink(missing_ok=True)
