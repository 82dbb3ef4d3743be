"""Tests of vpp-deploy.

Small models gain nothing from a second thread; where processes share the cores, OpenMP's threads
wait for each other spinning, and everything takes more than twice the time.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports PyTorch
