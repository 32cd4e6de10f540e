"""A stand-in for a wandb server on loopback: answers what the real SDK asks, and keeps what it is sent.

It keeps history as the server does: lines at offsets, so a chunk that is sent again after a lost answer changes nothing. It
can be told to fail or to hold its answers back.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

KEY = "k" * 16 + "0123456789" + "e" * 16  # a made-up key of the right length


@dataclass
class Received:
    """What came in for one run."""

    bucket: dict[str, Any] = field(default_factory=dict)  # the last value of each field it was upserted with
    history: list[dict[str, Any]] = field(default_factory=list)
    overwritten: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)  # lines that changed
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)
    preempting: int = 0

    def curve(self, name: str, axis: str = "step") -> list[tuple[float, float]]:
        """(axis, value) of every row that has the metric, in the order in which they came."""
        return [(row[axis], row[name]) for row in self.history if name in row]


class StandIn(ThreadingHTTPServer):
    """`url` is what WANDB_BASE_URL has to say. `fails(n)` is asked for the n-th request; `holding` holds answers back."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.runs: dict[str, Received] = {}
        self.alerts: list[dict[str, Any]] = []
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.views: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.fails: Callable[[int], bool] = lambda number: False
        self._let_go = threading.Event()
        self._let_go.set()
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def hold(self) -> None:
        """Answers nothing until `release`."""
        self._let_go.clear()

    def release(self) -> None:
        self._let_go.set()

    def stop(self) -> None:
        self.release()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no fault of the server's."""

    def admits(self, what: str) -> bool:
        """Whether a request is to be answered as it should be, after waiting while answers are held back."""
        with self._lock:
            self.requests.append(what)
            fails = self.fails(len(self.requests))
        self._let_go.wait(120)
        return not fails

    def run(self, name: str) -> Received:
        return self.runs.setdefault(name, Received())

    def stream(self, name: str, body: dict[str, Any]) -> None:
        """A chunk of a run's file stream."""
        with self._lock:
            run = self.run(name)
            for file, chunk in (body.get("files") or {}).items():
                lines = [json.loads(line) for line in chunk["content"]]
                if file == "wandb-history.jsonl":
                    for position, line in enumerate(lines, chunk["offset"]):
                        assert position <= len(run.history), "a gap in the history"
                        if position < len(run.history):
                            if run.history[position] != line:
                                run.overwritten.append((run.history[position], line))
                            run.history[position] = line
                        else:
                            run.history.append(line)
                elif file == "wandb-summary.json":
                    run.summary = lines[-1]
            if body.get("complete"):
                run.exits.append(body["exitcode"])
            run.preempting += bool(body.get("preempting"))


class Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        content = self._body()
        path = unquote(self.path)
        if not self.server.admits(f"PUT {path}"):
            return self._answer({}, 500)
        match = re.match(r"/storage/run/([^/]+)/(.*)", path)
        if match:
            self.server.run(match[1]).files[match[2]] = content
        else:
            self.server.uploads[path.removeprefix("/storage/")] = content
        return self._answer({})

    def do_POST(self) -> None:
        content = self._body()
        if self.path.startswith("/sdk/otel"):  # telemetry
            return self._answer({})
        stream = re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if stream:
            if not self.server.admits("file_stream"):
                return self._answer({}, 500)
            self.server.stream(stream[1], json.loads(content))
            return self._answer({})
        asked = json.loads(content)
        name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        operation = name[1] if name else asked["query"]
        if not self.server.admits(operation):
            return self._answer({}, 500)
        answer = ANSWERS.get(operation, lambda server, variables: {})
        return self._answer({"data": answer(self.server, asked.get("variables") or {})})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def viewer(server: StandIn, asked: dict[str, Any]) -> dict[str, Any]:
    user = {"id": "VXNlcjox", "entity": "lab", "username": "somebody", "email": "somebody@lab", "flags": "{}"}
    return {"viewer": {**user, "teams": {"edges": []}}}


def resume_status(server: StandIn, asked: dict[str, Any]) -> dict[str, Any]:
    run = server.runs.get(asked["name"])
    bucket = run and {
        "id": asked["name"],
        "name": asked["name"],
        "displayName": run.bucket.get("displayName"),
        "summaryMetrics": json.dumps(run.summary),
        "config": json.dumps(run.config),
        "logLineCount": 0,
        "eventsLineCount": 0,
        "historyLineCount": len(run.history),
        "historyTail": json.dumps([json.dumps(line) for line in run.history[-1:]]),
        "eventsTail": "[]",
        "tags": run.bucket.get("tags") or [],
        "notes": run.bucket.get("notes"),
        "wandbConfig": json.dumps({"t": 1}),  # begun, not only reserved
    }
    return {"model": {"id": "p", "name": asked["project"], "entity": {"id": "e", "name": "lab"}, "bucket": bucket}}


