"""VaeEncoder microservice."""
