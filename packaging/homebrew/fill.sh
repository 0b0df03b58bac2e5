#!/bin/sh
# Prints the formula of a release: fill.sh HOMEPAGE VERSION DIRECTORY-OF-ARCHIVES
set -eu
checksum() { sha256sum "$1" | cut -d ' ' -f 1; }
macos=$(checksum "$3/quince-macos-arm64.tar.gz")
linux=$(checksum "$3/quince-linux-x86_64.tar.gz")
sed -e 1d -e "s|@HOMEPAGE@|$1|g" -e "s|@VERSION@|$2|g" \
    -e "s|@SHA256_MACOS_ARM64@|$macos|" -e "s|@SHA256_LINUX_X86_64@|$linux|" "$(dirname "$0")/quince.rb"
