"""Prints gcovr's JSON summary as one line per room: coverage_table.py coverage.json [--check]

With --check the exit status is 1 where a room outside apps/ is below the aim. Kernels for instructions that this machine
lacks could not run; they are named and left out.
"""
import collections
import json
import os
import sys

AIM = 85
NEEDS = {"runtime/kernels/avx2": "avx2", "runtime/kernels/avx512": "avx512_vnni", "runtime/kernels/avx512_bf16": "avx512_bf16",
         "runtime/kernels/amx": "amx_int8"}  # /proc/cpuinfo's words


def lacking():
    """Rooms whose instructions this machine does not have."""
    flags = set(open("/proc/cpuinfo").read().split())
    return {room for room, flag in NEEDS.items() if flag not in flags}


def lines_of_rooms(summary):
    """{room: [covered, total]}, "all" among them."""
    rooms = collections.defaultdict(lambda: [0, 0])
    for file in summary["files"]:
        for room in (os.path.dirname(file["filename"]), "all"):
            rooms[room][0] += file["line_covered"]
            rooms[room][1] += file["line_total"]
    return rooms


def main(file, *options):
    below, cannot_run = [], lacking()
    rooms = lines_of_rooms(json.load(open(file)))
    for room, (covered, total) in sorted(rooms.items(), key=lambda item: (item[0] == "all", item[0])):
        percent = 100 * covered / max(total, 1)
        if room in cannot_run:
            print(f"{room:<20} {covered:>6} of {total:>6} lines          not run: this machine lacks {NEEDS[room]}")
            continue
        if total > 0 and percent < AIM and room != "all" and room.split("/")[0] != "apps":
            below.append(room)
        remark = "  below the aim" if room in below else ""
        print(f"{room:<20} {covered:>6} of {total:>6} lines  {percent:5.1f} %{remark}")
    if below and "--check" in options:
        sys.exit(f"below {AIM} %: {', '.join(below)}")


main(*sys.argv[1:])
