#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Debian's own kernel: no TCX, clsact in its place.
# timeout: 7200
# only: test-kernels

export SERIES=6.1
. "${CV_SELFTESTS:-$(dirname "$0")/..}/kernels/guest_tests.sh"
