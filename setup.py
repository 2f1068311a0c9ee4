"""Installs vggt_ros, by colcon as an ament_python package or by pip."""

from glob import glob

from setuptools import find_packages, setup

NAME = 'vggt_ros'

setup(
    name=NAME,
    version='0.1.0',
    description='Turns any RGB camera into 3D for a robot: VGGT depth, point clouds, poses and TF for ROS 2',
    long_description='See README.md.',
    author='vggt_ros developers',
    maintainer='vggt_ros developers',
    maintainer_email='vggt-ros@users.noreply.github.com',
    license='Apache-2.0',
    packages=find_packages(include=['vggt', 'vggt.*', 'vggt_ros', 'vggt_ros.*']),
    package_data={
        # The shipped weights with their cards, and the demo clip: a wheel must run the demo by itself.
        'vggt': ['weights/*', 'weights/*/*', 'py.typed'],
        'vggt_ros': ['data/*/*', 'data/*/*/*', 'templates/*', 'studio/*.css', 'py.typed'],
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        (f'share/{NAME}/launch', glob('launch/*.launch.py')),
        (f'share/{NAME}/config', [*glob('config/*.yaml'), *glob('config/*.json5')]),
        (f'share/{NAME}/rviz', glob('rviz/*.rviz')),
        (f'share/{NAME}/foxglove', glob('foxglove/*.json')),
        (f'share/{NAME}/sros2', glob('sros2/*.xml')),
        (f'lib/{NAME}', ['scripts/node', 'scripts/relay', 'scripts/fleet']),
    ],
    entry_points={'console_scripts': [f'{NAME} = {NAME}.cli:main']},
    python_requires='>=3.10',
    # For pip alone; colcon and rosdep read package.xml. ROS itself comes from its installation or requirements/.
    install_requires=[
        'huggingface_hub',
        'matplotlib',
        'mcap',
        'numpy',
        'opencv-python-headless',
        'pillow',
        'rosbags',
        'rosbags-image',
        'ruamel.yaml',
        'safetensors',
        'scipy',
        'setuptools',
        'torch',
        'tqdm',
        'trimesh',
    ],
    extras_require={
        'studio': ['gradio', 'viser'],  # the web page and the live view
        'batch': ['ray'],  # recordings beside each other, on one machine or a cluster
        'test': ['pytest', 'pytest-timeout'],  # by this colcon knows that it is pytest to call
    },
    zip_safe=False,
)
