"""What a test needs of an Azurite beside the program under test.

usage: KEY=… azure.py ENDPOINT ACCOUNT CONTAINER container    create the container
       KEY=… azure.py ENDPOINT ACCOUNT CONTAINER sas          print a shared access signature of the container, for an hour
"""
import base64
import datetime
import email.utils
import hashlib
import hmac
import os
import sys
import urllib.parse
import urllib.request

endpoint, account, container, what = sys.argv[1:5]
key = os.environ["KEY"]
VERSION = "2021-08-06"


def sign(text):
    return base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()


if what == "container":
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": VERSION}
    canonical_headers = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    resource = f"/{account}/{account}/{container}\nrestype:container"
    signature = sign("PUT" + "\n" * 12 + canonical_headers + resource)
    headers["Authorization"] = f"SharedKey {account}:{signature}"
    request = urllib.request.Request(f"{endpoint}/{container}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=60)
else:
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    fields = {"sp": "racwdl", "st": "", "se": end.strftime("%Y-%m-%dT%H:%M:%SZ"), "resource": f"/blob/{account}/{container}",
              "si": "", "sip": "", "spr": "https,http", "sv": VERSION, "sr": "c", "snapshot": "", "ses": "", "rscc": "",
              "rscd": "", "rsce": "", "rscl": "", "rsct": ""}
    signature = sign("\n".join(fields.values()))
    del fields["resource"]
    print(urllib.parse.urlencode({**{name: value for name, value in fields.items() if value}, "sig": signature}))
