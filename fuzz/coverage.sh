#!/bin/sh
# What cargo calls in place of rustc for fuzzing (RUSTC_WRAPPER): this project's crates count which of their branches are
# taken, as `cargo fuzz` has them do it; those that they depend on, of which Burn takes longest, are compiled as always.
rustc=$1
shift
case "$CARGO_PKG_NAME:$CARGO_CRATE_NAME" in
distorch*:build_script_*) ;;
distorch*)
    set -- "$@" --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0
    ;;
esac
exec "$rustc" "$@"
