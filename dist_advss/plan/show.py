"""Formats an estimate as text or as JSON, and several estimates as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from ..config.schema import TrainConfig
from .estimate import Estimate
from .machine import MEMORY_SHARE

Lines = Iterator[tuple[str, str]]  # headings and texts
UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def page(config: TrainConfig, e: Estimate) -> str:
    """An estimate as a page of text: first the counts, then the times estimated from them."""
    lines = [*_what(config, e), ("", ""), *_counted(e), ("", ""), *_estimated(e), ("", ""), ("assumed", _assumed(e))]
    return "\n".join(f"{name:<11}{text}".rstrip() for name, text in lines)


def _what(config: TrainConfig, e: Estimate) -> Lines:
    data, train = config.data, config.train
    attack = f"PGD-{e.step.steps}" if e.step.steps else "no attack"
    shape = f"{data.channels}x{data.size}x{data.size}"
    yield "run", f"{config.objective.name} on {config.model.name}, {attack}, {data.name} {shape}"
    parts = f" in {train.accumulate} parts" if train.accumulate > 1 else ""
    each = f"{e.batch_size // e.world:,} each{parts}"
    yield "", f"batch {e.batch_size:,} over {e.world:,} {_s(e.world, 'GPU')}: {each}"
    if train.first_size is not None:
        yield "", f"images of {train.first_size} px at first: counted at {data.size} px in every epoch"
    tf32 = ", fp32 as TF32" if train.tf32 else ""
    yield "", f"update in {train.precision}, attack in {config.attack.precision}{tf32}"
    yield "machine", f"{e.nodes:,} {_s(e.nodes, 'node')} x {e.gpus_per_node} {e.machine.title} ({e.machine.source})"
    yield "", f"engine {config.engine.title}"


def _counted(e: Estimate) -> Lines:
    s, m = e.step, e.memory
    yield "counted", f"{_si(s.parameters)} parameters, {_si(s.trained)} of them trained"
    attack, update = s.attack_flops / s.images, s.update_flops / s.images
    yield "FLOPs", f"{_si(attack + update)} an image: attack {_si(attack)}, update {_si(update)}"
    yield "memory", f"{_si(m.total)}B a GPU: activations {_si(m.activations)}B, weights {_si(m.weights)}B,"
    rest = f"gradients {_si(m.gradients)}B, optimizer {_si(m.optimizer)}B"
    yield "", rest + (f", gathered and buckets {_si(m.gathered)}B" if m.gathered else "")
    if e.traffic:
        yield (
            "traffic",
            f"{_si(sum(part.wire(e.world, e.gpus_per_node) for part in e.traffic))}B sent by each GPU a step",
        )
    for part in e.traffic:
        yield "", f"{part.what}: {_si(part.wire(e.world, e.gpus_per_node))}B in {part.calls:,} {_s(part.calls, 'call')}"


def _estimated(e: Estimate) -> Lines:
    t = e.seconds
    shares = {"attack": t.attack, "update": t.forward + t.backward + t.update, "waiting for others": t.waiting}
    yield "estimated", f"{_seconds(t.total)} a step: " + ", ".join(f"{k} {v / t.total:.1%}" for k, v in shares.items())
    yield "speed", f"{e.images_per_s:,.0f} images/s, {e.images_per_s / e.world:,.0f} a GPU"
    yield "efficiency", f"{e.efficiency:.1%}, the share of a step that is computation"
    yield "duration", f"{_hours(e.hours)}, {e.gpu_hours:,.3g} GPU-hours: {e.epochs:,} epochs of {e.steps:,} steps,"
    yield "", f"{e.validations:,} {_s(e.validations, 'validation')} of {_seconds(e.validation)}"
    yield "fits", _fit(e)


def table(estimates: Sequence[Estimate]) -> str:
    """A Markdown table, one row an estimate. The last column is the speed a GPU, relative to the first row."""
    rows = ["| nodes | GPUs | images a GPU | seconds a step | waiting | images/s | hours | GPU-hours | speed a GPU |"]
    rows.append("|---:" * 9 + "|")
    first = estimates[0].images_per_s / estimates[0].world
    for e in estimates:
        share = e.images_per_s / e.world / first
        each = e.batch_size // e.world
        rows.append(
            f"| {e.nodes} | {e.world:,} | {each:,} | {e.seconds.total:.4f} | {e.seconds.waiting / e.seconds.total:.1%} "
            f"| {e.images_per_s:,.0f} | {e.hours:.3g} | {e.gpu_hours:.3g} | {share:.0%}{'' if e.fits else ' (does not fit)'} |"
        )
    return "\n".join(rows)


def as_dict(e: Estimate) -> dict[str, Any]:
    """An estimate in bytes, seconds and FLOPs, per step and process unless the key names another unit."""
    s = e.step
    machine = {k: v for k, v in dataclasses.asdict(e.machine).items() if k in ("name", "title", "source")}
    return {
        "machine": machine,
        "nodes": e.nodes,
        "gpus_per_node": e.gpus_per_node,
        "batch_size": e.batch_size,
        "images_at_a_time": s.images,
        "parameters": s.parameters,
        "trained": s.trained,
        "flops_per_image": {"attack": s.attack_flops / s.images, "update": s.update_flops / s.images},
        "memory": {**dataclasses.asdict(e.memory), "total": e.memory.total, "room": e.machine.room},
        "traffic": [{**dataclasses.asdict(part), "sent": part.wire(e.world, e.gpus_per_node)} for part in e.traffic],
        "seconds": {**dataclasses.asdict(e.seconds), "total": e.seconds.total},
        "images_per_s": e.images_per_s,
        "efficiency": e.efficiency,
        "steps_per_epoch": e.steps,
        "epochs": e.epochs,
        "validation_seconds": e.validation,
        "hours": e.hours,
        "gpu_hours": e.gpu_hours,
        "fits": e.fits,
        "would_fit": e.would_fit,
    }


def _fit(e: Estimate) -> str:
    room = f"{_si(e.memory.total)}B of the {_si(e.machine.room)}B available to tensors on {e.machine.title}"
    if e.fits:
        return f"yes, {room}"
    return f"NO, {room}; what would fit: {', or '.join(e.would_fit) or 'nothing in the table'}"


def _assumed(e: Estimate) -> str:
    m = e.machine
    if m.name == "here":
        return "no speeds: they were measured just now. Data loading is not counted"
    return (
        f"{m.tensor_share:.0%} of tensor-core peaks, {m.fp32_share:.0%} of other fp32, {m.bandwidth_share:.0%} of memory and "
        f"{m.link_share:.0%} of link bandwidth, {MEMORY_SHARE:.0%} of memory; not measured. Data loading is not counted"
    )


def _si(value: float) -> str:
    for unit, size in UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} "


def _s(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 0.1 else f"{1000 * value:.3g} ms"


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 2 else f"{60 * hours:.1f} minutes"
