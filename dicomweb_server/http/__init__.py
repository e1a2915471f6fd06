"""The HTTP front end: Falcon resources that read a request, call one service and write the answer."""
