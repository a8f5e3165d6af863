"""store.py PORT SECONDS: an S3 server in memory whose answers begin so much later. It checks no signature and keeps no content of
segments that are not asked for: it is for benchmarks of many objects, which would take a server with files too long itself.

POST /-/fill?bucket=…&prefix=…&timeline=…&first=…&count=…  makes names of WAL segments with the content of the last one that was put;
GET /-/log?clear=1  tells the requests since the last time, one a line: when it came and was answered, method, target.
"""

import asyncio
import bisect
import hashlib
import sys
import time
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000
STORED = "2026-01-01T00:00:00.000Z"
HTTP_STORED = "Thu, 01 Jan 2026 00:00:00 GMT"

port, pause = int(sys.argv[1]), float(sys.argv[2])
objects, order, is_sorted = {}, [], True
uploads, log = {}, []


def keys():
    global order, is_sorted
    if not is_sorted:
        order, is_sorted = sorted(objects), True
    return order


def put(key, body):
    global is_sorted
    is_sorted = is_sorted and key in objects
    objects[key] = body


def xml(name, inner):
    return f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</{name}>'.encode()


def tag(body):
    return f'"{len(body):x}"'


def listing(bucket, query):
    prefix = f"{bucket}/{query.get('prefix', '')}"
    after = query.get("continuation-token") or query.get("start-after", "")
    found = keys()
    at = bisect.bisect_left(found, prefix)
    if after:
        at = max(at, bisect.bisect_right(found, f"{bucket}/{after}"))
    delimiter, most = query.get("delimiter"), int(query.get("max-keys", PAGE))
    entries, folders, last = [], [], None
    while at < len(found) and found[at].startswith(prefix) and len(entries) + len(folders) < most:
        key = found[at]
        name = key[len(bucket) + 1 :]
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        if cut >= 0:
            folder = key[: cut + 1]
            folders.append(f"<CommonPrefixes><Prefix>{escape(folder[len(bucket) + 1 :])}</Prefix></CommonPrefixes>")
            at = bisect.bisect_left(found, folder + "\U0010ffff")
            last = folder[len(bucket) + 1 :] + "\U0010ffff"
            continue
        body = objects[key]
        entries.append(
            f"<Contents><Key>{escape(name)}</Key><LastModified>{STORED}</LastModified><ETag>{tag(body)}</ETag>"
            f"<Size>{len(body)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
        last, at = name, at + 1
    more = at < len(found) and found[at].startswith(prefix)
    token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
    head = f"<Name>{bucket}</Name><Prefix>{escape(query.get('prefix', ''))}</Prefix><KeyCount>{len(entries) + len(folders)}</KeyCount>"
    head += f"<MaxKeys>{most}</MaxKeys><IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}"
    return xml("ListBucketResult", head + "".join(entries) + "".join(folders))


def fill(query):
    key = f"{query['bucket']}/{query['prefix']}/wal_005/"
    body = next((objects[k] for k in reversed(keys()) if k.startswith(key) and len(k) == len(key) + 28), b"x" * 1000)
    first = int(query["first"])
    each = int(query.get("a_log", "256"))
    for number in range(first, first + int(query["count"])):
        put(f"{key}{int(query['timeline']):08X}{number // each:08X}{number % each:08X}.zst", body)


def missing():
    return 404, {}, xml("Error", "<Code>NoSuchKey</Code><Message>it is not there</Message>")


def answer(method, target, headers, body):
    url = urlsplit(target)
    query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
    path = unquote(url.path).lstrip("/")
    if path == "-/fill":
        fill(query)
        return 200, {}, b""
    if path == "-/log":
        text = "".join(f"{a:.3f} {b:.3f} {m} {t}\n" for a, b, m, t in log)
        if "clear" in query:
            log.clear()
        return 200, {}, text.encode()
    bucket, _, key = path.partition("/")
    if not key and method == "GET":
        if "uploads" in query:
            return 200, {}, xml("ListMultipartUploadsResult", "<IsTruncated>false</IsTruncated>")
        return 200, {}, listing(bucket, query)
    if method == "POST" and "delete" in query:
        for name in body.decode().split("<Key>")[1:]:
            objects.pop(f"{bucket}/{name.split('</Key>')[0]}", None)
        globals()["is_sorted"] = False
        return 200, {}, xml("DeleteResult", "")
    if method == "POST" and "uploads" in query:
        number = f"u{len(uploads)}"
        uploads[number] = {}
        return 200, {}, xml("InitiateMultipartUploadResult", f"<UploadId>{number}</UploadId>")
    if method == "PUT" and "partNumber" in query:
        uploads[query["uploadId"]][int(query["partNumber"])] = body
        return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
    if method == "POST" and "uploadId" in query:
        parts = uploads.pop(query["uploadId"])
        put(path, b"".join(parts[number] for number in sorted(parts)))
        return 200, {}, xml("CompleteMultipartUploadResult", f"<ETag>{tag(objects[path])}</ETag>")
    if method == "PUT":
        if headers.get("if-none-match") == "*" and path in objects:
            return 412, {}, xml("Error", "<Code>PreconditionFailed</Code><Message>it is there</Message>")
        if "x-amz-copy-source" in headers:
            body = objects[unquote(headers["x-amz-copy-source"]).lstrip("/")]
        put(path, body)
        return 200, {"ETag": tag(body)}, b""
    if method == "DELETE":
        if objects.pop(path, None) is not None:
            globals()["is_sorted"] = False
        return 204, {}, b""
    found = objects.get(path)
    if found is None:
        return missing()
    facts = {"ETag": tag(found), "Last-Modified": HTTP_STORED, "Accept-Ranges": "bytes"}
    wanted = headers.get("range", "")
    if method == "GET" and wanted.startswith("bytes="):
        first, _, last = wanted[6:].partition("-")
        begin = int(first) if first else max(0, len(found) - int(last))
        end = min(int(last), len(found) - 1) if first and last else len(found) - 1
        if begin >= len(found):
            return 416, {}, xml("Error", "<Code>InvalidRange</Code><Message>it is shorter</Message>")
        facts["Content-Range"] = f"bytes {begin}-{end}/{len(found)}"
        return 206, facts, found[begin : end + 1]
    return 200, facts, found


async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            came = time.time()
            first, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ", 2)
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            if headers.get("expect"):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if not target.startswith("/-/"):
                await asyncio.sleep(pause)
            status, facts, content = answer(method, target, headers, body)
            facts.setdefault("Content-Length", str(len(content)))
            text = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in facts.items())
            writer.write(text.encode() + b"\r\n" + (b"" if method == "HEAD" else content))
            await writer.drain()
            if not target.startswith("/-/"):
                log.append((came, time.time(), method, target))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 20)
    async with server:
        await server.serve_forever()


asyncio.run(main())
