#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Debian's kernel of its backports: TCX.
# timeout: 7200
# only: test-kernels

export SERIES=6.12
. "${CV_SELFTESTS:-$(dirname "$0")/..}/kernels/guest_tests.sh"
