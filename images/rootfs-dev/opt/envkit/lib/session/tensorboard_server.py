"""TensorBoard at a path that nobody guesses, since it knows no passwords:

    tensorboard_server.py PORT TOKEN_FILE RUNS [ADDRESS]

The token stands in a file and not among the arguments, which every user of the machine can read.
TensorBoard's own program would print it."""

import os
import signal
import sys

from tensorboard import default, main_lib, program
from tensorboard.backend.event_processing import io_wrapper

port, token_file, runs = sys.argv[1:4]
address = (sys.argv[4:] or ["127.0.0.1"])[0]
with open(token_file) as file:
    token = file.read().strip()

# "latest" is a link to the newest run: it is not a second one of the same curves.
all_runs = io_wrapper.GetLogdirSubdirectories


def runs_once(path):
    real = os.path.realpath(path)
    return (run for run in all_runs(path)
            if os.path.realpath(run) == os.path.normpath(os.path.join(real, os.path.relpath(run, path))))


io_wrapper.GetLogdirSubdirectories = runs_once
main_lib.global_init()
server = program.TensorBoard(plugins=default.get_plugins())
server.configure(argv=["tensorboard", "--host", address, "--port", port, "--logdir", runs,
                       "--path_prefix", "/" + token, "--reload_interval", "2",
                       "--load_fast", "false"])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
server.launch()
signal.sigwait([signal.SIGTERM, signal.SIGINT])
