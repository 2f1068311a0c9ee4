"""Building blocks that the backbone, the aggregator and the heads share."""
