"""One stream's blocks through the stages. Knows neither Ray nor gRPC."""
