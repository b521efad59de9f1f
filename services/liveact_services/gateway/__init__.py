"""Gateway microservice: the only one that talks to clients."""
