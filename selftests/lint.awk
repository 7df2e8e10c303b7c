# SPDX-License-Identifier: Apache-2.0
#
# lint.awk: the rules of lint.sh about C sources that go line by line. Reads all of them in one pass
# and prints FILE:LINE: FINDING. Comments and strings are removed before code is judged; includes and
# section names are judged as they stand.

BEGIN {
	MAX_FUNCTION = 80
	MAX_FILE = 800
	MAX_MAP_NAME = 15

	# The dependency law: a folder, and what its files may include beside the folder itself.
	law["maps"] = ""
	law["vmlinux"] = ""
	law["bpf"] = "maps vmlinux.h"
	law["loader"] = "maps userspace/base userspace/limits.h culvert.skel.h"
	law["userspace/base"] = "maps"
	law["userspace/io"] = law["userspace/base"] " userspace/base"
	law["userspace/proto"] = law["userspace/io"]
	law["userspace/ctl"] = law["userspace/io"] " userspace/io loader"
	law["userspace/mesh"] = law["userspace/ctl"] " userspace/proto"
	law["userspace/telemetry"] = law["userspace/mesh"] " userspace/mesh"
	law["userspace/proxy"] = law["userspace/telemetry"] " userspace/telemetry"
	law["userspace/node"] = law["userspace/proxy"]
	law["userspace/daemon"] = law["userspace/proxy"] " userspace/proxy userspace/node"

	FORBIDDEN = "(system|popen|strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atoll|atof|strtok|" \
		"alloca|tmpnam|mktemp|bpf_printk|bpf_trace_printk)"
}

function find(what) { printf "%s:%d: %s\n", FILENAME, FNR, what; }

# The folder whose row of the law a file or an included path falls under.
function folder_of(path,    parts, n) {
	n = split(path, parts, "/")
	if (parts[1] == "userspace")
		return n > 2 ? parts[1] "/" parts[2] : path
	return parts[1]
}

function check_include(path,    from, to, allowed, n, i) {
	from = folder_of(FILENAME)
	if (path ~ /(^|\/)\.\.?\//)
		find("include \"" path "\" is not written from the root")
	if (!(from in law))
		return
	to = folder_of(path)
	if (to == from || (to == "userspace/limits.h" && from ~ /^userspace/))
		return
	n = split(law[from], allowed, " ")
	for (i = 1; i <= n; i++)
		if (to == allowed[i])
			return
	find(from " may not include \"" path "\"")
}

# Removes strings, character constants and comments; in_comment carries over lines.
function code_of(line,    out, at) {
	out = ""
	while (line != "") {
		if (in_comment) {
			at = index(line, "*/")
			if (!at)
				return out
			line = substr(line, at + 2)
			in_comment = 0
		} else if (match(line, /"([^"\\]|\\.)*"|'([^'\\]|\\.)+'|\/\*|\/\//)) {
			out = out substr(line, 1, RSTART - 1)
			at = substr(line, RSTART, RLENGTH)
			line = substr(line, RSTART + RLENGTH)
			if (at == "//")
				return out
			if (at == "/*")
				in_comment = 1
			else
				out = out "\"\""
		} else {
			return out line
		}
	}
	return out
}

# What the file before lacks, once it has been read.
function end_file() {
	if (last_lines > MAX_FILE)
		printf "%s: %d lines, more than %d\n", last_file, last_lines, MAX_FILE
	if (last_file ~ /\.h$/ && !once)
		print last_file ": no #pragma once"
}

FNR == 1 {
	end_file()
	once = 0
	in_comment = in_program = start = 0
	table = 0
	is_bpf = FILENAME ~ /^bpf\/|\.bpf\.[ch]$/
	speaks_libbpf = is_bpf || FILENAME ~ /^loader\// || FILENAME ~ /^(maps|selftests\/(bpf|lib))\//
	last_file = FILENAME
}
{ last_lines = FNR }

/^[ \t]*#[ \t]*include[ \t]*"/ {
	split($0, quoted, "\"")
	check_include(quoted[2])
}
/^[ \t]*#[ \t]*include[ \t]*<bpf\// && !speaks_libbpf { find("libbpf is spoken in loader/ only") }
/(^|[^A-Z])(TODO|FIXME|XXX)([^A-Z]|$)/ { find("unfinished work is not marked, it is finished") }

/^#pragma once$/ { once = 1 }

/SEC\("\.maps"\)/ {
	name = $0
	sub(/[ \t]*SEC\("\.maps"\).*/, "", name)
	sub(/.*[^A-Za-z0-9_]/, "", name)
	if (name !~ /^cv_[a-z0-9_]+$/ || length(name) > MAX_MAP_NAME)
		find("map name " name " is not cv_* of at most " MAX_MAP_NAME " characters")
}

# A program: from its SEC line to the closing brace.
/^SEC\("/ && !/SEC\("(\.maps|license|version)"\)/ { in_program = FILENAME ~ /^bpf\// }
/lint: table/ { table = 1 }

{
	code = code_of($0)
	if (code ~ "(^|[^A-Za-z0-9_>.])" FORBIDDEN "[ \t]*\\(")
		find("forbidden call")
	if (!speaks_libbpf && code ~ /(^|[^A-Za-z0-9_])bpf_map_[a-z_]*[ \t]*\(/)
		find("bpf_map_* belongs in loader/")
	if (in_program && code ~ /(^|[^A-Za-z0-9_])return[ \t]+-?[0-9]+[ \t]*;/)
		find("literal verdict: name it")
}
# A function's body: kernel style has both braces in the first column.
code ~ /^\{/ { start = FNR }
code ~ /^\}/ {
	if (start && FNR - start > MAX_FUNCTION && !table)
		find("function of " FNR - start " lines, more than " MAX_FUNCTION)
	start = table = in_program = 0
}
END { end_file() }
