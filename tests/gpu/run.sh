#!/usr/bin/env bash
# Checks and measures attnc on a bare CUDA machine from kernels that build.sh compiled elsewhere, in under 8 minutes.
#   tests/gpu/run.sh DIR [OUT]      DIR: of build.sh. OUT: a folder for the full logs.
# Needs Python 3.11 or later with NumPy, ml_dtypes, PyTorch and CuPy for CUDA 13; no compiler, no installation, no network.
# Exit status 0: every check passed. Speed is printed, not judged.
set -uo pipefail
dir="$(realpath "${1:?usage: tests/gpu/run.sh DIR [OUT]}")"
out="$(realpath -m "${2:-$(mktemp -d)}")"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p "$out"
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-$(mktemp -d)}"

echo "== machine"
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv 2>&1 | tee "$out/machine.txt"
"$python" - <<'PY' 2>&1 | tee -a "$out/machine.txt"
import sys
from importlib import metadata
print("Python", sys.version.split()[0])
for name in ("numpy", "ml_dtypes", "torch", "cupy-cuda13x", "triton", "numba"):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "not installed")
PY

echo "== checks"
timeout 210 "$python" tests/gpu/gpu_checks.py "$dir" > "$out/checks.txt" 2>&1
status=$?
grep -v '^ok' "$out/checks.txt" | tail -n 60
[ "$status" -eq 124 ] && echo "the checks took longer than 210 s"

echo "== speed"
timeout 240 "$python" -m attnc.bench.gpu "$dir" > "$out/speed.txt" 2> "$out/speed.err"
bench=$?
cat "$out/speed.txt"
[ "$bench" -ne 0 ] && { echo "the benchmark ended with status $bench"; tail -n 20 "$out/speed.err"; }

echo "== logs in $out"
exit "$(( status != 0 || bench != 0 ))"
