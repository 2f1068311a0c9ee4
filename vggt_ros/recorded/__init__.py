"""Readers of what was recorded: bags, videos and folders of images -> Frames; no ROS needed."""
