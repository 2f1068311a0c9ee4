"""`colcon test` on an install space, with the few tests that tell whether what was installed works.

    python .ci/colcon_test.py BUILD_SPACE INSTALL_SPACE COLCON_PACKAGES

Run with the setup.bash of the install space sourced, by the Python that has torch and the ROS 2 packages: colcon tests
with the interpreter that it runs in. COLCON_PACKAGES is the site-packages of an environment with colcon; it comes last
on the path, as colcon wants an older setuptools than ours. Ends with 1 where a test fails or where none ran.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

# Seconds, not the whole suite again: settings, geometry, the pipeline, messages, weights that load, parameters, DDS.
TESTS = (
    'test/core/test_config.py',
    'test/core/test_geometry.py',
    'test/core/test_pipeline.py',
    'test/adapters/test_encode.py',
    'test/vggt/test_weights.py',
    'test/node/test_parameters.py',
    'test/node/test_executor.py',
    'test/node/test_dds.py',
)


def main(build, install, colcon_packages):
    build, install = Path(build).resolve(), Path(install).resolve()
    code = f'import sys; sys.path.append({colcon_packages!r}); from colcon_core.command import main; sys.exit(main())'
    colcon = [sys.executable, '-c', code, '--log-base', str(build.parent / 'log')]
    spaces = ['--base-paths', '.', '--build-base', str(build), '--install-base', str(install)]
    subprocess.run(
        [*colcon, 'test', *spaces, '--packages-select', 'vggt_ros', '--return-code-on-test-failure',
         '--event-handlers', 'console_direct+', '--pytest-args', *TESTS],
        check=True, env={**os.environ, 'VGGT_ROS_INSTALL_SPACE': str(install)},
    )  # fmt: skip
    command = [*colcon, 'test-result', '--verbose', '--test-result-base', str(build)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(said, end='')
    summary = re.search(r'^Summary: (\d+) tests', said, re.MULTILINE)
    if summary is None or int(summary[1]) == 0:
        sys.exit('colcon test ran no test')


if __name__ == '__main__':
    main(*sys.argv[1:])
