#!/bin/sh
# Runs the single-file binary from another folder, with an empty home and no other program on the path, and chats with
# the model in it: packaging/check_binary.sh dist/quince
set -eu
binary=$(realpath "$1")
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
cd "$home"
answer=$(env -i HOME="$home" PATH=/nonexistent "$binary" run "What is the capital of France?" </dev/null)
if [ "$answer" != "The capital of France is Paris." ]; then
    echo "it answers: $answer" >&2
    exit 1
fi
echo "$answer"
