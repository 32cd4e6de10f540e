"""Starts `task.py` of the snapshot that this file is in: `python SNAPSHOT/launch/job rank DIR NAME`.

`python -m` would look into the working directory first. That is often the clone, which may have been edited since the job
was queued.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).absolute().parents[2])  # it was the folder of this file
    from launch.job.task import main

    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a broken process group must not keep a failed rank alive
