"""The verifier at the other end of a link: the service, and the device's client of it, over gRPC."""
