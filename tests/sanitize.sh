#!/bin/bash
# The native code under sanitizers: `make sanitize`, 7 minutes on one processor.
#
#   tests/sanitize.sh address [TEST...]   the extension under AddressSanitizer and UBSan: tests of the ops
#   tests/sanitize.sh threads             its threads under ThreadSanitizer, without Python
#
# Each first plants a fault, which has to be found: a tool that sees nothing must not pass.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
export PATH=$PWD/.venv/bin:$PATH

build() {
  cmake --preset "$1" -DPython_EXECUTABLE="$python" >/dev/null
  cmake --build --preset "$1"
}

# What ends with another code than 0, and says why.
found() {
  local expected=$1 output
  shift
  if output=$("$@" 2>&1) || ! grep -q "$expected" <<<"$output"; then
    echo "$output"
    echo "sanitize.sh: the planted fault was not found: $expected" >&2
    exit 1
  fi
}

address() {
  build dev
  local core preload
  core=$(ls "$PWD"/build/dev/_core.*.so)
  # Python itself is not built with it, so the runtime has to come first; libstdc++ beside it, or
  # the runtime finds no __cxa_throw to watch.
  preload="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libstdc++.so)"
  # Leaks are those of Python and torch, which free nothing at the end. Python's own allocator would
  # hide what lies inside its arenas. Frames kept after their return lie askew for vectors of 64
  # bytes (GCC bug 110027), which then crash. The editable install must not rebuild under it,
  # pytest must not capture the reports, and a test that starts another Python has no such extension.
  local -a under=(env LD_PRELOAD="$preload" PYTHONMALLOC=malloc PYTHONPATH=tests/helpers
    ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    PYNEURONS_SANITIZED="$core" SKBUILD_EDITABLE_SKIP="$(ls -d "$PWD"/build/cp3*)")
  found "heap-buffer-overflow" "${under[@]}" "$python" -m sanitized_core
  [ $# -gt 0 ] || set -- "${tests[@]}"
  "${under[@]}" "$python" -m pytest -q -p sanitized_core -p no:faulthandler --capture=sys \
    -m "not slow" -k "not triton and not the_interpreter_ends" "$@"
}

# Each on every instruction set of this processor. Not seen are the loads and stores of AMX tiles:
# their addresses go through instructions that the compiler does not instrument.
tests=(tests/test_ops_arrays.py tests/test_ops_checks.py tests/test_segment_counts.py
  tests/test_firing_rows.py tests/test_first_segments.py tests/test_ngram_keys.py
  tests/test_ngram_coverage.py tests/test_ngram_triggers.py tests/test_score_candidates.py
  tests/test_trigger_baselines.py tests/test_layer_norm.py tests/test_attention.py
  tests/test_linear.py tests/test_linear_bfloat16.py tests/test_ffn.py tests/test_parallel.py
  tests/test_large_offsets.py)

threads() {
  build threads
  # The runtime wants the addresses where they are without randomisation.
  local -a under=(env TSAN_OPTIONS=halt_on_error=1 setarch -R build/threads/threaded_ops)
  found "data race" "${under[@]}" race
  "${under[@]}"
}

case ${1:-} in
  address) address "${@:2}" ;;
  threads) threads ;;
  *)
    echo "usage: tests/sanitize.sh address [TEST...] | threads" >&2
    exit 2
    ;;
esac
