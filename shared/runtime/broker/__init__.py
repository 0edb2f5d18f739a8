"""
Publish and consume without losing a message. Edge: the only room that speaks AMQP.

*message*      bytes and headers, pure
*frames*       a message as the bytes that publish it, or why it can not be one; pure
*decoding*     whatever is delivered can be read
*transport*    fewer, larger writes to the socket
*link*         one connection with one channel; what its library's errors mean
*declare*      the topology on the broker, and how it differs from the plan
*publisher*    a message to the broker, and its receipt back
*lossy*        the same for what may be lost: tried once, apart from everything else
*persistent*   the same as often as it takes, for what follows from a delivery
*inbox*        the deliveries of one link, and their acks
*circuit*      a dependency that is down is asked rarely
*subscription* one queue, consumed through every loss of the connection
*consumer*     its events to a handler; then follow-ups published, then acked
*raw_consumer* its messages, whatever they are, to a store; then acked

Why our own subscription and not aio-pika's robust connection (2026-11): that one cancels running handlers when a
connection dies, reuses a consumer tag that RabbitMQ 4.3 still holds, and reconnects at a fixed pace without jitter.
"""

from shared.runtime.broker.consumer import BatchHandler, Consumer, Result, one_by_one
from shared.runtime.broker.declare import Depth, TopologyMismatch, declare, depths, diff
from shared.runtime.broker.lossy import LOSSY_SECONDS, Parted
from shared.runtime.broker.message import Delivery, Outgoing, dead_letter, to_message
from shared.runtime.broker.publisher import Publisher, Unconfirmed, Unroutable
from shared.runtime.broker.raw_consumer import RawConsumer

__all__ = [
    "LOSSY_SECONDS",
    "BatchHandler",
    "Consumer",
    "Delivery",
    "Depth",
    "Outgoing",
    "Parted",
    "Publisher",
    "RawConsumer",
    "Result",
    "TopologyMismatch",
    "Unconfirmed",
    "Unroutable",
    "dead_letter",
    "declare",
    "depths",
    "diff",
    "one_by_one",
    "to_message",
]
