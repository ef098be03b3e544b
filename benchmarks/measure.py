"""Runs a command and measures it from outside: wall seconds and the peak resident memory that the kernel accounts to it
and its children (mapped pages included). A child starts with its parent's count, so the caller must stay small: import
nothing heavy beside this."""
import os
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AUTOGLM = os.environ.get("AUTOGLM", str(ROOT / "build/release/autoglm"))


class Measured:
    def __init__(self, seconds, peak_bytes, out):
        self.seconds, self.peak_bytes, self.out = seconds, peak_bytes, out


def run(command, **options):
    start = time.perf_counter()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, **options)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {process.returncode}\n{out.decode(errors='replace')[-2000:]}")
    return Measured(time.perf_counter() - start, usage.ru_maxrss * 1024, out.decode())


def megabytes(n):
    return f"{n / 1e6:.0f} MB"
