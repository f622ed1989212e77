#!/usr/bin/env bash
# Compiles the kernels that tests/gpu/run.sh runs: on any Linux machine with `pip install 'attnc[cuda-build]'`, without a GPU.
#   tests/gpu/build.sh DIR [TARGET...]      by default sm_90a and sm_90, into DIR/sm_90a and DIR/sm_90
set -euo pipefail
out="${1:?usage: tests/gpu/build.sh DIR [TARGET...]}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
PYTHONPATH="$root" exec "${PYTHON:-python3}" "$root/tests/gpu/gpu_build.py" "$out" "${@:2}"
