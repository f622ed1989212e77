#!/usr/bin/env bash
# Checks and measures attnc on a bare CUDA machine from kernels that build.sh compiled elsewhere: 3 minutes for the checks of
# each target, 5 for the benchmark, which puts all targets side by side.
#   tests/gpu/run.sh DIR [OUT] [checks|speed]      DIR: of build.sh. OUT: a folder for the full logs. By default both parts.
# Needs Python 3.11 or later with NumPy, ml_dtypes, PyTorch and CuPy for CUDA 13; no compiler, no installation, no network.
# Exit status 0: every check passed. Speed is printed, not judged.
set -uo pipefail
dir="$(realpath "${1:?usage: tests/gpu/run.sh DIR [OUT] [checks|speed]}")"
out="$(realpath -m "${2:-$(mktemp -d)}")"
part="${3:-both}"
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

# The best target is the last by name: sm_90a behind sm_90.
mapfile -t kernels < <(find "$dir" -mindepth 1 -maxdepth 1 -type d -name 'sm_*' | sort -r)
status=0
[ "${#kernels[@]}" -eq 0 ] && { echo "no kernels in $dir: run tests/gpu/build.sh"; status=1; }

if [ "$part" != speed ]; then
    for each in "${kernels[@]}"; do
        name="$(basename "$each")"
        echo "== checks of $name"
        timeout 180 "$python" tests/gpu/gpu_checks.py "$each" > "$out/checks-$name.txt" 2>&1
        code=$?
        grep -v '^ok' "$out/checks-$name.txt" | tail -n 60
        grep '^ok *schedule' "$out/checks-$name.txt"
        [ "$code" -eq 124 ] && echo "the checks took longer than 180 s"
        [ "$code" -ne 0 ] && status=1
    done
fi

if [ "$part" != checks ] && [ "${#kernels[@]}" -ne 0 ]; then
    echo "== speed"
    timeout 300 "$python" -m attnc.bench.gpu "${kernels[@]}" > "$out/speed.txt" 2> "$out/speed.err"
    code=$?
    cat "$out/speed.txt"
    [ "$code" -ne 0 ] && { echo "the benchmark ended with status $code"; tail -n 20 "$out/speed.err"; status=1; }
fi

echo "== logs in $out"
exit "$status"
