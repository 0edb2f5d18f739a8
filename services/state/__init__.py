"""Which model does a user use now? The only writer of user models: events in, one committed transaction out."""
