"""A fleet on a simulated clock: the service's own placement, admission and autoscaling under a day's load.

`workload` draws the sessions, `machines` starts and loses replicas, `simulation` lets the events happen, `oracle` says what
would have been enough, and `report` adds up.
"""
