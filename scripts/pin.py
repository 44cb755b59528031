#!/usr/bin/env python3
"""Writes the SHA-256 of every package into a requirements file: pin.py FILE MACHINES PYTHONS

    pin.py scripts/libtorch-cpu.txt x86_64,aarch64 3.10,3.11,3.12,3.13,3.14
    pin.py bench/requirements-tf.txt x86_64 3.11,3.12,3.13

Run it after changing a version. The digests are those that the package index states now, of the
Linux wheels for these machines and Pythons; from then on pip takes these files and no others
(--require-hashes). A requirement keeps its place, and comments stay.
"""

import json
import re
import subprocess
import sys

path, machines, pythons = sys.argv[1:]
text = re.sub(r" *\\\n *--hash=\S+", "", open(path).read())
wanted = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
tags = [f"manylinux_2_{n}" for n in range(5, 40)]
tags += ["manylinux1", "manylinux2010", "manylinux2014", "linux"]
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
pip += ["--no-deps", "--only-binary=:all:", "--report=-", "--target=unused", *wanted]
found = {}
for machine in machines.split(","):
    for python in pythons.split(","):
        command = [*pip, f"--python-version={python}"]
        command += [f"--platform={tag}_{machine}" for tag in tags]
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        for package in report["install"]:
            name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
            digest = package["download_info"]["archive_info"]["hashes"]["sha256"]
            found.setdefault(name, (package["metadata"]["version"], set()))[1].add(digest)
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
