"""The verifier at the other end of a link: the service, and the device's client of it, over gRPC."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what fails is told by the errors of this package
