"""From an untrusted file to crops, in a process that can do no harm."""
