# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2154
#
# guest_tests.sh: the tests that need a kernel of their own, under one of Debian's; sourced with SERIES set. Each of
# them is one result here; what it printed stands in the log.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"

: "${CV_PROGRAMS:=$O/selftests}"
VM_TESTS="e2e:paths e2e:policy"
# Software emulation is some thirty times slower than the machine.
VM_TIMEOUT_FACTOR=5

missing=
command -v qemu-system-x86_64 >/dev/null || missing=qemu-system-x86
[ -e "$(sh "$CV_SELFTESTS/kernels/kernel.sh" path "$SERIES")" ] || missing="Debian's kernel $SERIES"
[ -z "$missing" ] || skip_all "no $missing (make test-kernels installs it)"

# tests: those of bpf/ and VM_TESTS, one -t option a line
tests()
{
	printf '%s\n' "$CV_PROGRAMS"/bpf/test_* | sed -n 's|.*/bpf/\(test_[a-z0-9_]*\)$|-t bpf:\1|p'
	for test in $VM_TESTS; do
		echo "-t $test"
	done
}

plan "$(tests | wc -l)"
sh "$CV_SELFTESTS/kernels/vm.sh" "$SERIES" "uname -r
export O='$O' CV_SELFTESTS='$CV_SELFTESTS' CV_PROGRAMS='$CV_PROGRAMS' CULVERT_BIN='$(dirname "$CULVERTD")'
export TIMEOUT_FACTOR=$VM_TIMEOUT_FACTOR
exec '$CV_SELFTESTS/run' -o /run/logs $(tests | tr '\n' ' ')" >"$CV_TMP/guest" 2>&1
sed 's/^/# | /' "$CV_TMP/guest"
sed -n 's/^ok [0-9]* //p' "$CV_TMP/guest" >"$CV_TMP/ok"
sed -n 's/^not ok [0-9]* //p' "$CV_TMP/guest" >"$CV_TMP/not_ok"
while read -r name; do
	ok "$SERIES: $name"
done <"$CV_TMP/ok"
while read -r name; do
	not_ok "$SERIES: $name"
done <"$CV_TMP/not_ok"
