"""Campaigns that take minutes, by `make soak` or `python -m tests.soak`. None of them runs with the tests."""
