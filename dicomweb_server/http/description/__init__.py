"""What the server says about itself: OpenAPI, a page of it, the Capabilities Description and the conformance statement,
all made from the route table."""
