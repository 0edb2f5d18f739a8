"""The notifier: delivers public events to webhook endpoints over HTTP, for services that do not use AMQP."""
