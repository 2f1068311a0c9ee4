"""What is read from the aggregator's tokens: cameras, dense maps, tracks."""
