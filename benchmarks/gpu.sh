#!/bin/sh
# What a GPU is wanted for, in about 15 minutes: its tests, the integer executor against float16, and `vitq` with budget
# full on both models at W3A3 and W4A4, side by side. Prints the rows of the pages; a part that fails does not stop the
# others, and the exit code says so.
#
#     sh benchmarks/gpu.sh ../shared/data [minutes for the training, 10 by default]
set -u
data=${1:?"give the folder that holds weights, imagenet-calibration and imagenet-validation"}
minutes=${2:-10}
cd "$(dirname "$0")/.." || exit 2
python=.venv/bin/python
[ -x "$python" ] || python=python3
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null || {
    echo "PyTorch sees no GPU here: nothing to measure" >&2
    exit 3
}
failed=0

"$python" -m pytest -q -n 0 tests/reconstruct/test_replay.py tests/integer -k "gpu or cuda or replay" || failed=1

"$python" benchmarks/integer.py run --device cuda || failed=1
"$python" benchmarks/integer.py table

# Four processes on one GPU: a step of these models leaves most of it idle.
timeout "${minutes}m" "$python" benchmarks/record.py run --data "$data" --tables full --device cuda --jobs 4 --split 2 ||
    failed=1
"$python" benchmarks/record.py table
exit "$failed"
