"""Vault microservice: what sessions have become, kept apart from the replicas that serve them."""