def upsert(server: StandIn, asked: dict[str, Any]) -> dict[str, Any]:
    new = asked["name"] not in server.runs
    run = server.run(asked["name"])
    run.bucket |= {key: value for key, value in asked.items() if value is not None}
    if asked.get("config"):
        run.config = json.loads(asked["config"])
    project = {"id": "p", "name": run.bucket.get("project"), "entity": {"id": "e", "name": "lab"}}
    bucket = {"id": asked["name"], "name": asked["name"], "displayName": run.bucket.get("displayName")}
    bucket |= {"description": "", "config": asked.get("config"), "sweepName": None, "project": project}
    return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": len(run.history)}, "inserted": new}}


def create_run_files(server: StandIn, asked: dict[str, Any]) -> dict[str, Any]:
    files = [{"name": n, "uploadUrl": f"{server.url}/storage/run/{asked['run']}/{n}"} for n in asked["files"]]
    return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}


def alert(server: StandIn, asked: dict[str, Any]) -> dict[str, Any]:
    server.alerts.append(asked)
    return {"notifyScriptableRunAlert": {"success": True}}


def create_artifact(server: StandIn, asked: dict[str, Any]) -> dict[str, Any]:
    given = asked["input"]
    made = f"artifact{len(server.artifacts)}"
    server.artifacts[made] = {**given, "committed": False}
    sequence = {"id": "s", "latestArtifact": None}
    return {"createArtifact": {"artifact": {"id": made, "state": "PENDING", "artifactSequence": sequence}}}


def create_manifest(server: StandIn, asked: dict[str, Any]) -> dict[str, Any]:
    file = {"id": "f", "name": asked["name"], "displayName": asked["name"], "uploadHeaders": []}
    file |= {"uploadUrl": f"{server.url}/storage/manifest/{asked['artifactID']}"}
    return {"createArtifactManifest": {"artifactManifest": {"id": asked["artifactID"], "file": file}}}


def update_manifest(server: StandIn, asked: dict[str, Any]) -> dict[str, Any]:
    made = asked["artifactManifestID"]
    file = {"id": "f", "name": "m", "displayName": "m", "uploadHeaders": []}
    file |= {"uploadUrl": f"{server.url}/storage/manifest/{made}"}
    return {"updateArtifactManifest": {"artifactManifest": {"id": made, "file": file}}}


def create_artifact_files(server: StandIn, asked: dict[str, Any]) -> dict[str, Any]:
    edges = []
    for spec in asked["input"]["artifactFiles"]:
        node = {"id": "f", "name": spec["name"], "displayName": spec["name"], "uploadHeaders": []}
        node |= {"uploadUrl": f"{server.url}/storage/artifact/{spec['artifactID']}/{spec['name']}"}
        node |= {
            "storagePath": f"x/{spec['name']}",
            "uploadMultipartUrls": None,
            "artifact": {"id": spec["artifactID"]},
        }
        edges.append({"node": node})
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def commit_artifact(server: StandIn, asked: dict[str, Any]) -> dict[str, Any]:
    server.artifacts[asked["artifactID"]]["committed"] = True
    return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": "d"}}}


def upsert_view(server: StandIn, asked: dict[str, Any]) -> dict[str, Any]:
    server.views.append(asked)
    return {"upsertView": {"view": {"id": asked.get("id") or "view0", "name": asked["name"]}, "inserted": True}}


ANSWERS: dict[str, Callable[[StandIn, dict[str, Any]], dict[str, Any]]] = {
    "Viewer": viewer,
    "ServerFeaturesQuery": lambda server, asked: {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": lambda server, asked: {"entity": {"organization": None}},
    "RunResumeStatus": resume_status,
    "UpsertBucket": upsert,
    "CreateRunFiles": create_run_files,
    "NotifyScriptableRunAlert": alert,
    "ArtifactType": lambda server, asked: {"project": {"artifact": None}},
    "ClientIDMapping": lambda server, asked: {"clientIDMapping": None},
    "CreateArtifact": create_artifact,
    "CreateArtifactManifest": create_manifest,
    "UpdateArtifactManifest": update_manifest,
    "CreateArtifactFiles": create_artifact_files,
    "CommitArtifact": commit_artifact,
    "GetDefaultEntity": viewer,
    "UpsertView2": upsert_view,
    "MarkRunFilesUploaded": lambda server, asked: {"markRunFilesUploaded": {"success": True}},
}
