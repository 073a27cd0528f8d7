"""One file for each scenario; `harness.find` finds those that have a `SCENARIO`."""
