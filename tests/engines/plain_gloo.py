"""Runs a script (`plain_gloo.py SCRIPT …`) without DeepSpeed's shared-memory op for CPU, its collectives left to gloo.

The op is compiled for a minute at its first use, and a build that is killed leaves a lock on which later runs hang.
"""

import runpy
import sys

if __name__ == "__main__":
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
