#!/usr/bin/env bash
# Runs a command so that Ctrl-C reaches it and nobody else: `make`, which would call itself interrupted, ends with its exit code.
if [[ -t 0 ]]; then
    # With job control the command has the terminal, and its signals, to itself.
    set -m
    "$@"
else
    exec "$@"
fi
