"""VaeDecoder microservice."""
