"""Reads what `logger.tensorboard` and `logger.wandb` of a run wrote, with TensorBoard and wandb themselves, and compares
it with `metrics.jsonl`.

    pip install tensorboard==2.21.0 wandb==0.31.0
    pipe run pipelines/quickstart.yaml --output DIR --set train.steps=12 \\
        --set nodes.board.type=logger.tensorboard --set nodes.board.update=adamw \\
        --set nodes.wandb.type=logger.wandb --set nodes.wandb.update=adamw --set nodes.wandb.mode=offline
    python tests/reference/check_loggers.py DIR

A run that was stopped and continued must pass as well."""

import json
import os
import sys
from pathlib import Path

TAGS = {
    "loss": "loss/current",
    "loss_average": "loss/average",
    "lr_unet": "lr/unet",
    "grad_norm": "norm/grad_norm",
    "grad_norm_clipped": "norm/grad_norm_clipped",
    "seconds": "time/seconds_per_step",
}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def near(a, b, what):
    assert abs(a - b) <= 1e-6 * abs(b) + 1e-12, f"{what}: {a}, not {b}"


def check_tensorboard(run, metrics, validation):
    from tensorboard.backend.event_processing import event_accumulator, plugin_event_multiplexer

    # As the server finds runs: every folder with event files under the one it is given.
    server = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(run.parent))
    server.Reload()
    assert f"{run.name}/events" in server.Runs(), server.Runs().keys()

    guidance = {event_accumulator.IMAGES: 0, event_accumulator.TENSORS: 0, event_accumulator.SCALARS: 0}
    events = event_accumulator.EventAccumulator(str(run / "events"), size_guidance=guidance).Reload()
    assert events.file_version == 2.0
    scalars = events.Tags()["scalars"]
    for name, tag in TAGS.items():
        found = [(point.step, point.value) for point in events.Scalars(tag)]
        assert [step for step, _ in found] == [line["step"] for line in metrics], tag
        for (step, value), line in zip(found, metrics):
            near(value, line[name], f"{tag} of step {step}")
    buckets = [tag for tag in scalars if tag.startswith("loss/timestep/")]
    points = sum(len(events.Scalars(tag)) for tag in buckets)
    assert points == sum(name.startswith("loss_t") for line in metrics for name in line), buckets
    measured = {}
    for when in ("step", "epoch"):
        tag = f"loss/validation/{when}_average"
        measured |= {p.step: p.value for p in events.Scalars(tag)} if tag in scalars else {}
    assert sorted(measured) == [line["step"] for line in validation]
    for line in validation:
        near(measured[line["step"]], line["loss"], f"validation of step {line['step']}")
    images = events.Tags()["images"]
    for tag in images:
        for image in events.Images(tag):
            assert image.encoded_image_string.startswith(b"\x89PNG"), tag
            assert image.width > 0 and image.height > 0
    text = events.Tensors("config")[0].tensor_proto.string_val[0].decode()
    config = json.loads(text.removeprefix("```json\n").removesuffix("\n```"))
    assert config["settings"]["name"] and "nodes" in config
    print(f"TensorBoard: {len(scalars)} curves, {len(images)} pictures, configuration of {len(config['nodes'])} nodes")


def wandb_records(file):
    """Records of a `.wandb` file: a LevelDB log (blocks of 32 KiB, heads of crc u32, length u16, kind u8) behind a head of
    seven bytes. The package has no reader of its own any more."""
    data = file.read_bytes()
    assert data[:4] == b":W&B", "no file of wandb"
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def check_wandb(run, metrics, validation):
    from wandb.proto import wandb_internal_pb2

    number = json.loads((run / "wandb.json").read_text())["id"]
    history, begun, ended = {}, [], []
    for file in sorted(run.glob(f"wandb/offline-run-*-{number}/*.wandb")):
        for data in wandb_records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                begun.append(record.run)
            elif kind == "exit":
                ended.append(record.exit.exit_code)
            elif kind == "history":
                row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
                history[record.history.step.num if record.history.HasField("step") else row["_step"]] = row
    assert all(of.run_id == number for of in begun) and ended[-1] == 0, ended
    for line in metrics:
        row = history[line["step"]]
        for name, tag in TAGS.items():
            near(row[tag], line[name], f"{tag} of step {line['step']}")
        assert (row["global_step"], row["epoch"]) == (line["step"], line["epoch"])
    for line in validation:
        row = history[line["step"]]
        found = [row.get(f"loss/validation/{when}_average") for when in ("step", "epoch")]
        near(next(value for value in found if value is not None), line["loss"], f"validation of step {line['step']}")
    config = {item.key: json.loads(item.value_json) for item in begun[0].config.update}
    assert "nodes" in config, config.keys()
    images = [key for row in history.values() for key in row if key.endswith("._type")]
    print(f"Weights & Biases: run {number} in {len(begun)} sessions, {len(history)} steps, {len(images)} pictures")


def no_secrets(run):
    key = os.environ.get("WANDB_API_KEY", "")
    if not key:
        return
    for path in run.rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes(), f"the key is in {path}"
    print("The key is in no file of the run")


def main():
    run = Path(sys.argv[1]).resolve()
    metrics, validation = lines(run / "metrics.jsonl"), lines(run / "validation.jsonl")
    assert metrics, "no steps"
    if (run / "events").is_dir():
        check_tensorboard(run, metrics, validation)
    if (run / "wandb").is_dir():
        check_wandb(run, metrics, validation)
    no_secrets(run)


main()
