"""Prints reports of compressing one model side by side: demo_table.py ARTIFACT...

Every figure comes from report.json (docs/REPORT.md). Beside a figure of the compressed model stands the original's in the
same run on the same text and tasks.
"""
import json
import os
import sys


def megabytes(count):
    return f"{count / 1e6:.1f} MB"


def pair(after, before, form):
    """'12.3 (was 12.1)'; '-' for what the run did not measure."""
    if after is None:
        return "-"
    return form.format(after) + ("" if before is None else f" (was {form.format(before)})")


def column(folder):
    report = json.load(open(os.path.join(folder, "report.json")))
    evaluation, measured = report["evaluation"], report["measured"]
    sizes, latency = evaluation["sizes"], evaluation["latency"] or {}
    divergence, tasks = evaluation["divergence"] or {}, evaluation["tasks"] or {}
    share = lambda key: 100 * tasks[key] / tasks["count"] if tasks.get(key) is not None and tasks.get("count") else None
    return {
        "": os.path.basename(folder.rstrip("/")).upper(),
        "size of the weights": pair(sizes["file_bytes"] / 1e6, sizes["source_file_bytes"] / 1e6, "{:.1f} MB"),
        "bits per quantized weight": f"{sizes['quantized_bits_per_weight']:.2f}",
        "bits per weight, whole model": f"{sizes['bits_per_weight']:.2f}",
        "KL(source || compressed)": pair(divergence.get("kl_mean"), None, "{:.5f} nats"),
        "perplexity": pair(divergence.get("perplexity"), divergence.get("perplexity_source"), "{:.3f}"),
        "task accuracy": pair(share("correct"), share("source_correct"), "{:.1f} %"),
        "tasks asked": str(tasks.get("count", "-")),
        "time per token": pair(latency.get("milliseconds_per_token"), latency.get("source_milliseconds_per_token"),
                               "{:.2f} ms"),
        "time taken": f"{measured['seconds']:.1f} s",
        "peak memory": megabytes(measured["peak_rss_bytes"]),
    }


columns = [column(folder) for folder in sys.argv[1:]]
names = list(columns[0])
widths = [max(len(c[name]) for name in names) for c in columns]
left = max(map(len, names))
for row, name in enumerate(names):
    print("  ".join([name.ljust(left), *(c[name].rjust(w) for c, w in zip(columns, widths))]))
    if row == 0:
        print("  ".join(["-" * left, *("-" * w for w in widths)]))
