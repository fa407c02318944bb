#!/bin/sh
# On a CUDA machine with torch, Triton and numba alone: correctness, then speed. What each prints last is a table.
#     sh benchmarks/gpu.sh | tee benchmarks/results/gpu.txt
cd "$(dirname "$0")/.." || exit 1
if ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no CUDA device: not measured"
    exit 2
fi
if python3 -c 'import pytest, hypothesis' 2>/dev/null; then
    # The tests' bound on time leaves the benchmark some, which checks each op before it times it anyway.
    timeout 240 python3 -m pytest -q --confcutdir=tests/kernels -o addopts= -p no:cacheprovider -k triton_gpu tests/kernels
    echo "tests: exit status $?"
fi
python3 -m benchmarks.gpu
status=$?
# What a training costs beside its model, where what it needs besides is there.
if python3 -c 'import blake3, polars, pydantic, safetensors, tomli_w, torchmetrics' 2>/dev/null; then
    python3 -m benchmarks.train overhead data stall
else
    echo "training: not measured, distgen itself is not installed"
fi
exit $status
