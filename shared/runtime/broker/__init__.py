"""
Publishes and consumes without losing a message. Edge: the only package that uses AMQP.

*message*      messages, retries and dead letters as bytes and headers, and back; pure
*frames*       encodes a message as AMQP frames; pure
*decoding*     decodes deliveries and confirms; pure
*transport*    the socket: fewer, larger writes; decodes before the client library does
*link*         one connection with one channel
*link_errors*  what the client library raises, and what it means
*declare*      declares the topology, and finds differences from it
*events_log*   declares and reads the stream of public events
*log_reader*   reads it in batches
*publisher*    publishes with confirms, once or until confirmed
*lossy*        publishes messages that may be lost: once, on a connection of their own
*unacked*      the deliveries of one link, and their acks
*circuit*      circuit breaker for a dependency that is down
*batches*      work on a batch, and on each of it alone if that fails
*subscription* consumes one queue, reconnecting whenever the connection is lost
*spans*        spans of OpenTelemetry around publishes and deliveries
*consumer*     hands a queue's events to a handler; publishes the follow-ups, then acks
*raw_consumer* hands a queue's messages undecoded to a store, then acks

Why our own subscription and not aio-pika's robust connection (2026-11): aio-pika cancels running handlers when a
connection dies, reuses a consumer tag that RabbitMQ 4.3 still holds, and reconnects at a fixed pace without jitter.
"""

from shared.runtime.broker.circuit import dependency_answered
from shared.runtime.broker.consumer import BatchHandler, Consumer, Result, one_by_one
from shared.runtime.broker.declare import Depth, TopologyMismatch, declare, depths, diff
from shared.runtime.broker.events_log import EventsLog, NoLog, declare_log, read_log
from shared.runtime.broker.log_reader import LogLost, OpenLog, offset_of, opened_log
from shared.runtime.broker.lossy import LOSSY_SECONDS, SplitPublisher
from shared.runtime.broker.message import Delivery, Item, Outgoing, dead_letter, read, to_message
from shared.runtime.broker.publisher import Publisher, Unconfirmed, Unroutable
from shared.runtime.broker.raw_consumer import RawConsumer

__all__ = [
    "LOSSY_SECONDS",
    "BatchHandler",
    "Consumer",
    "Delivery",
    "Depth",
    "EventsLog",
    "Item",
    "LogLost",
    "NoLog",
    "OpenLog",
    "Outgoing",
    "Publisher",
    "RawConsumer",
    "Result",
    "SplitPublisher",
    "TopologyMismatch",
    "Unconfirmed",
    "Unroutable",
    "dead_letter",
    "declare",
    "declare_log",
    "dependency_answered",
    "depths",
    "diff",
    "offset_of",
    "one_by_one",
    "opened_log",
    "read",
    "read_log",
    "to_message",
]
