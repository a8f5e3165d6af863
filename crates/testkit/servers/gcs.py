"""Google Cloud Storage's XML API in front of an S3 server that asks for no credentials (moto), for tests on loopback.

usage: gcs.py LISTEN_PORT UPSTREAM_PORT KEY_ID

What differs is translated: x-goog-if-generation-match into If-None-Match and If-Match, an ETag into a generation, names of
headers. A request whose bearer token is neither a JWT with that `kid` nor the word "token-" and that key id gets 401.
"""
import base64
import hashlib
import http.client
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

listen_port, upstream_port, key_id = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
etag_of_generation = {}
HOP_BY_HOP = ("host", "connection", "transfer-encoding", "accept-encoding", "content-length")


def is_known(authorization):
    token = (authorization or "").removeprefix("Bearer ")
    if token == "token-" + key_id:
        return True
    header = token.split(".")[0]
    try:
        return json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))).get("kid") == key_id
    except (AttributeError, ValueError):
        return False


def to_s3(headers):
    for name, value in headers.items():
        name = name.lower()
        if name == "x-goog-if-generation-match":
            yield ("If-None-Match", "*") if value == "0" else ("If-Match", etag_of_generation.get(value, '"none"'))
        elif name not in HOP_BY_HOP:
            yield name.replace("x-goog-meta-", "x-amz-meta-").replace("x-goog-copy-source", "x-amz-copy-source"), value


class Gcs(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def forward(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if not is_known(self.headers.get("authorization")):
            return self.answer(401, {}, b"<Error><Code>AuthenticationRequired</Code></Error>")
        upstream = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=60)
        upstream.request(self.command, self.path, body, {**dict(to_s3(self.headers)), "content-length": str(len(body))})
        response = upstream.getresponse()
        payload = response.read()
        upstream.close()
        out = {name.replace("x-amz-meta-", "x-goog-meta-"): value for name, value in response.getheaders()
               if name.lower() not in ("transfer-encoding", "connection", "date", "server")}
        etag = response.getheader("ETag")
        if etag:
            generation = str(int(hashlib.md5(etag.encode()).hexdigest()[:12], 16))
            etag_of_generation[generation] = etag
            out["x-goog-generation"] = generation
        self.answer(response.status, out, payload)

    def answer(self, status, headers, payload):
        self.send_response(status)
        bodiless = self.command == "HEAD" or status in (204, 304)
        for name, value in headers.items():
            if self.command == "HEAD" or name.lower() != "content-length":
                self.send_header(name, value)
        if not bodiless:
            self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if not bodiless:
            self.wfile.write(payload)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward


ThreadingHTTPServer.daemon_threads = True
ThreadingHTTPServer(("127.0.0.1", listen_port), Gcs).serve_forever()
