"""Long clips: they are kept, wait in a queue, and are worked on beside the requests."""
