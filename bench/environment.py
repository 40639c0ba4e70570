"""The interpreter and packages that all servers share, made on first use under ``bench/.env``."""

import fcntl
import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
HOME = BENCH / ".env"

_DESCRIBE = """
import json, platform, sys, sysconfig
gil = getattr(sys, "_is_gil_enabled", lambda: True)()
print(json.dumps({
    "implementation": platform.python_implementation(),
    "version": platform.python_version(),
    "build": platform.python_compiler(),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "gil": gil,
    "executable": sys.executable,
}))
"""

_VERSIONS = """
import json
from importlib.metadata import distributions
print(json.dumps({d.metadata["Name"].lower(): d.version for d in distributions()}))
"""

# PKCS#8, the one form of key that every server reads.
_CERTIFICATE = """
import sys, trustme
from cryptography.hazmat.primitives import serialization
ca = trustme.CA()
leaf = ca.issue_cert("127.0.0.1", "localhost")
folder = sys.argv[1]
ca.cert_pem.write_to_path(folder + "/ca.pem")
key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
with open(folder + "/key.pem", "wb") as file:
    file.write(key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ))
with open(folder + "/cert.pem", "wb") as file:
    for part in leaf.cert_chain_pems:
        file.write(part.bytes())
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """One interpreter with the peers installed, and the certificate of the TLS workload."""

    python: Path
    interpreter: dict[str, object]
    versions: dict[str, str]
    ca_file: Path
    cert_file: Path
    key_file: Path


def require_tools(*, h2: bool = False) -> None:
    needed = ("wrk", "taskset", *(("h2load", "curl") if h2 else ()))
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if missing:
        packages = {
            "wrk": "wrk",
            "taskset": "util-linux",
            "h2load": "nghttp2-client",
            "curl": "curl",
        }
        install = " ".join(packages[tool] for tool in missing)
        raise BenchError(f"{' and '.join(missing)} not found: apt-get install {install}")


def choose_cores(wish: str | None) -> tuple[int, int]:
    """The server's core and the client's; the client gets the first, where interrupts land."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise BenchError("two cores are needed, one for the server and one for the client")
    if wish is None:
        return allowed[-1], allowed[0]
    cores = [int(part) for part in wish.split(",") if part.strip().isdecimal()]
    if len(cores) != 2 or cores[0] == cores[1] or not set(cores) <= set(allowed):
        raise BenchError(f"--cpus wants two different cores out of {allowed}, not {wish!r}")
    return cores[0], cores[1]


@contextmanager
def only_one_benchmark() -> Iterator[None]:
    """Wait until no other benchmark of this checkout runs: two at once measure each other."""
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another benchmark to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare(python: str) -> Environment:
    """The environment of this interpreter, created or brought up to date when its needs changed."""
    interpreter = json.loads(_output([python, "-c", _DESCRIBE]))
    tag = f"{interpreter['implementation'].lower()}-{interpreter['version']}"
    folder = HOME / (tag + ("t" if interpreter["free_threaded"] else ""))
    env_python = folder / "bin" / "python"
    needs = _requirements()
    stamp = folder / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != needs:
        print(f"installing the servers into {folder}", flush=True)
        _output([python, "-m", "venv", "--clear", str(folder)])
        wanted = folder / "wanted.txt"
        wanted.write_text(needs)
        _output([str(env_python), "-m", "pip", "install", "--quiet", "-r", str(wanted)])
        wanted.rename(stamp)
    if not (folder / "cert.pem").exists():
        _output([str(env_python), "-c", _CERTIFICATE, str(folder)])
    versions = json.loads(_output([str(env_python), "-c", _VERSIONS]))
    return Environment(
        python=env_python,
        interpreter=interpreter,
        versions=versions,
        ca_file=folder / "ca.pem",
        cert_file=folder / "cert.pem",
        key_file=folder / "key.pem",
    )


def _requirements() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    peers = (BENCH / "requirements.txt").read_text()
    return peers + "".join(f"{need}\n" for need in project["dependencies"])


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as error:
        raise BenchError(f"cannot run {command[0]}: {error}") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{command[:4]} failed:\n{error.stdout}{error.stderr}") from error
    return done.stdout


def machine() -> dict[str, object]:
    """What a reader needs to judge the figures."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    kernel = os.uname()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": f"{kernel.sysname} {kernel.release} {kernel.machine}",
        "load_average_before": os.getloadavg(),
        "wrk": subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False)
        .stdout.split("Copyright")[0]
        .strip(),
    }
