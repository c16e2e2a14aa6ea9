#!/usr/bin/env bash
# The oldest torch that l0func runs on: the whole suite on torch 2.1.2 with numpy<2, in an environment of its own.
#
#     bash tests/floor.sh [folder for the environment]
#
# Needs Python 3.10 or 3.11. Downloads some gigabytes where pip finds no CPU build of torch 2.1.2.
set -euo pipefail
cd "$(dirname "$0")/.."
place=${1:-$(mktemp -d)}
python3 -m venv "$place"
"$place/bin/pip" install -q "torch==2.1.2" "numpy<2" optree pytest pytest-xdist scikit-learn matplotlib tqdm safetensors
"$place/bin/pip" install -q --no-deps -e .
"$place/bin/pytest"
