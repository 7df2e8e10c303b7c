#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# lint.sh: what a machine can check about the sources, in seconds: format, the dependency law, names,
# licences, forbidden calls, lengths (lint.awk), man pages, scripts. Prints one line a finding and
# ends with 1 if there is one.
set -u

cd "$(dirname "$0")/.." || exit 2
: "${CLANG_FORMAT:=clang-format}"
findings=$(mktemp)
trap 'rm -f "$findings"' EXIT

# files PATTERN…: what git tracks, or will once it is added
files()
{
	git ls-files -z --cached --others --exclude-standard --deduplicate -- "$@" 2>/dev/null |
		xargs -0r sh -c 'for f; do [ ! -f "$f" ] || printf "%s\0" "$f"; done' sh
}

c_files()
{
	files '*.c' '*.h' ':!vmlinux/*/vmlinux.h'
}

scripts()
{
	files '*.sh' .ci/run selftests/run
}

check_format()
{
	c_files | xargs -0r "$CLANG_FORMAT" --dry-run -Werror 2>&1 |
		awk -F: '/ error: / && !seen[$1]++ { print $1 ":" $2 ": not formatted (make format)" }'
}

check_c()
{
	c_files | xargs -0r awk -f selftests/lint.awk
}

# The licence of a file goes by its folder; it stands in the first line, or behind a #! line.
check_spdx()
{
	files ':!LICENSES' ':!LICENSE' ':!selftests/fuzz/corpus' ':!*.json' ':!*.svg' ':!*.png' ':!*.pem' \
		':!*.sum' | xargs -0r awk '
		function want(path) {
			if (path ~ /^(bpf|vmlinux)\// || path ~ /\.bpf\.[ch]$/ && path !~ /^maps\//)
				return "GPL-2.0-only"
			if (path ~ /^maps\//)
				return "GPL-2.0-only OR BSD-2-Clause"
			return "Apache-2.0"
		}
		FNR == 1 && /^#!/ { next }
		{
			if (!match($0, /SPDX-License-Identifier: /))
				print FILENAME ": no SPDX line"
			else {
				id = substr($0, RSTART + RLENGTH)
				sub(/ *(\*\/.*|-->.*)?$/, "", id)
				if (id != want(FILENAME))
					print FILENAME ": licensed " id ", its folder is " want(FILENAME)
			}
			nextfile
		}'
}

check_man()
{
	files 'docs/man/*.[1-8]' | xargs -0r -n 1 sh -c '
		LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$1" 2>&1 >/dev/null |
			sed "s|^|$1: |"' sh
}

# table FILE PATTERN: the first text in quotes, right behind PATTERN, of each line that begins so
table()
{
	sed -n "s/^	$2\"\([^\"]*\)\".*/\1/p" "$1" | sort -u
}

# man_terms PAGE SECTION…: the words of the page's tagged paragraphs in these sections, without
# markup and values
man_terms()
(
	page=$1
	shift
	for section; do
		awk -v want="$section" '
			/^\.SH / { inside = $0 == ".SH " want }
			tagged && inside { print }
			{ tagged = /^\.TP/ }' "$page"
	done | sed 's/([^)]*)//g; s/\\f[A-Z]//g; s/\\-/-/g; s/^\.[A-Z]* *//' | tr -c 'A-Za-z0-9_-' '\n'
)

# compare WHAT PAGE CODE-LIST MAN-LIST: what is in one alone
compare()
{
	printf '%s\n' "$3" | grep -vxF -e "$4" | sed "s|.*|$2: does not tell of the $1 &|"
	printf '%s\n' "$4" | grep -vxF -e "$3" | sed "s|.*|$2: tells of the $1 &, which there is not|"
}

# Variables, commands, options and keys: the tables of the code and the manual pages are one list.
check_man_tables()
{
	compare variable docs/man/culvertd.8 "$(
		sed -n 's/^.*\(VAR(\|\t{ \|getenv(\)"\([A-Z][A-Z0-9_]*\)".*/\2/p' \
			userspace/daemon/env*.c | sort -u)" "$(
		man_terms docs/man/culvertd.8 ENVIRONMENT | grep -x '[A-Z][A-Z0-9_]\{3,\}' | sort -u)"
	compare option docs/man/culvertctl.8 "$(table userspace/ctl/options.c '{ ' | sed 's/^/--/')" "$(
		man_terms docs/man/culvertctl.8 COMMANDS OPTIONS | grep -x -e '--[a-z][a-z-]*' | sort -u)"
	compare command docs/man/culvertctl.8 "$(
		table userspace/ctl/commands.c '{ ' | tr ' ' '\n' | sort -u)" "$(
		man_terms docs/man/culvertctl.8 COMMANDS | grep -x '[a-z]\{3,\}' |
			grep -vx -e ITEM | sort -u)"
	table userspace/daemon/settings.c '{ ' | while read -r key; do
		grep -qw "$key" docs/man/culvert.yaml.5 ||
			echo "docs/man/culvert.yaml.5: does not tell of the key $key"
	done
	man_terms docs/man/culvert.yaml.5 SETTINGS | grep -x '[a-z][A-Za-z]\{2,\}' | while read -r key; do
		grep -q "\"$key\"" userspace/daemon/settings*.c || [ "$key" = true ] ||
			echo "docs/man/culvert.yaml.5: tells of $key, which there is not"
	done
}

check_scripts()
{
	scripts | xargs -0r awk 'FNR == 1 { if (/^#!/) print FILENAME; nextfile }' |
		while read -r f; do [ -x "$f" ] || echo "$f: has a #! line and is not executable"; done
	files 'selftests/e2e/*.sh' 'selftests/interop/*.sh' | xargs -0r sh -c '
		for f; do [ ! -x "$f" ] || head -c2 "$f" | grep -q "#!" || echo "$f: executable without #!"
		done' sh
	if command -v shellcheck >/dev/null; then
		scripts | xargs -0r shellcheck -x -S warning -e SC2154 -f gcc
	else
		echo "lint: no shellcheck here (sudo make deps), scripts are not checked" >&2
	fi
	files '*.py' | xargs -0r python3 -c '
import ast, sys
for path in sys.argv[1:]:
    try:
        ast.parse(open(path).read())
    except SyntaxError as e:
        print(f"{path}:{e.lineno}: {e.msg}")'
}

for check in check_format check_c check_spdx check_man check_man_tables check_scripts; do
	"$check"
done >"$findings"
sort -u "$findings"
if [ -s "$findings" ]; then
	echo "lint: $(sort -u "$findings" | wc -l) findings" >&2
	exit 1
fi
echo "lint: clean"
