"""Conditioner microservice."""
