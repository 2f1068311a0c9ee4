# A GPU image with ROS 2 Jazzy and this package:   docker build -t vggt_ros .
#   docker run --rm --gpus all --net=host --ipc=host vggt_ros ros2 launch vggt_ros vggt.launch.py image:=/camera/image_raw
# --net and --ipc of the host: DDS finds the robot's other nodes, and large images go through shared memory.
#
# No CUDA base image: the wheels of torch bring their own CUDA, so the host needs only the driver and the NVIDIA
# container toolkit.
FROM ros:jazzy-ros-base

RUN apt-get update && apt-get install -y --no-install-recommends \
       python3-opencv python3-pil python3-scipy python3-venv \
       ros-jazzy-cv-bridge ros-jazzy-diagnostic-msgs ros-jazzy-sensor-msgs-py ros-jazzy-tf2-ros-py \
       ros-jazzy-tf-transformations \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# System site packages: ROS lives there. Its numpy stays, because its cv_bridge is built against it.
WORKDIR /ros
COPY requirements src/vggt_ros/requirements
RUN python3 -m venv --system-site-packages venv && touch venv/COLCON_IGNORE \
    && venv/bin/pip install --no-cache-dir torch==2.13.0 -r src/vggt_ros/requirements/runtime.txt 'numpy<2'

COPY . src/vggt_ros
RUN . /opt/ros/jazzy/setup.sh && . venv/bin/activate && python3 -m colcon build

RUN printf '%s\n' '#!/bin/bash' 'source /ros/install/setup.bash' 'source /ros/venv/bin/activate' 'exec "$@"' \
    > /entrypoint.sh && chmod +x /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "vggt_ros", "vggt.launch.py"]
