"""Validates JSON on stdin against a JSON Schema: validate.py SCHEMA."""

import json
import sys

import jsonschema

with open(sys.argv[1]) as text:
    schema = json.load(text)
jsonschema.Draft202012Validator.check_schema(schema)
jsonschema.validate(json.load(sys.stdin), schema, cls=jsonschema.Draft202012Validator)
