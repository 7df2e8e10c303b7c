#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Medians, table, bench.json and bench.svg of a bench run.

	report.py SAMPLES DIRECTORY

SAMPLES has a line `PATH METRIC SLOT VALUE` for each figure; what has the same SLOT was measured side by
side: in the same round, or one right after the other. A ratio is the median of the slots' ratios: to the
path without a mesh over the same distance, or of one mesh to another; so what slows the machine down for a
while meets both sides of it. The last lines hold the figures against what is expected; the status is 1 when
one of them is missed.
"""

import collections
import json
import os
import statistics
import subprocess
import sys

NONE_SAME, NONE_ACROSS = "none-same", "none-across"

# path: what the table calls it, and what it is compared with
PATHS = {
    NONE_SAME: ("no mesh, same node", NONE_SAME),
    "direct": ("direct", NONE_SAME),
    "direct-vip": ("direct, by service address", NONE_SAME),
    "tls-same": ("tls, same node", NONE_SAME),
    "ztunnel-same": ("ztunnel, same node", NONE_SAME),
    NONE_ACROSS: ("no mesh, across nodes", NONE_ACROSS),
    "hbone": ("HBONE, across nodes", NONE_ACROSS),
    "hbone-tc": ("HBONE, capture by TC alone", NONE_ACROSS),
    "ztunnel-across": ("ztunnel, across nodes", NONE_ACROSS),
}

Metric = collections.namedtuple("Metric", "title unit digits more_is_better")
METRICS = {
    "p50": Metric("p50", "us", 1, False),
    "p99": Metric("p99", "us", 1, False),
    "p50_split": Metric("p50 split", "us", 1, False),
    "p99_split": Metric("p99 split", "us", 1, False),
    "p50_one": Metric("p50 one CPU", "us", 1, False),
    "p99_one": Metric("p99 one CPU", "us", 1, False),
    "throughput_1": Metric("1 stream", "Gbit/s", 2, True),
    "throughput_16": Metric("16 streams", "Gbit/s", 2, True),
    "connections": Metric("new conns", "1/s", 0, True),
    "cpu": Metric("CPU", "s/GB", 3, False),
    "memory_idle": Metric("idle", "MB", 1, False),
    "memory_held": Metric("1,000 conns", "MB", 1, False),
}
TABLES = (
    (
        "1 KB request and answer on one kept connection, in µs (free: not pinned; split: client "
        "and server on one CPU, proxies on the other; one CPU: all on one)",
        ("p50", "p99", "p50_split", "p99_split", "p50_one", "p99_one"),
    ),
    (
        "throughput in Gbit/s, new connections per second, CPU seconds per GB, resident MB of the "
        "proxy",
        ("throughput_1", "throughput_16", "connections", "cpu", "memory_idle", "memory_held"),
    ),
)


def read_samples(path):
    """(path, metric) -> {slot: values}"""
    samples = collections.defaultdict(lambda: collections.defaultdict(list))
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            name, metric, slot, value = line.split()
            samples[name, metric][slot].append(float(value))
    return samples


def ratio_of(ours, theirs):
    """The median of the ratios of the slots that both have; None without one."""
    both = [slot for slot in ours if slot in theirs]
    if not both:
        return None
    median = statistics.median
    return round(median(median(ours[s]) / median(theirs[s]) for s in both), 4)


def summarise(samples):
    """The records of bench.json."""
    records = []
    for (path, metric), slots in samples.items():
        values = [value for slot in slots.values() for value in slot]
        base = samples.get((PATHS[path][1], metric), {}) if path in PATHS else {}
        records.append(
            {
                "path": path,
                "metric": metric,
                "unit": METRICS[metric].unit if metric in METRICS else "ms",
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
                "rounds": len(values),
                "ratio": ratio_of(slots, base),
            }
        )
    return records


def cell(record, metric):
    if not record:
        return "-"
    text = f"{record['median']:.{METRICS[metric].digits}f}"
    return f"{text} ({record['ratio']:.2f}×)" if record["ratio"] is not None else text


def print_table(by_key, title, metrics):
    rows = [["path", *(METRICS[m].title for m in metrics)]]
    for path, (name, _) in PATHS.items():
        if any((path, m) in by_key for m in metrics):
            rows.append([name, *(cell(by_key.get((path, m)), m) for m in metrics)])
    if len(rows) == 1:
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print(f"\n{title}\n")
    for nr, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        print("| " + " | ".join(cells) + " |")
        if nr == 0:
            print("|" + "|".join("-" * (w + 2) for w in widths) + "|")


# ---- the chart -----------------------------------------------------------------------------------

CHARTED = ("p50", "p99", "throughput_1", "throughput_16", "connections", "cpu")


def plot(by_key, path):
    """Each path's figures against no mesh, by gnuplot."""
    paths = [p for p, (_, base) in PATHS.items() if p != base and (p, "p50") in by_key]
    if not paths:
        return
    data = [" ".join(['""', *(f'"{PATHS[p][0]}"' for p in paths)])]
    for metric in CHARTED:
        ratios = (by_key.get((p, metric), {}).get("ratio") for p in paths)
        label = f"{METRICS[metric].title} {'↑' if METRICS[metric].more_is_better else '↓'}"
        data.append(" ".join([f'"{label}"', *(str(r or "?") for r in ratios)]))
    bars = (
        f"$ratios using {i + 2}{':xtic(1)' if i == 0 else ''} title columnheader({i + 2})"
        for i in range(len(paths))
    )
    script = "\n".join(
        [
            "set terminal svg size 1100,520 background 'white' font 'sans,12'",
            f"set output '{path}'",
            "set encoding utf8",
            "set title 'Ratio to no mesh over the same distance (↑ more is better, ↓ less is)'",
            "set style data histograms",
            "set style histogram clustered gap 2",
            "set style fill solid 0.9 border -1",
            "set logscale y 2",
            "set grid ytics",
            "set key outside right top",
            "set ylabel 'ratio'",
            "set datafile missing '?'",
            "$ratios << END",
            *data,
            "END",
            "plot " + ", ".join([*bars, "1 with lines lc 'black' notitle"]),
            "",
        ]
    )
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


