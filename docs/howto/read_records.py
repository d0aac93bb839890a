"""Reads the points of a topic: prints machine, tag, time in microseconds, and value or quality, as JSON lines.

Usage: read_records.py TOPIC COUNT [librdkafka option=value ...]. The format is docs/formats/record.md.
"""
import json, struct, sys
import cbor2
from confluent_kafka import Consumer

FIXED = {"bool": ("<?", 1), "f32": ("<f", 4), "f64": ("<d", 8)}
NAMES = {1: "bool", 2: "i64", 3: "u64", 4: "f32", 5: "f64", 6: "text"}

def varint(data, at):
    """LEB128: the number, and where the next byte stands."""
    number = shift = 0
    while True:
        byte = data[at]
        number, shift, at = number | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return number, at

def zigzag(number):
    return number >> 1 ^ -(number & 1)

def value(kind, data, at):
    if kind in FIXED:
        form, size = FIXED[kind]
        return struct.unpack_from(form, data, at)[0], at + size
    number, at = varint(data, at)
    if kind == "text":
        return data[at:at + number].decode(), at + number
    return (zigzag(number) if kind == "i64" else number), at

def points(chunk, columns):
    """Gives (tag, time, value or None, quality) of every point of a chunk."""
    _, _, rows, _, _, _, body = chunk
    _, _, time, steps, _, states, values = cbor2.loads(body)
    times, at = [time], 0
    for _ in range(rows - 1):
        step, at = varint(steps, at)
        times.append(times[-1] + zigzag(step))
    at = 0
    for number, (tag, kind) in enumerate(columns):
        for row, time in enumerate(times):
            state = states[number * rows + row] if states else 0
            if state == 0:
                found, at = value(NAMES[kind], values, at)
                yield tag, time, found, 0
            elif state != 255:
                yield tag, time, None, state

def main(topic, count, *options):
    settings = {"bootstrap.servers": "localhost:9092", "group.id": "readers", "auto.offset.reset": "earliest"}
    consumer = Consumer(settings | dict(option.split("=", 1) for option in options))
    consumer.subscribe([topic])
    left = int(count)
    while left > 0:
        message = consumer.poll(10)
        if message is None:
            sys.exit("nothing came for 10 s")
        if message.error():
            sys.exit(str(message.error()))
        header, *items = cbor2.loads(message.value())
        layouts = dict(header["layouts"])
        for item in (item for item in items if item[0] == 1):
            for tag, time, found, quality in points(item, layouts[item[4]]):
                print(json.dumps({"machine": header["machine"], "tag": tag, "us": time, "value": found, "quality": quality}))
                left -= 1
    consumer.close()

if __name__ == "__main__":
    main(*sys.argv[1:])
