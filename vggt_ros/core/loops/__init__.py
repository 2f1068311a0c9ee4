"""Places seen before, and the pose graph that closes loops beside the stream."""