# ---- what is expected ----------------------------------------------------------------------------

# path, metric, bound of the ratio to no mesh
RATIO_BARS = (
    ("direct", "throughput_1", 0.90),
    ("direct", "throughput_16", 0.90),
    ("direct", "p50", 1.10),
    ("direct", "connections", 0.60),
)
# path, metric, bound of the figure
VALUE_BARS = (("hbone", "memory_idle", 8.0),)
# Enrolling a pod: so many milliseconds beside its two TCX attaches, each an RCU grace period long.
ENROLMENT_MS = 5.0


def bars(by_key, samples):
    """(what, figure, bound, whether the figure has to be at least the bound)"""
    for path, metric, bound in RATIO_BARS:
        if (path, metric) in by_key:
            title = f"{PATHS[path][0]}: {METRICS[metric].title}, ratio to no mesh"
            more = METRICS[metric].more_is_better
            yield title, by_key[path, metric]["ratio"], bound, more
    for path, metric, bound in VALUE_BARS:
        if (path, metric) in by_key:
            record = by_key[path, metric]
            yield f"{path}: {metric} ({record['unit']})", record["median"], bound, False
    enrolment = by_key.get(("enrolment", "milliseconds"))
    attach = by_key.get(("tcx-attaches", "milliseconds"))
    if enrolment and attach:
        title = f"enrolment (ms; {ENROLMENT_MS:g} and two TCX attaches)"
        yield title, enrolment["median"], ENROLMENT_MS + attach["median"], False
    for metric, shape in METRICS.items():
        ratio = ratio_of(
            samples.get(("hbone", metric), {}), samples.get(("ztunnel-across", metric), {})
        )
        if ratio is not None:
            yield f"across nodes: {shape.title}, ratio to ztunnel", ratio, 1.0, shape.more_is_better


def check_bars(by_key, samples):
    """Prints each expectation; how many are missed."""
    missed = 0
    print()
    for title, figure, bound, more in bars(by_key, samples):
        met = figure >= bound if more else figure <= bound
        missed += not met
        sign = "≥" if more else "≤"
        print(f"{'ok    ' if met else 'MISSED'} {title}: {figure:.3g} (expected {sign} {bound:.3g})")
    return missed


def main():
    samples = read_samples(sys.argv[1])
    records = summarise(samples)
    by_key = {(r["path"], r["metric"]): r for r in records}
    with open(os.path.join(sys.argv[2], "bench.json"), "w", encoding="utf-8") as out:
        json.dump(records, out, indent=1)
        out.write("\n")
    for title, metrics in TABLES:
        print_table(by_key, title, metrics)
    plot(by_key, os.path.join(sys.argv[2], "bench.svg"))
    sys.exit(1 if check_bars(by_key, samples) else 0)


if __name__ == "__main__":
    main()
