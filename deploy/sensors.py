"""Simulate twenty pumps that send a reading each second: a cycle of one minute, drift, noise, spikes, missing values.

The simulation starts with the readings of the last half hour, so that there is something to see at once.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time

from kafka import KafkaProducer

SECOND_MS = 1_000
PUMPS, BACKLOG = 20, 1_800


def reading(pump: int, second: int, dice: random.Random) -> float | None:
    """Return the flow that the pump's sensor measures, in litres a second; None = the sensor sends no value."""
    if dice.random() < 0.01:
        return None
    cycle = 3.0 * math.sin(2.0 * math.pi * (second / 60.0 + pump / PUMPS))
    drift = 2.0 * math.sin(2.0 * math.pi * second / (700.0 + 13.0 * pump))
    spike = 40.0 if dice.random() < 0.002 else 0.0
    return 20.0 + pump + cycle + drift + dice.gauss(0.0, 0.4) + spike


def main(servers: str, topic: str) -> None:
    """Send readings until the process is stopped."""
    producer, dice = KafkaProducer(bootstrap_servers=servers.split(",")), random.Random(0)
    begin, second = time.time_ns() // 1_000_000 - BACKLOG * SECOND_MS, 0
    while True:
        for pump in range(PUMPS):
            body = {"timestamp": begin + second * SECOND_MS, "value": reading(pump, second, dice)}
            producer.send(topic, json.dumps(body).encode(), f"pump-{pump}".encode())
        second += 1
        time.sleep(max(0.0, (begin + second * SECOND_MS) / 1_000 - time.time()))


if __name__ == "__main__":
    main(*sys.argv[1:])
