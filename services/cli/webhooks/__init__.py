"""Commands on webhook endpoints and their deliveries."""
