#!/usr/bin/env python3
"""Writes the SHA-256 of every package into a requirements file: pin.py FILE PYTHON...   (as in pin.py bench/requirements-tf.txt 3.11 3.12)

Run it after changing a version. Digests are those that the package index states now, of the Linux x86-64 wheels for these Pythons; from
then on pip takes these files and no others (--require-hashes). A requirement keeps its place, and comments stay.
"""

import json
import re
import subprocess
import sys

path, *pythons = sys.argv[1:]
text = re.sub(r" *\\\n *--hash=\S+", "", open(path).read())
wanted = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
platforms = [f"manylinux_2_{n}_x86_64" for n in range(5, 40)] + ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64", "linux_x86_64"]
found = {}
for python in pythons:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--report=-"]
    command += ["--target=unused", f"--python-version={python}", *(f"--platform={p}" for p in platforms), *wanted]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    for package in report["install"]:
        name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
        version = package["metadata"]["version"]
        found.setdefault(name, (version, set()))[1].add(package["download_info"]["archive_info"]["hashes"]["sha256"])
lines = []
for line in text.splitlines():
    if line in wanted:
        name = re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", line)[0]).lower()
        version, digests = found[name]
        # An exact version: hashes allow no other.
        line = re.sub(r"==.*", f"=={version}", line)
        line += "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(digests))
    lines.append(line)
open(path, "w").write("\n".join(lines) + "\n")
