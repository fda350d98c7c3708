"""What shows how the server fares: metrics, drift, log lines."""
