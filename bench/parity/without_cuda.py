"""Lets PyTorch's CUDA build be imported on a machine without CUDA: puts empty libraries of the right names beside it.

The only builds of torch on PyPI for Linux on x86-64 are linked with gigabytes of CUDA libraries that nothing calls on a
CPU, but that the loader wants to see. This writes libraries that have the same names and symbols, and whose functions
abort if anything should call them. The CUDA runtime itself (3 MB) must be the real one: torch registers its kernels
with it as it is loaded.

    python without_cuda.py    # in the environment whose torch is meant
"""
import collections
import importlib.util
import pathlib
import re
import subprocess
import tempfile

NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
# what names no version in the symbol itself is told by its beginning
PREFIXES = {"nccl": "libnccl", "cusparseLt": "libcusparseLt", "cuFile": "libcufile", "nvshmem": "libnvshmem_host"}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def missing(torch, real):
    """The names of the shared libraries that torch is linked with and that are not there."""
    needed = set()
    for library in torch.glob("*.so"):
        needed |= set(NEEDED.findall(run("readelf", "--wide", "--dynamic", str(library))))
    system = run("sh", "-c", "PATH=$PATH:/sbin:/usr/sbin ldconfig -p")
    here = lambda name: (torch / name).exists() or (real / name).exists() or f"\t{name} " in system
    return sorted(name for name in needed if not here(name))


def wanted(torch, names):
    """{library: {version: symbols}} of everything that torch asks of those libraries; the version may be empty."""
    symbols = collections.defaultdict(lambda: collections.defaultdict(dict))
    for library in torch.glob("*.so"):
        for line in run("readelf", "--wide", "--dyn-syms", str(library)).splitlines():
            fields = line.split()
            if len(fields) < 8 or fields[6] != "UND":
                continue
            symbol, _, version = fields[7].partition("@")
            owner = version if version in names else next(
                (name for start, name in PREFIXES.items() if symbol.startswith(start)), None)
            owner = next((name for name in names if owner and name.startswith(owner)), None)
            if owner and symbol:
                symbols[owner][version.lstrip("@")][symbol] = fields[3]
    return symbols


def build(name, versions, into):
    """Compiles one empty library."""
    with tempfile.TemporaryDirectory() as folder:
        source, script = pathlib.Path(folder, "empty.c"), pathlib.Path(folder, "versions")
        lines = ["#include <stdlib.h>"]
        nodes = []
        for version, symbols in versions.items():
            lines += [f"char {s}[4096];" if kind == "OBJECT" else f"void {s}(void) {{ abort(); }}"
                      for s, kind in symbols.items()]
            if version:
                nodes.append(f"{version} {{ global: {' '.join(s + ';' for s in symbols)} }};")
        source.write_text("\n".join(lines) + "\n")
        script.write_text("\n".join(nodes) + "\n")
        more = [f"-Wl,--version-script={script}"] if nodes else []
        run("cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", *more, "-o", str(into / name), str(source))


def main():
    # found without importing it, which is what does not work yet
    torch = pathlib.Path(importlib.util.find_spec("torch").origin).parent
    library = torch / "lib"
    cuda = next(iter(sorted(torch.parent.glob("nvidia/cu*/lib"))), library)
    names = missing(library, cuda)
    symbols = wanted(library, names)
    for name in names:
        build(name, symbols.get(name, {}), library)
    print("stand-ins for", ", ".join(names) or "nothing")


if __name__ == "__main__":
    main()
