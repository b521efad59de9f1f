"""Denoiser microservice: a coordinator and the ranks that compute for it."""
