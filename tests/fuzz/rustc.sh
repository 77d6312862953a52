#!/bin/sh
# rustc for the crates of this workspace alone: with libFuzzer's coverage counters (clang, SanitizerCoverage). The
# dependencies stay as `make test` built them.
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
