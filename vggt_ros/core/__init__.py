"""The algorithms: numpy and torch, no ROS. Start reading at pipeline.py."""
