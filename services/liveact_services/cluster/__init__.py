"""On Kubernetes: the chart's values as types, and what its pods run beside Ray."""
