"""Prints gcovr's JSON summary as one line per room: coverage_table.py coverage.json"""
import collections
import json
import os
import sys

AIM = 85

rooms = collections.defaultdict(lambda: [0, 0])
for file in json.load(open(sys.argv[1]))["files"]:
    for room in (os.path.dirname(file["filename"]), "all"):
        rooms[room][0] += file["line_covered"]
        rooms[room][1] += file["line_total"]
for room, (covered, total) in sorted(rooms.items(), key=lambda item: (item[0] == "all", item[0])):
    percent = 100 * covered / max(total, 1)
    below = "  below the aim" if percent < AIM and not room.startswith(("apps", "all")) else ""
    print(f"{room:<20} {covered:>6} of {total:>6} lines  {percent:5.1f} %{below}")
