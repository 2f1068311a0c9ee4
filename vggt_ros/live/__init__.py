"""The parts of the node: what it subscribes to, the thread that computes, what it publishes and says of its health."""
