"""Asks the real Feast what Millrace wrote; run by the test `feasts_own_sdk_reads_what_was_written`.

Arguments: the exported repository, a JSON file of HTTP requests. Prints one JSON object.
"""

import asyncio
import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path

os.environ["TZ"] = "UTC"
repository, requests = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
os.chdir(repository)
sys.path.insert(0, str(repository))

import pandas as pd
from feast import FeatureStore
from feast.feature_server import get_app
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total, cli_check_repo

config = load_repo_config(repository, repository / "feature_store.yaml")
apply_total(config, repository, skip_source_validation=False)
store = FeatureStore(repo_path=str(repository))
out = {"views": sorted(view.name for view in store.list_feature_views())}

out["online"] = store.get_online_features(
    features=store.get_feature_service("model"), entity_rows=[{"machine": "h/a"}, {"machine": "h/none"}]
).to_dict()

import training

when = [datetime.fromtimestamp(second, timezone.utc) for second in (130, 130, 200, 50)]
rows = pd.DataFrame({"machine": ["h/a", "h/b", "h/a", "h/a"], "event_timestamp": when, "row": [0, 1, 2, 3]})
joined = training.training_set(rows, ["press:temp", "press:mode"], repo_path=repository).sort_values("row")
out["training"] = [
    [int(row.row), repr(float(row.temp)), None if pd.isna(row["mode"]) else row["mode"]]
    for _, row in joined.iterrows()
]



async def ask(app, request):
    """Posts one request to the server's ASGI application, without a socket."""
    body = json.dumps(request).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/get-online-features",
        "raw_path": b"/get-online-features",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    said = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        said.append(message)

    try:
        await app(scope, receive, send)
    except Exception:
        pass  # The server has answered 500 and raises for its log.
    text = b"".join(message.get("body", b"") for message in said)
    return [said[0]["status"], json.loads(text)]


async def ask_all():
    app = get_app(store)
    async with app.router.lifespan_context(app):
        return [await ask(app, request) for request in requests]


out["http"] = asyncio.run(ask_all())
print("\n" + json.dumps(out))
