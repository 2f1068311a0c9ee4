"""What PyPI lacks of ROS 2, so that the real rclpy node runs on a machine without a ROS installation."""
