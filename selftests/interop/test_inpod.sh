#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What test_ztunnel.sh does, with a culvert in ztunnel's place on node1: both nodes get their pods by
# ZDS, one of them is a real ztunnel.
# timeout: 900

CV_OURS=inpod exec "${CV_SELFTESTS:-$(dirname "$0")/..}/interop/test_ztunnel.sh"
