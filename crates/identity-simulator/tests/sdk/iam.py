"""IBM's Python SDK core, unchanged, fetches an IAM token.

IAM_APIKEY and IAM_AUTH_URL come from the environment; REQUESTS_CA_BUNDLE names the authority to trust.
"""

import json
import os
import sys
import time

from ibm_cloud_sdk_core.authenticators import IAMAuthenticator
from ibm_cloud_sdk_core.token_managers.iam_token_manager import IAMTokenManager
from requests import Request


def main():
    for name in ("IAM_APIKEY", "IAM_AUTH_URL"):
        if not os.environ.get(name):
            sys.exit(f"iam: {name} is not set")
    key, url = os.environ["IAM_APIKEY"], os.environ["IAM_AUTH_URL"]
    try:
        request = Request(method="GET", url="https://service.example.test", headers={})
        IAMAuthenticator(key, url=url).authenticate(request.__dict__)
        manager = IAMTokenManager(key, url=url)
        token = manager.get_token()
    except Exception as error:
        sys.exit(f"iam: {error}")
    if not request.headers.get("Authorization", "").startswith("Bearer ey"):
        sys.exit("iam: the request was not authorized with a token")
    left = manager.expire_time - time.time()
    if left <= 0:
        sys.exit("iam: the token is over already")
    print(json.dumps({"parts": token.count(".") + 1, "expires_in": round(left)}))


if __name__ == "__main__":
    main()
