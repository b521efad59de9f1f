"""Everything that touches Ray Serve's alpha APIs: which replica a call goes to."""
