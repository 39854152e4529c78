"""Feeds a run of Weights & Biases from JSON lines on stdin: the part of `logger.wandb` that needs the user's own
`wandb` package. The first line has the arguments of `wandb.init`; each further one a step with numbers and pictures;
the last one says how the run ended. Answers with one line of JSON on stdout when the run is open, or why it is not."""

import json
import os
import signal
import sys

# A folder `wandb` of the working directory is no package.
sys.path = [path for path in sys.path if path]


def main():
    # Ctrl-C reaches the whole group of processes; how it ends is told by whoever feeds this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**line):
        answer.write(json.dumps(line) + "\n")
        answer.flush()

    start = json.loads(sys.stdin.readline())
    try:
        import wandb

        settings = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False)
        run = wandb.init(settings=settings, **start)
    except Exception as error:  # whatever it is, the feeder reports it
        tell(error=f"{error}")
        return 1
    tell(url=run.url, folder=os.path.dirname(run.dir))

    code = 1
    for line in sys.stdin:
        message = json.loads(line)
        if "finish" in message:
            code = message["finish"]
            break
        values = dict(message["values"])
        for tag, path in message.get("images", {}).items():
            values[tag] = wandb.Image(path)
        run.log(values, step=message["step"])
    run.finish(exit_code=code)
    return 0


sys.exit(main())
