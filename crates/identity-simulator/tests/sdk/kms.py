"""IBM's Python SDK core, unchanged, uses a token that it finds in a file ibm-credentials.env.

IBM_CREDENTIALS_FILE names the file, which holds what the SDK needs of a service it knows as kms: how to authenticate, the token, and where the
service is. TENANT_PATH is what is asked for there. REQUESTS_CA_BUNDLE names the authority to trust.
"""

import json
import os
import sys

from ibm_cloud_sdk_core import BaseService, get_authenticator_from_environment


def main():
    for name in ("IBM_CREDENTIALS_FILE", "TENANT_PATH"):
        if not os.environ.get(name):
            sys.exit(f"kms: {name} is not set")
    authenticator = get_authenticator_from_environment("kms")
    if authenticator is None:
        sys.exit("kms: the SDK finds no credential in the file")
    # A service class of IBM's does just this; its address comes from the file.
    service = BaseService(authenticator=authenticator)
    service.configure_service("kms")
    try:
        response = service.send(service.prepare_request("GET", os.environ["TENANT_PATH"]))
    except Exception as error:
        sys.exit(f"kms: {error}")
    found = {
        "authentication": authenticator.authentication_type(),
        "address": service.service_url,
        "status": response.get_status_code(),
        "applications": [application["name"] for application in response.get_result()["applications"]],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
