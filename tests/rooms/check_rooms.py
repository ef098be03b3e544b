"""Holds the tree to the one-way rooms of rooms.txt.

usage: check_rooms.py ROOT [--table FILE]

Prints one line per breach (file:line: what) and exits with 1; exits with 0 and a count when there is none.
"""
import argparse
import os
import re
import sys
from pathlib import Path

SOURCES = {".h", ".hpp", ".cpp", ".cc", ".cxx", ".cu", ".cuh", ".inc"}
HEADERS = {".h", ".hpp", ".cuh", ".inc"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>|(\S+))')
TORCH = re.compile(r"^(torch|ATen|c10|caffe2)/")
STANDARD = re.compile(r"^[a-z0-9_]+$")  # <vector>, <cstdint>: the C++ library alone has no suffix and no folder
ROOM_CALL = re.compile(r"\bautoglm_room\s*\(([^)]*)\)")
LINK = re.compile(r"\bautoglm(?:::|_)(\w+)")


class Room:
    def __init__(self, name, torch):
        self.name, self.torch, self.allowed = name, torch, {name}


def read_table(path):
    """Rooms by name, and the free folders. `above` closes over rooms that stand earlier in the file."""
    rooms, free = {}, set()
    for number, raw in enumerate(path.read_text().replace("\\\n", "").splitlines(), 1):
        line = raw.split("#")[0].strip()
        if not line:
            continue
        left, _, right = (part.strip() for part in line.partition(":"))
        if left == "free":
            free |= set(right.split())
            continue
        words = left.split()
        room = Room(words[0], words[1] if len(words) > 1 else "")
        if room.torch not in ("", "torch", "torch-private"):
            sys.exit(f"{path}:{number}: unknown word '{room.torch}'; torch or torch-private")
        names = right.split()
        for name in names:
            if name == "above":
                continue
            if name not in rooms:
                sys.exit(f"{path}:{number}: room '{name}' is not defined above this line")
            room.allowed |= rooms[name].allowed if "above" in names else {name}
        rooms[room.name] = room
    return rooms, free


def room_of(path, rooms):
    """The longest room whose folder holds `path` (relative, with /), or None."""
    best = max((r for r in rooms if path.startswith(r + "/")), key=len, default=None)
    return rooms[best] if best else None


def path_kind(path):
    return "a header" if Path(path).suffix in HEADERS else "a source"


def walk(root, free):
    for folder, children, files in os.walk(root):
        relative = Path(folder).relative_to(root).as_posix()
        skipped = free | {"build"} if relative == "." else set()
        children[:] = sorted(c for c in children if not c.startswith(".") and c not in skipped)
        for name in sorted(files):
            yield name if relative == "." else f"{relative}/{name}"


def check_sources(root, rooms, free):
    breaches, graph, torch_line = [], {}, {}
    for path in walk(root, free):
        if Path(path).suffix not in SOURCES:
            continue
        room = room_of(path, rooms)
        if room is None:
            breaches.append(f"{path}:1: is in no room; add its folder to tests/rooms/rooms.txt")
            continue
        graph[path] = []
        for number, line in enumerate((root / path).read_text(errors="replace").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted, angled, other = match.groups()
            where, name = f"{path}:{number}", quoted or angled
            if other:
                breaches.append(f"{where}: includes by macro '{other}', which cannot be checked")
                continue
            target = next((c for c in (name, f"include/{name}") if (root / c).is_file()), None)
            if target and room_of(target, rooms):
                graph[path].append(target)
                owner = room_of(target, rooms)
                if owner.name not in room.allowed:
                    breaches.append(f"{where}: {room.name} may not include {owner.name} ({name})")
            elif quoted:
                breaches.append(f"{where}: \"{name}\" is not a file of a room, named from the repository's root")
            elif TORCH.match(name):
                torch_line.setdefault(path, number)
                if not room.torch or (room.torch == "torch-private" and Path(path).suffix in HEADERS):
                    breaches.append(f"{where}: {path_kind(path)} of {room.name} may not include LibTorch (<{name}>)")
            elif room.name == "include/autoglm" and not STANDARD.match(name):
                breaches.append(f"{where}: a public header includes only the C++ library and public headers (<{name}>)")
    return breaches + check_reach(rooms, graph, torch_line), len(graph)


def check_reach(rooms, graph, torch_line):
    """Files of rooms without LibTorch that reach one of its headers through the headers of other rooms."""
    breaches = []
    for path in graph:
        if room_of(path, rooms).torch or path in torch_line:
            continue
        seen, todo = {path}, [path]
        while todo:
            file = todo.pop()
            if file in torch_line:
                breaches.append(f"{path}:1: reaches LibTorch, which {room_of(path, rooms).name} may not see, "
                                f"through {file}:{torch_line[file]}")
                break
            new = [t for t in graph.get(file, []) if t not in seen]
            seen.update(new)
            todo += new
    return breaches


def check_links(root, rooms, free):
    """autoglm_room(FOLDER [TORCH] LINKS … PRIVATE_LINKS …) may link what its sources may include."""
    breaches, targets = [], {r.rsplit("/", 1)[-1]: r for r in rooms}
    for path in walk(root, free):
        if Path(path).name != "CMakeLists.txt":
            continue
        text = re.sub(r"#.*", "", (root / path).read_text())
        for call in ROOM_CALL.finditer(text):
            where, words = f"{path}:{text.count(chr(10), 0, call.start()) + 1}", call.group(1).split()
            room = rooms.get(words[0])
            if room is None:
                breaches.append(f"{where}: autoglm_room({words[0]}) is not in tests/rooms/rooms.txt")
                continue
            if "TORCH" in words and not room.torch:
                breaches.append(f"{where}: {room.name} may not link LibTorch")
            for name in LINK.findall(" ".join(words[1:])):
                if targets.get(name) not in room.allowed:
                    breaches.append(f"{where}: {room.name} may not link autoglm::{name}")
    return breaches


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--table", type=Path, default=Path(__file__).with_name("rooms.txt"))
    args = parser.parse_args()
    rooms, free = read_table(args.table)
    breaches, files = check_sources(args.root, rooms, free)
    breaches += check_links(args.root, rooms, free)
    for breach in breaches:
        print(breach)
    print(f"{files} files in {len(rooms)} rooms, {len(breaches)} breaches")
    return 1 if breaches or not files else 0


if __name__ == "__main__":
    sys.exit(main())
