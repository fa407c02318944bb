"""Another number of workers goes on with the samples that would have come."""

import json
import os
import re
import subprocess
import sys

import pytest

from distgen import GenomeLoader
from tests.conftest import ROOT


def serve(folder, workers):
    """What the script of the page on resuming prints under torchrun, sorted by sample."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(workers),
        "serve.py",
    ]
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env=quiet, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def folder(ecoli, tmp_path):
    page = (ROOT / "docs/resume.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "serve.py").write_text(script)
    (tmp_path / "ecoli536.zarr").symlink_to(ecoli.path.resolve())
    return tmp_path


def test_the_page_on_resuming_says_what_happens_under_torchrun(ecoli, folder):
    first, second = serve(folder, 3), serve(folder, 2)
    loader = GenomeLoader(ecoli, window=2048, batch_size=32, strand="random", jitter=16)
    batches = [loader.batch(0, position) for position in range(0, 640, 32)]
    lines = [
        [f"{s} {w}({w.strand})" for batch in half for s, w in zip(batch.samples.tolist(), batch.where(), strict=True)]
        for half in (batches[:10], batches[10:])
    ]
    assert sorted(first) == sorted(lines[0])
    assert sorted(second) == sorted(lines[1])
    (shown,) = re.findall(r"cat loader.json\n(.*?)\n", (ROOT / "docs/resume.md").read_text())
    assert json.loads(shown) == json.loads((folder / "loader.json").read_text())
