"""Inference graphs: several models and services behind one address, wired together by the catalog in KServe's keys.

`spec` says what a graph is, `run` what one request does in it, `endpoint` how the gateway has it answered.
"""
