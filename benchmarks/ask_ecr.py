"""Asks ECR for tokens as a blog's script does: a line of JSON for each, host and token."""

import base64
import json
import sys

import boto3

ecr = boto3.client("ecr", region_name="us-east-1")
answer = ecr.get_authorization_token(registryIds=sys.argv[1:])
for entry in answer["authorizationData"]:
    host = entry["proxyEndpoint"].partition("://")[2]
    decoded = base64.b64decode(entry["authorizationToken"]).decode()
    print(json.dumps([host, decoded.partition(":")[2]]))
