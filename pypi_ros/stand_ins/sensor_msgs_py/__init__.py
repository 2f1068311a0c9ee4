"""Stand-in for sensor_msgs_py where only the ROS 2 wheels of PyPI are installed: point_cloud2, nothing else."""
