#!/usr/bin/env python3
"""Holds documents about images against the validators that their makers publish.

    check_attested.py spdx FILE         SPDX 2.3 (spdx-tools), each package URL (packageurl-python)
    check_attested.py statement FILE    an in-toto statement (in-toto-attestation); an SLSA provenance in it

Prints the package URLs, or the type of the predicate; ends with status 1 and the reasons when something is wrong.
"""

import json
import sys


def check_spdx(path):
    from packageurl import PackageURL
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    document = parse_file(path)
    faults = [message.validation_message for message in validate_full_spdx_document(document, "SPDX-2.3")]
    if faults:
        sys.exit("\n".join(faults))
    for package in document.packages:
        for reference in package.external_references:
            purl = PackageURL.from_string(reference.locator)
            print(purl.type, purl.name, purl.version, json.dumps(purl.qualifiers, sort_keys=True), sep="\t")


def check_statement(path):
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Proto

    with open(path, encoding="utf-8") as file:
        statement = json.load(file)
    # Refuses every field that the specification does not have.
    Statement.copy_from_pb(ParseDict(statement, Proto())).validate()
    if statement["predicateType"] == "https://slsa.dev/provenance/v1":
        provenance = ParseDict(statement["predicate"], Provenance())
        for dependency in provenance.build_definition.resolved_dependencies:
            ResourceDescriptor.copy_from_pb(dependency).validate()
        if not (provenance.build_definition.build_type and provenance.run_details.builder.id):
            sys.exit("a provenance needs a build type and a builder")
    print(statement["predicateType"])


if __name__ == "__main__":
    {"spdx": check_spdx, "statement": check_statement}[sys.argv[1]](sys.argv[2])
