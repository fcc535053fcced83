"""A conformance suite for the Open Inference Protocol V2 over REST, for any server. From the repository's root:

    python -m pytest conformance --url http://localhost:8000 --model NAME
    python -m pytest conformance --url http://localhost:8000 --request sample.json -m "not robust"

It needs pytest, requests and numpy. The markers, which `pytest conformance --markers` explains, tell what a
specification says (core, binary, repository) from what is good beyond it (compression, robust).
"""
