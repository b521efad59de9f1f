"""AudioEncoder microservice."""
