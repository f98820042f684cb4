"""Gives one captured request to a package that others publish in Python. Arguments as verify.mjs."""

import json
import sys

import standardwebhooks
import stripe
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

by, file = sys.argv[1:]
with open(file, encoding="utf-8") as opened:
    request = json.load(opened)
headers = dict(request["headers"])
body = bytes(request["body"])
secret = request["secret"]


def by_standardwebhooks(body):
    standardwebhooks.Webhook(secret).verify(body, headers)


def by_stripe(body):
    stripe.WebhookSignature.verify_header(
        body.decode(), headers["stripe-signature"], secret, tolerance=300
    )


def print_cloud_event():
    event = from_http_event(HTTPMessage(headers=headers, body=body))
    data = event.get_data()
    data = json.loads(data) if isinstance(data, (str, bytes)) else data
    seen = {"id": event.get_id(), "type": event.get_type(), "source": event.get_source()}
    print(json.dumps({**seen, "time": event.get_time().isoformat(), "data": data}))


if by == "cloudevents":
    print_cloud_event()
else:
    verify, refused = {
        "standardwebhooks": (by_standardwebhooks, standardwebhooks.WebhookVerificationError),
        "stripe": (by_stripe, stripe.SignatureVerificationError),
    }[by]
    verify(body)
    try:
        verify(body.replace(b"match", b"mutch"))
        sys.exit("a changed body was accepted")
    except refused:
        print("accepted, and refused when changed")
