"""What the service tells of itself: metrics, traces and logs, each in one place and none of them ever in a stream's way."""
