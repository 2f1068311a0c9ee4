"""Many recordings at once: one after the other here, or beside each other on Ray."""
