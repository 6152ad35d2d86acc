"""Holdfast's contract, version 1: messages and stubs written by protoc from protos/holdfast/v1."""
